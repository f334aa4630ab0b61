"""Where mixed precision must not reach: sums, softmaxes and choices that rounding would decide."""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """bf16 and fp16 as float32; float32, float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which a network runs in "bf16", its products that is, or all in "fp32"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def no_autocast(values: Tensor) -> torch.autocast:
    """A context in which operations on the device of ``values`` keep their arguments' precision."""
    return torch.autocast(values.device.type, enabled=False)
