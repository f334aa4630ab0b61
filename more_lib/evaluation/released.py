"""The released protocols' maps, to the last pixel: photographs as squares (notebook 06).

A photograph is resized to a square, bilinearly and whatever its shape, and seen there at several
scales, as it is and mirrored. What becomes of the raw maps of these views depends on the map:

CAM and LAM: brought to the square; of a map and the one of the mirror image the larger, of CAM what
    is positive; the sum over the scales, min-max. ``Scores`` bring it to the photograph's size.
LAM of a single view: brought to the photograph's size at once, then min-max.
Decoder: logits brought to the photograph's size, those of both mirror images added up, the largest
    over the scales, softmax.

Predicted are the classes with a positive logit at the square, and of an image without any those
that the decoder shows.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from more_lib.evaluation.protocols import Protocol
from more_lib.method.localization import RECTIFIED, lam, min_max, resized
from more_lib.method.model import MoRe
from more_lib.system.errors import InputError

SHOWN_PLACES = 5  # of the decoder's grid, at least, where a class has the largest logit


class SquareViews(NamedTuple):
    """What a network shows of B photographs at a square of ``size`` pixels a side.

    raw: by scale, the maps "cam" and "lam" (B, C, h, w) and "decoder" (B, C + 1, h, w) on the patch
    grid, each followed by that of the mirror image, flipped back, where it was asked for.
    """

    size: int
    raw: dict[float, dict[str, list[Tensor]]]
    class_logits: Tensor  # (B, C), of the square as it is

    def predicted(self) -> Tensor:
        """(B, C) bool, the classes that an image is taken to show."""
        decoder = self.raw[1.0]["decoder"][0]
        winner = decoder.argmax(1).flatten(1)[:, None]  # (B, 1, N)
        numbers = torch.arange(1, decoder.shape[1], device=winner.device)[:, None]
        shown = (winner == numbers).sum(2) >= SHOWN_PLACES
        positive = self.class_logits > 0
        return torch.where(positive.any(1, keepdim=True), positive, shown)


def square_views(
    model: MoRe, images: Tensor, protocols: Iterable[Protocol], similarity: str
) -> SquareViews:
    """Every view that the protocols, of one size, ask for, each run once.

    images: (B, 3, H, W), normalised. Raises ``InputError`` where a scale leaves less than a patch.
    """
    wanted, size, raw = {1.0: False}, 0, {}
    for protocol in protocols:
        size = protocol.size
        wanted |= {s: wanted.get(s, False) or protocol.flip for s in protocol.scales}
    images, patch = resized(images, (size, size)), model.patch_size
    for scale, flip in wanted.items():
        side = int(scale * size)
        whole = side // patch * patch
        if not whole:
            raise InputError(f"scale {scale:g} of {size} pixels is less than a patch of {patch}")
        views = resized(images, (side, side))
        views = torch.cat([views, views.flip(-1)]) if flip else views
        output = model(views[..., :whole, :whole])
        if scale == 1:
            class_logits = output.class_logits[: len(images)]
        maps = {"cam": output.cam, "decoder": output.seg_logits}
        maps["lam"] = lam(output.features, output.class_tokens, similarity)
        seen = {kind: each.to(images.dtype).split(len(images)) for kind, each in maps.items()}
        raw[scale] = {k: [first, *(m.flip(-1) for m in rest)] for k, (first, *rest) in seen.items()}
    return SquareViews(size, raw, class_logits)


def square_map(
    views: SquareViews, index: int, protocol: Protocol, classes: list[int], size: Sequence[int]
) -> Tensor:
    """(K, h, w) in [0, 1], a map of each of ``classes``, of 1..C, in one image.

    For the decoder (1 + K, H, W) with the background in front; that and LAM of a single view come
    at the photograph's ``size`` (H, W), the rest at the square's.
    """
    kind, single = protocol.map, len(protocol.scales) == 1 and not protocol.flip
    channels = [0, *classes] if kind == "decoder" else [number - 1 for number in classes]
    if not channels:
        return views.class_logits.new_zeros(0, *size)
    at_once = kind == "decoder" or (kind == "lam" and single)
    place = size if at_once else (views.size, views.size)
    scales = [
        [resized(m[[index]][:, channels], place) for m in views.raw[s][kind][: 1 + protocol.flip]]
        for s in protocol.scales
    ]
    if kind == "decoder":
        summed = [torch.stack(each).sum(0) for each in scales]
        return reduce(torch.maximum, summed)[0].softmax(0)
    total = torch.stack([reduce(torch.maximum, each) for each in scales])
    total = total.relu() if kind in RECTIFIED else total
    return min_max(total.sum(0))[0]
