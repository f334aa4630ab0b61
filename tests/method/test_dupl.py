"""DuPL's pieces against golden values, literal transcriptions, hand cases and bad input."""

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from more_lib.method.dupl import (
    DRAWS,
    STRONG,
    DualStudent,
    consistency_loss,
    discrepancy_loss,
    falling_threshold,
    image_thresholds,
    noise_filter,
    strong_view,
)
from more_lib.method.losses import segmentation_loss
from more_lib.method.pseudo_labels import PixelAdaptiveRefinement, refine_cam, three_way_mask
from more_lib.method.vit import ClassTokenViT
from tests.method.helpers import (
    assert_full_precision,
    assert_golden,
    cams_and_images,
    drawn,
    golden,
    randomized,
    reached,
    refuses,
    uniform,
)

SEEDS = (411, 412)
GOLDEN = golden("rivals_dupl")


def stored(name: str, seed: int) -> Tensor:
    return torch.from_numpy(GOLDEN[f"{name}_{seed}"])


def golden_logits(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Plain logits (2, 6, 96, 96) and strong ones (2, 6, 9, 9) of both students."""
    generator, plain = np.random.default_rng([seed, 3]), []
    labels = GOLDEN[f"refined_{seed}"].astype(int)
    labels[labels == 255] = 0
    for _ in range(2):
        coarse = 2 * generator.standard_normal((2, 6, 12, 12)).astype(np.float32)
        wrong = generator.random((2, 12, 12)) < 0.25
        other = generator.integers(1, 6, (2, 12, 12))
        wrong, other = (each.repeat(8, 1).repeat(8, 2) for each in (wrong, other))
        said = torch.from_numpy(np.where(wrong, (labels + other) % 6, labels))
        up = F.interpolate(torch.from_numpy(coarse), (96, 96), mode="bilinear")
        plain.append(up + 5 * F.one_hot(said, 6).permute(0, 3, 1, 2))
    strong = (generator.standard_normal((2, 6, 9, 9)).astype(np.float32) for _ in range(2))
    return plain, [torch.from_numpy(logits).requires_grad_() for logits in strong]


def small_students(classes: int = 3) -> DualStudent:
    sizes = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=0)
    encoder = ClassTokenViT(
        randomized(VisionTransformer(**sizes)), 1, 0, freeze_position=True, position_margin=0
    )
    return DualStudent(encoder, classes, decoder_width=16)


@pytest.mark.parametrize("seed", SEEDS)
def test_golden_discrepancy_and_its_gradients(seed):
    generator = np.random.default_rng(seed)
    first, other = (generator.standard_normal((2, 48, 6, 6)).astype(np.float32) for _ in range(2))
    features = (first, (0.6 * first + 0.8 * other).astype(np.float32))
    f1, f2 = (torch.from_numpy(each).requires_grad_() for each in features)
    loss = discrepancy_loss(f1, f2)
    loss.backward()
    assert_golden(loss, GOLDEN[f"discrepancy_{seed}"])
    assert_golden(f1.grad, GOLDEN[f"discrepancy_grad_1_{seed}"])
    assert_golden(f2.grad, GOLDEN[f"discrepancy_grad_2_{seed}"])


@pytest.mark.parametrize("form", ["sum", "log"])
@pytest.mark.parametrize("along", ["patches", "channels"])
def test_discrepancy_equals_its_transcription(form, along):
    f1, f2 = drawn(2, 4, 2, 3), drawn(2, 4, 2, 3, seed=1)
    values = []
    for a, b in zip(f1.flatten(2), f2.flatten(2), strict=True):
        rows = zip(a, b, strict=True) if along == "patches" else zip(a.T, b.T, strict=True)
        for one, two in rows:
            cosine = (one @ two / (one.norm() * two.norm())).item()
            values.append(1 + cosine if form == "sum" else -math.log(1 - cosine))
    expected = 2 * sum(values) / len(values)
    assert discrepancy_loss(f1, f2, form, along).item() == pytest.approx(expected)


def test_discrepancy_of_equal_opposite_and_empty_features():
    features = drawn(2, 4, 2, 3)
    assert discrepancy_loss(features, features).item() == pytest.approx(4)
    assert discrepancy_loss(features, -3 * features).item() == pytest.approx(0, abs=1e-12)
    same = features.clone().requires_grad_()
    loss = discrepancy_loss(same, features, "log")
    loss.backward()
    assert loss.item() == pytest.approx(-2 * math.log(1e-6)) and same.grad.isfinite().all()
    assert discrepancy_loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)).item() == 2
    halves = [each.float() for each in (features, drawn(2, 4, 2, 3, seed=1))]
    assert_full_precision(lambda: discrepancy_loss(*halves))


@pytest.mark.parametrize("seed", SEEDS)
def test_golden_threshold(seed):
    steps = GOLDEN[f"threshold_steps_{seed}"].tolist()
    values = np.array([falling_threshold(step, 378, 0.7, 0.55) for step in steps])
    assert np.abs(values - GOLDEN[f"thresholds_0.7_to_0.55_in_378_{seed}"]).max() < 1e-7


def test_thresholds_of_classes_and_of_their_images():
    ends = torch.tensor([0.7, 0.55, 0.6])
    middle = falling_threshold(5, 11, 0.7, ends)
    torch.testing.assert_close(middle, torch.tensor([0.7, 0.625, 0.65]))
    labels = torch.tensor([[0, 1, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0]])
    assert image_thresholds(ends, labels).tolist() == ends[[1, 2, 0, 0]].tolist()
    assert [falling_threshold(step, 1, 0.7, 0.5) for step in (-1, 0, 1)] == [0.7, 0.7, 0.5]
    assert falling_threshold(0, 0, 0.7, 0.5) == 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_golden_masks_at_a_threshold_for_each_image(seed):
    maps, pictures = cams_and_images(seed, (2, 5, 96, 96))
    labels, high = stored("labels", seed), stored("high", seed)
    mask = three_way_mask(maps, labels, high, 0.25)
    assert np.array_equal(mask, GOLDEN[f"three_way_{seed}"])
    par = PixelAdaptiveRefinement((1, 2, 4, 8))
    refined = refine_cam(par, pictures, maps, labels, high, 0.25)
    assert (refined != stored("refined", seed)).double().mean() < 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_golden_filter_and_cross_supervision(seed):
    mask, (plain, _) = stored("refined", seed).long(), golden_logits(seed)
    filtered = [noise_filter(logits, mask, 50) for logits in plain]
    for number, ours in enumerate(filtered, 1):
        assert (ours != stored(f"filtered_{number}", seed)).double().mean() < 5e-3
        assert (ours != mask).double().mean() > 0.1
    loss = segmentation_loss(plain[0], filtered[1]) + segmentation_loss(plain[1], filtered[0])
    assert_golden(loss, GOLDEN[f"cross_segmentation_{seed}"])


@pytest.mark.parametrize("seed", SEEDS)
def test_golden_consistency_and_its_gradients(seed):
    plain, strong = golden_logits(seed)
    masks = [stored(f"filtered_{number}", seed).long() for number in (2, 1)]
    pixels = [
        ((mask == 255) & (logits.softmax(1).amax(1) > 0.9)).sum().item()
        for mask, logits in zip(masks, plain, strict=True)
    ]
    assert pixels == GOLDEN[f"consistency_pixels_{seed}"].tolist()
    loss = sum(map(consistency_loss, plain, strong, masks))
    loss.backward()
    assert_golden(loss, GOLDEN[f"consistency_{seed}"])
    for number, logits in enumerate(strong, 1):
        assert_golden(logits.grad, GOLDEN[f"consistency_grad_{number}_{seed}"])


def labelled(counts: dict[float, int], size: int = 40) -> tuple[Tensor, Tensor]:
    """Logits of two classes and a mask of foreground: so many pixels with such a cross-entropy."""
    losses = torch.cat([torch.full((number,), loss) for loss, number in counts.items()])
    losses = F.pad(losses, (0, size * size - len(losses)), value=1e-6).reshape(1, size, size)
    logits = torch.stack((torch.expm1(losses.double()).log(), torch.zeros_like(losses)), 1)
    return logits, torch.ones(1, size, size).long()


def test_filter_drops_the_component_of_large_losses_alone():
    logits, mask = labelled({0.2: 300, 0.3: 300, 4.0: 100, 5.0: 100})
    losses = F.cross_entropy(logits, mask, reduction="none")
    mask[:, -3:], mask[:, :, -1] = 0, 255
    before = mask.clone()
    filtered = noise_filter(logits, mask, least=50)
    assert torch.equal(mask, before)
    assert torch.equal(filtered, torch.where((losses > 2) & (mask == 1), 255, mask))
    assert torch.equal(filtered, noise_filter(logits, mask, least=50))


def test_filter_never_drops_background_and_each_image_is_judged_alone():
    logits, mask = labelled({0.2: 300, 5.0: 300})
    both = torch.cat((logits, logits.flip(1))), torch.cat((mask, 1 - mask))
    filtered = noise_filter(*both, least=50)
    assert torch.equal(filtered[:1], noise_filter(logits, mask, least=50))
    assert (filtered[0] == 255).sum() == 300 and torch.equal(filtered[1], both[1][1])


@pytest.mark.parametrize(
    "counts",
    [
        {0.2: 25, 4.0: 25},  # not more than least
        {0.2: 100, 0.9: 100},  # the means are too near
        {0.05: 800},  # below the floor
    ],
)
def test_filter_without_two_clear_components_changes_nothing(counts):
    logits, mask = labelled(counts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(noise_filter(logits, mask, least=50), mask)


def test_filter_of_a_single_value_is_quiet():
    """scikit-learn leaves the second component, which has no values, at 0."""
    logits, mask = labelled({4.0: 100})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (noise_filter(logits, mask, least=50) == 255).sum() in (0, 100)


def test_filter_of_nothing_known_of_broken_logits_and_of_logits_of_the_decoders_size():
    logits, mask = labelled({0.2: 300, 4.0: 300})
    nothing = torch.full_like(mask, 255)
    assert torch.equal(noise_filter(logits, nothing, least=0), nothing)
    assert torch.equal(noise_filter(logits * torch.nan, mask, least=0), mask)
    broken = logits.clone()
    broken[0, 1, 0, 0] = -torch.inf  # its label has no probability
    expected = noise_filter(logits, mask, least=50)
    expected[0, 0, 0] = 1
    assert torch.equal(noise_filter(broken, mask, least=50), expected)
    small, mask = drawn(1, 2, 8, 8) * 5, torch.ones(1, 40, 40).long()
    large = F.interpolate(small, (40, 40), mode="bilinear")
    assert torch.equal(noise_filter(small, mask, 50), noise_filter(large, mask, 50))
    assert (noise_filter(small, mask, 50) == 255).any()


@pytest.mark.parametrize("seed", range(3))
def test_consistency_equals_its_transcription(seed):
    weak, strong = 4 * drawn(2, 3, 6, 6, seed=seed), drawn(2, 3, 6, 6, seed=seed + 9)
    mask = torch.where(uniform(2, 6, 6, seed=seed) < 0.5, 255, 1)
    losses = []
    for b, y, x in (mask == 255).nonzero().tolist():
        probability = weak[b, :, y, x].softmax(0)
        if probability.max() > 0.9:
            said = strong[b, :, y, 5 - x].log_softmax(0)  # the strong view is mirrored
            losses.append(-said[probability.argmax()].item())
    loss = consistency_loss(weak, strong, mask).item()
    assert loss == pytest.approx(sum(losses) / len(losses))


def test_consistency_without_pixels_is_0_and_only_the_strong_view_learns():
    weak, strong = drawn(1, 3, 6, 6).requires_grad_(), drawn(1, 3, 4, 4).requires_grad_()
    for mask, confidence in ((torch.zeros(1, 12, 12), 0.0), (torch.full((1, 12, 12), 255), 1.0)):
        loss = consistency_loss(weak, strong, mask, confidence)
        loss.backward()
        assert loss.item() == 0 and not strong.grad.any()
    consistency_loss(weak, strong, torch.full((1, 12, 12), 255), 0.5).backward()
    assert weak.grad is None and strong.grad.any()


def test_students_share_their_start_but_for_the_heads_and_nothing_later():
    students = small_students()
    first, second = students.students
    assert "encoder.patch_position" in first.state_dict()
    for (name, one), two in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two) == name.startswith("encoder"), name
        assert one is not two and "position" not in name
    images = drawn(2, 3, 32, 48, dtype=torch.float32)
    outputs = students(images)
    for output in outputs:
        assert output.cam.shape == (2, 3, 4, 6) and output.class_logits.shape == (2, 3)
        assert output.seg_logits.shape == (2, 4, 4, 6) and output.class_tokens.shape == (2, 1, 24)
    assert torch.equal(outputs[0].features, outputs[1].features)
    assert not torch.equal(outputs[0].cam, outputs[1].cam)
    names = reached(students, outputs[1].class_logits.sum() + outputs[1].seg_logits.sum())
    assert names and all(name.startswith("students.1.") for name in names)


def test_discrepancy_reaches_both_encoders_once_they_differ():
    students = small_students()
    with torch.no_grad():
        students.students[1].encoder.blocks[0].attn.qkv.weight.mul_(1.5)
    first, second = students(drawn(2, 3, 32, 32, dtype=torch.float32))
    names = reached(students, discrepancy_loss(first.features, second.features))
    for number in (0, 1):
        assert f"students.{number}.encoder.norm.weight" in names
    assert not any("classifier" in name or "decoder" in name for name in names)


def test_strong_view_by_hand():
    """Operation 2 keeps two bits, 5 dims by 0.7; a grey image has no colour to lose in 3."""
    grey = (torch.arange(48.0).reshape(1, 1, 6, 8) / 47).expand(2, 3, 6, 8).clone()
    two_bits, dim, colour = (torch.full((2, 1), (n + 0.5) / 7) for n in (2, 5, 3))
    levels = (255 * grey).round().long() // 64 * 64
    torch.testing.assert_close(strong_view(grey, two_bits), levels / 255)
    torch.testing.assert_close(strong_view(grey, dim), 0.7 * grey, atol=2 / 255, rtol=0)
    torch.testing.assert_close(strong_view(grey, colour), grey, atol=2 / 255, rtol=0)


def test_strong_view_takes_each_images_own_draws_in_their_order():
    pictures, draws = uniform(3, 3, 8, 8), uniform(3, DRAWS, seed=2)
    draws[0] = 0.999
    strong = strong_view(pictures, draws)
    assert strong.shape == pictures.shape and strong.dtype == pictures.dtype
    assert strong.min() >= 0 and strong.max() <= 1
    for image, own, together in zip(pictures, draws, strong, strict=True):
        for number in (len(STRONG) * own).long():
            image = strong_view(image[None], (number + 0.5).reshape(1, 1) / len(STRONG))[0]
        torch.testing.assert_close(image, together)


def test_dupl_refuses_bad_input():
    f = torch.zeros(1, 2, 3, 3)
    refuses("f1 .* f2", discrepancy_loss, f, f[:, :1])
    mask = torch.zeros(1, 6, 6).long()
    refuses("logits .* mask", noise_filter, f, mask[0])
    refuses("weak .* strong .* mask", consistency_loss, f, f[:, :1], mask)
    refuses("by_class .* labels", image_thresholds, torch.ones(3), torch.ones(2, 4))
