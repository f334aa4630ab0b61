"""Transforms: hand-computed colours, invariants of the random part, one source of randomness."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from more_lib.data.transforms import (
    RandomRescale,
    _erasing,
    denormalize,
    evaluation_transform,
    training_transform,
)
from more_lib.recipes.constants import IMAGENET_MEAN, IMAGENET_STD
from more_lib.recipes.profiles import PROFILES

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


@pytest.mark.parametrize("profile", ["mini", "voc", "coco"])
def test_profiles_of_before_see_what_they_saw(photograph, profile):
    """Step by step, and with the same random numbers left for what comes after."""
    data = replace(PROFILES[profile].data, crop_size=48, padding="picture")
    jitter = v2.RandomApply([v2.ColorJitter(*data.color_jitter)], p=data.jitter_probability)
    cut = v2.RandomResizedCrop(48, data.crop_scale, interpolation=v2.InterpolationMode.BICUBIC)
    steps = [cut, v2.RandomHorizontalFlip(), jitter]
    if profile == "coco":
        padded = v2.RandomCrop(48, pad_if_needed=True, fill=0)
        steps = [jitter, RandomRescale(data.crop_scale), v2.RandomHorizontalFlip(), padded]
    literal = v2.Compose([*steps, evaluation_transform(None)])
    for seed in range(5):
        seen = seeded(training_transform(data), photograph, seed), torch.rand(())
        wanted = seeded(literal, photograph, seed), torch.rand(())
        assert all(map(torch.equal, seen, wanted))


def test_grey_and_blur_obey_their_probabilities(photograph):
    straight = evaluation_transform(None)(photograph)

    def shown(**options):
        transform = training_transform(replace(PLAIN, crop="padded", **options))
        return [first(seeded(transform, photograph, seed)) for seed in range(30)]

    def grey(seen):
        return bool(denormalize(seen).var(dim=0).max() < 1e-4)

    def blurred(seen):
        return not (torch.equal(seen, straight) or torch.equal(seen, straight.flip(-1)))

    for kind, name in ((grey, "grey"), (blurred, "blur")):
        counts = [sum(map(kind, shown(**{name: share}))) for share in (0.0, 0.5, 1.0)]
        # The least blur moves no byte.
        assert counts[0] == 0 and 5 < counts[1] < 25 and counts[2] >= 24


def test_blur_is_a_gaussian_of_at_most_two_pixels():
    spot, widths = Image.new("RGB", (33, 33)), []
    spot.putpixel((16, 16), (255, 255, 255))
    transform = training_transform(replace(PLAIN, crop="padded", crop_size=33, blur=1.0))
    offsets = torch.arange(33.0) - 16
    for seed in range(40):
        row = denormalize(first(seeded(transform, spot, seed)))[0].sum(0)
        widths.append(float((row * offsets**2).sum() / row.sum()) ** 0.5)
    assert min(widths) < 0.4 and 1.5 < max(widths) < 2.05  # bytes cut the tails of the widest


@pytest.mark.parametrize("views", ["alike", "released"])
def test_padded_views_share_the_images_geometry_and_its_box(views):
    image, means, blurred = Image.new("RGB", (40, 20), (255, 255, 255)), set(), 0
    transform = training_transform(replace(PADDED, views=views), views=True)
    for seed in range(30):
        seen = seeded(transform, image, seed)
        assert seen.keys() == {"image", "views", "box"} and seen["views"].shape == (2, 3, 32, 32)
        left, top, right, bottom = seen["box"].tolist()
        (other, rendering), shown = denormalize(seen["views"]), denormalize(seen["image"])
        assert (right - left, bottom - top) == (20, 10) and shown.sum() == 3 * 200
        assert shown[:, top:bottom, left:right].eq(1).all()
        assert (rendering > 0.5).sum() == pytest.approx(600, abs=60)
        blurred += not torch.equal(rendering, shown)
        means.add(round(other.mean().item(), 2))
    if views == "alike":  # 200 of 1024 pixels
        assert means == {0.2} and blurred == 0
    else:  # a part of the file, at times solarised; a rendering that is at times blurred
        assert means == {0.0, 1.0} and 8 < blurred < 22
    silent = replace(PADDED, padding="picture", views=views)
    assert "box" not in seeded(training_transform(silent, views=True), image)


def test_half_of_mirrored_boxes_are_those_of_the_mirror_image():
    image, ways = Image.new("RGB", (40, 20), (255, 255, 255)), []
    for seed in range(40):
        seen, box = seeded(training_transform(replace(PADDED, padding="mirrored")), image, seed)
        white = denormalize(seen)[0].sum(0).nonzero().flatten()
        left, right = int(white.min()), int(white.max()) + 1
        followed, mirrored = (left, right), (32 - right, 32 - left)
        assert (box[0], box[2]) in (followed, mirrored) and box[3] - box[1] == 10
        if followed != mirrored:
            ways.append((box[0], box[2]) == followed)
    assert 0.25 < np.mean(ways) < 0.75


def test_randaugment_is_random_through_torch_and_leaves_other_generators_alone(photograph):
    transform = training_transform(replace(PLAIN, strong="randaugment"))
    straight, changed_ones = evaluation_transform(None)(photograph), 0
    random.seed(3)
    np.random.seed(3)
    states = random.getstate(), np.random.get_state()[1].tolist()
    views = [seeded(transform, photograph, seed) for seed in range(30)]
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    random.seed(4)
    np.random.seed(4)
    for seed, seen in enumerate(views):
        assert seen.shape == (3, 32, 32) and torch.equal(seen, seeded(transform, photograph, seed))
        changed_ones += not (torch.equal(seen, straight) or torch.equal(seen, straight.flip(-1)))
    assert 15 <= changed_ones < 30  # each of two operations comes with 0.5, the erasing with 0.25


def test_erasing_covers_parts_of_a_quarter_of_the_images_with_noise():
    seen = [seeded(_erasing(), torch.zeros(3, 64, 64), seed) for seed in range(200)]
    shares = [each.ne(0).any(0).float().mean().item() for each in seen if each.any()]
    assert 30 <= len(shares) <= 70 and 0.01 < min(shares) < 0.06 and 0.25 < max(shares) < 0.36
    noise = torch.cat([each[each != 0] for each in seen])
    assert noise.std() == pytest.approx(1, abs=0.05)


def test_padded_crops_may_enlarge(photograph):
    image = Image.new("RGB", (20, 20), (255, 255, 255))
    seen, box = seeded(training_transform(replace(PADDED, crop_scale=(2.0, 2.0))), image)
    assert box.tolist() == [0, 0, 32, 32] and denormalize(seen).eq(1).all()
