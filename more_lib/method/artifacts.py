"""What is wrong with a map, counted: activation off the object, stray patches, odd tokens.

Measures of notebook 02. Two diseases have measures of their own: *artifacts*, where a class token
looks at patches that show nothing of its class, and *over-smoothing*, where all patches have
become alike. Maps are (B, C, h, w) in [0, 1] (``localization.min_max``), masks hold 0 for
background, 1..C for the classes and 255 where nothing is known.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from more_lib.method.localization import lam, min_max, resized
from more_lib.method.vit import ClassTokenViT
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.errors import InputError
from more_lib.system.precision import at_least_float32
from more_lib.system.shapes import check_shapes


class Survey(NamedTuple):
    """Measures of M images under one network, on the CPU; nan for a class the image lacks."""

    maps: Tensor  # (M, C, h, w), LAM of one view on the patch grid, min-max
    share: Tensor  # (M, C, h, w), as ``class_share``
    labels: Tensor  # (M, C), of 0 and 1
    mass_outside: Tensor  # (M, C)
    artifact_rate: Tensor  # (M, C)
    isolated_rate: Tensor  # (M, C)
    probe_rate: Tensor  # (M, C), artifact rate of the map that ``object_tokens`` would draw
    patch_similarity: Tensor  # (M,)


class BlockTokens(NamedTuple):
    """Tokens as each of the L blocks leaves them, before the final norm (notebook 02 §5, §6)."""

    class_tokens: Tensor  # (L, B, C, D)
    patch_tokens: Tensor  # (L, B, N, D)


def mass_outside(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of a map's sum that lies off its class (notebook 02 §3).

    0 where all activation is on the object; for a map that is the same everywhere it is the share
    of the image that is not the object, so compare it with ``area_outside``.

    maps: (B, C, h, w), not negative, resized bilinearly to the masks' size. masks: (B, H, W)
    integer; pixels of 255 are left out. Returns (B, C) in [0, 1], nan for a class that is not in
    the mask and for a map without any mass. Raises ``InputError`` for shapes that do not fit,
    negative or non-finite maps, and masks that are not integer.
    """
    check_shapes(maps=(maps, "B C h w"), masks=(masks, "B H W"))
    _check_masks(masks)
    if not (torch.isfinite(maps).all() and (maps >= 0).all()):
        raise InputError("maps hold negative or non-finite values; stretch them by min_max first")
    maps = resized(at_least_float32(maps), masks.shape[-2:])
    here, counted = _class_pixels(masks, maps.shape[1])
    total = (maps * counted[:, None]).sum((2, 3))
    outside = 1 - (maps * here).sum((2, 3)) / total  # 0/0 is nan, as documented
    return outside.clamp(min=0).masked_fill(~here.any(3).any(2), torch.nan)


def area_outside(masks: Tensor, num_classes: int) -> Tensor:
    """``mass_outside`` of a map that knows nothing and is the same everywhere: (B, C)."""
    return mass_outside(torch.ones(len(masks), num_classes, *masks.shape[1:]), masks.cpu())


def class_share(masks: Tensor, num_classes: int, grid: tuple[int, int]) -> Tensor:
    """Share of each patch's counted pixels that show the class (notebook 02 §4).

    masks: (B, H, W) integer, H and W multiples of the grid (h, w). Returns (B, C, h, w) in [0, 1],
    nan for a patch in which every pixel is 255. Raises ``InputError`` when the grid does not fit.
    """
    _check_masks(masks)
    patch = _patch_size("masks", masks, grid)
    here, counted = _class_pixels(masks, num_classes)
    return F.avg_pool2d(here.float(), patch) / F.avg_pool2d(counted[:, None].float(), patch)


def artifact_patches(maps: Tensor, share: Tensor, threshold: float) -> Tensor:
    """Activated patches in which no pixel shows the class: (B, C, h, w) bool (notebook 02 §4).

    maps: (B, C, h, w). share: what ``class_share`` gives for the maps' grid.
    """
    check_shapes(maps=(maps, "B C h w"), share=(share, "B C h w"))
    return (maps > threshold) & (share == 0)


def artifact_rate(maps: Tensor, share: Tensor, threshold: float) -> Tensor:
    """Artifacts among the activated patches: (B, C) in [0, 1], nan without any (notebook 02 §4)."""
    stray = artifact_patches(maps, share, threshold)
    return stray.sum((2, 3)) / (maps > threshold).sum((2, 3))


def isolated_patches(active: Tensor, fewer_than: int = 2) -> Tensor:
    """Activated patches with fewer than ``fewer_than`` activated ones around (notebook 02 §4).

    Around are the up to eight patches that share a side or a corner; beyond the border nothing is
    activated. active: (..., h, w) bool. Returns the same shape, bool. Raises ``InputError`` for
    another dtype and a number outside 1..8.
    """
    check_shapes(active=(active, "... h w"))
    if active.dtype != torch.bool:
        raise InputError(f"active is {active.dtype}; give bool")
    if not 1 <= fewer_than <= 8:
        raise InputError(f"fewer_than is {fewer_than}; a patch has 8 neighbours, give 1 to 8")
    one_channel = active.reshape(-1, 1, *active.shape[-2:]).float()
    square = F.avg_pool2d(one_channel, 3, stride=1, padding=1, divisor_override=1)  # itself too
    return active & (square.reshape(active.shape) < fewer_than + 0.5)


def isolated_rate(maps: Tensor, threshold: float, fewer_than: int = 2) -> Tensor:
    """Share of the activated patches that are isolated (notebook 02 §4).

    maps: (..., h, w) on the patch grid; resized maps have no single patches any more. Returns
    (...) in [0, 1], nan for a map without activated patches.
    """
    active = maps > threshold
    return isolated_patches(active, fewer_than).sum((-2, -1)) / active.sum((-2, -1))


def pixel_deviation(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """How much there is to see in each patch: the deviation of its pixels (notebook 02 §5).

    Standard deviation (over n) within the patch, root mean square over the channels.
    images: (B, 3, H, W) float, H and W multiples of the grid. Returns (B, h, w).
    """
    check_shapes(images=(images, "B 3 H W"))
    if not images.is_floating_point():
        raise InputError(f"images are {images.dtype}; give floats")
    height, width = _patch_size("images", images, grid)
    patches = images.unflatten(3, (grid[1], width)).unflatten(2, (grid[0], height))
    return patches.var((3, 5), correction=0).mean(1).sqrt()


def low_information(deviation: Tensor, share: float = 0.25) -> Tensor:
    """The ``share`` of each image's patches with the least in them: (B, h, w) bool.

    A patch that equals the last one chosen is chosen too, so a flat image is all low. Raises
    ``InputError`` for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError(f"share is {share}; it must be above 0 and at most 1")
    count = max(int(share * deviation[0].numel()), 1)
    last = deviation.flatten(1).kthvalue(count, dim=1).values
    return deviation <= last[:, None, None]


def norm_outliers(tokens: Tensor, factor: float = 2.0) -> Tensor:
    """Patch tokens longer than ``factor`` times the median of their image (notebook 02 §5).

    tokens: (..., N, D), as a block leaves them: the final LayerNorm evens lengths out. Returns
    (..., N) bool. Scaling all tokens changes nothing. Raises ``InputError`` for a factor not
    above 1. After Darcet et al., "Vision Transformers Need Registers" (ICLR 2024).
    """
    if not factor > 1:
        raise InputError(f"factor is {factor}; it must be above 1")
    lengths = at_least_float32(tokens).norm(dim=-1)
    return lengths > factor * lengths.median(-1, keepdim=True).values


def lift(chosen: Tensor, kind: Tensor) -> float:
    """How many times as often as any patch a chosen one is of this kind (notebook 02 §5).

    P(kind | chosen) / P(kind): 1 when the two have nothing to do with each other. chosen, kind:
    bool of one shape. nan when nothing is chosen or nothing is of the kind.
    """
    if chosen.shape != kind.shape or {chosen.dtype, kind.dtype} != {torch.bool}:
        raise InputError(
            f"chosen {chosen.dtype} {tuple(chosen.shape)} and kind {kind.dtype} "
            f"{tuple(kind.shape)} must be bool and of one shape"
        )
    both, first, second = (each.double().mean() for each in (chosen & kind, chosen, kind))
    return float(both / first / second)


def patch_similarity(tokens: Tensor) -> Tensor:
    """Mean cosine of all pairs of two different patches, the measure of over-smoothing (§6).

    tokens: (..., N, D), N at least 2. Returns (...) in [-1 / (N - 1), 1]; 1 when all patches point
    one way. Costs N D, not N^2 D: the sum over all pairs is the squared length of the sum. Raises
    ``InputError`` for fewer than two patches.
    """
    if check_shapes(tokens=(tokens, "... N D"))["N"] < 2:
        raise InputError(f"tokens are {tuple(tokens.shape)}; give (..., N, D) with N at least 2")
    unit, patches = F.normalize(at_least_float32(tokens), dim=-1), tokens.shape[-2]
    own = unit.square().sum((-2, -1))  # N, less where a patch is zero
    return (unit.sum(-2).square().sum(-1) - own) / (patches * (patches - 1))


@torch.no_grad()
def block_tokens(encoder: ClassTokenViT, images: Tensor) -> BlockTokens:
    """Class and patch tokens after every block, not normed; images (B, 3, H, W), normalised.

    Raises ``InputError`` when the patch does not divide the images.
    """
    left: list[Tensor] = []
    hooks = [b.register_forward_hook(lambda *call: left.append(call[2])) for b in encoder.blocks]
    try:
        patches = encoder(images).patch_tokens.shape[1]
    finally:
        for hook in hooks:
            hook.remove()
    tokens = torch.stack(left)
    return BlockTokens(tokens[:, :, : encoder.num_classes], tokens[:, :, -patches:])


@torch.no_grad()
def survey(
    model: nn.Module,
    batches: Iterable[Mapping],
    threshold: float,
    similarity: str = "dot",
    device: torch.device | str | None = None,
) -> Survey:
    """Every measure of LAM on images with masks, in one pass (notebook 02 §3 to §8).

    model: as ``MoRe``; runs on ``device`` (where it is, if None), returns to where it was.
    batches: of ``VocMasks``: "image" (B, 3, H, W), "mask" (B, H, W), "labels" (B, C); all images of
    one size, whole patches. One view an image, unlike the evaluation, which adds the mirror image:
    on the patch grid itself single patches can be counted. Raises ``InputError`` without batches.
    """
    home = next(model.parameters()).device
    place = home if device is None else device
    model.to(place)
    parts = []
    for batch in batches:
        images, masks, labels = (batch[key].to(place) for key in ("image", "mask", "labels"))
        output, absent = model(images), labels == 0
        share = class_share(masks, labels.shape[1], tuple(output.features.shape[-2:]))
        maps, probe = (
            min_max(lam(output.features, tokens, similarity))
            for tokens in (output.class_tokens, object_tokens(output.features, share))
        )
        measured = Survey(
            maps=maps,
            share=share,
            labels=labels,
            mass_outside=mass_outside(maps, masks),
            artifact_rate=artifact_rate(maps, share, threshold).masked_fill(absent, torch.nan),
            isolated_rate=isolated_rate(maps, threshold).masked_fill(absent, torch.nan),
            probe_rate=artifact_rate(probe, share, threshold).masked_fill(absent, torch.nan),
            patch_similarity=patch_similarity(output.features.flatten(2).mT),
        )
        parts.append([part.cpu() for part in measured])
    model.to(home)
    if not parts:
        raise InputError("there are no images to survey; give at least one batch")
    return Survey(*map(torch.cat, zip(*parts, strict=True)))


def class_means(values: Tensor) -> Tensor:
    """Mean of (B, C) over the images in which the class has a value: (C,), nan without any."""
    check_shapes(values=(values, "B C"))
    return values.nanmean(0)


def object_tokens(features: Tensor, share: Tensor) -> Tensor:
    """The class token one would wish for: mean patch on the object minus mean patch off it (§6).

    It knows the mask: a probe and no method. If even its map is poor, the patches do not tell the
    object from the rest; if it is good, a poor map of the network's own token is the token's fault.

    features: (B, D, h, w). share: (B, C, h, w) from ``class_share``; nan counts nowhere. Returns
    (B, C, D). Raises ``InputError`` for shapes that do not fit.
    """
    check_shapes(features=(features, "B D h w"), share=(share, "B C h w"))
    features = at_least_float32(features)

    def mean(weight: Tensor) -> Tensor:
        total = torch.einsum("bchw,bdhw->bcd", weight, features)
        return total / weight.sum((2, 3)).clamp(min=1e-6)[..., None]

    return mean(share.nan_to_num(0)) - mean((1 - share).nan_to_num(0))


def _class_pixels(masks: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Where each class is (B, C, H, W), and where the truth is known (B, H, W), both bool."""
    numbers = torch.arange(1, num_classes + 1, device=masks.device)
    return masks[:, None] == numbers[:, None, None], masks != IGNORE_INDEX


def _patch_size(name: str, values: Tensor, grid: tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels of each of the ``grid``'s patches of ``values`` (..., H, W)."""
    (height, width), (rows, columns) = values.shape[-2:], grid
    if min(grid) < 1 or height % rows or width % columns:
        raise InputError(f"{name} {tuple(values.shape)} are not divided by a grid of {grid}")
    return height // rows, width // columns


def _check_masks(masks: Tensor) -> None:
    check_shapes(masks=(masks, "B H W"))
    if masks.is_floating_point() or masks.dtype == torch.bool:
        raise InputError(f"masks are {masks.dtype}; give integers")
