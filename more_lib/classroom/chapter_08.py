"""Chapter 8, one's own images: labels from tables and masks, and what they cannot teach."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, rand, randint, randperm, tensor

from more_lib.classroom.exercise import Case, Exercise

NAMES = ["cat", "catfish", "red fox", "dog"]


def _labels(cells: Sequence[str], classes: Sequence[str], slip: str = "") -> Tensor:
    rows = []
    for cell in cells:
        given = [name.strip() for name in cell.split("," if slip == "comma" else ";")]
        given = cell.split(";") if slip == "spaces" else given
        row = [given.count(name) if slip == "count" else int(name in given) for name in classes]
        row = [int(name in cell) for name in classes] if slip == "inside" else row
        rows.append([1 - max(row), *row] if slip == "background" else row)
    labels = tensor(rows, dtype=torch.int64).view(len(cells), -1)
    return labels[labels.sum(1) > 0] if slip == "empty" else labels


def _label_cases(draw: Generator) -> list[Case]:
    order = [[NAMES[i] for i in randperm(4, generator=draw)] for _ in range(3)]
    cells = ["; ".join(names[: i + 1]) for i, names in enumerate(order)]
    return [
        Case("three rows by hand", (["cat;dog", "", " red fox ; cat"], NAMES)),
        Case("random rows", (cells, NAMES)), Case("a name given twice", (["dog;dog;cat"], NAMES)),
        Case("a name within another", (["catfish"], NAMES)),
        Case("one class", (["cat", ""], ["cat"]), "an empty cell is an image of no class"),
    ]  # fmt: skip


TABLE = Exercise(
    "08.1", "From a table to y", "Make label vectors of a table's cells.", 1, 10, _labels, {
        "comma": "names are separated by semicolons: a comma can stand in a name",
        "spaces": "spaces around a name are nothing: strip them",
        "count": "a label says whether, not how often: a name given twice is 1",
        "inside": "a name can stand within another: compare whole names",
        "background": "y has no place for the background: classes only",
        "empty": "an image of no class keeps its row of zeros: it teaches what the classes are not",
    }, _label_cases, axes=("images", "classes"),
)  # fmt: skip


def _shown(mask: Tensor, num_classes: int, slip: str = "") -> Tensor:
    numbers = torch.arange(0 if slip == "background" else 1, num_classes + 1)
    counts = (mask.flatten() == numbers[:, None]).sum(1)
    if slip == "clipped":
        counts = (mask.flatten().clamp(max=num_classes) == numbers[:, None]).sum(1)
    if slip == "largest":
        return (counts == counts.max()).long() * (counts > 0)
    least = mask.numel() / 10 if slip == "small" else 0
    return counts if slip == "count" else (counts > least).long()


def _shown_cases(draw: Generator) -> list[Case]:
    known = tensor([0, 1, 3, 255])[randint(0, 4, (6, 7), generator=draw)]
    known[0, 0], known[0, 1] = 4, 255
    return [
        Case("six pixels by hand", (tensor([[0, 2, 2], [255, 0, 1]]), 3)),
        Case("a random mask", (known, 5)), Case("one class", (tensor([[0, 0], [1, 255]]), 1)),
        Case("nothing but background", (torch.zeros(2, 3).long(), 2)),
        Case("a mask that is all ignored", (torch.full((3, 3), 255), 2), "nothing is known to be"),
    ]  # fmt: skip


MASK = Exercise(
    "08.2", "From a mask to y", "Read the image's labels off its mask.", 1, 5, _shown, {
        "background": "0 is the background, no class: y begins with class 1",
        "clipped": "255 counts as the last class: such pixels show nothing that is known",
        "count": "these are pixels: a label says whether, not how many",
        "largest": "an image has all the classes that it shows, not the largest alone",
        "small": "a few pixels are enough: small things are in the image too",
    }, _shown_cases, axes=("classes",),
)  # fmt: skip


def _never_alone(labels: Tensor, slip: str = "") -> Tensor:
    together = labels.T.double() @ labels.double()
    alone = together.diagonal()[:, None]
    if slip == "together":
        found = together > 0
    else:
        found = together.T == alone.T if slip == "turned" else together == alone
    found = found & found.T if slip == "both" else found
    found = found if slip in ("vacuous", "together") else found & (alone > 0)
    found = found & (alone > 0).T if slip == "turned" else found
    return found if slip == "itself" else found & ~torch.eye(len(found)).bool()


def _alone_cases(draw: Generator) -> list[Case]:
    labels = (rand(8, 4, generator=draw) < 0.5).long()
    labels[:, 1] &= labels[:, 0]  # class 1 comes with class 0 alone
    labels[0], labels[1], labels[2] = tensor([[1, 1, 1, 0], [1, 0, 0, 1], [0, 0, 1, 1]])
    twins = torch.stack([labels[:, 0], labels[:, 2], labels[:, 2], 0 * labels[:, 0]], 1)
    return [
        Case("three images by hand", (tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1]]),)),
        Case("random labels", (labels,)),
        Case("two classes that are one and a third that is nowhere", (twins,)),
        Case("one class", (torch.ones(3, 1).long(),)),
    ]


ALONE = Exercise(
    "08.3", "Never alone", "Find classes that no image shows without a certain other.",
    2, 15, _never_alone, {
        "together": "sometimes together is not always: every image of the one must show the other",
        "turned": "rows and columns are exchanged: row i asks whom class i always comes with",
        "both": "it need not hold both ways: every rider has a horse, not every horse a rider",
        "vacuous": "a class without any image is never alone in words only: leave it out",
        "itself": "that a class comes with itself says nothing: the diagonal is False",
    }, _alone_cases, axes=("classes", "companions"),
)  # fmt: skip


EXERCISES = (TABLE, MASK, ALONE)
