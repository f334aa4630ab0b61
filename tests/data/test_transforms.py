"""Transforms: hand-computed colours, invariants of the random part, one source of randomness."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from more_lib.data.transforms import (
    RandomRescale,
    denormalize,
    evaluation_transform,
    training_transform,
)
from more_lib.recipes.constants import IMAGENET_MEAN, IMAGENET_STD
from more_lib.recipes.profiles import PROFILES
from more_lib.system.errors import InputError

STILL = dict(crop_scale=(1.0, 1.0), color_jitter=(0.0, 0.0, 0.0, 0.0), jitter_probability=0.0)
PLAIN = replace(PROFILES["mini"].data, crop_size=32, **STILL)


@pytest.fixture
def photograph():
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def seeded(transform, image, seed=0):
    torch.manual_seed(seed)
    return transform(image)


def first(seen):
    """The image of what a transform gives, which may come with its box."""
    return seen[0] if isinstance(seen, tuple) else seen


def test_evaluation_normalises_with_imagenets_statistics():
    image = evaluation_transform(None)(Image.new("RGB", (7, 5), (255, 0, 51)))
    assert image.shape == (3, 5, 7) and image.dtype == torch.float32
    # (1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225
    expected = torch.tensor([2.248908, -2.035714, -0.915556])
    torch.testing.assert_close(image[:, 2, 3], expected, atol=1e-5, rtol=0)
    assert torch.equal(image, image[:, :1, :1].expand_as(image))


def test_evaluation_resizes_to_a_square_bicubically(photograph):
    wide = photograph.resize((40, 24))
    image = denormalize(evaluation_transform(16)(wide))
    expected = np.asarray(wide.resize((16, 16), Image.Resampling.BICUBIC), np.float32) / 255
    assert image.shape == (3, 16, 16)
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_denormalize_undoes_the_normalisation_and_clamps(photograph):
    image = evaluation_transform(None)(photograph)
    expected = torch.from_numpy(np.asarray(photograph).copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(denormalize(image), expected, atol=1e-6, rtol=0)
    batch = denormalize(torch.stack([image, image + 100, image - 100]))
    assert batch.shape == (3, 3, 32, 32)
    torch.testing.assert_close(batch[0], denormalize(image))
    assert batch[1].eq(1).all() and batch[2].eq(0).all()


@pytest.mark.parametrize("crop, side", [("resized", 48), ("padded", 32)])
def test_without_crop_and_jitter_training_sees_the_image_or_its_mirror(photograph, crop, side):
    transform = training_transform(replace(PLAIN, crop=crop))
    image = photograph.resize((side, side))
    straight, kinds = evaluation_transform(32)(image), set()
    for seed in range(20):
        seen = first(seeded(transform, image, seed))
        kinds.add((torch.equal(seen, straight), torch.equal(seen, straight.flip(-1))))
    assert kinds == {(True, False), (False, True)}


def test_training_crops_have_the_recipes_size_and_share_of_the_area():
    rows, columns = np.mgrid[0:256, 0:256].astype(np.uint8)
    ramp = Image.fromarray(np.dstack([columns, rows, np.zeros_like(rows)]))
    transform = training_transform(replace(PLAIN, crop_size=24, crop_scale=(0.3, 0.5)))
    shares = []
    for seed in range(40):
        image = denormalize(seeded(transform, ramp, seed))
        assert image.shape == (3, 24, 24)
        # Neighbouring pixel centres of the crop are its side / 24 apart on the ramp.
        steps = [image[0, 12].diff().abs().mean(), image[1, :, 12].diff().abs().mean()]
        shares.append(float(steps[0] * 255 * 24 * steps[1] * 255 * 24) / 256**2)
    assert 0.27 < min(shares) < 0.35 and 0.45 < max(shares) < 0.54


@pytest.mark.parametrize("crop", ["resized", "padded"])
def test_training_jitter_obeys_its_probability_and_strength(crop):
    grey = Image.new("RGB", (32, 32), (100, 100, 100))
    only_brightness = replace(PLAIN, crop=crop, color_jitter=(0.3, 0.0, 0.0, 0.0))
    always = training_transform(replace(only_brightness, jitter_probability=1.0))
    never = training_transform(replace(only_brightness, jitter_probability=0.0))
    seen = (first(seeded(always, grey, seed)) for seed in range(40))
    values = [float(denormalize(image)[0, 0, 0]) * 255 for image in seen]
    assert 69 < min(values) < 80 and 120 < max(values) < 131
    assert torch.equal(first(seeded(never, grey)), evaluation_transform(None)(grey))


@pytest.mark.parametrize("profile", ["mini", "coco"])
def test_training_is_random_through_torchs_generator_alone(photograph, profile):
    transform = training_transform(replace(PROFILES[profile].data, crop_size=64))
    once = seeded(transform, photograph, 5)
    random.seed(1)
    np.random.seed(1)
    again, other = (seeded(transform, photograph, seed) for seed in (5, 6))
    assert torch.equal(first(once), first(again)) and not torch.equal(first(once), first(other))
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    values = first(once) * std + mean  # normalised, and jitter leaves no range
    assert values.shape == (3, 64, 64) and values.dtype == torch.float32
    assert -2e-6 < values.min() and values.max() < 1 + 2e-6


PADDED = replace(PLAIN, crop="padded", crop_scale=(0.5, 0.5))
BLACK = torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])[:, None, None]


def test_padded_crop_of_a_small_image_is_all_of_it_somewhere_on_black():
    image, places = Image.new("RGB", (40, 20), (255, 255, 255)), set()
    for seed in range(30):
        seen, box = seeded(training_transform(PADDED), image, seed)
        assert seen.shape == (3, 32, 32) and seen.dtype == torch.float32
        assert box.shape == (4,) and box.dtype == torch.int64
        left, top, right, bottom = box.tolist()
        assert (right - left, bottom - top) == (20, 10)  # half of 40×20
        white = torch.zeros(32, 32, dtype=torch.bool)
        white[top:bottom, left:right] = True
        torch.testing.assert_close(denormalize(seen), white.float().expand(3, 32, 32))
        torch.testing.assert_close(seen[:, ~white], BLACK[:, 0].expand(3, int((~white).sum())))
        places.add((left, top))
    columns, rows = ({place[axis] for place in places} for axis in (0, 1))
    assert min(columns) < 3 and max(columns) > 9 and min(rows) < 5 and max(rows) > 17


def test_padding_that_counts_as_picture_comes_without_a_box():
    image = Image.new("RGB", (40, 20), (255, 255, 255))
    silent = training_transform(replace(PADDED, padding="picture"))
    for seed in range(3):
        seen, _ = seeded(training_transform(PADDED), image, seed)
        assert torch.equal(seeded(silent, image, seed), seen)


def test_rescaling_is_bilinear_and_cuts_sides_to_whole_pixels(photograph):
    odd = photograph.crop((0, 0, 31, 29))
    small = RandomRescale((0.5, 0.5))(odd)
    assert small.size == (15, 14)
    bilinear = odd.resize((15, 14), Image.Resampling.BILINEAR)
    assert np.array_equal(np.asarray(small), np.asarray(bilinear))


def test_padded_crop_of_a_large_image_is_a_part_of_it_at_its_scale():
    columns = np.arange(200, dtype=np.uint8)
    ramp = Image.fromarray(np.broadcast_to(columns[None, :, None], (50, 200, 3)).copy())
    transform = training_transform(replace(PADDED, crop_scale=(0.5, 1.0)))
    steps, starts = [], []
    for seed in range(40):
        seen, box = seeded(transform, ramp, seed)
        assert (box[0], box[2]) == (0, 32) and 25 <= box[3] - box[1] <= 32
        row = denormalize(seen)[0, int(box[1] + box[3]) // 2] * 255
        steps.append(float(row.diff().abs().mean()))  # 1 / scale
        starts.append(float(row.min()))
    assert 1 < min(steps) < 1.15 and 1.75 < max(steps) < 2.05
    assert min(starts) < 40 and max(starts) > 110


def test_further_views_are_another_crop_and_the_same_one_in_other_colours(photograph):
    still = training_transform(replace(PLAIN, crop_scale=(0.3, 0.5)), views=True)
    seen = seeded(still, photograph)
    assert seen["image"].shape == (3, 32, 32) and seen["views"].shape == (2, 3, 32, 32)
    other, same = seen["views"]
    assert torch.equal(same, seen["image"]) and not torch.equal(other, seen["image"])
    assert all(map(torch.equal, seen.values(), seeded(still, photograph).values()))
    options = {"color_jitter": (0.9, 0.0, 0.0, 0.0), "jitter_probability": 1.0}
    bright = seeded(training_transform(replace(PLAIN, **options), views=True), photograph)
    a, b = denormalize(torch.stack((bright["image"], bright["views"][1])))
    dim = ((a < 0.9) & (b < 0.9) & (a > 0.1)).numpy()
    shares = b.numpy()[dim] / a.numpy()[dim]
    assert np.ptp(shares) < 0.2 and abs(shares.mean() - 1) > 0.01  # brighter or darker as a whole
    with pytest.raises(InputError, match="data.crop is 'padded': views"):
        training_transform(PADDED, views=True)
