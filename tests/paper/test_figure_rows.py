"""Which images make the rows, and what networks say of them, on images worked out by hand."""

import math

import numpy as np
import pytest
import torch

from more_lib.data.transforms import denormalize
from more_lib.evaluation.metrics import confusion_matrix, scores
from more_lib.evaluation.protocols import map_protocol
from more_lib.method.localization import multiscale_lam
from more_lib.paper import figure_rows
from more_lib.paper.figure_rows import image_iou, largest_class, representative
from more_lib.system.errors import InputError
from tests.evaluation.helpers import PATCHES, ColourModel, make_tree, recipe_with, set_split

NAN = math.nan


@pytest.fixture
def root(tmp_path):
    return make_tree(tmp_path / "tree")


@pytest.fixture
def asked(root):
    """A model, recipe and protocol, as ``image_ious`` takes them."""
    recipe = recipe_with(root)
    return ColourModel(), recipe, map_protocol(recipe, "cam", "true")


class TestRepresentative:
    @pytest.mark.parametrize(
        "count, quantiles", [(1, [50]), (2, [25, 75]), (5, [10, 30, 50, 70, 90])]
    )
    def test_evenly_spaced_quantiles_from_low_to_high(self, count, quantiles):
        values = np.random.default_rng(0).permutation(101) / 100
        assert [100 * values[i] for i in representative(values, count)] == quantiles

    def test_values_are_sorted_ties_go_by_order_nan_is_left_out_and_none_is_taken_twice(self):
        assert representative(torch.tensor([0.5, 0.1, 0.9, 0.3, 0.7]), 5) == [1, 3, 0, 4, 2]
        assert representative([NAN, 0.2, 0.2, NAN, 0.1], 3) == [4, 1, 2]
        for count in range(1, 14):
            assert len(set(representative(np.arange(13), count))) == count
        for count in (0, 3):
            with pytest.raises(InputError, match=f"{count} rows of 2 images: give 1 to 2"):
                representative([0.1, NAN, 0.3], count)


def test_largest_class():
    masks = torch.zeros(3, 4, 4, dtype=torch.int64)
    masks[0, 0], masks[0, 1:3] = 1, 2
    masks[1, 0], masks[1, 1], masks[1, 2:] = 3, 1, 255  # as many: the first
    masks[2, 0, 0] = 3
    assert largest_class(masks, 3) == [1, 0, 2]
    with pytest.raises(InputError, match="mask 1 shows none of the 3 classes"):
        largest_class(masks.roll(1, 0) * torch.tensor([1, 0, 1])[:, None, None], 3)


class TestImageIou:
    def test_by_hand(self):
        masks = torch.tensor([[[1, 1, 0, 255]], [[2, 0, 0, 0]], [[0, 0, 0, 255]]])
        said = torch.tensor([[[1, 0, 2, 2]], [[2, 0, 0, 2]], [[0, 0, 0, 1]]])
        # Class 1: 1 of 2. Class 2, not in the first mask: 0. Then 1 of 2. Then nothing counts.
        found = image_iou(said, masks, 3)
        torch.testing.assert_close(found, torch.tensor([0.25, 0.5, NAN]).double(), equal_nan=True)
        with pytest.raises(InputError, match=r"must be \(B, H, W\), \(B, H, W\)"):
            image_iou(torch.zeros(1, 2, 2), torch.zeros(1, 2, 3), 1)

    def test_is_the_mean_of_the_images_own_scores(self):
        generator = torch.Generator().manual_seed(0)
        said, masks = torch.randint(0, 5, (2, 6, 9, 7), generator=generator)
        masks[torch.rand(masks.shape, generator=generator) < 0.2] = 255
        pairs = zip(said, masks, strict=True)
        own = [np.nanmean(scores(confusion_matrix(*pair, 5)).iou[1:]) for pair in pairs]
        np.testing.assert_allclose(image_iou(said, masks, 4), own)


class TestSegmented:
    # Of the 8 columns the cat's CAM takes 4, where it has 3; of the dog's 16 pixels all but the
    # corner, where two halves of a slope meet; the last cat's 4 columns exactly.
    IOUS = (24 / 32, 15 / 16, 1.0)

    @pytest.mark.parametrize(("count", "known"), [(None, 3), (2, 2), (99, 3)])
    def test_ious_are_those_of_the_protocol(self, asked, count, known):
        found = figure_rows.image_ious(*asked, count)
        np.testing.assert_allclose(found, self.IOUS[:known])

    def test_masks_come_in_the_order_of_the_indices(self, asked):
        dog, cat = (mask.numpy() for mask in figure_rows.segmentations(*asked, [1, 0]))
        assert set(np.unique(dog)) == {0, 2} and (dog == 2).sum() == 15
        np.testing.assert_array_equal(cat, np.repeat([[1, 1, 1, 1, 0, 0, 0, 0]], 8, axis=0))

    @pytest.mark.parametrize(
        "indices, message", [([3], "hold 3; give some from 0 to 2"), ([-1], "hold -1"), ([], "are")]
    )
    def test_images_that_are_not_there(self, asked, indices, message):
        with pytest.raises(InputError, match=message):
            figure_rows.segmentations(*asked, indices)
        with pytest.raises(InputError, match=message):
            figure_rows.square_batch(asked[1], indices)

    def test_images_without_masks_are_refused(self, root, asked):
        (root / "SegmentationClass/missed.png").unlink()
        with pytest.raises(InputError, match=r"missed.png is missing"):
            figure_rows.image_ious(*asked)
        with pytest.raises(InputError, match=r"missed.png is missing"):
            figure_rows.square_batch(asked[1], [0])


def test_square_batches_hold_masks_of_the_images_size(root):
    set_split(root, "missed", "named")
    batch = figure_rows.square_batch(recipe_with(root, "data.crop_size=16"), [1, 0])
    assert batch["id"] == ["named", "missed"]
    assert batch["image"].shape == (2, 3, 16, 16) and batch["mask"].dtype == torch.int64
    expected = torch.zeros(16, 16, dtype=torch.int64)
    expected[:, :6], expected[:2, 14:] = 1, 255
    assert torch.equal(batch["mask"][0], expected)
    assert batch["labels"].tolist() == [[1, 0], [1, 0]]
    corner = denormalize(batch["image"])[0, :, 0, 0]
    torch.testing.assert_close(corner, torch.tensor(PATCHES["named"][0]) / 255, atol=0.03, rtol=0)


def test_localize_gives_every_map_by_its_name(root):
    recipe, model = recipe_with(root, "evaluation.scales=[1.0, 2.0]"), ColourModel().train()
    model.frozen.eval()
    images = figure_rows.square_batch(recipe_with(root, "data.crop_size=8"), [0, 1])["image"]
    maps = figure_rows.localize(model, recipe, images)
    assert set(maps) == {"cam", "aux_cam", "lam", "attention", "fused"}
    assert all(each.shape == (2, 2, 8, 8) for each in maps.values())
    assert model.training and not model.frozen.training
    expected = multiscale_lam(model.eval(), images, (1.0, 2.0))
    torch.testing.assert_close(maps["lam"], expected)
    # Blue is the cat's token, red its CAM: their product is bright where both are, top left.
    assert maps["fused"][0, 0].argmax() == 0 and maps["lam"][0, 0, 0, 7] > 0.9
    assert maps["fused"][0, 0, 0, 7] < 0.1
