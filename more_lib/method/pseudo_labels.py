"""From maps to masks: the pixel labels that image labels can give (notebook 04).

Mask values: 0 background, 1..C the classes, 255 not known.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import repeat
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from more_lib.method.crf import dense_crf as dense_crf
from more_lib.method.localization import present_first, resized
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.errors import InputError
from more_lib.system.precision import at_least_float32
from more_lib.system.shapes import check_shapes

CACHED = 100_000  # pixels that a CPU refines together, as many as its cache holds the maps of
# A threshold for all images, or (B,) one for each, best on the CPU.
Level: TypeAlias = float | Tensor


def three_way_mask(
    maps: Tensor, labels: Tensor, high: Level, low: float, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Confident foreground, confident background, and the uncertain rest (Eq. 6, notebook 04).

    maps: (B, C, h, w) in [0, 1]. labels: (B, C) of 0 and 1; absent classes are left out.
    Where the largest map exceeds ``high``, of all images or (B,) of each, its class, where it is
    below ``low`` 0, and ``ignore_index`` in between, thresholds included. Returns (B, h, w) int64.

    Raises ``InputError`` when the shapes do not fit or ``low`` exceeds ``high``.
    """
    _check_thresholds(high, low, maps)
    value, class_number = _strongest_class(maps, labels)
    uncertain = torch.full_like(class_number, ignore_index)
    exceeds = value > _by_image(high, value)[:, 0]
    return torch.where(exceeds, class_number, uncertain).masked_fill_(value < low, 0)


def foreground_mask(maps: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """The class of the largest map where that exceeds ``threshold``, else 0 (notebook 06).

    maps: (B, C, h, w) in [0, 1]. labels: (B, C) of 0 and 1; absent classes are left out.
    Returns (B, h, w) int64. Raises ``InputError`` when the shapes do not fit.
    """
    value, class_number = _strongest_class(maps, labels)
    return torch.where(value > threshold, class_number, 0)


class PixelAdaptiveRefinement(nn.Module):
    """PAR: maps that follow the edges of the image (AFA, Ru et al., CVPR 2022; notebook 04).

    Each of the ``iterations`` replaces every pixel by a weighted sum of its neighbours, 8 at each
    of the ``dilations``; beyond the border lies a repetition of it. The weights are a softmax of
    the likeness in colour plus 0.01 times a softmax of the nearness. They add up to 1.01: a
    constant map stays constant and grows by 1 % an iteration. There is nothing to train.

    Raises ``InputError`` for dilations that are not positive and for negative iterations.
    """

    # Differences in colour and position are measured in this many standard deviations.
    width = 0.3
    position_weight = 0.01

    def __init__(self, dilations: Sequence[int] = (1, 2, 4, 8, 12, 24), iterations: int = 10):
        super().__init__()
        if len(dilations) == 0 or min(dilations) < 1:
            raise InputError(f"dilations are {tuple(dilations)}; give positive ones, as (1, 2, 4)")
        if iterations < 0:
            raise InputError(f"iterations is {iterations}; give 0 or more")
        self.iterations, self.dilations = iterations, tuple(dilations)
        self.reach = max(dilations)
        directions = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
        self.shifts = [(d * y, d * x) for d in dilations for y, x in directions]
        distance = torch.tensor(self.shifts, dtype=torch.float64).norm(dim=1)
        nearness = (-(distance / (self.width * distance.std())).square()).softmax(dim=0)
        # Moved to a device once, with the module: a copy each time would make the host wait.
        self.register_buffer("nearness", (self.position_weight * nearness).float())

    def level(self, images: Tensor, maps: Tensor) -> Tensor:
        """``forward`` without that growth: a constant map comes out as it was."""
        return self(images, maps) / (1 + self.position_weight) ** self.iterations

    @torch.no_grad()
    def forward(self, images: Tensor, maps: Tensor) -> Tensor:
        """Refine ``maps`` (B, K, h, w) by ``images`` (B, 3, H, W) to (B, K, H, W) in float32.

        images: float in [0, 1]; scaling or shifting a colour channel changes nothing, so images
        normalised for the network do as well. maps: float, first resized bilinearly to (H, W).
        No gradient is kept. Raises ``InputError`` for other shapes and for integers.
        """
        check_shapes(images=(images, "B 3 H W"), maps=(maps, "B K h w"))
        _check_floats(images=images, maps=maps)
        images = at_least_float32(images)
        maps = resized(at_least_float32(maps), images.shape[-2:])
        # One neighbour at a time stays in a CPU's cache; a GPU would wait for a thousand kernels.
        cpu = images.device.type == "cpu"
        return self._one_by_one(images, maps) if cpu else self._by_dilation(images, maps)

    def _one_by_one(self, images: Tensor, maps: Tensor) -> Tensor:
        weights = self._weights(images)
        for _ in range(self.iterations):
            refined = torch.zeros_like(maps)
            for neighbour, weight in zip(self._neighbours(maps), weights, strict=True):
                refined.addcmul_(neighbour, weight)
            maps = refined
        return maps

    def _weights(self, images: Tensor) -> Sequence[Tensor]:
        """How much every neighbour counts: a (B, 1, H, W) for each shift."""
        neighbours = self._neighbours(images)
        # Two passes: a pixel's neighbours can differ far less from each other than from zero.
        mean = sum(neighbours) / len(neighbours)
        squares = ((n - mean).square_() for n in neighbours)
        variance = reduce(torch.add, squares) / (len(neighbours) - 1)
        scale = 1 / (self.width * (variance.sqrt() + 1e-8))
        likeness = images.new_empty(len(images), len(neighbours), *images.shape[-2:])
        for n, neighbour in enumerate(neighbours):
            likeness[:, n] = (neighbour - images).mul_(scale).square_().mean(dim=1).neg_()
        weights = likeness.softmax(dim=1).split(1, dim=1)
        for weight, near in zip(weights, self.nearness.tolist(), strict=True):
            weight += near
        return weights

    def _by_dilation(self, images: Tensor, maps: Tensor) -> Tensor:
        """The same in few kernels: all weights at once, and the sums by dilation."""
        near = [each.flatten(0, 1) for each in self._neighbours(images.contiguous())]
        near = torch.stack(near, dim=1).unflatten(0, images.shape[:2])  # (B, 3, N, H, W)
        scale = 1 / (self.width * (near.std(dim=2, keepdim=True) + 1e-8))
        likeness = (near - images[:, :, None]).mul_(scale).square_().mean(dim=1).neg_()
        weights = likeness.softmax(dim=1) + self.nearness.to(images)[:, None, None]
        before, after = weights.unflatten(1, (-1, 8)).split(4, dim=2)
        weights = torch.cat((before, torch.zeros_like(after[:, :, :1]), after), dim=2)
        weights = weights.unflatten(2, (3, 3))[:, :, None]  # (B, dilations, 1, 3, 3, H, W)
        for _ in range(self.iterations):
            padded, total = F.pad(maps, [self.reach] * 4, mode="replicate"), torch.zeros_like(maps)
            b, k, y, x = padded.stride()
            for d, weight in zip(self.dilations, weights.unbind(1), strict=True):
                strides, start = (b, k, d * y, d * x, y, x), (self.reach - d) * (y + x)
                shape = (*maps.shape[:2], 3, 3, *maps.shape[2:])
                total += (padded.as_strided(shape, strides, start) * weight).sum((2, 3))
            maps = total
        return maps

    def _neighbours(self, values: Tensor) -> list[Tensor]:
        """``values`` (B, K, H, W) moved by every shift: views of one padded copy."""
        height, width = values.shape[-2:]
        padded = F.pad(values, [self.reach] * 4, mode="replicate")
        corners = [(self.reach + y, self.reach + x) for y, x in self.shifts]
        return [padded[..., y : y + height, x : x + width] for y, x in corners]


@torch.no_grad()
def refine_cam(
    par: nn.Module, images: Tensor, maps: Tensor, labels: Tensor, high: Level, low: float
) -> Tensor:
    """Labels for the decoder: CAM against two constant backgrounds, refined (notebook 05).

    At half the images' size the classes present and a background of constant score compete in a
    softmax, ``par`` refines the probabilities, and at full size the largest one wins. That is
    done with the background scores ``high`` and ``low``: a pixel gets the class that wins against
    the high one, 0 where even the low one wins, and 255 otherwise.

    par: a ``PixelAdaptiveRefinement``. images: (B, 3, H, W) float in [0, 1]. maps: (B, C, h, w)
    float in [0, 1]. labels: (B, C) of 0 and 1; an absent class is as if it did not exist, and an
    image without any is background. ``high`` is one number or (B,), one an image. Labels may stay
    on the CPU whatever the device of the rest: then few channels are refined, else all C (see
    ``present_first``). Returns (B, H, W) int64.

    Raises ``InputError`` when the shapes do not fit or ``low`` exceeds ``high``.
    """
    _check_thresholds(high, low, maps)
    check_shapes(images=(images, "B 3 H W"), maps=(maps, "B C h w"), labels=(labels, "B C"))
    _check_floats(images=images, maps=maps)
    few = max(CACHED // images[0, 0].numel(), 1)
    if maps.device.type == "cpu" and len(maps) > few:
        highs = high.split(few) if isinstance(high, Tensor) else repeat(high)
        parts = zip(images.split(few), maps.split(few), labels.split(few), highs, strict=False)
        return torch.cat([refine_cam(par, *part, low) for part in parts])
    size = images.shape[-2:]
    half_size = [max(side // 2, 1) for side in size]
    images, maps = (at_least_float32(t) for t in (images, maps))
    present, index = present_first(labels, maps.device)
    numbers = (index + 1) * present  # 0 where the class is absent
    chosen = maps.gather(1, index[:, :, None, None].expand(-1, -1, *maps.shape[-2:]))
    scores = resized(chosen, half_size).masked_fill(numbers[:, :, None, None] == 0, -torch.inf)
    # (B, 1 + S, h, w) each. Absent classes get probability 0, and PAR, being linear, leaves it so.
    levels = (_by_image(level, scores).expand(-1, 1, *half_size) for level in (high, low))
    passes = [torch.cat((level, scores), dim=1).softmax(1) for level in levels]
    refined = resized(par(resized(images, half_size), torch.cat(passes, dim=1)), size)
    winner = refined.unflatten(1, (2, -1)).max(dim=2).indices  # six times as fast as argmax
    class_number = F.pad(numbers, (1, 0)).gather(1, winner.flatten(1)).view_as(winner)
    against_high, against_low = class_number.unbind(1)
    uncertain = torch.full_like(against_high, IGNORE_INDEX).masked_fill_(against_low == 0, 0)
    return torch.where(against_high > 0, against_high, uncertain)


def _strongest_class(maps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value over the classes present, and that class's number 1..C: (B, h, w) each."""
    check_shapes(maps=(maps, "B C h w"), labels=(labels, "B C"))
    value, index = (maps * labels[:, :, None, None]).max(dim=1)
    return value, index + 1


def _by_image(level: Level, maps: Tensor) -> Tensor:
    """(B, 1, 1, 1): the level of each image, of the maps' kind; nobody waits for it."""
    if isinstance(level, Tensor):
        return level.to(maps.device, maps.dtype, non_blocking=True)[:, None, None, None]
    return maps.new_full((len(maps), 1, 1, 1), level)


def _check_thresholds(high: Level, low: float, maps: Tensor) -> None:
    if isinstance(high, Tensor):
        check_shapes(maps=(maps, "B C h w"), high=(high, "B"))
    if bool((torch.as_tensor(high) < low).any()):
        shown = high.tolist() if isinstance(high, Tensor) else high
        raise InputError(f"low threshold {low} exceeds the high one {shown}; swap them")


def _check_floats(**given: Tensor) -> None:
    for name, values in given.items():
        if not values.is_floating_point():
            raise InputError(f"{name} are {values.dtype}; give floats in [0, 1]")
