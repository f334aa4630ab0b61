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
from more_lib.method.localization import RECTIFIED, RawMaps, lam, min_max, resized
from more_lib.method.model import MoRe
from more_lib.system.errors import InputError

SHOWN_PLACES = 5  # of the decoder's grid, at least, where a class has the largest logit


class SquareViews(NamedTuple):
    """What a network shows of B photographs at a square of ``size`` pixels a side.

    raw: by scale and whether mirrored, the maps "cam", "lam" (B, C, h, w) and "decoder"
    (B, C + 1, h, w) on the patch grid, those of mirror images flipped back.
    """

    size: int
    raw: dict[tuple[float, bool], RawMaps]
    class_logits: Tensor  # (B, C), of the square as it is

    def predicted(self) -> Tensor:
        """(B, C) bool, the classes that an image is taken to show."""
        decoder = self.raw[1.0, False]["decoder"]
        winner = decoder.argmax(1).flatten(1)[:, None]  # (B, 1, N)
        numbers = torch.arange(1, decoder.shape[1], device=winner.device)[:, None]
        shown = (winner == numbers).sum(2) >= SHOWN_PLACES
        positive = self.class_logits > 0
        return torch.where(positive.any(1, keepdim=True), positive, shown)


def square_views(
    model: MoRe, images: Tensor, protocols: Iterable[Protocol], similarity: str
) -> SquareViews:
    """Every view that the protocols ask for, each run once; they share a size.

    images: (B, 3, H, W), normalised. Raises ``InputError`` where a scale leaves less than a patch.
    """
    wanted, size = {1.0: False}, 0
    for protocol in protocols:
        size = protocol.size
        wanted |= {s: wanted.get(s, False) or protocol.flip for s in protocol.scales}
    images, patch, raw = resized(images, (size, size)), model.patch_size, {}
    for scale, flip in wanted.items():
        side = int(scale * size)
        if side < patch:
            raise InputError(f"scale {scale:g} of {size} pixels is less than a patch of {patch}")
        views = resized(images, (side, side))
        views = torch.cat([views, views.flip(-1)]) if flip else views
        output = model(views[..., : side // patch * patch, : side // patch * patch])
        if scale == 1:
            class_logits = output.class_logits[: len(images)]
        maps = {
            "cam": output.cam,
            "lam": lam(output.features, output.class_tokens, similarity),
            "decoder": output.seg_logits,
        }
        for mirrored in (False, True)[: 1 + flip]:
            part = slice(mirrored * len(images), (mirrored + 1) * len(images))
            halves = {kind: each[part].to(images.dtype) for kind, each in maps.items()}
            raw[scale, mirrored] = {k: m.flip(-1) if mirrored else m for k, m in halves.items()}
    return SquareViews(size, raw, class_logits)


def square_map(
    views: SquareViews, index: int, protocol: Protocol, classes: list[int], size: Sequence[int]
) -> Tensor:
    """(K, h, w) in [0, 1], a map of each of ``classes``, of 1..C, in one image.

    For the decoder (1 + K, H, W) with the background in front; that and LAM of a single view come
    at the photograph's ``size`` (H, W), the rest at the square's.
    """
    decoder, single = protocol.map == "decoder", len(protocol.scales) == 1 and not protocol.flip
    channels = [0, *classes] if decoder else [number - 1 for number in classes]
    if not channels:
        return views.class_logits.new_zeros(0, *size)
    at_once = decoder or (single and protocol.map == "lam")
    place = size if at_once else (views.size, views.size)
    scales = [
        [
            resized(views.raw[scale, mirrored][protocol.map][index, channels][None], place)
            for mirrored in (False, True)[: 1 + protocol.flip]
        ]
        for scale in protocol.scales
    ]
    if decoder:
        summed = [torch.stack(each).sum(0) for each in scales]
        return reduce(torch.maximum, summed)[0].softmax(0)
    total = torch.stack([reduce(torch.maximum, each) for each in scales])
    total = total.relu() if protocol.map in RECTIFIED else total
    return min_max(total.sum(0))[0]
