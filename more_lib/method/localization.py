"""Where a class is: class activation maps (CAM) and localization attention maps (LAM).

CAM is the image classifier applied to every position of the feature map; LAM is the similarity
between a class token and every patch (notebook 01). Both become maps in [0, 1] in the same way:
several scales, each with its mirror image, then min-max.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import ceil
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from more_lib.system.errors import InputError
from more_lib.system.precision import at_least_float32, no_autocast
from more_lib.system.shapes import check_shapes

# The zero of a CAM says that a patch speaks neither for nor against a class: what is below is
# dropped. The zero of a similarity means nothing: LAM and attention keep their sign.
RECTIFIED = ("cam", "aux_cam")
KINDS = ("cam", "aux_cam", "lam", "attention", "decoder")  # of maps, those that MoRe draws
FIELDS = {"attention": "attention_scores", "decoder": "seg_logits"}  # else a map's own name
LOGITS = ("class_logits", "token_logits")
AVERAGED = ("decoder", "seed", "root")  # over mirror images, where others take the larger

Group = tuple[tuple[float, ...], bool]  # scales, and whether the mirror images are seen too
RawMaps = dict[str, Tensor]

AT_ONCE = 2048  # patches that a CPU runs together


class MultiscaleMaps(NamedTuple):
    """What one group of views shows: maps at the images' size, classes where scale 1 was run."""

    cam: Tensor  # (B, C, H, W) in [0, 1], as are the next three
    aux_cam: Tensor
    lam: Tensor
    attention: Tensor
    decoder: Tensor  # (B, C + 1, H, W), probabilities, background first
    class_logits: Tensor | None  # (B, C), of the images as they are; None if scale 1 was not run


def min_max(maps: Tensor) -> Tensor:
    """Stretch each map (..., h, w) to [0, 1]: less its minimum, over what is left at most + 1e-5.

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
    check_shapes(features=(features, "B D h w"), class_tokens=(class_tokens, "B C D"))
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


def patch_affinity(features: Tensor, temperature: float) -> Tensor:
    """How much each patch has in common with the others, (B, N, N) float32; rows sum to 1.

    The softmax of the patches' cosine similarity over ``temperature``, as ``spread`` takes it.
    features: (B, D, h, w). Raises ``InputError`` for another shape and a temperature not above 0.
    """
    check_shapes(features=(features, "B D h w"))
    if not temperature > 0:
        raise InputError(f"temperature is {temperature}; it must be positive")
    with no_autocast(features):
        patches = F.normalize(at_least_float32(features).flatten(2), dim=1)
        return (patches.mT @ patches / temperature).softmax(2)


def spread(maps: Tensor, affinity: Tensor) -> Tensor:
    """Maps (B, C, h, w) where each patch gathers what the patches like it have.

    affinity: (B, N, N) with N = h * w; rows are the patches that gather, and not normalised here.
    Returns the same shape. Raises ``InputError`` when the shapes do not fit.
    """
    patches = maps.flatten(2)
    check_shapes(maps=(patches, "B C N"), affinity=(affinity, "B N N"))
    return torch.einsum("bij,bcj->bci", affinity, patches).view_as(maps)


def multiscale_cam(
    model: Any,
    images: Tensor,
    scales: Sequence[float],
    straight: tuple[Tensor, Tensor] | None = None,
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """CAM of the last and of the auxiliary feature map, over scales and mirror images.

    For each scale and its horizontal flip (notebook 01): resize, run, upsample the raw CAM to
    (H, W), take the larger of map and flipped-back map, drop what is negative; sum; ``min_max``.

    model: has ``patch_size`` and ``cams(images)``, which returns two raw maps (B, C, h, w). Its
    training flag is left as it is, for MoRe's forward is the same either way unless its backbone
    drops paths; no gradient is kept.
    images: (B, 3, H, W) float, normalised; sides need not be multiples of the patch size.
    scales: positive factors. straight: what ``model.cams(images)`` returned, if that is known: at
    scale 1 only the mirror image is then run. labels: (B, C) of 0 and 1; with them the maps of
    absent classes are 0 and cost nothing (see ``present_first``).
    Returns (cam, aux_cam), each (B, C, H, W) in [0, 1].

    Raises ``InputError`` without scales, for images of another shape, or for less than one patch.
    """
    shown = None if labels is None else present_first(labels, images.device)

    def draw(scale: float, views: Tensor) -> RawMaps:
        known = scale == 1 and straight is not None
        parts = _parts(views[len(images) :] if known else views, model.patch_size)
        drawn = [straight] if known else []
        drawn += [model.cams(part) for part in parts]
        raw = [torch.cat(maps) for maps in zip(*drawn, strict=True)]
        if shown is not None:
            index = shown[1].repeat(len(views) // len(images), 1)[:, :, None, None]
            raw = [maps.gather(1, index.expand(-1, -1, *maps.shape[2:])) for maps in raw]
        return dict(zip(RECTIFIED, raw, strict=True))

    group = (tuple(scales), True)
    views = _run_views(model, images, [group], draw)
    cam, aux_cam = (views.merged(group, kind) for kind in RECTIFIED)
    if labels is None or shown is None:
        return cam, aux_cam
    present, index = (t[:, :, None, None] for t in shown)
    every = cam.new_zeros(*labels.shape, *images.shape[-2:])
    index = index.expand_as(cam)
    cam, aux_cam = (every.scatter(1, index, maps.mul_(present)) for maps in (cam, aux_cam))
    return cam, aux_cam


def present_first(labels: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Every image's classes in order, those present first: 1 or 0, and their indices (B, S) each.

    labels: (B, C) of 0 and 1. S is the largest number of classes in an image if the labels are on
    the CPU, 1 at least, else C, for the host would have to wait for their number.
    """
    present, index = (labels > 0).byte().sort(dim=1, descending=True, stable=True)
    if labels.device.type == "cpu":
        most = max(1, int(present.sum(dim=1).max()))
        present, index = present[:, :most], index[:, :most]
    return present.to(device, non_blocking=True), index.to(device, non_blocking=True)


def _parts(views: Tensor, patch: int) -> Sequence[Tensor]:
    """The views, on a CPU a few at a time.

    More patches than ``AT_ONCE`` gain nothing there, and what outgrows the caches and the pool of
    the allocator (32 MB) costs dearly.
    """
    patches = len(views) * (views.shape[2] // patch) * (views.shape[3] // patch)
    return views.chunk(ceil(patches / AT_ONCE) if views.device.type == "cpu" else 1)


def multiscale_lam(
    model: Any, images: Tensor, scales: Sequence[float], similarity: str = "dot"
) -> Tensor:
    """LAM over scales and mirror images, made like ``multiscale_cam``, but what is negative stays.

    model: as for ``views_of``. Returns (B, C, H, W) in [0, 1]; raises what ``multiscale_cam``
    raises (notebook 01).
    """
    group = (tuple(scales), True)
    return views_of(model, images, [group], similarity, ["lam"]).merged(group, "lam")


def multiscale_maps(
    model: Any, images: Tensor, scales: Sequence[float], similarity: str = "dot", flip: bool = True
) -> MultiscaleMaps:
    """Every map the model can draw, of every class, over ``scales``, mirrored too with ``flip``.

    All else is as for ``views_of``; ``class_logits`` are None without scale 1 (notebook 01).
    """
    group = (tuple(scales), flip)
    views = views_of(model, images, [group], similarity)
    maps = {kind: views.merged(group, kind) for kind in KINDS}
    return MultiscaleMaps(**maps, class_logits=views.class_logits)


def kinds_of(model: object) -> tuple[str, ...]:
    """The raw maps that a network draws: its ``kinds``, or all of ``KINDS``."""
    return getattr(model, "kinds", KINDS)


def views_of(
    model: Any,
    images: Tensor,
    groups: Sequence[Group],
    similarity: str = "dot",
    kinds: Sequence[str] = KINDS,
) -> "Views":
    """What the model draws of every view that some groups need, each run once (notebook 06).

    A view is the images at one scale, straight or mirrored. The mirror images are in the same batch
    where a group of that scale wants them.

    model: ``model(images)`` returns raw ``cam``, ``aux_cam`` and ``attention_scores`` (B, C, h, w),
    ``features`` (B, D, h, w), ``class_tokens`` (B, C, D), ``seg_logits`` (B, C + 1, h, w),
    ``class_logits`` and ``token_logits`` (B, C). It is told ``with_decoder=False`` where nobody
    asks for that. A network that draws less than ``KINDS`` names by ``kinds`` what it draws.
    kinds: of these, what is to be drawn. The CAMs are made like ``multiscale_cam``, which also says
    what is raised, LAM and attention like ``multiscale_lam``; ``decoder`` is the mean over the
    group's views of the softmax of the upsampled logits. Raises ``InputError`` for a kind that the
    network does not draw.
    """
    drawn = kinds_of(model)
    if missing := [kind for kind in kinds if kind not in drawn]:
        raise InputError(f"this network draws no {missing[0]}; choose among {', '.join(drawn)}")
    named: dict[str, Tensor] = {}
    options = {} if "decoder" in kinds else {"with_decoder": False}
    fields = {kind: FIELDS.get(kind, kind) for kind in (*kinds, *LOGITS) if kind != "lam"}

    def raw_maps(part: Tensor) -> RawMaps:
        output = model(part, **options)
        raw = {kind: getattr(output, field) for kind, field in fields.items()}
        if "lam" in kinds:
            with no_autocast(images):
                features, tokens = map(at_least_float32, (output.features, output.class_tokens))
                raw["lam"] = lam(features, tokens, similarity)
        return raw

    def draw(scale: float, views: Tensor) -> RawMaps:
        parts = [raw_maps(part) for part in _parts(views, model.patch_size)]
        raw = {kind: torch.cat([part[kind] for part in parts]) for kind in parts[0]}
        logits = {name: raw.pop(name)[: len(images)].to(images.dtype) for name in LOGITS}
        if scale == 1:
            named.update(logits)
        return raw

    views = _run_views(model, images, groups, draw)
    return replace(views, **named)


@dataclass(frozen=True, eq=False)
class Views:
    """Raw maps of B images: small until they are ``merged``, of the classes that somebody needs.

    raw: by scale and kind (B or 2B, K, h, w), straight and then mirrored. size: the images', to
    which maps are brought. class_logits, token_logits: (B, C), what classifier and class tokens
    say of the images as they are, if scale 1 was run.
    """

    raw: dict[float, RawMaps]
    images: int
    size: tuple[int, int]
    dtype: torch.dtype
    class_logits: Tensor | None = None
    token_logits: Tensor | None = None

    @torch.no_grad()
    def merged(
        self,
        group: Group,
        kind: str,
        image: slice = slice(None),
        classes: slice | Sequence[int] = slice(None),
    ) -> Tensor:
        """The maps (B, K, H, W) of one kind over a group's views, of some images and channels.

        A scale's map is the larger of straight and mirrored one, of ``AVERAGED`` kinds the mean.
        """
        (scales, flip), total = group, torch.zeros((), dtype=self.dtype)
        for scale in scales:
            seen = [
                resized(view[image][:, classes].to(self.dtype), self.size)
                for view in self.raw[scale][kind].split(self.images)[: 1 + flip]
            ]
            seen = [maps.softmax(1) for maps in seen] if kind == "decoder" else seen
            seen = [seen[0], *(maps.flip(-1) for maps in seen[1:])]
            mean = kind in AVERAGED
            merged = sum(seen) / len(seen) if mean else reduce(torch.maximum, seen)
            total = total + (merged.relu() if kind in RECTIFIED else merged)
        return total / len(scales) if kind == "decoder" else min_max(total)


@torch.no_grad()
def _run_views(
    model: Any, images: Tensor, groups: Sequence[Group], draw: Callable[[float, Tensor], RawMaps]
) -> Views:
    """The raw maps of every view.

    draw(scale, views): raw maps (B or 2B, K, h, w) by kind. The views are the images at a scale of
    any group, and behind them their mirror images, where a group of that scale wants them. They are
    cut to whole patches after the flip, at right and bottom, where a patch convolution drops the
    rest.
    """
    check_shapes(images=(images, "B 3 H W"))
    if not images.is_floating_point():
        raise InputError(f"images are {images.dtype}; give floats, normalised")
    if not all(scales for scales, _ in groups):
        raise InputError("scales is empty; give at least one, for instance (1.0,)")
    size, patch, raw = images.shape[-2:], model.patch_size, {}
    for scale in dict.fromkeys(scale for scales, _ in groups for scale in scales):
        height, width = (int(scale * side) for side in size)
        if min(height, width) < patch:
            raise InputError(
                f"scale {scale} makes the images {height}x{width}, less than one patch of "
                f"{patch}; drop that scale or give larger images"
            )
        views = F.interpolate(images, (height, width), mode="bilinear")
        if any(flip for scales, flip in groups if scale in scales):
            views = torch.cat([views, views.flip(-1)])
        raw[scale] = draw(scale, views[..., : height // patch * patch, : width // patch * patch])
    return Views(raw, len(images), (size[0], size[1]), images.dtype)


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps or images (B, K, h, w) brought to (B, K, H, W) bilinearly, wherever the kit does so."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
