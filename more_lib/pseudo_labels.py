"""From maps to masks: the pixel labels that image labels can give (notebook 04).

Mask values: 0 background, 1..C the classes, 255 not known.
"""

import torch
from torch import Tensor

from more_lib.errors import InputError


def three_way_mask(
    maps: Tensor, labels: Tensor, high: float, low: float, ignore_index: int = 255
) -> Tensor:
    """Confident foreground, confident background, and the uncertain rest (Eq. 6, notebook 04).

    maps: (B, C, h, w) in [0, 1]. labels: (B, C) of 0 and 1; absent classes are left out.
    Where the largest map exceeds ``high`` its class, where it is below ``low`` 0, and
    ``ignore_index`` in between, thresholds included. Returns (B, h, w) int64.

    Raises ``InputError`` when the shapes do not fit or ``low`` exceeds ``high``.
    """
    if low > high:
        raise InputError(f"low threshold {low} exceeds the high one {high}; swap them")
    value, class_number = _strongest_class(maps, labels)
    uncertain = torch.full_like(class_number, ignore_index)
    return torch.where(value > high, class_number, uncertain).masked_fill_(value < low, 0)


def foreground_mask(maps: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """The class of the largest map where that exceeds ``threshold``, else 0 (notebook 06).

    maps: (B, C, h, w) in [0, 1]. labels: (B, C) of 0 and 1; absent classes are left out.
    Returns (B, h, w) int64. Raises ``InputError`` when the shapes do not fit.
    """
    value, class_number = _strongest_class(maps, labels)
    return torch.where(value > threshold, class_number, 0)


def _strongest_class(maps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value over the classes present, and that class's number 1..C: (B, h, w) each."""
    if maps.ndim != 4 or maps.shape[:2] != labels.shape:
        raise InputError(
            f"maps {tuple(maps.shape)} and labels {tuple(labels.shape)} "
            "must be (B, C, h, w) and (B, C) with the same B and C"
        )
    value, index = (maps * labels[:, :, None, None]).max(dim=1)
    return value, index + 1
