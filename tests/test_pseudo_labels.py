import numpy as np
import pytest
import torch
from golden_inputs import cams, golden

from more_lib.errors import InputError
from more_lib.pseudo_labels import foreground_mask, three_way_mask


def random_case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(3, 4, 6, 5, generator=generator)
    labels = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 1]])
    return maps, labels


def test_three_way_by_hand():
    maps = torch.tensor([[[0.9, 0.5, 0.1, 0.8]], [[0.2, 0.6, 0.2, 0.99]], [[1.0, 1.0, 1.0, 1.0]]])
    mask = three_way_mask(maps[None], torch.tensor([[1, 1, 0]]), high=0.7, low=0.25)
    assert mask.dtype == torch.int64
    assert mask.tolist() == [[[1, 255, 0, 2]]]


def test_both_thresholds_themselves_are_uncertain():
    maps = torch.tensor([0.25, 0.75]).view(1, 1, 1, 2)
    mask = three_way_mask(maps, torch.ones(1, 1), high=0.75, low=0.25, ignore_index=9)
    assert mask.flatten().tolist() == [9, 9]


def test_foreground_by_hand():
    maps = torch.tensor([[[0.9, 0.5, 0.1]], [[0.2, 0.6, 0.45]]])
    mask = foreground_mask(maps[None], torch.tensor([[True, True]]), threshold=0.5)
    assert mask.dtype == torch.int64
    assert mask.tolist() == [[[1, 2, 0]]]
    assert foreground_mask(maps[None], torch.tensor([[1, 0]]), 0.5).tolist() == [[[1, 0, 0]]]


def test_masks_equal_a_literal_transcription_of_equation_6():
    maps, labels = random_case()
    three_way = three_way_mask(maps, labels, 0.8, 0.6)
    foreground = foreground_mask(maps, labels, 0.6)
    for b, y, x in np.ndindex(*three_way.shape):
        values = [maps[b, c, y, x].item() * labels[b, c].item() for c in range(4)]
        best = int(np.argmax(values))
        expected = best + 1 if values[best] > 0.8 else 0 if values[best] < 0.6 else 255
        assert three_way[b, y, x] == expected
        assert foreground[b, y, x] == (best + 1 if values[best] > 0.6 else 0)


def test_absent_classes_never_show():
    maps, labels = random_case()
    for mask in (three_way_mask(maps, labels, 0.5, 0.2), foreground_mask(maps, labels, 0.2)):
        assert set(mask[0].unique().tolist()) <= {0, 1, 3, 255}
        assert set(mask[1].unique().tolist()) <= {0, 2, 255}
    nothing = torch.zeros_like(labels)
    assert not three_way_mask(maps, nothing, 0.5, 0.2).any()
    assert not foreground_mask(maps, nothing, 0.2).any()


def test_reordering_classes_and_images_reorders_the_masks():
    maps, labels = random_case()
    mask = three_way_mask(maps, labels, 0.7, 0.4)
    order = [2, 0, 3, 1]
    reordered = three_way_mask(maps[:, order], labels[:, order], 0.7, 0.4)
    new_number = torch.arange(256)
    new_number[torch.tensor(order) + 1] = torch.arange(1, 5)
    assert torch.equal(reordered, new_number[mask])
    assert torch.equal(three_way_mask(maps[1:2], labels[1:2], 0.7, 0.4), mask[1:2])


def test_golden_masks():
    expected = golden("pseudo_labels_201")
    maps = cams(int(expected["seed"]), tuple(expected["shape"].tolist()))
    np.testing.assert_allclose(maps[..., ::8, ::8], expected["cam_every8"], atol=1e-6)
    labels = torch.from_numpy(expected["labels"])
    three_way = three_way_mask(maps, labels, high=0.7, low=0.25).numpy()
    foreground = foreground_mask(maps, labels, threshold=0.5).numpy()
    assert np.mean(three_way != expected["three_way"]) <= 1e-3
    assert np.mean(foreground != expected["foreground"]) <= 1e-3


def test_bad_input_is_refused():
    maps, labels = random_case()
    with pytest.raises(InputError, match="low threshold 0.7 exceeds"):
        three_way_mask(maps, labels, high=0.25, low=0.7)
    for bad_maps, bad_labels in ((maps, labels[:, :3]), (maps[0], labels), (maps, labels[:1])):
        with pytest.raises(InputError, match="maps .* labels"):
            three_way_mask(bad_maps, bad_labels, 0.7, 0.25)
        with pytest.raises(InputError, match="maps .* labels"):
            foreground_mask(bad_maps, bad_labels, 0.5)
