"""Localization-informed Regularization (LIR): what CAM knows, taught to class and patch tokens.

Two relations are mined from a three-way mask of the CAM (Eq. 6): class tokens and the patches that
surely show their class (confident relation, Eq. 7), and class tokens and patches between foreground
and background (uncertain relation, Eq. 8-9). Notebook 04. Mask values: 0 background, 1..C the
classes, 255 uncertain. "The batch" is that of all processes, as in ``losses``.

Where paper and code differ in URE, ``LirRecipe`` has a switch (presets: ``UNCERTAIN_VARIANTS``):

form: "cosine" as Eq. 9, class tokens trained, or "absolute_cosine": both halves weighted 0.5,
    denominators + 1, class tokens detached (released).
token: the patch that stands for its window, its "centre" (paper) or its upper left "corner",
    ``kernel_size // 2`` patches away (released).
sampling: "all" patches that are kept (paper), or "some": ``num_tokens`` an image at random, and
    filled up with a few confident foreground patches where fewer are kept (released).
fill_up: where those are found: anywhere, or with "corner" ``kernel_size // 2`` patches away from
    the border, and the token is that of the patch as many up and left of each (released).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.recipes.schema import LirRecipe
from more_lib.system.errors import InputError
from more_lib.system.precision import at_least_float32, no_autocast
from more_lib.system.processes import mean_over_batch, random_numbers
from more_lib.system.shapes import check_shapes

RELEASED_EPSILON = 1e-4

UNCERTAIN_VARIANTS = {
    "release": LirRecipe(fill_up="corner"),
    "paper": LirRecipe(form="cosine", token="centre", sampling="all"),
}


def confident_relation_loss(
    class_tokens: Tensor,
    features: Tensor,
    mask: Tensor,
    labels: Tensor,
    temperature: float,
    variant: str = "release",
) -> Tensor:
    """Pull each present class's token to the patches that surely show the class (Eq. 7).

    Cross-entropy over all patches of an image, the confident ones being the right answers: ln N
    when the token looks everywhere alike.

    class_tokens: (B, C, D), after GCR where there is one. features: (B, D, h, w).
    mask: (B, h, w) int64, three-way, at the features' size. labels: (B, C) of 0 and 1.
    temperature: divides the similarities; 0.5 on VOC.
    variant: "paper": cosine similarity, mean over all pairs of class and confident patch in the
    batch. "release": patches enter neither normalised nor trained; mean over each class's patches,
    with 1e-4 in both denominators, summed over classes, averaged over images.

    Returns a scalar in float32 at least, 0 when no class has a confident patch. Raises
    ``InputError`` for shapes that do not fit, another variant, and a temperature not above 0.
    """
    tokens, patches = _checked(class_tokens, features, mask, labels, variant)
    if not temperature > 0:
        raise InputError(f"temperature is {temperature}; it must be positive")
    with no_autocast(tokens):
        tokens = F.normalize(tokens, dim=2)
        patches = patches.detach() if variant == "release" else F.normalize(patches, dim=2)
        scores = tokens @ patches.mT / temperature  # (B, C, N)
        total = scores.logsumexp(2, keepdim=True)
        if variant == "release":
            total = torch.logaddexp(total, total.new_full((), RELEASED_EPSILON).log())
        numbers = torch.arange(1, labels.shape[1] + 1, device=mask.device)[:, None]
        pairs = (mask.flatten(1)[:, None] == numbers) & (labels[:, :, None] > 0)
        pairs = pairs.to(scores.dtype)  # (B, C, N): class, and patch that surely shows it
        cost = (pairs * (total - scores)).sum(2)  # (B, C)
        if variant == "release":
            return (cost / (pairs.sum(2) + RELEASED_EPSILON)).sum(1).mean()
        return mean_over_batch(cost.sum(), pairs.sum())


def uncertain_relation_loss(
    class_tokens: Tensor,
    features: Tensor,
    mask: Tensor,
    labels: Tensor,
    kernel_size: int = 6,
    phi: float = 1.2,
    num_tokens: int = 8,
    variant: str | LirRecipe = "release",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw uncertain patches near foreground to the present classes, off the absent ones (Eq. 9).

    class_tokens, features, mask, labels: as for ``confident_relation_loss``.
    kernel_size, phi: which uncertain patches are kept (Eq. 8); see ``uncertain_patches``.
    num_tokens: patches an image, under sampling "some".
    variant: "release", "paper", or a ``LirRecipe``, whose switches alone count; "paper" takes means
    over all pairs of class and kept patch in the batch.
    generator: of the random choice; the device's default one without it.

    Returns a scalar in float32 at least, 0 when no patch is kept; 0.5 under "absolute_cosine" for
    patches orthogonal to all class tokens. Raises ``InputError`` for shapes that do not fit,
    another variant, and sizes below 1.
    """
    tokens, patches = _checked(class_tokens, features, mask, labels, variant)
    if num_tokens < 1:
        raise InputError(f"num_tokens is {num_tokens}; give at least 1")
    variant = UNCERTAIN_VARIANTS[variant] if isinstance(variant, str) else variant
    chosen = uncertain_patches(mask, kernel_size, phi, variant.token)
    if variant.sampling == "some":
        border = kernel_size // 2 if variant.fill_up == "corner" else 0
        chosen = sample_patches(chosen, mask, num_tokens, generator, border)
    with no_autocast(tokens):
        weight = chosen.flatten(1)[:, None].to(patches.dtype)  # (B, 1, N)
        present = labels[:, :, None].to(patches.dtype)  # (B, C, 1)
        if variant.form == "absolute_cosine":
            cosine = (F.normalize(tokens.detach(), dim=2) @ F.normalize(patches, dim=2).mT).abs()
            near, far = (
                (cosine * those).sum(1, keepdim=True) / (those.sum(1, keepdim=True) + 1)
                for those in (present, 1 - present)
            )
            cost = weight * (0.5 * (1 - near) + 0.5 * far)  # (B, 1, N)
            return mean_over_batch(cost.sum(), weight.sum())
        cosine = F.normalize(tokens, dim=2) @ F.normalize(patches, dim=2).mT
        near, far = weight * present, weight * (1 - present)  # pairs, (B, C, N)
        attraction = mean_over_batch((near * (1 - cosine)).sum(), near.sum())
        return attraction + mean_over_batch((far * cosine).sum(), far.sum())


def uncertain_patches(mask: Tensor, kernel_size: int, phi: float, token: str = "centre") -> Tensor:
    """Uncertain patches that border on foreground, (B, h, w) bool (Eq. 8, notebook 04).

    Foreground counts 2, uncertain 1, background 0; an uncertain patch is kept when the mean over
    the kernel around it exceeds ``phi``. An even kernel reaches one patch farther up and left.

    mask: (B, h, w) int64, three-way. token: "centre" marks the kept patches, outside of the map
    counting as background; "corner" tests only patches ``kernel_size // 2`` away from the border
    and marks the upper left corner of each kept one's kernel, as released.
    Raises ``InputError`` for a kernel below 1 or another token.
    """
    if kernel_size < 1:
        raise InputError(f"kernel_size is {kernel_size}; give at least 1")
    if token not in ("centre", "corner"):
        raise InputError(f"token is {token!r}; choose centre or corner")
    uncertain, before = mask == IGNORE_INDEX, kernel_size // 2
    after = kernel_size - 1 - before
    value = torch.where(uncertain, 1.0, 2.0 * (mask > 0))
    padded = F.pad(value, (before, after, before, after))
    # Whole numbers add up exactly, so a mean that equals phi is not kept, as the equation says.
    sums = F.avg_pool2d(padded[:, None], kernel_size, stride=1, divisor_override=1)[:, 0]
    kept = uncertain & (sums > phi * kernel_size**2)
    return kept if token == "centre" else _corners(kept, before)


def _corners(patches: Tensor, border: int) -> Tensor:
    """(B, h, w) bool: ``patches`` without those of the border, moved up and left by its width."""
    if border == 0:
        return patches
    inner, (height, width) = patches[:, border:-border, border:-border], patches.shape[1:]
    return F.pad(inner, (0, width - inner.shape[2], 0, height - inner.shape[1]))


def sample_patches(
    kept: Tensor,
    mask: Tensor,
    num_tokens: int,
    generator: torch.Generator | None = None,
    border: int = 0,
) -> Tensor:
    """At most ``num_tokens`` patches an image, (B, h, w) bool, as the released code draws them.

    Of more kept patches, a random choice. Of fewer, all, and a quarter of what is missing (rounded
    down) from the confident foreground, or from anywhere when there is too little of it.

    kept: (B, h, w) bool. mask: (B, h, w) int64, three-way. border: what is filled up is looked for
    so far from the map's border, and taken as far up and left. The choice is the rank of one random
    number a patch, so nothing waits for the device, and none is drawn twice. Several processes
    choose what one would with all of their images (``processes.random_numbers``).
    """
    shape, device = mask.shape, mask.device if generator is None else generator.device
    draws = random_numbers(shape, generator, device).to(mask.device, non_blocking=True).flatten(1)
    anywhere = _corners(torch.ones_like(kept), border).flatten(1)
    foreground = _corners((mask > 0) & (mask != IGNORE_INDEX), border).flatten(1)
    kept = kept.flatten(1)
    num_kept = kept.sum(1, keepdim=True)
    extra = (num_tokens - num_kept).clamp(min=0) // 4
    foreground &= foreground.sum(1, keepdim=True) >= extra
    rank = torch.where(kept, 2, foreground.long() - (~anywhere).long()) + draws
    rank, best = rank.topk(min(num_tokens, rank.shape[1]), dim=1)
    wanted = num_kept.clamp(max=num_tokens) + extra
    taken = (torch.arange(best.shape[1], device=best.device) < wanted) & (rank >= 0)
    return torch.zeros_like(kept).scatter(1, best, taken).view(shape)


def _checked(
    class_tokens: Tensor, features: Tensor, mask: Tensor, labels: Tensor, variant: str | LirRecipe
) -> tuple[Tensor, Tensor]:
    """Class tokens (B, C, D) and patches (B, N, D), in float32 at least."""
    if isinstance(variant, str) and variant not in UNCERTAIN_VARIANTS:
        known = " or ".join(UNCERTAIN_VARIANTS)
        raise InputError(f"variant {variant!r} is unknown; choose {known}")
    check_shapes(
        class_tokens=(class_tokens, "B C D"),
        features=(features, "B D h w"),
        mask=(mask, "B h w"),
        labels=(labels, "B C"),
    )
    return at_least_float32(class_tokens), at_least_float32(features).flatten(2).mT
