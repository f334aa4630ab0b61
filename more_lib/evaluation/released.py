"""The released protocols' maps, to the last pixel: photographs as squares (notebook 06).

A photograph is resized to a square, bilinearly and whatever its shape, and seen there at several
scales, as it is and mirrored. Of the raw maps of these views come:

CAM and LAM: at the square's size, of a map and its mirror image's the larger (of CAM the positive
    part), summed over the scales, min-max. LAM of one view: at the photograph's size, min-max.
Decoder: logits at the photograph's size, summed over mirror images, largest over scales, softmax.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from more_lib.evaluation.protocols import Protocol, network_of
from more_lib.method.localization import Views, kinds_of, min_max, resized, views_of
from more_lib.method.model import MoRe
from more_lib.system.precision import autocast

SHOWN_PLACES = 5  # of the decoder's grid, at least, where a class has the largest logit


def square_views(
    model: MoRe, images: Tensor, protocols: Sequence[Protocol], similarity: str
) -> tuple[Views, Tensor]:
    """Every view of the squares that the protocols, of one place, ask for, and image logits (B, C).

    images: (B, 3, H, W), normalised. Raises ``InputError`` where a scale leaves less than a patch.
    """
    size, model = protocols[0].size, network_of(model, protocols)
    as_it_is = ((1.0,), False)  # which names the classes
    kinds = dict.fromkeys(protocol.map for protocol in protocols)
    if "decoder" in kinds_of(model):  # it names classes where the logits name none
        kinds["decoder"] = None
    groups = [as_it_is, *((protocol.scales, protocol.flip) for protocol in protocols)]
    with autocast(images.device, protocols[0].precision):
        views = views_of(model, resized(images, (size, size)), groups, similarity, list(kinds))
    assert views.class_logits is not None
    return views, views.class_logits


def predicted_classes(views: Views, logits: Tensor) -> Tensor:
    """(B, C) bool: classes of positive logit; where there is none, those that the decoder shows."""
    if "decoder" not in views.raw[1.0]:
        return logits > 0
    decoder = views.raw[1.0]["decoder"][: views.images]
    winner = decoder.argmax(1).flatten(1)[:, None]  # (B, 1, N)
    numbers = torch.arange(1, decoder.shape[1], device=winner.device)[:, None]
    shown = (winner == numbers).sum(2) >= SHOWN_PLACES
    positive = logits > 0
    return positive | (shown & ~positive.any(1, keepdim=True))


def square_map(
    views: Views, index: int, protocol: Protocol, classes: list[int], size: Sequence[int]
) -> Tensor:
    """(K, h, w) in [0, 1], a map of each of ``classes``, of 1..C, in one image.

    The decoder's, (1 + K, H, W), have the background in front. size: (H, W), the photograph's.
    """
    kind, scales, image = protocol.map, protocol.scales, slice(index, index + 1)
    if kind == "decoder":
        logits = [_decoded(views, scale, image, [0, *classes], size) for scale in scales]
        summed = [each[0] + each[1].flip(-1) if protocol.flip else each[0] for each in logits]
        return reduce(torch.maximum, summed).softmax(0)
    channels = [number - 1 for number in classes]
    if not channels:
        return views.raw[1.0][kind].new_zeros(0, *size)
    if kind == "lam" and len(scales) == 1 and not protocol.flip:
        return min_max(resized(views.raw[scales[0]][kind][image][:, channels], size))[0]
    return views.merged((scales, protocol.flip), kind, image, channels)[0]


def _decoded(
    views: Views, scale: float, image: slice, channels: list[int], size: Sequence[int]
) -> list[Tensor]:
    """Logits (1 + K, H, W) of one image at one scale, and of its mirror image if it was run."""
    seen = views.raw[scale]["decoder"].split(views.images)
    return [resized(each[image][:, channels].to(views.dtype), size)[0] for each in seen]
