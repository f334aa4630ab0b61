"""Losses: classification, telling class tokens apart, and what the maps teach (notebook 05).

Three more take the labels that the maps give: patches' contrast, the decoder's segmentation, and
the dense energy, which has a module of its own.

All are computed in float32 at least, mixed precision or not: a temperature of 0.07 magnifies the
rounding of a cosine, and the class tokens start out identical. In a distributed training "the
batch" is that of all processes, and a loss averaged over them is the whole batch's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from more_lib.method.energy import DenseEnergyLoss as DenseEnergyLoss
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.errors import InputError
from more_lib.system.precision import at_least_float32, no_autocast
from more_lib.system.processes import mean_over_batch
from more_lib.system.shapes import check_shapes


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Multi-label soft margin loss, mean over images and classes (L_cls, notebook 05).

    logits: (B, C). labels: (B, C) of 0 and 1, any dtype. Returns a scalar; ln 2 at zero logits.
    Raises ``InputError`` when the shapes differ.
    """
    check_shapes(logits=(logits, "B C"), labels=(labels, "B C"))
    logits = at_least_float32(logits)
    return F.multilabel_soft_margin_loss(logits, labels.to(logits.dtype))


def token_classification_loss(class_tokens: Tensor, labels: Tensor) -> Tensor:
    """Classification by the class tokens alone: each one's mean over its channels is the logit.

    The ablation's baseline (Table 3, after MCTformer; notebook 01).
    class_tokens: (B, C, D). labels: (B, C) of 0 and 1. Returns a scalar.
    Raises ``InputError`` when the shapes do not fit.
    """
    check_shapes(class_tokens=(class_tokens, "B C D"))
    return classification_loss(at_least_float32(class_tokens).mean(dim=2), labels)


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
    check_shapes(class_tokens=(class_tokens, "B C D"))
    if not temperature > 0:
        raise InputError(f"temperature is {temperature}; it must be positive")
    batch, classes, _ = class_tokens.shape
    with no_autocast(class_tokens):
        tokens = F.normalize(at_least_float32(class_tokens), dim=2)
        similarity = tokens @ tokens.transpose(1, 2) / temperature
        itself = torch.arange(classes, device=tokens.device).expand(batch, classes)
        discrepancy = F.cross_entropy(similarity, itself)
    if labels is None:
        return discrepancy
    return (discrepancy + token_classification_loss(tokens, labels)) / 2


def patch_token_contrast_loss(features: Tensor, mask: Tensor) -> Tensor:
    """Like patches together, unlike ones apart (L_ptc, after ToCo, CVPR 2023; notebook 05).

    (1 - mean |cosine| of pairs of patches of one class + mean of pairs of two classes) / 2.
    Pairs are within an image, means over all of the batch, background is a class, no patch is
    paired with itself, and each denominator is the number of pairs + 1. Without pairs it is 1/2.

    features: (B, D, h, w). mask: (B, h, w), integer, 255 where the class is not known: such
    patches are in no pair. Returns a scalar in [0, 1]; the gradient reaches the features.
    Raises ``InputError`` when the shapes do not fit.
    """
    check_shapes(features=(features, "B D h w"), mask=(mask, "B h w"))
    with no_autocast(features):
        patches = F.normalize(at_least_float32(features).flatten(2).transpose(1, 2), dim=2)
        similarity = (patches @ patches.transpose(1, 2)).abs()
    number, known = mask.flatten(1), mask.flatten(1) != IGNORE_INDEX
    same = number[:, :, None] == number[:, None, :]
    paired = known[:, :, None] & known[:, None, :]
    paired.diagonal(dim1=1, dim2=2).fill_(False)
    together = _mean_over(similarity, paired & same, 1)
    apart = _mean_over(similarity, paired & ~same, 1)
    return (1 - together + apart) / 2


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the decoder, half background and half foreground (L_seg, notebook 05).

    (mean over the background's pixels + mean over those of all classes) / 2, over all of the batch,
    each denominator + 1e-6; a mask with nothing but 255 gives 0 and a gradient of 0.

    logits: (B, C + 1, h, w), background first, resized bilinearly to the mask's size.
    mask: (B, H, W) int64 in 0..C, or 255 where the class is not known. Returns a scalar.
    Raises ``InputError`` when the shapes do not fit or the mask is not int64.
    """
    check_shapes(logits=(logits, "B K h w"), mask=(mask, "B H W"))
    if mask.dtype != torch.int64:
        raise InputError(f"mask is {mask.dtype}; give int64, for instance by mask.long()")
    size = tuple(mask.shape[1:])
    logits = F.interpolate(at_least_float32(logits), size, mode="bilinear", align_corners=False)
    loss = F.cross_entropy(logits, mask, ignore_index=IGNORE_INDEX, reduction="none")
    background = _mean_over(loss, mask == 0, 1e-6)
    foreground = _mean_over(loss, (mask != 0) & (mask != IGNORE_INDEX), 1e-6)
    return (background + foreground) / 2


def _mean_over(values: Tensor, chosen: Tensor, extra: float) -> Tensor:
    """Sum of the chosen values over their number + ``extra``, in the whole batch; 0 for none."""
    return mean_over_batch(torch.where(chosen, values, 0).sum(), chosen.sum(), extra)
