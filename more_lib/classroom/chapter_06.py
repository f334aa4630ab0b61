"""Chapter 6, evaluation: from counts to scores, from a number to its protocol, one round of CRF."""

import torch
from torch import Generator, Tensor, rand, randint, randn, tensor

from more_lib.classroom.exercise import Case, Exercise


def _miou(matrix: Tensor, slip: str = "") -> Tensor:
    counts = matrix.double()
    hits, true, claimed = counts.diagonal(), counts.sum(1), counts.sum(0)
    either = true + claimed - (0 if slip == "twice" else hits)
    iou = hits / (claimed if slip == "precision" else either)
    if slip == "pixels":
        return hits.sum() / counts.sum()
    if slip == "sums":
        return hits.sum() / either.sum()
    iou = iou[1:] if slip == "background" else iou
    return iou.nan_to_num(0).mean() if slip == "absent" else iou.nanmean()


def _miou_cases(draw: Generator) -> list[Case]:
    many = randint(0, 50, (5, 5), generator=draw) + torch.diag(randint(9, 99, (5,), generator=draw))
    lacking = many.clone()
    lacking[2], lacking[:, 2] = 0, 0
    claimed = lacking.clone()
    claimed[0, 2] = 7
    return [
        Case("two classes by hand", (tensor([[6, 2], [1, 3]]),)), Case("random counts", (many,)),
        Case("a class that is nowhere", (lacking,), "it has no IoU and enters no mean"),
        Case("a class that is claimed and never there", (claimed,),
             "what it claims is all wrong: its IoU is 0, and it enters the mean"),
        Case("one class", (tensor([[5]]),)),
    ]  # fmt: skip


MIOU = Exercise(
    "06.1", "From counts to mIoU", "Read the mIoU off a confusion matrix.", 1, 10, _miou, {
        "twice": "hits are counted twice in the union: they stand in the row and in the column",
        "background": "background is a class as any other: it enters the mean",
        "absent": "a class that is nowhere counts as 0: it has no IoU and enters no mean",
        "pixels": "this is the share of right pixels, in which large classes rule",
        "sums": "the mean is one of ratios, class by class, not a ratio of sums",
        "precision": "this divides by what was claimed alone: what was missed counts as well",
    }, _miou_cases,
)  # fmt: skip

PROTOCOL = Exercise(
    "06.2", "What does the number mean?", "Name the protocol behind four published numbers.",
    2, 10, "bdca", {
        "dbca": "the two with a CRF are exchanged: which of them takes seven scales?",
        "bdac": "the two of the log are exchanged: LAM with true labels is ahead of the decoder",
        "bcda": "a CRF and several scales lift the decoder: its number is not the log's",
        "cdba": "true labels do not make the best number here: scales and the CRF do more",
        "badc": "one scale without CRF cannot be ahead of what takes several and a CRF",
    },
)  # fmt: skip


def _crf(p: Tensor, kernel: Tensor, weight: float, slip: str = "") -> Tensor:
    z = kernel.sum(1)
    k = {"bare": kernel, "rows": kernel / z[:, None]}.get(slip, kernel / (z[:, None] * z).sqrt())
    k = k - torch.diag(k.diagonal()) if slip == "itself" else k
    message = k @ (p.log() if slip == "logs" else p) * (-weight if slip == "sign" else weight)
    scores = message if slip == "forget" else p.log() + message
    return scores.softmax(0 if slip == "pixels" else 1)


def _crf_cases(draw: Generator) -> list[Case]:
    def kernel(n: int, sigma: float) -> Tensor:
        place = 3 * rand(n, 2, generator=draw)
        return torch.exp(-torch.cdist(place, place).square() / (2 * sigma**2))

    hand = tensor([[0.5, 0.5], [0.9, 0.1]]), torch.ones(2, 2), 2.0
    return [
        Case("two pixels by hand", hand),
        Case("random pixels", (randn(6, 3, generator=draw).softmax(1), kernel(6, 1.0), 3.0)),
        Case("as many pixels as labels", (rand(4, 4, generator=draw), kernel(4, 2), 1.0)),
        Case("one label", (torch.ones(3, 1), kernel(3, 1.0), 4.0)),
        Case("no neighbours", (tensor([[0.2, 0.8], [0.6, 0.4]]), torch.eye(2), 2.0)),
    ]


CRF = Exercise(
    "06.3", "One round of CRF", "Let each pixel listen once to all others.", 2, 15, _crf, {
        "forget": "the pixel's own scores are forgotten: what it hears is added to them",
        "bare": "the kernel is not normalised: a pixel with many neighbours hears too much",
        "rows": "normalised by rows alone: both ends count, by the root of z_i z_j",
        "sign": "the sign is wrong: what like pixels believe speaks for a label",
        "pixels": "labels compete within a pixel, yours compete over the pixels",
        "logs": "pixels tell each other probabilities, not logarithms",
        "itself": "a pixel hears itself as well: j = i counts",
    }, _crf_cases, axes=("pixels", "labels"),
)  # fmt: skip


def _iou(kappa: Tensor, recall: Tensor, slip: str = "") -> Tensor:
    precision = 1 / (1 + kappa)
    wrong = {
        "one": 1 / (1 + kappa + 1 / recall), "dice": 2 / (1 + kappa + 1 / recall),
        "product": precision * recall, "least": torch.minimum(precision, recall),
        "mean": (precision + recall) / 2,
    }  # fmt: skip
    return wrong.get(slip, 1 / (kappa + 1 / recall))


IOU = Exercise(
    "06.4", "IoU without pixels", "Write the IoU of a class from confusion ratio and recall alone.",
    1, 10, _iou, {
        "one": "the hits are counted once too often: 1 / recall holds them already",
        "dice": "this is Dice (F1), which counts the hits twice: IoU is smaller",
        "product": "precision times recall is no ratio of pixels: begin with TP, FP and FN",
        "least": "IoU lies below the smaller of precision and recall unless the other is 1",
        "mean": "a mean of precision and recall never falls to the worse of the two",
    }, lambda draw: [
        Case("TP = 6, FP = 3, FN = 2", (tensor([0.5]), tensor([0.75]))),
        Case("random ratios", (3 * rand(5, generator=draw), 0.1 + 0.9 * rand(5, generator=draw))),
        Case("no false pixel, or all found", (tensor([0.0, 1.0]), tensor([0.4, 1.0]))),
        Case("a class without hits", (tensor([torch.inf]), tensor([0.0])), "its IoU is 0"),
    ], axes=("classes",),
)  # fmt: skip

EXERCISES = (MIOU, PROTOCOL, CRF, IOU)
