"""Chapter 10, the rivals: ToCo's crops and contrast, DuPL's two students, MCTformer+'s seed."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, rand, randn, tensor

from more_lib.classroom.exercise import Case, Exercise
from more_lib.method.dupl import discrepancy_loss
from more_lib.method.mctformer import fused_maps, rank_pooling, spread
from more_lib.method.toco import class_token_contrast_loss


def _crops(
    maps: Tensor, labels: Tensor, corners: Tensor, size: int, high: float, low: float,
    slip: str = "",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    seen = maps if slip == "absent" else maps * labels[:, None, None]
    most = seen.sum(0) if slip == "sum" else seen.amax(0)
    strict = slip == "equal"
    roi = (most >= low if strict else most > low).long() + (most > high if strict else most >= high)
    roi = torch.where(roi > 0, 3 - roi, 0) if slip == "order" else roi
    counted = {"share": roi > 0, "unsure": roi == 1, "sure": roi == 2}.get(slip, roi)
    places = (corners.flip(1) if slip == "turned" else corners).tolist()
    cut = [counted[row : row + size, column : column + size] for row, column in places]
    middle = size // 2, size // 2
    told = [square[middle] if slip == "centre" else square.float().mean() for square in cut]
    return roi, torch.stack(told) > (0.5 if slip == "half" else 0.2)


def _crop_cases(draw: Generator) -> list[Case]:
    hand = torch.zeros(3, 5, 5)
    hand[0, 0, :2], hand[1, 0, 4], hand[2] = tensor([0.75, 0.25]), 0.5, 0.9
    maps = rand(4, 8, 8, generator=draw) ** 2 * torch.linspace(0, 1, 8)
    every = tensor(list(product(range(5), range(5))))
    present, limits = tensor([1, 0, 1, 0]), (0.75, 0.25)
    return [
        Case("two crops by hand", (hand, tensor([1, 1, 0]), tensor([[0, 0], [0, 2]]), 3, *limits)),
        Case("random maps", (maps, present, every, 4, 0.7, 0.25)),
        Case("one class", (maps[:1], present[:1], every, 3, 0.5, 0.2)),
        Case("an image without a class", (maps, 0 * present, every, 4, 0.7, 0.25),
             "all is background, no crop is positive"),
        Case("maps that are nowhere sure", (maps / 2, present, every, 4, 0.7, 0.1)),
        Case("a map that is sure everywhere", (maps[:1] * 0 + 1, present[:1], every, 4, 0.7, 0.25)),
    ]  # fmt: skip


CROPS = Exercise(
    "10.1", "Where ToCo looks again", "Make the ROI, and say which crops are positive.",
    1, 15, _crops, {
        "absent": "absent classes take part: only maps of the image's own labels count",
        "sum": "maps of several classes are added: what counts at a pixel is the largest",
        "equal": "a value that equals a threshold is not uncertain: both comparisons include it",
        "order": "1 and 2 are exchanged: what is sure counts more",
        "share": "a sure pixel counts twice: take the mean of the ROI, not the share above 0",
        "unsure": "sure pixels count for a crop, too, and not only the uncertain ones",
        "sure": "uncertain pixels count for a crop, too, and not only the sure ones",
        "centre": "this judges a crop by its middle pixel: all of its pixels are asked",
        "half": "a crop need not be half full to be positive: look at the limit again",
        "turned": "a corner is (row, column), yours (column, row)",
    }, _crop_cases,
)  # fmt: skip


def _contrast(z: Tensor, t: Tensor, positive: Tensor, tau: float, slip: str = "") -> Tensor:
    t = t if slip == "learns" else t.detach()
    if slip == "cosine":
        z, t = F.normalize(z, dim=1), F.normalize(t, dim=1)
    e = (t @ z.T / (1 if slip == "tau" else tau)).exp()
    negative = e.masked_fill(positive, 0).sum(1, True)
    pull = (1 + negative / e).log() if slip != "all" else (e.sum(1, True) / e).log()
    counted = positive.expand(2, -1) & ~torch.eye(2, len(z), dtype=torch.bool)
    pull = pull.where(counted if slip == "self" else positive, 0).sum()
    number = positive.sum()
    push = (1 + negative).log().sum() * {"plain": 0, "each": number}.get(slip, 1)
    return (pull + push) / {"views": 2 * len(z), "one": number}.get(slip, 2 * number)


def _contrast_cases(draw: Generator) -> list[Case]:
    hand = tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    z, t = (2 * F.normalize(rand(n, 5, generator=draw)) for n in (7, 2))
    flags = tensor([1, 1, 1, 0, 0, 1, 0]).bool()
    return [
        Case("four views by hand", (hand, hand[:2], flags[:4], 1.0)),
        Case("random views", (z, t, flags, 0.5)),
        Case("a large temperature", (z, t, flags, 3.0)),
        Case("no positive crop", (z[[0, 1, 3, 4]], t, flags[[0, 1, 3, 4]], 1.0)),
        Case("no negative crop", (z[:3], t, flags[:3], 0.5),
             "there is nothing to beat and nothing to repel, and the loss is 0"),
    ]  # fmt: skip


def _contrast_release(z: Tensor, t: Tensor, positive: Tensor, tau: float) -> Tensor:
    return class_token_contrast_loss(z[:, None], t[:, None], positive[None], tau)


CONTRAST = Exercise(
    "10.2", "One image, many views", "Write ToCo's contrast of class tokens for one image.",
    2, 20, _contrast, {
        "all": "positives do not compete with each other: below stand one positive and negatives",
        "plain": "the second term is missing: negatives are repelled, too, when they have lost",
        "each": "the repulsion stands once for each global view, not once for each positive",
        "learns": "a gradient reaches t: the teacher is followed, it does not learn",
        "tau": "the temperature is missing",
        "cosine": "these are cosines: dot products are compared, views keep their lengths",
        "self": "a global view counts as a positive beside its own teacher as well",
        "views": "the sum is divided by the number of all views: only positives count",
        "one": "the sum runs over two global views: it is divided by 2 as well",
    }, _contrast_cases, _contrast_release, gradient=True,
)  # fmt: skip


def _apart(f1: Tensor, f2: Tensor, slip: str = "") -> Tensor:
    pairs = {"attached": ((f1, f2), (f2, f1)), "one": ((f1.detach(), f2),) * 2}
    if slip == "whole":
        f1, f2 = f1.flatten()[None], f2.flatten()[None]
    pairs = pairs.get(slip, ((f1.detach(), f2), (f2.detach(), f1)))
    axis = 0 if slip == "channels" else 1
    if slip == "dot":
        halves = [(a * b).sum(axis).mean() for a, b in pairs]
    else:
        cosines = [F.cosine_similarity(a, b, axis, 1e-6) for a, b in pairs]
        halves = [(each.abs() if slip == "absolute" else each).mean() for each in cosines]
    total = -sum(halves) if slip == "sign" else sum(halves)
    total = total + (0 if slip == "bare" else 2)
    return total / 2 if slip == "average" else total


def _apart_cases(draw: Generator) -> list[Case]:
    hand = tensor([[3.0, 4.0], [1.0, 0.0]]), tensor([[4.0, 3.0], [0.6, 0.8]])
    wide = randn(2, 4, 7, generator=draw)
    square = randn(2, 5, 5, generator=draw)
    return [
        Case("two channels by hand", hand),
        Case("random features", tuple(wide)),
        Case("as many channels as patches", tuple(square)),
        Case("students that are alike", (wide[0], wide[0].clone())),
        Case("students that are opposite", (wide[0], -2 * wide[0]), "the loss is 0 there"),
        Case("one channel", (wide[0, :1], wide[1, :1])),
    ]


APART = Exercise(
    "10.3", "Two students, kept apart", "Write DuPL's discrepancy, and see who learns.",
    2, 15, _apart, {
        "channels": "the cosine runs along the patches of a channel, yours along the channels",
        "whole": "this is one cosine of all numbers: each channel has its own, then comes the mean",
        "attached": "nothing is detached: each half moves one student, and the other holds still",
        "one": "one student never learns: in the second half the roles change",
        "sign": "this draws the students together: the loss is large where they are alike",
        "bare": "each cosine gets 1 added: students that are opposite cost 0",
        "average": "the two halves are added, not averaged",
        "absolute": "the cosine keeps its sign: opposite is farther apart than orthogonal",
        "dot": "these are dot products: long channels would count more",
    }, _apart_cases, lambda *given: discrepancy_loss(*(f[None, :, None] for f in given)),
    gradient=True,
)  # fmt: skip

LEVEL = Exercise(
    "10.4", "The threshold of an image", "Find how sure CAM must be of an image, late in training.",
    1, 10, 0.625, {
        0.5875: "this is the cat's: an image takes the largest threshold of its classes",
        0.60625: "thresholds are not averaged: an image takes the largest of its classes",
        0.7: "the aeroplane is not in the image, and what is absent has no say",
        0.611698: "t is counted from the iteration at which the decoder begins",
        0.633333: "the threshold falls along half a cosine, not along a line",
        0.675: "this is as far from the end as it should be from the start: mind the cosine's sign",
        0.55: "the fraction goes from 0 to 1: a half is missing",
        0.6: "this is where the boat's threshold ends: at T, and t is smaller",
    },
)  # fmt: skip


def _seeds(
    attention: Tensor, cam: Tensor, affinity: Tensor, decay: float, slip: str = ""
) -> tuple[Tensor, Tensor]:
    scores = cam.relu() if slip == "positive" else cam
    scores = scores if slip == "places" else scores.sort(1, descending=slip != "up").values
    weights = decay ** torch.arange(cam.shape[1])
    logits = (scores * weights).sum(1) / (1 if slip == "bare" else weights.sum())
    looks = {"blocks": attention.sum(0), "last": attention[-1]}.get(slip, attention.mean(0))
    claims = {"signed": cam, "size": cam.abs()}.get(slip, cam.relu())
    fused = (looks + claims) / 2 if slip == "mean" else looks * claims
    fused = fused if slip in ("mean", "square") else fused.sqrt()
    rows = affinity / affinity.sum(1, keepdim=True) if slip == "rows" else affinity
    gathers = {"turned": rows, "alone": torch.eye(len(rows)).to(rows)}.get(slip, rows.T)
    return logits, fused @ gathers


def _seeds_release(
    attention: Tensor, cam: Tensor, affinity: Tensor, decay: float
) -> tuple[Tensor, Tensor]:
    fused = fused_maps(attention[:, None, :, None], cam[None, :, None], len(attention))
    return rank_pooling(cam[None], decay)[0], spread(fused, affinity[None])[0, :, 0]


def _seed_cases(draw: Generator) -> list[Case]:
    hand = tensor([[[0.3, 0.2, 0.4]], [[0.5, 0.0, 0.4]]]), tensor([[0.9, 0.4, -1.0]])
    looks = tensor([[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 2.0]])

    def case(name: str, blocks: int, classes: int, patches: int, decay: float) -> Case:
        attention = randn(blocks, classes, patches, generator=draw).softmax(2)
        affinity = randn(blocks, patches, patches, generator=draw).softmax(2).sum(0)
        return Case(name, (attention, randn(classes, patches, generator=draw), affinity, decay))

    unseen = case("", 2, 3, 5, 0.9).args
    return [
        Case("three patches by hand", (*hand, looks, 0.5)), case("random maps", 3, 4, 7, 0.9),
        case("as many classes as patches", 2, 5, 5, 0.7), case("a decay of 1", 2, 3, 6, 1.0),
        case("one block", 1, 3, 6, 0.8),
        Case("CAMs that claim nothing", (unseen[0], -unseen[1].abs(), *unseen[2:]),
             "the seeds are 0 there, and the logits negative"),
    ]  # fmt: skip


SEEDS = Exercise(
    "10.5", "A logit and a seed", "Pool patch scores by rank, and make MCTformer+'s seeds.",
    2, 20, _seeds, {
        "up": "the sorting goes up: rank 1, with the largest weight, is the largest score",
        "places": "weights go by rank, not by place: sort each class's scores first",
        "bare": "the weights' sum is missing below: equal scores must pool to that score",
        "positive": "the pooling takes scores with their signs: ReLU is for the map alone",
        "signed": "where CAM is negative the root has no value: the positive part alone counts",
        "size": "what CAM denies is 0: taking its size makes a no into a yes",
        "blocks": "attention is averaged over the blocks, not added",
        "last": "all blocks are asked where a token looks, not the last alone",
        "square": "the root is missing: the map is the geometric mean of both",
        "mean": "this is the arithmetic mean: it claims where one of the two is large",
        "turned": "rows of the affinity are who looks, and gathers: yours gathers by its columns",
        "rows": "the affinity's rows stay as they are: nothing is normalised",
        "alone": "the map is not spread: each patch gathers from those that it looks at",
    }, _seed_cases, _seeds_release,
)  # fmt: skip

EXERCISES = (CROPS, CONTRAST, APART, LEVEL, SEEDS)
