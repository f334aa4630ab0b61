"""Attention of a CPU that trains in bf16: in float32, and nobody else's."""

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from more_lib.method.backbones import mini_vit
from more_lib.method.vit import ClassTokenViT
from more_lib.system.precision import attention_for_training, autocast

CPU = torch.device("cpu")


class Watching(TorchFunctionMode):
    """Notes what attention is computed in: the kernel's dtype, after all contexts inside."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            bf16 = torch.is_autocast_enabled("cpu")  # casts what it is given
            self.seen.append(torch.bfloat16 if bf16 else args[0].dtype)
        return func(*args, **(kwargs or {}))


def attend(precision: str, gradient: bool, dtype: torch.dtype):
    drawn = torch.Generator().manual_seed(0)
    tokens = [torch.randn(2, 3, 20, 16, generator=drawn).to(dtype) for _ in range(3)]
    for each in tokens:
        each.requires_grad_(gradient)
    with Watching() as watching, autocast(CPU, precision), attention_for_training(tokens[0]):
        attended = F.scaled_dot_product_attention(*tokens, scale=0.3)
    return tokens, attended, watching.seen


def test_a_training_in_bf16_attends_in_float32_and_goes_on_in_bf16():
    tokens, attended, seen = attend("bf16", True, torch.bfloat16)
    assert seen == [torch.float32] and attended.dtype == torch.bfloat16
    exact = [each.detach().double().requires_grad_() for each in tokens]
    expected = ((exact[0] @ exact[1].mT) * 0.3).softmax(-1) @ exact[2]
    torch.testing.assert_close(attended.double(), expected, rtol=0.004, atol=1e-6)
    attended.sum().backward()
    expected.sum().backward()
    for ours, theirs in zip(tokens, exact, strict=True):
        assert ours.grad.dtype == torch.bfloat16
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0.004, atol=0.01)


@pytest.mark.parametrize(
    ("precision", "gradient", "dtype"),
    [("bf16", False, torch.bfloat16), ("fp32", True, torch.float32), ("fp32", True, torch.float64)],
)
def test_else_attention_is_left_alone(precision, gradient, dtype):
    _, attended, seen = attend(precision, gradient, dtype)
    assert seen == [dtype] and attended.dtype == dtype


@pytest.mark.parametrize("frozen", [0, 2])
def test_an_encoder_attends_so_in_blocks_that_learn(frozen):
    encoder = ClassTokenViT(mini_vit(48), 4, token_start="apart")
    if frozen:
        encoder.freeze(frozen)
    with Watching() as watching, autocast(CPU, "bf16"):
        encoder(torch.randn(2, 3, 32, 32))
    learns = 6 - frozen
    assert watching.seen == [torch.bfloat16] * (6 - learns) + [torch.float32] * learns
