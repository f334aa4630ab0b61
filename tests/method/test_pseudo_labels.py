import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from more_lib.method.localization import resized
from more_lib.method.pseudo_labels import (
    PixelAdaptiveRefinement,
    foreground_mask,
    refine_cam,
    three_way_mask,
)
from tests.method import transcriptions
from tests.method.helpers import (
    assert_full_precision,
    cams_and_images,
    golden,
    nothing_waits_for_the_gpu,
    refuses,
    renumbering,
    uniform,
)

RELEASED = ((1, 2, 4, 8, 12, 24), 10)
SMALL = ((1, 2), 3)  # dilations and iterations
PAR = PixelAdaptiveRefinement(*SMALL)
LABELS = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])


def random_case() -> tuple[Tensor, Tensor]:
    return uniform(4, 4, 6, 5), LABELS


def pictures(seed: int = 0, batch: int = 2, size: tuple[int, int] = (20, 24)) -> Tensor:
    """Smooth random images with a little noise: (batch, 3, H, W) in [0, 1]."""
    coarse, noise = uniform(batch, 3, 4, 4, seed=seed), uniform(batch, 3, *size, seed=seed + 50)
    return 0.8 * F.interpolate(coarse, size, mode="bilinear") + 0.2 * noise


def random_maps(seed: int = 0, shape: tuple[int, ...] = (2, 3, 20, 24)) -> Tensor:
    return uniform(*shape, seed=seed + 100)


def decoder_case() -> tuple[Tensor, Tensor]:
    """Images (4, 3, 32, 40) and maps (4, 4, 32, 40) in [0, 1], smooth and at times undecided."""
    coarse = random_maps(shape=(4, 4, 4, 5))
    return pictures(0, 4, (32, 40)), F.interpolate(coarse, (32, 40), mode="bilinear")


def assert_mostly_equal(mask, expected) -> None:
    """Rounding may move one pixel in a thousand over a threshold."""
    assert np.mean(np.asarray(mask) != np.asarray(expected)) <= 1e-3


def test_three_way_by_hand():
    maps = torch.tensor([[[0.9, 0.5, 0.1, 0.8]], [[0.2, 0.6, 0.2, 0.99]], [[1.0, 1.0, 1.0, 1.0]]])
    mask = three_way_mask(maps[None], torch.tensor([[1, 1, 0]]), high=0.7, low=0.25)
    assert mask.dtype == torch.int64
    assert mask.tolist() == [[[1, 255, 0, 2]]]
    edges = torch.tensor([0.25, 0.75]).view(1, 1, 1, 2)  # the thresholds themselves are uncertain
    mask = three_way_mask(edges, torch.ones(1, 1), high=0.75, low=0.25, ignore_index=9)
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
        assert three_way[b, y, x] in (0, 255) or labels[b, best]  # absent classes never show


def test_golden_masks_and_refinement():
    expected = golden("pseudo_labels_201")
    maps, images = cams_and_images(int(expected["seed"]), tuple(expected["shape"].tolist()))
    np.testing.assert_allclose(maps[..., ::8, ::8], expected["cam_every8"], atol=1e-6)
    np.testing.assert_allclose(images[..., ::8, ::8], expected["image_every8"], atol=1e-6)
    labels = torch.from_numpy(expected["labels"])
    decoder = refine_cam(PixelAdaptiveRefinement(), images, maps, labels, high=0.7, low=0.25)
    assert decoder.dtype == torch.int64
    assert_mostly_equal(decoder, expected["refined"])
    assert_mostly_equal(three_way_mask(maps, labels, 0.7, 0.25), expected["three_way"])
    assert_mostly_equal(foreground_mask(maps, labels, 0.5), expected["foreground"])
    valid = maps * labels[:, :, None, None]
    refined = PixelAdaptiveRefinement()(images, valid[:, :4])
    np.testing.assert_allclose(refined[..., ::4, ::4], expected["par_every4"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("settings", "size", "classes", "grid"),
    [
        (RELEASED, (33, 40), 2, (33, 40)),
        (SMALL, (20, 24), 80, (5, 6)),
        (((3,), 1), (7, 5), 1, (14, 9)),
        (((1,), 0), (20, 24), 3, (5, 6)),  # resized alone
        # less than it reaches
        *((RELEASED, small, 2, small) for small in ((1, 1), (1, 9), (3, 2))),
    ],
)
def test_par_equals_its_transcription(seed, settings, size, classes, grid):
    images, maps = pictures(seed, 3, size), random_maps(seed, (3, classes, *grid))
    par = PixelAdaptiveRefinement(*settings)
    refined = par(images, maps)
    assert refined.shape == (3, classes, *size) and refined.dtype == torch.float32
    expected = transcriptions.pixel_adaptive_refinement(images, maps, *settings)
    torch.testing.assert_close(refined, expected, rtol=1e-4, atol=1e-5)
    as_on_a_gpu = par._by_dilation(
        images.to(memory_format=torch.channels_last), resized(maps, images.shape[-2:])
    )
    torch.testing.assert_close(as_on_a_gpu, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("row", "column"), [(3, 2), (0, 5)])
def test_par_of_one_pixel_by_hand(row, column):
    images, maps = pictures(1, 1, (6, 6)).double(), random_maps(1, (1, 1, 6, 6)).double()
    steps = [(d, y, x) for d in (1, 2) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
    # Beyond the border lies the border's pixel.
    places = [(min(max(row + d * y, 0), 5), min(max(column + d * x, 0), 5)) for d, y, x in steps]
    colour, distance = [0.0] * 16, [d * math.hypot(y, x) for d, y, x in steps]
    for channel in images[0].tolist():
        neighbours = [channel[y][x] for y, x in places]
        width = 0.3 * np.std(neighbours, ddof=1)
        for n, value in enumerate(neighbours):
            colour[n] -= ((value - channel[row][column]) / width) ** 2 / 3
    position = [-((value / (0.3 * np.std(distance, ddof=1))) ** 2) for value in distance]
    colour, position = np.exp(colour), np.exp(position)
    weights = colour / colour.sum() + 0.01 * position / position.sum()
    expected = sum(w * maps[0, 0, y, x].item() for w, (y, x) in zip(weights, places, strict=True))
    refined = PixelAdaptiveRefinement((1, 2), 1)(images, maps)
    assert refined[0, 0, row, column].item() == pytest.approx(expected, rel=1e-6)


def test_par_of_a_constant_map_is_constant_and_grows_by_one_percent():
    maps = torch.tensor([0.0, 0.25, 1.0]).view(1, 3, 1, 1).expand(2, 3, 5, 6)
    refined = PixelAdaptiveRefinement()(pictures(), maps)
    expected = (maps[..., :1, :1] * 1.01**10).expand_as(refined)
    torch.testing.assert_close(refined, expected, rtol=1e-5, atol=0)
    for iterations in (0, 3, 10):
        level = PixelAdaptiveRefinement(iterations=iterations).level(pictures(), maps)
        torch.testing.assert_close(level, expected / 1.01**10, rtol=1e-5, atol=0)


def test_par_is_linear_and_treats_images_maps_mirrors_and_normalised_colours_alike():
    shape = (3, 4, 20, 24)
    images, maps, other = pictures(0, 3), random_maps(0, shape), random_maps(1, shape)
    refined = PAR(images, maps)
    assert torch.equal(PAR(images[[2, 0]], maps[[2, 0]]), refined[[2, 0]])
    assert torch.equal(PAR(images, maps[:, [3, 1]]), refined[:, [3, 1]])
    for axes in ((-1,), (-2,), (-2, -1)):
        mirrored = PAR(images.flip(axes), maps.flip(axes))
        torch.testing.assert_close(mirrored, refined.flip(axes))
    expected = 2 * refined - 3 * PAR(images, other)
    torch.testing.assert_close(PAR(images, 2 * maps - 3 * other), expected)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.4, 0.5, 0.6], [0.2, 0.25, 0.004]))
    torch.testing.assert_close(PAR((images - mean) / std, maps), refined, rtol=1e-4, atol=1e-5)


def test_par_smooths_within_an_edge_and_not_across():
    images = torch.zeros(1, 3, 16, 16)
    images[..., 8:] = 1
    maps = 0.5 * random_maps(0, (1, 1, 16, 16))
    maps[..., 8:] += 0.5
    refined = PixelAdaptiveRefinement((1, 2, 4), 10)(images, maps)
    left, right = refined.chunk(2, dim=-1)
    assert left.std() < 0.3 * maps[..., :8].std() and right.std() < 0.3 * maps[..., 8:].std()
    assert right.min() - left.max() > 0.2


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_par_of_an_image_without_colours_is_a_mean(value):
    maps = random_maps(0, (1, 1, 3, 3))
    refined = PixelAdaptiveRefinement((1,), 1)(torch.full((1, 3, 3, 3), value), maps)
    ring = maps.flatten()[[0, 1, 2, 3, 5, 6, 7, 8]].double()
    distance = torch.tensor([2, 1, 2, 1, 1, 2, 1, 2], dtype=torch.float64).sqrt()
    nearness = (-((distance / distance.std() / 0.3) ** 2)).softmax(0)
    expected = ring.mean() + 0.01 * (nearness * ring).sum()
    assert refined[0, 0, 1, 1].item() == pytest.approx(expected.item(), rel=1e-5)


def test_par_leaves_its_inputs_alone_keeps_no_gradient_and_its_precision_under_autocast():
    images, maps = pictures().requires_grad_(), random_maps().requires_grad_()
    before = images.detach().clone(), maps.detach().clone()
    refined = PAR(images, maps)
    assert not refined.requires_grad
    assert torch.equal(images, before[0]) and torch.equal(maps, before[1])
    assert_full_precision(lambda: PAR(images, maps))
    half = PAR(images.bfloat16(), maps.half())
    assert torch.equal(half, PAR(images.bfloat16().float(), maps.half().float()))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("classes", "size", "grid"),
    [(20, (32, 32), (32, 32)), (80, (30, 41), (30, 41)), (3, (9, 7), (4, 3))],
)
def test_decoder_labels_equal_their_transcription(seed, classes, size, grid):
    images, maps = pictures(seed, 4, size), random_maps(seed, (4, classes, *grid))
    labels = (uniform(4, classes, seed=seed) < 2 / classes).float()
    labels[0, -1], labels[2] = 1, 0
    mask = refine_cam(PAR, images, maps, labels, 0.6, 0.3)
    expected = transcriptions.refine_cam(images, maps, labels, 0.6, 0.3, *SMALL)
    assert mask.shape == (4, *size)
    assert_mostly_equal(mask, expected)


def test_decoder_labels_by_hand():
    levels = torch.tensor([[0.8, 0.1], [0.5, 0.6], [0.1, 0.2], [0.9, 0.95]])  # four images
    for labels, expected in (([1, 1], [1, 255, 0, 2]), ([1, 0], [1, 255, 0, 1])):
        for side, refinement in ((4, lambda images, maps: maps), (1, PAR)):  # unrefined; one pixel
            maps = levels[:, :, None, None].expand(4, 2, side, side)
            given = torch.ones(4, 3, side, side), maps, torch.tensor([labels] * 4)
            mask = refine_cam(refinement, *given, 0.7, 0.25)
            wanted = torch.tensor(expected)[:, None, None].expand(4, side, side)
            assert torch.equal(mask, wanted)


def test_par_sees_half_size_images_and_probabilities_of_both_passes():
    seen = []

    def spy(images, maps):
        seen.extend((images, maps))
        return maps

    images, maps = decoder_case()
    refine_cam(spy, images, maps, LABELS, 0.7, 0.25)
    small, probabilities = seen
    assert torch.equal(small, F.interpolate(images, (16, 20), mode="bilinear"))
    assert probabilities.shape == (4, 2 * (1 + 4), 16, 20)
    for half, level in zip(probabilities.chunk(2, dim=1), (0.7, 0.25), strict=True):
        torch.testing.assert_close(half.sum(1), torch.ones(4, 16, 20))
        assert torch.equal(half[3, 0], torch.ones(16, 20)) and not half[3, 1:].any()
        odds = half[1, 1] / half[1, 0]  # the only class of image 1 comes first
        score = F.interpolate(maps, (16, 20), mode="bilinear")[1, 1]
        torch.testing.assert_close(odds, (score - level).exp())


@pytest.mark.parametrize(("cached", "together"), [(1000, 1), (2 * 32 * 40 + 1, 2)])
def test_a_cpu_refines_as_many_images_at_once_as_fit_to_the_same_labels(
    cached, together, monkeypatch
):
    images, maps = decoder_case()
    mask, seen = refine_cam(PAR, images, maps, LABELS, 0.7, 0.25), []

    def spy(image, scores):
        seen.append(tuple(scores.shape))
        return PAR(image, scores)

    monkeypatch.setattr("more_lib.method.pseudo_labels.CACHED", cached)
    assert torch.equal(refine_cam(spy, images, maps, LABELS, 0.7, 0.25), mask)
    shown = LABELS.sum(1).clamp(min=1).long()  # classes of each image, one at least
    parts = shown.split(together)
    assert seen == [(len(each), 2 * (1 + int(each.max())), 16, 20) for each in parts]


@pytest.mark.parametrize("noise", [1e4, torch.inf, torch.nan])
def test_absent_classes_are_as_if_they_did_not_exist(noise):
    images, maps = decoder_case()
    mask = refine_cam(PAR, images, maps, LABELS, 0.7, 0.25)
    absent = LABELS[:, :, None, None] == 0
    noisy = maps.masked_fill(absent, noise)
    assert torch.equal(refine_cam(PAR, images, noisy, LABELS, 0.7, 0.25), mask)
    for image, labels in enumerate(LABELS):
        present = labels.nonzero().flatten()
        assert set(mask[image].unique().tolist()) <= {0, 255, *(present + 1).tolist()}
        if len(present):
            chosen = maps[[image]][:, present], labels[None, present]
            alone = refine_cam(PAR, images[[image]], *chosen, 0.7, 0.25)[0]
            number = torch.arange(256)
            number[1 : len(present) + 1] = present + 1
            assert torch.equal(number[alone], mask[image])
        else:
            assert not mask[image].any()


def test_decoder_labels_follow_reordered_classes_images_and_mirrors():
    images, maps = decoder_case()
    order, chosen = [2, 0, 3, 1], [3, 1, 0]
    mask = refine_cam(PAR, images, maps, LABELS, 0.7, 0.25)
    reordered = refine_cam(PAR, images, maps[:, order], LABELS[:, order], 0.7, 0.25)
    assert_mostly_equal(reordered, renumbering(order)[mask])
    fewer = refine_cam(PAR, images[chosen], maps[chosen], LABELS[chosen], 0.7, 0.25)
    assert torch.equal(fewer, mask[chosen])
    for axis in (-1, -2):
        mirrored = refine_cam(PAR, images.flip(axis), maps.flip(axis), LABELS, 0.7, 0.25)
        assert_mostly_equal(mirrored, mask.flip(axis))


def test_wider_thresholds_leave_more_pixels_unknown():
    images, maps = decoder_case()
    mask = refine_cam(PAR, images, maps, LABELS, 0.6, 0.4)
    assert set(mask[0].unique().tolist()) == {0, 1, 3, 255} and not mask[3].any()
    narrow = refine_cam(PAR, images, maps, LABELS, 0.5, 0.5)
    wide = refine_cam(PAR, images, maps, LABELS, 0.8, 0.2)
    assert not (narrow == 255).any() and (wide == 255).any()
    known = wide != 255
    assert torch.equal(wide[known], narrow[known])


def test_decoder_labels_take_labels_of_any_type_and_keep_their_precision_under_autocast():
    images, maps = decoder_case()
    expected = refine_cam(PAR, images, maps, LABELS, 0.7, 0.25)
    for dtype in (torch.bool, torch.uint8, torch.float32, torch.bfloat16):
        assert torch.equal(refine_cam(PAR, images, maps, LABELS.to(dtype), 0.7, 0.25), expected)
    assert_full_precision(lambda: refine_cam(PAR, images, maps, LABELS, 0.7, 0.25))
    rounded = maps.bfloat16()
    expected = refine_cam(PAR, images, rounded.float(), LABELS, 0.7, 0.25)
    assert torch.equal(refine_cam(PAR, images, rounded, LABELS, 0.7, 0.25), expected)


def test_labels_on_a_device_are_never_waited_for():
    """Meta tensors hold no values: whatever would read one on the host fails."""
    images, maps = (values.to("meta") for values in decoder_case())
    for labels in (LABELS.to("meta"), LABELS):
        mask = refine_cam(PixelAdaptiveRefinement(), images, maps, labels, 0.7, 0.25)
        assert mask.shape == (4, 32, 40) and mask.dtype == torch.int64


@pytest.mark.gpu
def test_refinement_on_a_gpu_equals_the_cpu():
    images, maps = decoder_case()
    par = PixelAdaptiveRefinement()
    expected = refine_cam(par, images, maps, LABELS, 0.7, 0.25)
    images, maps, labels, par = images.cuda(), maps.cuda(), LABELS.cuda(), par.cuda()
    with nothing_waits_for_the_gpu():
        masks = [refine_cam(par, images, maps, given, 0.7, 0.25) for given in (labels, LABELS)]
    for mask in masks:
        assert_mostly_equal(mask.cpu(), expected)


@pytest.mark.parametrize("cached", [2**16, 0])
def test_a_threshold_for_each_image_is_that_images_own(cached, monkeypatch):
    monkeypatch.setattr("more_lib.method.pseudo_labels.CACHED", cached)
    images, maps = decoder_case()
    number = len(maps)
    high = torch.linspace(0.4, 0.8, number)
    labels = LABELS[:number]
    masks = three_way_mask(maps, labels, high, 0.25), refine_cam(PAR, images, maps, labels, high, 0)
    for each in range(number):
        one, level = slice(each, each + 1), high[each].item()
        alone = three_way_mask(maps[one], labels[one], level, 0.25)
        assert torch.equal(masks[0][one], alone)
        alone = refine_cam(PAR, images[one], maps[one], labels[one], level, 0)
        assert torch.equal(masks[1][one], alone)
    assert len({torch.unique(mask, return_counts=True)[1].tolist()[0] for mask in masks[0]}) > 1
    for call in (three_way_mask, partial(refine_cam, PAR, images)):
        refuses("maps .* high", call, maps, labels, high[:1], 0.25)
        refuses(r"low threshold 0.5 exceeds the high one \[0.4", call, maps, labels, high, 0.5)


def test_masks_and_par_refuse_bad_input():
    maps, labels = random_case()
    for bad in ((maps, labels[:, :3]), (maps[0], labels), (maps, labels[:1])):
        refuses("maps .* labels", three_way_mask, *bad, 0.7, 0.25)
        refuses("maps .* labels", foreground_mask, *bad, 0.7)
    images, maps = decoder_case()
    swapped = "low threshold 0.7 exceeds the high one 0.25; swap"
    refuses(swapped, three_way_mask, maps, LABELS, high=0.25, low=0.7)
    refuses(swapped, refine_cam, PAR, images, maps, LABELS, high=0.25, low=0.7)
    refuses("maps .*, labels", refine_cam, PAR, images, maps, LABELS[:, :3], 0.7, 0.25)
    refuses("images .*, maps", refine_cam, PAR, images[:2], maps, LABELS, 0.7, 0.25)
    refuses("are torch.uint8", refine_cam, PAR, images.byte(), maps, LABELS, 0.7, 0.25)
    refuses(r"dilations are \(\); give positive", PixelAdaptiveRefinement, ())
    refuses(r"dilations are \(2, 0\)", PixelAdaptiveRefinement, (2, 0))
    refuses("iterations is -1; give 0 or more", PixelAdaptiveRefinement, (1,), -1)
    images, maps = pictures(), random_maps()
    shapes = r"images .*, maps .* must be \(B, 3, H, W\), \(B, K, h, w\)"
    for bad in ((images[0], maps), (images[:1], maps), (images, maps[0])):
        refuses(shapes, PAR, *bad)
    refuses(r"images are torch.uint8; give floats in \[0, 1\]", PAR, images.byte(), maps)
    refuses("maps are torch.int64", PAR, images, maps.long())
