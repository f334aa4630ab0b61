"""Where mixed precision must not reach: sums, softmaxes and choices that rounding would decide."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def at_least_float32(values: Tensor) -> Tensor:
    """bf16 and fp16 as float32; float32, float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which a network runs in "bf16", its products that is, or all in "fp32"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def no_autocast(values: Tensor) -> torch.autocast:
    """A context in which operations on the device of ``values`` keep their arguments' precision."""
    return torch.autocast(values.device.type, enabled=False)


def attention_for_training(values: Tensor) -> AbstractContextManager:
    """A context in which a CPU that trains in bf16 attends in float32, as exactly and sooner.

    There torch's fused attention takes longer backward in bf16 than in float32. On other devices,
    and without gradients, all stays as it is.
    """
    trains = torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    return _Float32Attention() if trains and values.device.type == "cpu" else nullcontext()


class _Float32Attention(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence = (), kwargs: dict | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention or not args[0].requires_grad:
            return func(*args, **(kwargs or {}))
        query, key, value, *rest = args
        with no_autocast(query):
            each = (at_least_float32(tokens) for tokens in (query, key, value))
            return func(*each, *rest, **(kwargs or {})).to(query.dtype)
