"""ToCo's crops, projection head and class-token contrast: golden, literal, by hand, bad input."""

import json
import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor

from more_lib.method.toco import (
    ProjectionHead,
    class_token_contrast_loss,
    ema_update,
    local_crops,
    roi_mask,
)
from tests.method.helpers import (
    assert_full_precision,
    assert_golden,
    cams_and_images,
    drawn,
    drawn_weights,
    golden,
    refuses,
    uniform,
)

SEEDS = (401, 402)
GOLDEN = golden("rivals_toco")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def golden_views(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    views = [0.25 * generator.standard_normal((number, 2, 64)) for number in (10, 2)]
    student, teacher = (torch.from_numpy(view.astype(np.float32)) for view in views)
    return student.requires_grad_(), teacher, torch.from_numpy(GOLDEN[f"flags_{seed}"])


def golden_maps(seed: int) -> Tensor:
    maps = cams_and_images(seed, (2, 5, 96, 96))[0]
    maps[..., :44] = 0
    return maps


def literal_contrast(student, teacher, positive, temperature, repulsion=True) -> Tensor:
    """L_ctc, one image, global view and crop after the other."""
    total = 0
    for b in range(student.shape[1]):
        flags = positive[b].tolist()
        image = 0
        for t in teacher[:, b]:
            e = [((t * z[b]).sum() / temperature).exp() for z in student]
            s = sum(value for value, flag in zip(e, flags, strict=True) if not flag)
            for value, flag in zip(e, flags, strict=True):
                image = image - flag * (value / (value + s + 1e-4)).log()
            if repulsion:
                image = image + torch.as_tensor(1 + s + 1e-4).log()
        total = total + image / (2 * (sum(flags) + 1e-4))
    return total / student.shape[1]


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_golden_contrast_and_its_gradient(seed, temperature):
    student, teacher, positive = golden_views(seed)
    loss = class_token_contrast_loss(student, teacher, positive, temperature)
    loss.backward()
    assert_golden(loss, GOLDEN[f"ctc_tau{temperature}_{seed}"])
    assert_golden(student.grad, GOLDEN[f"ctc_grad_tau{temperature}_{seed}"])


@pytest.mark.parametrize("repulsion", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_contrast_equals_its_transcription(seed, repulsion):
    student, teacher = drawn(6, 3, 8, seed=seed), drawn(2, 3, 8, seed=seed + 10)
    positive = uniform(3, 6, seed=seed) < 0.5
    positive[:, :2] = True
    positive[0] = True  # an image without negatives
    inputs = (student.requires_grad_(), teacher, positive, 0.5, repulsion)
    loss, expected = class_token_contrast_loss(*inputs), literal_contrast(*inputs)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-7)
    gradients = (torch.autograd.grad(each, student)[0] for each in (loss, expected))
    torch.testing.assert_close(*gradients)


def test_contrast_by_hand():
    """Everything orthogonal: every e is 1; four views, three of them positive."""
    student, teacher = torch.zeros(4, 1, 3), torch.ones(2, 1, 3)
    positive = torch.tensor([[1, 1, 1, 0]])
    expected = (3 * math.log(2.0001) + math.log(2.0001)) / 3.0001
    loss = class_token_contrast_loss(student, teacher, positive, 0.5)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    plain = class_token_contrast_loss(student, teacher, positive, 0.5, repulsion=False)
    assert plain.item() == pytest.approx(3 * math.log(2.0001) / 3.0001, rel=1e-6)


def test_contrast_pulls_positives_repels_negatives_and_leaves_the_teacher_alone():
    student, teacher = drawn(4, 2, 5).requires_grad_(), drawn(2, 2, 5, seed=1).requires_grad_()
    positive = torch.tensor([[1, 1, 1, 0]] * 2)
    class_token_contrast_loss(student, teacher, positive, 0.5).backward()
    assert teacher.grad is None
    mean = teacher.detach().sum(dim=0)
    assert (student.grad[3] * mean).sum() > 0 > (student.grad[2] * mean).sum()
    assert student.grad.flatten(2).any(dim=2).all()


def test_contrast_stays_finite_where_exponentials_overflow_and_under_autocast():
    student, teacher = 40 * torch.ones(4, 2, 5), 40 * torch.ones(2, 2, 5)
    positive = torch.tensor([[1, 1, 0, 0]] * 2)
    student.requires_grad_()
    loss = class_token_contrast_loss(student, teacher, positive, 0.5)
    loss.backward()
    assert loss.isfinite() and loss > 1e3 and student.grad.isfinite().all()
    views = drawn(4, 2, 5, dtype=torch.float32), drawn(2, 2, 5, seed=1, dtype=torch.float32)
    assert_full_precision(lambda: class_token_contrast_loss(*views, positive, 0.5))


@pytest.mark.parametrize("seed", SEEDS)
def test_golden_head(seed):
    shapes = json.loads(str(GOLDEN[f"head_shapes_{seed}"]))
    weights = drawn_weights(shapes, seed)
    rows = weights.pop("last_layer.weight_v")
    head = ProjectionHead(48, 64, 20, 80)
    head.load_state_dict(weights | {"last_layer.weight": 3 * rows})  # lengths do not matter
    tokens = np.random.default_rng([seed, 2]).standard_normal((4, 48)).astype(np.float32)
    assert_golden(head(torch.from_numpy(tokens)), GOLDEN[f"head_output_{seed}"])


def test_head_starts_small_and_its_square_is_out_over_bottleneck():
    head = ProjectionHead(24, 32, 16, 64)
    for layer in head.mlp[::2]:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.2) and not layer.bias.any()
    head = ProjectionHead(96, 128, 64, 1024)
    squares = head(drawn(50, 3, 96, dtype=torch.float32)).square().sum(dim=2)
    assert squares.shape == (50, 3) and squares.mean().item() == pytest.approx(16, rel=0.1)


def test_teacher_follows_slowly_by_hand_and_without_gradient():
    student, teacher = (ProjectionHead(4, 6, 3, 5) for _ in range(2))
    before = deepcopy(teacher)
    ema_update(teacher, student, 0.9)
    for old, new, own in zip(*(m.parameters() for m in (before, teacher, student)), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * own)
        assert new.grad_fn is None
    ema_update(teacher, student, 0.0)
    assert all(map(torch.equal, teacher.parameters(), student.parameters()))
    refuses(r"momentum is 1.1; it must be in \[0, 1\]", ema_update, teacher, student, 1.1)


@pytest.mark.parametrize("seed", SEEDS)
def test_golden_roi_and_its_flags(seed):
    labels = torch.from_numpy(GOLDEN[f"labels_{seed}"])
    roi = roi_mask(golden_maps(seed), labels, 0.7, 0.25)
    assert np.array_equal(roi.numpy(), GOLDEN[f"roi_mask_{seed}"])
    corners = GOLDEN[f"crop_corners_{seed}"]
    for image, places in enumerate(corners):
        for crop, (row, column) in enumerate(places):
            share = roi[image, row : row + 32, column : column + 32].double().mean()
            assert (share > 0.2) == GOLDEN[f"crop_flags_{seed}"][image, crop]


def test_roi_by_hand_takes_thresholds_to_its_ends():
    maps = torch.tensor([0.0, 0.25, 0.26, 0.69, 0.7, 1.0]).repeat(2, 2, 1)[:, :, None]
    maps[:, 1] = torch.nan  # absent in both images
    labels = torch.tensor([[1, 0], [0, 0]])
    expected = [[0, 0, 1, 1, 2, 2], [0] * 6]
    assert roi_mask(maps, labels, 0.7, 0.25)[:, 0].tolist() == expected
    maps = torch.tensor([[0.1, 0.8], [0.9, 0.3]]).reshape(1, 2, 1, 2)
    assert roi_mask(maps, torch.tensor([[1, 1]]), 0.7, 0.25).tolist() == [[[2, 2]]]


@pytest.mark.parametrize("seed", range(3))
def test_crops_are_what_their_corners_say(seed):
    images, roi = uniform(3, 3, 40, 50, seed=seed), (3 * uniform(3, 40, 50, seed=seed)).long()
    crops, positive, corners = local_crops(images, roi, 5, 12, seeded(seed))
    assert crops.shape == (3, 5, 3, 12, 12) and positive.shape == (3, 5)
    for b in range(3):
        assert len({tuple(corner) for corner in corners[b].tolist()}) == 5
        for k, (row, column) in enumerate(corners[b].tolist()):
            part = slice(row, row + 12), slice(column, column + 12)
            assert torch.equal(crops[b, k], images[b, :, part[0], part[1]])
            assert roi[b, row + 6, column + 6] <= 1
            assert positive[b, k] == (roi[b][part].double().mean() > 0.2)
    again = local_crops(images, roi, 5, 12, seeded(seed))
    assert all(map(torch.equal, again, (crops, positive, corners)))


def test_centres_are_uniform_among_what_may_be_drawn():
    roi = torch.full((1, 12, 12), 2)
    roi[0, 4:7, 5] = torch.tensor([0, 1, 1])  # of them 4..7 are 4 from the border
    counts = torch.zeros(12)
    for seed in range(300):
        _, _, corners = local_crops(torch.zeros(1, 3, 12, 12), roi, 1, 8, seeded(seed))
        counts[corners[0, 0, 0] + 4] += 1
    assert counts[4:7].min() > 70 and counts.sum() == 300


def test_too_few_uncertain_pixels_let_all_be_drawn_and_the_border_is_kept():
    roi = torch.full((2, 14, 12), 2)
    roi[0, 6, 6] = 1
    _, positive, corners = local_crops(torch.zeros(2, 3, 14, 12), roi, 24, 8, seeded(0))
    places = {tuple(corner) for corner in corners[0].tolist()}
    assert places == {(row, column) for row in range(6) for column in range(4)}
    assert positive.all()
    drawn_alone = [
        local_crops(torch.zeros(2, 3, 14, 12), roi, 2, 8, seeded(n))[2] for n in range(9)
    ]
    found = [(corners[0] == torch.tensor([2, 2])).all(dim=1).any() for corners in drawn_alone]
    assert not all(found)  # the one uncertain pixel is not preferred


@pytest.mark.parametrize(("ones", "positive"), [(0, False), (20, False), (21, True), (100, True)])
def test_a_crop_is_positive_by_its_mean_roi(ones, positive):
    roi = torch.zeros(1, 11, 11).long()
    roi[0, :10, :10] = (torch.arange(100) < ones).reshape(10, 10)
    _, flags, corners = local_crops(torch.zeros(1, 3, 11, 11), roi, 1, 10)
    assert corners.tolist() == [[[0, 0]]] and flags.item() == positive


def test_negatives_are_background_and_a_flag_may_ask_the_centre_alone():
    images, roi = torch.zeros(1, 3, 20, 20), torch.zeros(1, 20, 20).long()
    assert not local_crops(images, roi, 3, 4, seeded(0))[1].any()
    roi[:, 10:] = 2
    roi[:, 9] = 1
    _, share, corners = local_crops(images, roi, 64, 8, seeded(0))
    _, centre, _ = local_crops(images, roi, 64, 8, seeded(0), flags="centre")
    assert torch.equal(centre, corners[..., 0] + 4 == 9) and (share & ~centre).any()


def test_crops_that_are_not_aligned_are_cut_from_some_mirrored_images():
    images, roi = uniform(40, 3, 12, 16), torch.ones(40, 12, 16).long()
    crops, _, corners = local_crops(images, roi, 1, 4, seeded(0), aligned=False)
    mirrored = 0
    for crop, image, (row, column) in zip(crops[:, 0], images, corners[:, 0].tolist(), strict=True):
        part = slice(row, row + 4), slice(column, column + 4)
        straight, turned = (each[:, *part] for each in (image, image.flip(-1)))
        mirrored += torch.equal(crop, turned)
        assert torch.equal(crop, turned) != torch.equal(crop, straight)
    assert 10 < mirrored < 30


def test_toco_refuses_bad_input():
    student, teacher, positive = torch.zeros(4, 2, 5), torch.zeros(2, 2, 5), torch.ones(2, 4)
    shapes = r"student .*, teacher .*, positive"
    for bad in ((student, teacher[:1], positive), (student, teacher, positive.T)):
        refuses(shapes, class_token_contrast_loss, *bad, 0.5)
    refuses("temperature is 0", class_token_contrast_loss, student, teacher, positive, 0)
    maps, labels = torch.zeros(2, 3, 8, 8), torch.ones(2, 3)
    refuses("maps .* labels", roi_mask, maps, labels[:, :2], 0.7, 0.25)
    refuses("low threshold 0.7 exceeds the high one 0.25", roi_mask, maps, labels, 0.25, 0.7)
    roi = torch.zeros(2, 8, 8).long()
    refuses("images .* roi", local_crops, maps, roi[:1], 1, 4)
    refuses("1 crops of 8 pixels cannot be centred in images of 8x8", local_crops, maps, roi, 1, 8)
    refuses("17 crops of 4 pixels", local_crops, maps, roi, 17, 4)
    refuses("0 crops of 4 pixels .* at least 1", local_crops, maps, roi, 0, 4)
