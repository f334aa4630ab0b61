"""Chapter 2, artifacts: how false activation is counted, and which disease a map has."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, rand, randint, randn, tensor

from more_lib.classroom.exercise import Case, Exercise
from more_lib.method.artifacts import isolated_patches, norm_outliers
from more_lib.recipes.constants import IGNORE_INDEX


def _ratio(prediction: Tensor, target: Tensor, num_classes: int, slip: str = "") -> Tensor:
    known, numbers = target != IGNORE_INDEX, torch.arange(num_classes + 1)[:, None]
    known = known | True if slip == "ignored" else known
    claimed, true = prediction[known] == numbers, target[known] == numbers
    pairs = (claimed & true, claimed & ~true, ~claimed & true)
    hits, false, missed = (each.sum(1).double() for each in pairs)
    wrong = {"share": false / (hits + false), "missed": missed / hits, "turned": hits / false}
    ratio = wrong.get(slip, false / hits)
    ratio = ratio.nan_to_num(0, torch.inf) if slip == "praise" else ratio
    return ratio if slip == "background" else ratio[1:]


def _ratio_cases(draw: Generator) -> list[Case]:
    def case(name: str, classes: int, *shape: int) -> Case:
        prediction, target = randint(0, classes + 1, (2, *shape), generator=draw)
        target[rand(*shape, generator=draw) < 0.2] = IGNORE_INDEX
        return Case(name, (prediction, target, classes))

    hand = tensor([1, 1, 1, 0, 2, 2, 1, 2]), tensor([1, 1, 0, 1, 2, 0, 255, 2]), 2
    none = tensor([[0, 1], [1, 2]]), tensor([[0, 0], [2, 2]]), 3
    return [
        Case("eight pixels by hand", hand),
        case("random masks", 4, 2, 9, 11), case("one class", 1, 1, 5, 5),
        Case("a class without hits and one that is nowhere", none,
             "without hits the ratio is inf, and 0/0 stays nan"),
        Case("a mask that is all ignored", (torch.ones(2, 2).long(), torch.full((2, 2), 255), 1),
             "nothing is counted there, so 0/0 stays nan"),
    ]  # fmt: skip


RATIO = Exercise(
    "02.1", "Confusion ratio", "Count false and true foreground of each class.", 1, 10, _ratio, {
        "ignored": "pixels whose truth is 255 are counted: nobody knows what is there",
        "share": "this is a share of all pixels predicted: the ratio divides by the hits alone",
        "missed": "you count what was missed: asked for is what was claimed wrongly",
        "turned": "true over false: the ratio is the other way round",
        "background": "the background has no confusion ratio here: classes 1 to C only",
        "praise": "a class that is nowhere has no ratio: 0 would praise the network for it",
    }, _ratio_cases, axes=("classes",),
)  # fmt: skip


def _isolated(active: Tensor, slip: str = "") -> Tensor:
    mode = "circular" if slip == "torus" else "constant"
    padded, (h, w) = F.pad(active[None, None].float(), (1, 1, 1, 1), mode)[0, 0], active.shape
    places = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    places = [p for p in places if 1 in p] if slip == "four" else places
    around = torch.stack([padded[y : y + h, x : x + w] for y, x in places]).sum(0)
    alone = around < {"none": 1, "two": 3}.get(slip, 2)
    return alone if slip == "dark" else active & alone


def _isolated_cases(draw: Generator) -> list[Case]:
    hand = tensor([[1, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 1, 1],
                   [1, 1, 0, 0, 0]]).bool()  # fmt: skip
    return [
        Case("a grid by hand", (hand,)),
        Case("a random grid", (rand(7, 9, generator=draw) < 0.35,)),
        Case("a busy grid", (rand(6, 6, generator=draw) < 0.6,)),
        Case("nothing active", (torch.zeros(3, 4).bool(),)),
        Case("a single patch", (torch.ones(1, 1).bool(),), "beyond the border nothing is active"),
    ]


ISOLATED = Exercise(
    "02.2", "Specks", "Find the activated patches that stand alone.", 2, 15, _isolated, {
        "none": "a patch with one active neighbour is isolated too: is the patch counted itself?",
        "four": "patches that touch at a corner are neighbours too: there are eight, not four",
        "torus": "the grid is no torus: opposite borders are not neighbours",
        "dark": "patches that are not active cannot be isolated ones",
        "two": "two neighbours are company enough: fewer than two is isolated",
    }, _isolated_cases, lambda active: isolated_patches(active), ("rows", "columns"),
)  # fmt: skip


def _outliers(tokens: Tensor, factor: float, slip: str = "") -> Tensor:
    length = tokens.norm(1 if slip == "sums" else 2, 1 if slip == "tokens" else 2)
    length = length**2 if slip == "squares" else length
    middle = length.mean(1, True) if slip == "mean" else length.median(1, True).values
    limit = factor * (length.median() if slip == "batch" else middle)
    return length >= limit if slip == "equal" else length > limit


def _outlier_cases(draw: Generator) -> list[Case]:
    def case(name: str, batch: int, patches: int, scale: float) -> Case:
        tokens = randn(batch, patches, 4, generator=draw)
        tokens *= 0.5 + 2 * rand(batch, patches, 1, generator=draw)
        return Case(name, (tokens * scale ** torch.arange(batch)[:, None, None], 1.6))

    hand = tensor([[[3.0, 4.0], [0.0, 5.0], [6.0, 8.0], [0.0, 20.0], [1.0, 0.0]]])
    return [
        Case("five tokens by hand", (hand, 2.0)),
        case("random tokens", 6, 25, 1.5), case("images of other lengths", 4, 19, 3.0),
        Case("tokens of one length", (torch.ones(2, 3, 4), 2.0)),
    ]  # fmt: skip


OUTLIERS = Exercise(
    "02.3", "Tokens that are too long", "Find patch tokens longer than a multiple of the median.",
    1, 10, _outliers, {
        "mean": "the mean is drawn up by the very outliers that it should find: take the median",
        "batch": "the median is taken over the batch: each image has its own",
        "equal": "a token exactly at the limit is not longer than it",
        "squares": "squared lengths turn the factor into its root: compare the lengths",
        "tokens": "a length runs over a token's channels, not over the tokens",
        "sums": "these are sums of absolute values: a length is the root of the sum of squares",
    }, _outlier_cases, lambda tokens, factor: norm_outliers(tokens, factor), ("images", "patches"),
)  # fmt: skip


def _chance(q: float, slip: str = "") -> float:
    n = {"four": 4, "nine": 9}.get(slip, 8)
    none, single = (1 - q) ** n, n * q * (1 - q) ** (n - 1)
    single = single / n if slip == "place" else single
    rate = {"none": none, "single": single}.get(slip, none + single)
    return q * rate if slip == "joint" else rate


CHANCE = Exercise(
    "02.4", "What chance would get", "Give the isolated rate of a map of independent patches.",
    2, 10, _chance, {
        "joint": "the rate is a share of the activated: that the patch is active is given",
        "none": "a patch with one active neighbour is isolated too: its case is missing",
        "four": "a patch has eight neighbours, sides and corners",
        "place": "the one active neighbour can be any of the eight",
        "single": "a patch without any active neighbour is isolated too: its case is missing",
        "nine": "the patch itself is none of its neighbours: eight, not nine",
    }, lambda draw: [Case(f"q = {q:.2g}", (q,)) for q in (
        0.2, 0.0, 1.0, *rand(3, generator=draw).tolist())],
)  # fmt: skip

DISEASE = Exercise(
    "02.5", "Which disease?", "Tell a token's fault from the patches' fault by three numbers.",
    2, 10, "b", {
        "a": "over-smoothed patches would be alike: look at their similarity again",
        "c": "one of the two is ruled out by the probe, which sees the same patches",
        "d": "more than half of what is activated shows nothing of the class: that is not healthy",
        "e": "long tokens are found by their lengths, and no length is among the three numbers",
    },
)  # fmt: skip

EXERCISES = (RATIO, ISOLATED, OUTLIERS, CHANCE, DISEASE)
