import math

import pytest
import torch
from golden_inputs import golden, tokens_and_features

from more_lib.errors import InputError
from more_lib.losses import (
    classification_loss,
    token_classification_loss,
    token_discrepancy_loss,
)


def random_tokens(shape=(2, 4, 6), dtype=torch.float64, seed=0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


LABELS = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0]])


def test_classification_equals_its_formula():
    logits = random_tokens((2, 4))
    expected = 0.0
    for b in range(2):
        for c in range(4):
            probability = 1 / (1 + math.exp(-logits[b, c].item()))
            expected -= math.log(probability if LABELS[b, c] else 1 - probability) / 8
    assert classification_loss(logits, LABELS).item() == pytest.approx(expected)


def test_classification_of_zero_logits_is_ln_2():
    assert classification_loss(torch.zeros(2, 4), LABELS).item() == pytest.approx(math.log(2))


def test_classification_stays_finite_for_huge_half_precision_logits():
    logits = torch.tensor([[6e4, -6e4]], dtype=torch.float16)
    loss = classification_loss(logits, torch.tensor([[0, 1]]))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(6e4, rel=1e-2)


def test_token_classification_reads_each_tokens_mean():
    tokens = random_tokens()
    expected = classification_loss(tokens.mean(-1), LABELS)
    assert torch.equal(token_classification_loss(tokens, LABELS), expected)


def test_discrepancy_equals_its_formula():
    tokens = random_tokens()
    expected = 0.0
    for image in tokens:
        for i in range(4):
            logits = [
                (image[i] @ image[j] / (image[i].norm() * image[j].norm())).item() / 0.07
                for j in range(4)
            ]
            expected -= (logits[i] - math.log(sum(math.exp(value) for value in logits))) / 8
    assert token_discrepancy_loss(tokens).item() == pytest.approx(expected)


@pytest.mark.parametrize("classes", [1, 3, 20])
def test_discrepancy_of_identical_tokens_is_ln_c(classes):
    tokens = random_tokens((2, 1, 16), torch.float32).expand(2, classes, 16)
    assert token_discrepancy_loss(tokens).item() == pytest.approx(math.log(classes), abs=1e-5)


def test_discrepancy_of_orthogonal_and_of_opposite_tokens():
    orthogonal = torch.eye(4).unsqueeze(0)
    expected = math.log(1 + 3 * math.exp(-1 / 0.07))
    assert token_discrepancy_loss(orthogonal).item() == pytest.approx(expected, abs=1e-6)
    opposite = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    expected = math.log(1 + math.exp(-2 / 0.5))
    assert token_discrepancy_loss(opposite, temperature=0.5).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_discrepancy_ignores_length_and_order_of_the_tokens():
    tokens = random_tokens()
    expected = token_discrepancy_loss(tokens)
    length = torch.tensor([0.1, 1.0, 7.0, 100.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(token_discrepancy_loss(tokens * length), expected)
    torch.testing.assert_close(token_discrepancy_loss(tokens[:, [3, 1, 0, 2]]), expected)


def test_discrepancy_is_the_mean_over_images():
    tokens = random_tokens()
    single = [token_discrepancy_loss(image.unsqueeze(0)) for image in tokens]
    torch.testing.assert_close(token_discrepancy_loss(tokens), torch.stack(single).mean())


def test_labels_average_in_the_classification_by_normalised_tokens():
    tokens = random_tokens()
    classification = token_classification_loss(tokens / tokens.norm(dim=2, keepdim=True), LABELS)
    expected = (token_discrepancy_loss(tokens) + classification) / 2
    torch.testing.assert_close(token_discrepancy_loss(tokens, LABELS), expected)


def test_descending_the_discrepancy_separates_the_tokens():
    tokens = random_tokens((1, 3, 8)) * 0.01 + 1
    tokens.requires_grad_()
    before = token_discrepancy_loss(tokens)
    for _ in range(20):
        (gradient,) = torch.autograd.grad(token_discrepancy_loss(tokens), tokens)
        tokens = (tokens - 0.5 * gradient).detach().requires_grad_()
    assert token_discrepancy_loss(tokens) < 0.5 * before


def test_gradients():
    tokens = random_tokens((2, 3, 4)).requires_grad_()
    logits = random_tokens((2, 3), seed=1).requires_grad_()
    labels = LABELS[:, :3]
    assert torch.autograd.gradcheck(lambda t: token_discrepancy_loss(t, temperature=0.5), tokens)
    assert torch.autograd.gradcheck(
        lambda t: token_discrepancy_loss(t, labels, temperature=0.5), tokens
    )
    assert torch.autograd.gradcheck(lambda values: classification_loss(values, labels), logits)


def test_discrepancy_keeps_its_precision_under_autocast():
    tokens = random_tokens(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = token_discrepancy_loss(tokens, LABELS)
    torch.testing.assert_close(mixed, token_discrepancy_loss(tokens, LABELS))


def test_golden_discrepancy():
    expected = golden("losses_101")
    labels = torch.from_numpy(expected["labels"])
    shape = (*labels.shape, int(expected["D"]))
    tokens, _ = tokens_and_features(int(expected["seed"]), shape, expected["mask"].shape[1:])
    torch.testing.assert_close(
        tokens[..., :1], torch.from_numpy(expected["class_tokens_every1"]), rtol=0, atol=0
    )
    # The loss of random tokens is nearly 0, rounded at the size of its logits, which is 14.
    assert token_discrepancy_loss(tokens).item() == pytest.approx(
        float(expected["token_discrepancy"]), rel=1e-4, abs=1e-7
    )
    assert token_discrepancy_loss(tokens, labels).item() == pytest.approx(
        float(expected["token_discrepancy_with_cls"]), rel=1e-6
    )


def test_bad_input_is_refused():
    tokens = random_tokens()
    with pytest.raises(InputError, match="logits .* labels"):
        classification_loss(torch.zeros(2, 4), torch.zeros(4))
    with pytest.raises(InputError, match="logits .* labels"):
        token_discrepancy_loss(tokens, LABELS[:, :3])
    for loss in (token_discrepancy_loss, lambda t: token_classification_loss(t, LABELS)):
        with pytest.raises(InputError, match="class_tokens"):
            loss(tokens[0])
    with pytest.raises(InputError, match="temperature is 0"):
        token_discrepancy_loss(tokens, temperature=0)
