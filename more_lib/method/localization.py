"""Where a class is: class activation maps (CAM) and localization attention maps (LAM).

CAM is the image classifier applied to every position of the feature map; LAM is the similarity
between a class token and every patch (notebook 01). Both become maps in [0, 1] in the same way:
several scales, each with its mirror image, then min-max.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from more_lib.system.errors import InputError


class MultiscaleMaps(NamedTuple):
    """Every map the model can draw, each (B, C, H, W) in [0, 1] at the images' size."""

    cam: Tensor
    aux_cam: Tensor
    lam: Tensor
    attention: Tensor


def min_max(maps: Tensor) -> Tensor:
    """Stretch each map (..., h, w) to [0, 1]: subtract its minimum, divide by what is then its
    maximum + 1e-5.

    A constant map becomes 0, and no map quite reaches 1.
    """
    maps = maps - maps.amin(dim=(-2, -1), keepdim=True)
    return maps / (maps.amax(dim=(-2, -1), keepdim=True) + 1e-5)


def lam(features: Tensor, class_tokens: Tensor, similarity: str = "dot") -> Tensor:
    """Localization attention map: similarity of each class token with each patch (notebook 01).

    features: (B, D, h, w) patch features. class_tokens: (B, C, D), after GCR when there is one.
    similarity: "dot", or "cosine" with values in [-1, 1] as in the paper's text.
    Returns (B, C, h, w), neither clipped nor normalised, differentiable in both.

    Raises ``InputError`` for shapes that do not fit or another similarity.
    """
    if (
        features.ndim != 4
        or class_tokens.ndim != 3
        or (features.shape[:2] != (class_tokens.shape[0], class_tokens.shape[2]))
    ):
        raise InputError(
            f"features {tuple(features.shape)} and class_tokens {tuple(class_tokens.shape)} "
            "must be (B, D, h, w) and (B, C, D) with the same B and D"
        )
    if similarity == "cosine":
        features = F.normalize(features, dim=1)
        class_tokens = F.normalize(class_tokens, dim=2)
    elif similarity != "dot":
        raise InputError(f'similarity is "{similarity}"; choose "dot" or "cosine"')
    return torch.einsum("bdhw,bcd->bchw", features, class_tokens)


def fuse(lam: Tensor, cam: Tensor) -> Tensor:
    """LAM x CAM: their product stretched to [0, 1], one of the paper's baselines (notebook 01).

    lam, cam: (B, C, h, w), both in [0, 1]. Returns the same shape.
    """
    return min_max(lam * cam)


def multiscale_cam(
    model: nn.Module,
    images: Tensor,
    scales: Sequence[float],
    straight: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """CAM of the last and of the auxiliary feature map, over scales and mirror images.

    For each scale and its horizontal flip: resize, run, upsample the raw CAM to (H, W), take the
    larger of map and flipped-back map, drop what is negative; sum over scales; ``min_max``
    (notebook 01).

    model: has ``patch_size`` and ``cams(images)``, which returns two raw maps (B, C, h, w). Its
    training flag is left as it is, for MoRe's forward is the same either way; no gradient is kept.
    images: (B, 3, H, W) float, normalised; sides need not be multiples of the patch size.
    scales: positive factors. straight: what ``model.cams(images)`` returned, if that is known: at
    scale 1 only the mirror image is then run. Returns (cam, aux_cam), each (B, C, H, W) in [0, 1].

    Raises ``InputError`` without scales, for images of another shape, and for a scale at which
    less than one patch is left.
    """
    side = model.patch_size
    cam, aux_cam = _multiscale(model.cams, (True, True), side, images, scales, straight)
    return cam, aux_cam


def multiscale_lam(
    model: nn.Module, images: Tensor, scales: Sequence[float], similarity: str = "dot"
) -> Tensor:
    """LAM over scales and mirror images.

    Made like ``multiscale_cam``, but what is negative stays: the zero of a CAM says that a patch
    speaks neither for nor against a class, while the zero of a similarity means nothing.

    model: ``model(images)`` returns ``features`` (B, D, h, w) and ``class_tokens`` (B, C, D).
    Returns (B, C, H, W) in [0, 1]; raises what ``multiscale_cam`` raises (notebook 01).
    """

    def raw_maps(views: Tensor) -> list[Tensor]:
        output = model(views)
        return [lam(output.features, output.class_tokens, similarity)]

    return _multiscale(raw_maps, (False,), model.patch_size, images, scales)[0]


def multiscale_maps(
    model: nn.Module,
    images: Tensor,
    scales: Sequence[float],
    similarity: str = "dot",
    flip: bool = True,
) -> MultiscaleMaps:
    """All maps of one pass: CAM, auxiliary CAM, LAM and the last block's attention (notebook 06).

    model: ``model(images)`` returns raw ``cam``, ``aux_cam`` and ``attention_scores`` (B, C, h, w),
    ``features`` (B, D, h, w) and ``class_tokens`` (B, C, D). The CAMs are made like
    ``multiscale_cam``, which also says what is raised, LAM and attention like ``multiscale_lam``.
    Without ``flip`` the mirror images are left out.
    """

    def raw_maps(views: Tensor) -> list[Tensor]:
        output = model(views)
        token_map = lam(output.features, output.class_tokens, similarity)
        return [output.cam, output.aux_cam, token_map, output.attention_scores]

    rectified = (True, True, False, False)
    side = model.patch_size
    return MultiscaleMaps(*_multiscale(raw_maps, rectified, side, images, scales, flip=flip))


@torch.no_grad()
def multiscale_decoder(
    model: nn.Module, images: Tensor, scales: Sequence[float], flip: bool = True
) -> Tensor:
    """The decoder's probabilities, their mean over scales and mirror images (notebook 06).

    model: ``model(images)`` returns ``seg_logits`` (B, C + 1, h, w), which are upsampled before the
    softmax. Returns (B, C + 1, H, W), background first; raises what ``multiscale_cam`` raises.
    """
    _check(images, scales)
    total = 0
    for scale in scales:
        views = _image_and_mirror(images, scale, model.patch_size, flip)
        logits = model(views).seg_logits.to(images.dtype)
        straight, *mirrored = resized(logits, images.shape[-2:]).softmax(1).split(len(images))
        total = total + sum((maps.flip(-1) for maps in mirrored), straight)
    return total / (len(scales) * (1 + flip))


@torch.no_grad()
def _multiscale(
    raw_maps: Callable[[Tensor], Sequence[Tensor]],
    rectified: Sequence[bool],
    patch_size: int,
    images: Tensor,
    scales: Sequence[float],
    straight: Sequence[Tensor] | None = None,
    flip: bool = True,
) -> list[Tensor]:
    """Merge each kind of raw map that ``raw_maps`` returns over scales and flips.

    ``rectified`` says of each kind whether negative values are dropped before the sum. ``straight``
    are the raw maps of the images as they are, where those need not be computed again.
    """
    _check(images, scales)
    totals: list[Tensor] = []
    for scale in scales:
        views = _image_and_mirror(images, scale, patch_size, flip)
        if scale == 1 and straight is not None:
            mirrored = raw_maps(views[len(images) :])
            raw = [torch.cat(pair) for pair in zip(straight, mirrored, strict=True)]
        else:
            raw = raw_maps(views)
        size, count = images.shape[-2:], len(images)
        merged = [_merge_mirror(maps.to(images.dtype), size, count) for maps in raw]
        maps = [m.relu() if drop else m for m, drop in zip(merged, rectified, strict=True)]
        totals = [a + b for a, b in zip(totals, maps, strict=True)] if totals else maps
    return [min_max(total) for total in totals]


def _check(images: Tensor, scales: Sequence[float]) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        raise InputError(
            f"images are {tuple(images.shape)} {images.dtype}; give (B, 3, H, W) floats"
        )
    if len(scales) == 0:
        raise InputError("scales is empty; give at least one, for instance (1.0,)")


def _image_and_mirror(images: Tensor, scale: float, patch_size: int, flip: bool = True) -> Tensor:
    """(2B, 3, h, w): the resized images, then their mirror images if wanted, in whole patches.

    The cut comes after the flip, at right and bottom, where a patch convolution drops the rest.
    """
    height, width = (int(scale * side) for side in images.shape[-2:])
    if min(height, width) < patch_size:
        raise InputError(
            f"scale {scale} makes the images {height}x{width}, less than one patch of "
            f"{patch_size}; drop that scale or give larger images"
        )
    resized = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
    rows, columns = height // patch_size * patch_size, width // patch_size * patch_size
    views = torch.cat([resized, resized.flip(-1)]) if flip else resized
    return views[..., :rows, :columns]


def _merge_mirror(raw: Tensor, size: Sequence[int], num_images: int) -> Tensor:
    """Raw maps of images and, behind them, mirror images to (B, C, H, W), the larger of both."""
    straight, *mirrored = resized(raw, size).split(num_images)
    return torch.maximum(straight, mirrored[0].flip(-1)) if mirrored else straight


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps or images (B, K, h, w) brought to (B, K, H, W) bilinearly, wherever the kit does so."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
