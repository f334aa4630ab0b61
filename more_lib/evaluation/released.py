"""The released protocols' maps, to the last pixel: photographs as squares (notebook 06).

A photograph is resized to a square, bilinearly and whatever its shape, and seen there at several
scales, as it is and mirrored. Of the raw maps of these views come:

CAM and LAM: at the square's size, of a map and its mirror image's the larger (of CAM the positive
    part), summed over the scales, min-max. LAM of one view: at the photograph's size, min-max.
Decoder: logits at the photograph's size, summed over mirror images, largest over scales, softmax.
"""

from collections.abc import Sequence
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
        """(B, C) bool: classes of positive logit; where there is none, those the decoder shows."""
        decoder = self.raw[1.0]["decoder"][0]
        winner = decoder.argmax(1).flatten(1)[:, None]  # (B, 1, N)
        numbers = torch.arange(1, decoder.shape[1], device=winner.device)[:, None]
        shown = (winner == numbers).sum(2) >= SHOWN_PLACES
        positive = self.class_logits > 0
        return positive | (shown & ~positive.any(1, keepdim=True))


def square_views(
    model: MoRe, images: Tensor, protocols: Sequence[Protocol], similarity: str
) -> SquareViews:
    """Every view that the protocols, of one size, ask for, each run once.

    images: (B, 3, H, W), normalised. Raises ``InputError`` where a scale leaves less than a patch.
    """
    wanted, size, raw = {1.0: False}, protocols[0].size, {}
    for protocol in protocols:
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

    The decoder's, (1 + K, H, W), have the background in front. size: (H, W), the photograph's.
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
