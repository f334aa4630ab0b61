"""Chapter 1, ViT LAM: class tokens by repetition, CAM, LAM, and maps from many views."""

from collections.abc import Sequence
from math import exp, log, log10

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, rand, randn, tensor

from more_lib.classroom.exercise import Case, Exercise
from more_lib.method.localization import lam, min_max


def _tokens(cls_token: Tensor, position: Tensor, num_classes: int, slip: str = "") -> Tensor:
    if slip == "patches":
        return cls_token + position[:, :num_classes]
    token = cls_token + position[:, 1:2] if slip == "row" else cls_token + position[:, :1]
    token = {"bare": cls_token, "shares": token / num_classes}.get(slip, token)
    return token.repeat(1, 1, num_classes) if slip == "wide" else token.repeat(1, num_classes, 1)


def _token_cases(draw: Generator) -> list[Case]:
    def case(name: str, patches: int, width: int, classes: int) -> Case:
        position = randn(1, 1 + patches, width, generator=draw)
        return Case(name, (randn(1, 1, width, generator=draw), position, classes))

    hand = tensor([[[1.0, 2.0]]]), tensor([[[0.5, 0.0], [9.0, 9.0], [7.0, 7.0]]]), 2
    return [Case("the tokens by hand", hand), case("random tokens", 6, 4, 3),
            case("one class", 4, 3, 1), case("more classes than patches", 2, 3, 5)]  # fmt: skip


TOKENS = Exercise(
    "01.1", "One class token becomes C", "Make C class tokens of the one that pretraining left.",
    1, 5, _tokens, {
        "bare": "the position embedding is missing: each copy stands where the class token stood",
        "patches": "copies got the positions of patches: all share the class token's own",
        "row": "row 0 of the position embeddings belongs to the class token, yours takes row 1",
        "wide": "the copies lie side by side in the channels: repeat along the axis of tokens",
        "shares": "copies are no shares: nothing is divided by the number of classes",
    }, _token_cases, axes=("1", "classes", "channels"),
)  # fmt: skip


def _cam(features: Tensor, weight: Tensor, slip: str = "") -> tuple[Tensor, Tensor]:
    cam = torch.einsum("bdhw,cd->bchw", features, weight)
    pooled = features.mean((2, 3)) if slip == "mean" else features.amax((2, 3))
    logits = cam.amax((2, 3)) if slip == "late" else pooled @ weight.T
    cam = {"relu": cam.relu(), "stretched": min_max(cam), "softmax": cam.softmax(1)}.get(slip, cam)
    return cam, logits


def _cam_cases(draw: Generator) -> list[Case]:
    hand = tensor([[[[3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 5.0]]]])
    sizes = {"random features": (2, 3, 5, 3, 4), "a square grid": (2, 2, 4, 3, 3),
             "one class": (1, 1, 4, 2, 3)}  # fmt: skip
    cases = [Case("two channels by hand", (hand, tensor([[1.0, -1.0], [0.5, 1.0]])))]
    for name, (b, c, d, h, w) in sizes.items():
        cases.append(Case(name, (randn(b, d, h, w, generator=draw), randn(c, d, generator=draw))))
    below = -0.1 - rand(1, 3, 2, 2, generator=draw), randn(2, 3, generator=draw)
    return [*cases, Case("features below 0", below, "a channel's maximum may lie below 0")]


CAM = Exercise(
    "01.2", "CAM and the logit beside it",
    "Apply the classifier to every patch, and to each channel's maximum.", 1, 10, _cam, {
        "late": "the logit is no maximum of the CAM: pool each channel, then apply the classifier",
        "mean": "the logit pools by the mean: here it is each channel's maximum",
        "relu": "the CAM has lost what speaks against a class: the raw map keeps negative values",
        "stretched": "the CAM is stretched already: the raw map is the classifier's sum, no more",
        "softmax": "classes compete in this CAM: labels are many at once, there is no softmax",
    }, _cam_cases,
)  # fmt: skip


def _lam(features: Tensor, class_tokens: Tensor, slip: str = "") -> Tensor:
    maps = lam(features, class_tokens, "cosine" if slip == "cosine" else "dot")
    if slip == "softmax":
        return maps.flatten(2).softmax(2).view_as(maps)
    axes = {"batch": (0, 2, 3), "classes": (1, 2, 3)}.get(slip, (2, 3))
    left = maps if slip == "minimum" else maps - maps.amin(axes, keepdim=True)
    most = (maps if slip == "old" else left).amax(axes, keepdim=True)
    return left / (most + (0 if slip == "bare" else 1e-5))


def _lam_cases(draw: Generator) -> list[Case]:
    def case(name: str, batch: int, classes: int, *grid: int) -> Case:
        features = 2 * randn(batch, 6, *grid, generator=draw)
        return Case(name, (features, randn(batch, classes, 6, generator=draw)))

    hand = tensor([[[[1.0, 0.0, 2.0]], [[0.0, 1.0, 2.0]]]]), torch.eye(2)[None]
    return [
        Case("two tokens and three patches by hand", hand),
        case("random tokens", 3, 4, 3, 5), case("one class", 2, 1, 3, 3),
        Case("a map that is the same everywhere", (torch.ones(1, 2, 2, 2), torch.ones(1, 1, 2)),
             "nothing stands out there, so the map is 0"),
    ]  # fmt: skip


LAM = Exercise(
    "01.3", "LAM, stretched to [0, 1]", "Compare class tokens with patches, each map in [0, 1].",
    1, 10, _lam, {
        "cosine": "asked for is the plain dot product, lengths included; yours divides them out",
        "batch": "minimum and maximum are taken over the batch: each image has its own",
        "classes": "minimum and maximum are taken over all classes: each class has its own",
        "minimum": "the minimum is not subtracted: the zero of a similarity means nothing",
        "old": "divide by the maximum of what the subtraction left, not by the one before it",
        "bare": "a constant map gives 0/0: the small number in the denominator is missing",
        "softmax": "this is a softmax over patches: stretched maps reach from 0 to 1",
    }, _lam_cases, lambda features, class_tokens: min_max(lam(features, class_tokens)),
    ("images", "classes", "rows", "columns"),
)  # fmt: skip


def _merged(
    straight: Sequence[Tensor], mirrored: Sequence[Tensor], size: tuple[int, int], slip: str = ""
) -> Tensor:
    mode, total = "nearest" if slip == "nearest" else "bilinear", torch.zeros(())
    for views in zip(straight, mirrored, strict=True):
        one, other = (F.interpolate(v, size, mode=mode) for v in views)
        other = other if slip == "unturned" else other.flip(-1)
        both = (one + other) / 2 if slip == "mean" else torch.maximum(one, other)
        both = both if slip in ("raw", "late") else both.relu()
        total = total + (min_max(both) if slip == "each" else both)
    return min_max(total.relu() if slip == "late" else total)


def _merge_cases(draw: Generator) -> list[Case]:
    def case(name: str, grids: list[tuple[int, int]], size: tuple[int, int], shift: float) -> Case:
        straight, mirrored = (
            [randn(2, 3, *grid, generator=draw) + shift for grid in grids] for _ in range(2)
        )
        return Case(name, (straight, mirrored, size))

    hand = [tensor([[[[1.0, 0.0, -1.0]]]])], [tensor([[[[2.0, -1.0, -3.0]]]])], (1, 3)
    return [
        Case("one scale by hand", hand), case("two scales", [(2, 3), (4, 6)], (8, 12), 0.0),
        case("three scales", [(2, 2), (3, 3), (4, 4)], (6, 6), 0.5),
        case("maps that speak against every class", [(3, 3)], (3, 3), -9.0),
    ]  # fmt: skip


MERGE = Exercise(
    "01.4", "Many views, one map", "Merge the CAMs of several scales and of the mirror images.",
    2, 15, _merged, {
        "unturned": "the mirror image's map is not mirrored back before the two meet",
        "mean": "map and mirrored map are averaged: take the larger of the two",
        "late": "negative values go after the sum: one scale's no then cancels another's yes",
        "raw": "negative values stay: in a CAM they say that a patch speaks against the class",
        "each": "each scale is stretched before the sum: stretch once, at the end",
        "nearest": "upsampling repeats the nearest value: maps are brought to size bilinearly",
    }, _merge_cases, axes=("images", "classes", "rows", "columns"),
)  # fmt: skip

_ODDS = exp(0.01) - 1
TEMPERATURE = Exercise(
    "01.5", "The temperature that parts", "Find the temperature at which the discrepancy is 0.01.",
    1, 5, -1 / log(_ODDS), {
        -log(_ODDS): "this is 1 / tau: the cosines are divided by the temperature",
        1 / log(_ODDS): "a temperature is positive: a sign was lost when the logarithm moved over",
        -1 / log10(_ODDS): "the logarithm of a cross-entropy is the natural one",
        -2 / log(_ODDS): "tokens at right angles have cosine 0; with -1 they would be opposite",
        0.01: "this is the loss itself: asked for is the temperature",
    }, tolerance=1e-3,
)  # fmt: skip

EXERCISES = (TOKENS, CAM, LAM, MERGE, TEMPERATURE)
