"""Whether masks and image labels tell the same story: mask values that mean something else.

A score believes both. Masks saved as 0 and 255, ids in another order and a palette that exchanges
background and object would give a number without a word.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from more_lib.data.tree import THREADS, ImageTree
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.errors import InputError
from more_lib.system.progress import progress_bar

FRAME = 2 / 3  # share of the border that one value takes in a picture that it frames
FEW = 2  # images that may have a class as a crowd alone; fewer contradictions are chance
MANY = 4  # masks; fewer may well leave their background open
NEARLY_ALL = 0.9


class Pair(NamedTuple):
    """What labels and mask say of one image; classes by their numbers 1..C."""

    id: str
    named: frozenset[int]  # classes, by the labels
    values: frozenset[int]  # of the mask: 0, classes, 255
    frame: int  # the class that frames the mask, or 0 as it should be

    @property
    def shown(self) -> frozenset[int]:
        """Classes, by the mask."""
        return self.values - {0, IGNORE_INDEX}

    @property
    def open(self) -> bool:
        """Whether another class than those shown may stand where 255 does."""
        return IGNORE_INDEX in self.values

    def agrees(self, shown: Iterable[int]) -> bool:
        """Whether a mask that shows these classes would tell what the labels do."""
        classes = set(shown)
        return self.named == classes or (self.open and bool(classes) and self.named >= classes)


def read_both(tree: ImageTree, ids: Sequence[str]) -> list[Pair]:
    """What labels and mask say of each of these images; raises what reading them raises."""
    with ThreadPoolExecutor(THREADS) as pool:
        images = pool.map(lambda image_id: _read(tree, image_id), ids)
        return list(progress_bar(images, total=len(ids), description="reading masks"))


def contradictions(tree: ImageTree, split: str, pairs: Sequence[Pair]) -> str:
    """What makes the masks and labels of a split doubtful, as a note of each score, or "".

    pairs: all of the split, as ``read_both`` gives them. Raises ``InputError`` for a class that
    labels name and no mask shows: its score would be none, or of something else. But one that may
    stand under 255 in an image or two, as COCO's crowds do, is a note.
    """
    cause, (hidden, crowds) = _cause(tree, pairs), _hidden(pairs)
    if hidden:
        values = sorted(set().union(*(pair.values for pair in pairs if pair.named & hidden.keys())))
        held = listed([str(tree.mask_value(value)) for value in values])
        held += ", and 255 is not counted" if IGNORE_INDEX in values else ""
        saved = [f"{tree.classes[number - 1]} as {tree.mask_value(number)}" for number in hidden]
        raise InputError(
            f"{tree.mask_path('').parent}: no mask of the split {split!r} shows "
            f"{_counted(tree, hidden)}, which image labels name; they hold {held}"
            f"{cause and f'; {cause}'}; save {listed(saved)}, or leave those images out: --skip-bad"
        )
    extra = sum(bool(pair.shown - pair.named) for pair in pairs)
    lacking = sum(bool(pair.named - pair.shown) for pair in pairs)
    if not cause and _most(sum(not pair.agrees(pair.shown) for pair in pairs), pairs):
        cause = "labels or masks may belong to other files"
        if not extra:
            cause = "masks may be unfinished, or hold objects as 255"
        elif not lacking:
            cause = "the labels may be incomplete"
    notes = []
    if cause:
        notes.append(
            f"masks and image labels may not mean the same ({_images(len(pairs))}: {extra} show a "
            f"class that the labels do not name, {lacking} lack one that they name): {cause}"
        )
    if crowds:
        notes.append(f"where labels name {_counted(tree, crowds)} masks hold 255, not counted")
    return "; ".join(notes)


def not_shown(tree: ImageTree, split: str) -> dict[str, str]:
    """The images of which ``contradictions`` would refuse a class, by id, each with the reason."""
    pairs = read_both(tree, tree.ids(split))
    hidden = _hidden(pairs)[0].keys()
    return {
        pair.id: f"{tree.mask_path(pair.id)} does not show {tree.classes[min(lost) - 1]}, nor does "
        "any other mask"
        for pair in pairs
        if (lost := pair.named & hidden)
    }


def _read(tree: ImageTree, image_id: str) -> Pair:
    mask = tree.mask(image_id)
    values = set(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist())
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    counts = np.bincount(border, minlength=256)[:IGNORE_INDEX]
    frame = int(counts.argmax())
    framed = counts[frame] >= FRAME * counts.sum() and values - {frame, IGNORE_INDEX}
    named = frozenset((np.flatnonzero(tree.labels(image_id)) + 1).tolist())
    return Pair(image_id, named, frozenset(values), frame if framed else 0)


def _hidden(pairs: Sequence[Pair]) -> tuple[dict[int, int], dict[int, int]]:
    """Classes that labels name and no mask shows, with their numbers of images; perhaps crowds."""
    named = Counter(number for pair in pairs for number in pair.named)
    shown = set().union(*(pair.shown for pair in pairs))
    closed = {number for pair in pairs if not pair.open for number in pair.named}
    hidden = {number: named[number] for number in sorted(named.keys() - shown)}
    crowds = {n: count for n, count in hidden.items() if shown and count <= FEW and n not in closed}
    return {n: count for n, count in hidden.items() if n not in crowds}, crowds


def _cause(tree: ImageTree, pairs: Sequence[Pair]) -> str:
    """What mask values stand for instead, if most images say so, or ""."""
    if len(pairs) > MANY and all(pair.open and 0 not in pair.values for pair in pairs):
        return "no mask holds 0, the background, and all hold 255, which is not counted"
    frames = Counter(pair.frame for pair in pairs if pair.frame)
    if _most(frames.total(), pairs):
        value = tree.mask_value(frames.most_common(1)[0][0])
        return (
            f"{frames.total()} masks are framed by another value than 0, mostly {value}, so that "
            "background and object may be exchanged"
        )
    moved = [
        f"{tree.mask_value(mask)} stands where labels say {tree.classes[label - 1]}"
        for mask, label in sorted(_order(pairs, len(tree.classes)).items())
        if mask != label
    ]
    return f"the ids may be in another order: {listed(moved)}" if moved else ""


def _order(pairs: Sequence[Pair], classes: int) -> dict[int, int]:
    """The class that labels name where masks show each, if that agrees far better; else {}."""
    every = range(1, classes + 1)
    named = np.array([[number in pair.named for number in every] for pair in pairs], dtype=float)
    shown = np.array([[number in pair.shown for number in every] for pair in pairs], dtype=float)
    from scipy.optimize import linear_sum_assignment  # slow to import, and seldom needed

    both = shown.T @ named
    either = shown.sum(0)[:, None] + named.sum(0) - both
    matched = zip(*linear_sum_assignment(both / either.clip(1), maximize=True), strict=True)
    meant = {int(mask) + 1: int(label) + 1 for mask, label in matched if both[mask, label]}
    before = sum(pair.agrees(pair.shown) for pair in pairs)
    after = sum(pair.agrees(meant.get(number, 0) for number in pair.shown) for pair in pairs)
    return meant if after >= max(NEARLY_ALL * len(pairs), before + FEW) else {}


def _most(count: int, pairs: Sequence[Pair]) -> bool:
    return count >= FEW and count > len(pairs) / 2


def _counted(tree: ImageTree, classes: Mapping[int, int]) -> str:
    return listed([f"{tree.classes[n - 1]} ({_images(count)})" for n, count in classes.items()])


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"


def listed(items: Sequence[str]) -> str:
    """Some items as text, the first five of many."""
    more = [f"{len(items) - 5} more"] if len(items) > 5 else []
    *first, last = [*items[:5], *more]
    return f"{', '.join(first)} and {last}" if first else last
