import math
from functools import partial

import pytest
import torch
from torch import Tensor

from more_lib.method.losses import (
    classification_loss,
    patch_token_contrast_loss,
    segmentation_loss,
    token_classification_loss,
    token_discrepancy_loss,
)
from tests.method import transcriptions
from tests.method.helpers import assert_full_precision, drawn, golden_losses, refuses, renumbering

LABELS = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0]])


def random_tokens(shape=(2, 4, 6), dtype=torch.float64, seed=0) -> Tensor:
    return drawn(*shape, seed=seed, dtype=dtype)


def random_mask(shape, classes=3, seed=0) -> Tensor:
    """0..classes, and 255 for about a fifth of the pixels."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, classes + 1, shape, generator=generator)
    return mask.masked_fill(torch.rand(shape, generator=generator) < 0.2, 255)


def test_classification_equals_its_formula_and_is_finite_in_half_precision():
    logits, expected = random_tokens((2, 4)), 0.0
    for logit, label in zip(logits.flatten().tolist(), LABELS.flatten(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        expected -= math.log(probability if label else 1 - probability) / 8
    assert classification_loss(logits, LABELS).item() == pytest.approx(expected)
    assert classification_loss(torch.zeros(2, 4), LABELS).item() == pytest.approx(math.log(2))
    logits = torch.tensor([[6e4, -6e4]], dtype=torch.float16)
    loss = classification_loss(logits, torch.tensor([[0, 1]]))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(6e4, rel=1e-2)


def test_discrepancy_equals_its_formula():
    tokens, expected = random_tokens(), 0.0
    for image in tokens:
        for i, token in enumerate(image):
            cosines = [(token @ other / (token.norm() * other.norm())).item() for other in image]
            total = sum(math.exp(cosine / 0.07) for cosine in cosines)
            expected -= (cosines[i] / 0.07 - math.log(total)) / 8
    assert token_discrepancy_loss(tokens).item() == pytest.approx(expected)


@pytest.mark.parametrize("classes", [1, 3, 20])
def test_discrepancy_of_identical_tokens_is_ln_c(classes):
    tokens = random_tokens((2, 1, 16), torch.float32).expand(2, classes, 16)
    assert token_discrepancy_loss(tokens).item() == pytest.approx(math.log(classes), abs=1e-5)


def test_discrepancy_of_orthogonal_and_of_opposite_tokens():
    orthogonal = token_discrepancy_loss(torch.eye(4)[None])
    assert orthogonal.item() == pytest.approx(math.log(1 + 3 * math.exp(-1 / 0.07)), abs=1e-6)
    opposite = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    loss = token_discrepancy_loss(opposite, temperature=0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2 / 0.5)), rel=1e-5)


def test_discrepancy_ignores_length_and_order_of_the_tokens_and_averages_over_images():
    tokens = random_tokens()
    expected = token_discrepancy_loss(tokens)
    length = torch.tensor([0.1, 1.0, 7.0, 100.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(token_discrepancy_loss(tokens * length), expected)
    torch.testing.assert_close(token_discrepancy_loss(tokens[:, [3, 1, 0, 2]]), expected)
    single = [token_discrepancy_loss(image.unsqueeze(0)) for image in tokens]
    torch.testing.assert_close(torch.stack(single).mean(), expected)


def test_labels_average_in_the_classification_by_normalised_tokens_means():
    tokens = random_tokens()
    expected = classification_loss(tokens.mean(-1), LABELS)
    assert torch.equal(token_classification_loss(tokens, LABELS), expected)
    classification = token_classification_loss(tokens / tokens.norm(dim=2, keepdim=True), LABELS)
    expected = (token_discrepancy_loss(tokens) + classification) / 2
    torch.testing.assert_close(token_discrepancy_loss(tokens, LABELS), expected)
    assert_full_precision(lambda: token_discrepancy_loss(tokens.float(), LABELS))


CONTRAST = partial(patch_token_contrast_loss, mask=random_mask((1, 4, 4)))


@pytest.mark.parametrize(
    ("loss", "values", "rate", "steps"),
    [
        (token_discrepancy_loss, random_tokens((1, 3, 8)) * 0.01 + 1, 0.5, 20),
        (CONTRAST, random_tokens((1, 8, 4, 4)), 20, 30),
    ],
)
def test_descending_separates_tokens_and_gathers_like_patches(loss, values, rate, steps):
    before = loss(values)
    for _ in range(steps):
        values.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(values), values)
        values = (values - rate * gradient).detach()
    assert loss(values) < 0.5 * before


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (lambda values: classification_loss(values, LABELS[:, :3]), (2, 3)),
        (lambda tokens: token_discrepancy_loss(tokens, temperature=0.5), (2, 3, 4)),
        (lambda tokens: token_discrepancy_loss(tokens, LABELS[:, :3], 0.5), (2, 3, 4)),
        (lambda f: patch_token_contrast_loss(f, random_mask((2, 2, 3), 2, 1)), (2, 3, 2, 3)),
        (lambda logits: segmentation_loss(logits, random_mask((2, 5, 4), 2)), (2, 3, 2, 3)),
    ],
    ids=["classification", "tokens", "tokens and labels", "contrast", "segmentation"],
)
def test_gradients(loss, shape):
    assert torch.autograd.gradcheck(loss, random_tokens(shape).requires_grad_())


def test_golden_values():
    expected, (tokens, features, mask, labels) = golden_losses()
    logits = torch.from_numpy(expected["seg_logits"])
    for name, loss, tolerance in (
        # The loss of random tokens is nearly 0, rounded at the size of its logits, which is 14.
        ("token_discrepancy", token_discrepancy_loss(tokens), dict(rel=1e-4, abs=1e-7)),
        ("token_discrepancy_with_cls", token_discrepancy_loss(tokens, labels), dict(rel=1e-6)),
        # Random features are nearly orthogonal, so any such loss is almost 1/2.
        ("patch_token_contrast", patch_token_contrast_loss(features, mask), dict(abs=2e-7)),
        ("segmentation", segmentation_loss(logits, mask), dict(rel=1e-6)),
        ("segmentation_all_ignored", segmentation_loss(logits, mask * 0 + 255), dict(abs=0)),
    ):
        assert loss.item() == pytest.approx(float(expected[name]), **tolerance), name


def test_bad_input_is_refused():
    tokens = random_tokens()
    refuses("logits .* labels", classification_loss, torch.zeros(2, 4), torch.zeros(4))
    refuses("logits .* labels", token_discrepancy_loss, tokens, LABELS[:, :3])
    refuses("class_tokens", token_discrepancy_loss, tokens[0])
    refuses("class_tokens", token_classification_loss, tokens[0], LABELS)
    refuses("temperature is 0", token_discrepancy_loss, tokens, temperature=0)
    values, mask = random_tokens((2, 4, 6, 5)), random_mask((2, 6, 5))
    features = r"features .*, mask .* must be \(B, D, h, w\), \(B, h, w\)"
    logits = r"logits .*, mask .* must be \(B, K, h, w\), \(B, H, W\)"
    for bad in ((values[0], mask), (values[:1], mask), (values, mask[0])):
        refuses(features, patch_token_contrast_loss, *bad)
        refuses(logits, segmentation_loss, *bad)
    larger = random_mask((2, 12, 10))
    refuses(r"mask \(2, 12, 10\) must be", patch_token_contrast_loss, values, larger)
    refuses("mask is torch.uint8; give int64", segmentation_loss, values, mask.byte())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("loss", "shape", "size", "classes"),
    [
        (patch_token_contrast_loss, (3, 6, 4, 5), (4, 5), 2),
        (patch_token_contrast_loss, (2, 16, 9, 7), (9, 7), 80),
        (patch_token_contrast_loss, (1, 3, 1, 1), (1, 1), 1),
        (segmentation_loss, (2, 21, 5, 6), (5, 6), 20),
        (segmentation_loss, (3, 81, 4, 3), (17, 9), 80),
        (segmentation_loss, (1, 2, 8, 8), (3, 5), 1),
    ],
)
def test_mask_losses_and_their_gradients_equal_their_transcriptions(
    seed, loss, shape, size, classes
):
    values = random_tokens(shape, seed=seed).requires_grad_()
    mask = random_mask((shape[0], *size), classes, seed)
    ours, literal = loss(values, mask), getattr(transcriptions, loss.__name__)(values, mask)
    torch.testing.assert_close(ours, literal)
    torch.testing.assert_close(*(torch.autograd.grad(each, values)[0] for each in (ours, literal)))


def test_contrast_by_hand():
    # Patches e1, -2 e1, e2, e2: lengths and signs do not count.
    features = torch.tensor([[[[1.0, -2.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]]])
    for mask, expected in (
        ([[1, 1], [2, 2]], (1 - 4 / 5) / 2),  # 4 like pairs of cosine 1, 8 unlike ones of 0
        ([[1, 2], [0, 1]], (1 + 4 / 11) / 2),  # 2 like of sum 0, 10 unlike of sum 4
        ([[0, 0], [255, 2]], (1 - 2 / 3) / 2),  # 2 like of sum 2, 4 unlike of sum 0
        ([[0, 0], [0, 0]], (1 - 4 / 13) / 2),  # 12 like of sum 4
    ):
        loss = patch_token_contrast_loss(features, torch.tensor([mask]))
        assert loss.item() == pytest.approx(expected)


def test_contrast_ignores_length_sign_and_order_of_patches_and_numbers_of_classes():
    features, mask = random_tokens((2, 5, 3, 4)), random_mask((2, 3, 4))
    expected = patch_token_contrast_loss(features, mask)
    length = random_tokens((2, 1, 3, 4), seed=1)
    torch.testing.assert_close(patch_token_contrast_loss(features * length, mask), expected)
    flipped = patch_token_contrast_loss(features.flip(0, 2, 3), mask.flip(0, 1, 2))
    torch.testing.assert_close(flipped, expected)
    renumbered = torch.tensor([3, 0, 77, 1, *range(4, 256)])
    torch.testing.assert_close(patch_token_contrast_loss(features, renumbered[mask]), expected)


@pytest.mark.parametrize("loss", [patch_token_contrast_loss, segmentation_loss])
def test_mask_losses_leave_unknown_places_out(loss):
    values, mask = random_tokens((2, 5, 3, 4)).requires_grad_(), random_mask((2, 3, 4))
    (gradient,) = torch.autograd.grad(loss(values, mask), values)
    unknown = (mask == 255)[:, None].expand_as(values)
    assert unknown.any() and not gradient[unknown].any() and gradient[~unknown].any()
    changed = torch.where(unknown, random_tokens((2, 5, 3, 4), seed=1), values)
    torch.testing.assert_close(loss(changed, mask), loss(values, mask))


@pytest.mark.parametrize(
    ("size", "numbers"), [(1, [255] * 6), (1, [2, *[255] * 5]), (0, [0, 0, 1, 1, 2, 2])]
)
def test_contrast_without_pairs_or_lengths_is_a_half_and_has_no_gradient(size, numbers):
    features = (size * random_tokens((1, 5, 2, 3))).requires_grad_()
    loss = patch_token_contrast_loss(features, torch.tensor(numbers).view(1, 2, 3))
    loss.backward()
    assert loss.item() == 0.5 and features.grad.isfinite().all()
    assert size == 0 or not features.grad.any()


def test_segmentation_by_hand():
    # One background pixel of probability 1/4, two of class 1 with 1/2 and 1/3, one unknown.
    background = torch.tensor([1 / 4, 1 / 2, 2 / 3, 1e-9]).log()
    first = torch.tensor([3 / 4, 1 / 2, 1 / 3, 1.0]).log()
    logits = torch.stack([background, first]).view(1, 2, 1, 4)
    mask = torch.tensor([[[0, 1, 1, 255]]])
    expected = (math.log(4) + (math.log(2) + math.log(3)) / 2) / 2
    assert segmentation_loss(logits, mask).item() == pytest.approx(expected, rel=1e-5)


def test_segmentation_weighs_both_halves_alike_whatever_their_size():
    logits, mask = torch.zeros(1, 21, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
    one = mask.clone()
    one[0, 0, 0] = 7
    for given, halves in ((mask, 1), (one, 2), (one.clamp(min=1), 1)):
        loss = segmentation_loss(logits, given).item()
        assert loss == pytest.approx(halves * math.log(21) / 2, rel=1e-6 if halves == 1 else 1e-5)


def test_segmentation_follows_reordered_classes_images_and_mirrors():
    logits, mask = random_tokens((2, 4, 6, 5)), random_mask((2, 6, 5))
    expected = segmentation_loss(logits, mask)
    flipped = segmentation_loss(logits.flip(0, 2, 3), mask.flip(0, 1, 2))
    torch.testing.assert_close(flipped, expected)
    reordered, number = logits[:, [0, 3, 1, 2]], renumbering([2, 0, 1])
    torch.testing.assert_close(segmentation_loss(reordered, number[mask]), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_segmentation_is_zero_without_known_pixels_and_finite_for_huge_logits(dtype):
    logits = (random_tokens((2, 4, 3, 3)) * 1e4).to(dtype).requires_grad_()
    loss = segmentation_loss(logits, torch.full((2, 9, 9), 255))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()
    huge = torch.tensor([6e4, -6e4]).to(dtype).view(1, 2, 1, 1).requires_grad_()
    with torch.autocast("cpu", dtype=torch.float16):
        loss = segmentation_loss(huge, torch.ones(1, 4, 4, dtype=torch.int64))
    loss.backward()
    assert loss.item() == pytest.approx(6e4, rel=1e-2) and huge.grad.isfinite().all()


@pytest.mark.parametrize(
    ("loss", "size"), [(patch_token_contrast_loss, (6, 5)), (segmentation_loss, (15, 11))]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mask_losses_keep_their_precision_under_autocast(loss, size, dtype):
    values, mask = random_tokens((2, 4, 6, 5)), random_mask((2, *size))
    rounded = values.to(dtype)
    expected = loss(rounded.float(), mask)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(loss(rounded.float(), mask), expected)
        rounded.requires_grad_()
        mixed = loss(rounded, mask)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, expected)
    mixed.backward()
    assert rounded.grad.isfinite().all() and rounded.grad.any()
