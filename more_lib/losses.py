"""Losses that need no pixel labels: classification, and telling class tokens apart (notebook 05).

All are computed in float32 at least, mixed precision or not: a temperature of 0.07 magnifies the
rounding of a cosine, and the class tokens start out identical.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from more_lib.errors import InputError


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Multi-label soft margin loss, mean over images and classes (L_cls, notebook 05).

    logits: (B, C). labels: (B, C) of 0 and 1, any dtype. Returns a scalar; ln 2 at zero logits.
    Raises ``InputError`` when the shapes differ.
    """
    if logits.ndim != 2 or logits.shape != labels.shape:
        raise InputError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must both be (B, C)"
        )
    logits = _at_least_float32(logits)
    return F.multilabel_soft_margin_loss(logits, labels.to(logits.dtype))


def token_classification_loss(class_tokens: Tensor, labels: Tensor) -> Tensor:
    """Classification by the class tokens alone: each one's mean over its channels is the logit.

    The ablation's baseline (Table 3, after MCTformer; notebook 01).
    class_tokens: (B, C, D). labels: (B, C) of 0 and 1. Returns a scalar.
    Raises ``InputError`` when the shapes do not fit.
    """
    _check_tokens(class_tokens)
    return classification_loss(_at_least_float32(class_tokens).mean(dim=2), labels)


def token_discrepancy_loss(
    class_tokens: Tensor, labels: Tensor | None = None, temperature: float = 0.07
) -> Tensor:
    """Push the class tokens of an image apart (L_mct, after MCTformer+; notebook 05).

    Cross-entropy between the C x C cosine matrix over ``temperature`` and the identity, mean over
    images and tokens: ln C when all tokens are equal, near 0 when they are orthogonal.
    class_tokens: (B, C, D). labels: (B, C); with them, the mean of that loss and of
    ``token_classification_loss`` of the normalised tokens, which is how the released code joins
    the two, though its VOC run gives no labels. Returns a scalar.
    Raises ``InputError`` when the shapes do not fit or the temperature is not positive.
    """
    _check_tokens(class_tokens)
    if not temperature > 0:
        raise InputError(f"temperature is {temperature}; it must be positive")
    batch, classes, _ = class_tokens.shape
    with torch.autocast(class_tokens.device.type, enabled=False):
        tokens = F.normalize(_at_least_float32(class_tokens), dim=2)
        similarity = tokens @ tokens.transpose(1, 2) / temperature
        itself = torch.arange(classes, device=tokens.device).expand(batch, classes)
        discrepancy = F.cross_entropy(similarity, itself)
    if labels is None:
        return discrepancy
    return (discrepancy + token_classification_loss(tokens, labels)) / 2


def _check_tokens(class_tokens: Tensor) -> None:
    if class_tokens.ndim != 3:
        raise InputError(f"class_tokens are {tuple(class_tokens.shape)}; give (B, C, D)")


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
