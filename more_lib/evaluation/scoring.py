"""Masks against pixel masks: every score with the protocol it was measured by (notebook 06)."""

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import chain
from math import isnan
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from more_lib.data import open_tree
from more_lib.data.agreement import contradictions, listed, read_both
from more_lib.data.tree import ImageTree
from more_lib.evaluation.elsewhere import absent_classes
from more_lib.evaluation.masks import Batch, SplitImages, drawn_maps, evaluation_mode, segment
from more_lib.evaluation.metrics import average_precision, confusion_matrix, mean_of_finite
from more_lib.evaluation.protocols import LABELS, MAPS, Protocol, check_protocols, table_protocols
from more_lib.evaluation.results import Evaluation, Result
from more_lib.method.model import MoRe
from more_lib.recipes.loading import fingerprint
from more_lib.recipes.schema import Recipe
from more_lib.system.devices import best_device, say
from more_lib.system.errors import InputError
from more_lib.system.files import atomic_file
from more_lib.system.locks import exclusive
from more_lib.system.processes import Shards
from more_lib.system.progress import progress_bar
from more_lib.training.cache import Trained

SCORING_VERSION = 5  # since then with token mAP, which older files and notes lack
"""Part of the key of every kept evaluation: raise it when the same protocol gives other numbers."""

SAVE_EVERY = 100  # images between two notes of how far a pass has got
Device: TypeAlias = torch.device | str | None


def evaluate(
    model: MoRe,
    recipe: Recipe,
    *,
    tree: ImageTree | None = None,
    maps: Sequence[str] = MAPS,
    labels: Sequence[str] = LABELS,
    device: Device = None,
) -> Evaluation:
    """Score every map with every kind of labels on ``recipe.data.val_split``, in one pass.

    maps, labels: which of ``MAPS`` and ``LABELS``; the decoder has one row without labels. All else
    is as for ``score``. Raises ``InputError`` as that does, and for unknown maps or labels.
    """
    return score(model, recipe, table_protocols(recipe, maps, labels), tree=tree, device=device)


def evaluate_or_load(trained: Trained) -> Evaluation:
    """``evaluate`` of all that a trained network draws: kept in its folder, or made now and kept.

    The file's name covers the protocols, the data, masks included, and ``SCORING_VERSION``. Runs
    on a GPU where there is one. A pass that was killed goes on where it last noted its counts.
    Raises what ``evaluate`` raises, and ``InputError`` for a damaged file.
    """
    maps = drawn_maps(trained.recipe)
    return _kept_or_scored(trained, [table_protocols(trained.recipe, maps)])[0]


def evaluate_protocols(trained: Trained, protocols: Sequence[Protocol]) -> list[Evaluation]:
    """One evaluation for each protocol, with a single result, kept like ``evaluate_or_load``'s.

    Protocols of one split, size and precision share a pass. Raises what ``score`` raises.
    """
    return _kept_or_scored(trained, [[protocol] for protocol in protocols])


def score(
    model: MoRe,
    recipe: Recipe,
    protocols: Sequence[Protocol],
    *,
    tree: ImageTree | None = None,
    device: Device = None,
    notes: Path | None = None,
) -> Evaluation:
    """Score protocols of one ``place``, in one pass over its images; no mask stays in memory.

    Under `accelerate launch` or `torchrun` every process must call this; each takes every n-th
    image and gets the whole result, the same to the last pixel as from one process.

    model: put in evaluation mode for the pass and then back in its own.
    recipe, tree: how, and on what; the data set is the recipe's, if no other is given.
    device: where to run, by default where the model is; it returns there.
    notes: a file name beside which every process notes its counts; a pass that was killed, by as
        many processes, goes on from there. It must tell apart what counts otherwise. Who keeps the
        result removes them.

    Raises ``InputError`` for protocols that say no mask or not one ``place``, a split without
    masks, unusable data, a class that image labels name and no mask shows, and images of several
    sizes in one batch. Masks that contradict the labels otherwise are a warning, and in each
    result's note.
    """
    tree, split = tree or open_tree(recipe.data), _shared_split(protocols)
    check_masks(tree, split)
    shards = Shards()
    mine = shards.of(tree.ids(split))
    doubt = contradictions(tree, split, list(chain(*shards.gather(read_both(tree, mine)))))
    if doubt:
        say(f"warning: {doubt}")
    note = notes and notes.with_name(f"{notes.name}.{shards.index}-of-{shards.count}.npz")
    tally = Tally.begin(len(protocols), len(mine), len(tree.classes), note)
    images = SplitImages(tree, mine[tally.counted :], labels=True, masks=True)
    bar = progress_bar(total=len(mine), description="evaluation", shown=shards.is_main)
    with evaluation_mode(model, device) as place, bar:
        bar.update(tally.counted)
        with closing(segment(model, recipe, protocols, images, place)) as batches:
            for batch in batches:
                tally.add(batch)
                bar.update(len(batch.ids))
                if note and tally.counted % SAVE_EVERY < len(batch.ids):
                    tally.save(note)
    whole = Tally.of_all(shards.gather(tally))
    drawn = whole.matrices[0].any(1)
    absent = tuple(n for n in absent_classes(tree) if not drawn[tree.classes.index(n) + 1])
    on_data = [doubt] if doubt else []
    if absent:
        on_data.append(f"classes that the data do not have, in no mean: {listed(absent)}")
    results = tuple(
        Result(p, matrix, tree.classes, "; ".join([*on_data, *_notes(p, recipe, whole)]), absent)
        for p, matrix in zip(protocols, whole.matrices, strict=True)
    )
    image_map, token_map = mean_of_finite(average_precision(whole.logits, whole.labels)), None
    if recipe.loss.token_classification and not isnan(image_map):  # nan: no image has a class
        token_map = mean_of_finite(average_precision(whole.token_logits, whole.labels))
    return Evaluation(results, image_map, token_map, whole.counted)


@dataclass
class Tally:
    """Counts of P protocols over C classes: they add up over images and survive a kill.

    matrices: (P, C + 1, C + 1) int64 pixel counts, true classes in rows. logits, token_logits,
    labels: (N, C) float32, of all images that there will be; of the first ``counted`` they are
    known. Many small arrays would scatter over the memory. num_exact: images whose dense CRF was
    summed exactly.
    """

    matrices: np.ndarray
    logits: np.ndarray
    token_logits: np.ndarray
    labels: np.ndarray
    counted: int = 0
    num_exact: int = 0

    @classmethod
    def begin(
        cls, num_protocols: int, num_images: int, num_classes: int, note: Path | None = None
    ) -> "Tally":
        """Nothing counted, or what the file ``note`` holds; ``InputError`` if that is damaged."""
        matrices = np.zeros((num_protocols, num_classes + 1, num_classes + 1), np.int64)
        rows = np.zeros((3, num_images, num_classes), np.float32)
        tally = cls(matrices, *rows)
        if note is None or not note.is_file():
            return tally
        try:
            with np.load(note) as kept:  # refuses pickles
                tally.counted, tally.num_exact = len(kept["logits"]), int(kept["num_exact"])
                tally.matrices[:] = kept["matrices"]
                for name in ("logits", "token_logits", "labels"):
                    getattr(tally, name)[: tally.counted] = kept[name]
        except Exception as error:  # of broken bytes numpy and zipfile make what they like
            raise InputError(f"{note} is damaged ({error}): delete it, and begin anew") from error
        return tally

    @classmethod
    def of_all(cls, parts: Sequence["Tally"]) -> "Tally":
        """What several processes counted, together."""
        return cls(
            np.sum([part.matrices for part in parts], axis=0),
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.token_logits for part in parts]),
            np.concatenate([part.labels for part in parts]),
            sum(part.counted for part in parts),
            sum(part.num_exact for part in parts),
        )

    def add(self, batch: Batch) -> None:
        """Count a batch that was read with labels and masks."""
        assert batch.labels is not None and batch.masks is not None
        target = batch.masks.to(batch.predictions.device)
        for matrix, prediction in zip(self.matrices, batch.predictions, strict=True):
            matrix += confusion_matrix(prediction, target, len(matrix)).cpu().numpy()
        rows = slice(self.counted, self.counted + len(batch.ids))
        self.logits[rows], self.labels[rows] = batch.logits.float(), batch.labels
        self.token_logits[rows] = batch.token_logits.float()
        self.counted += len(batch.ids)
        self.num_exact += batch.exact * len(batch.ids)

    def save(self, note: Path) -> None:
        """Write down what is counted so far."""
        with atomic_file(note) as temporary:
            np.savez(
                temporary,
                matrices=self.matrices,
                logits=self.logits[: self.counted],
                token_logits=self.token_logits[: self.counted],
                labels=self.labels[: self.counted],
                num_exact=self.num_exact,
            )


def check_masks(tree: ImageTree, split: str) -> None:
    """Raise ``InputError`` unless every image of the split has a mask."""
    ids = tree.ids(split)
    missing = [image_id for image_id in ids if not tree.mask_path(image_id).is_file()]
    if len(missing) == len(ids):
        raise InputError(
            f"the split {split!r} of {tree.root} has no pixel masks, and a score needs them: "
            "choose another split, or write masks instead, for VOC's test server by `evaluate "
            "--protocol NAME --export FILE`, else by `predict`"
        )
    if missing:
        more = f" (and {len(missing) - 1} more masks)" if len(missing) > 1 else ""
        cure = "restore it, or take its id out of the split"
        raise InputError(f"{tree.mask_path(missing[0])} is missing{more}: {cure}")


def _kept_or_scored(trained: Trained, wanted: Sequence[Sequence[Protocol]]) -> list[Evaluation]:
    """An evaluation for each list of protocols, which share a split; what is missing is scored."""
    recipe, tree, shards = trained.recipe, open_tree(trained.recipe.data), Shards()
    data = {}  # what scores depend on of each split: what a training does, masks, classes left out
    for split in dict.fromkeys(_shared_split(protocols) for protocols in wanted):
        check_masks(tree, split)
        data[split] = tree.fingerprint((split,), masks=True), *absent_classes(tree)

    def place(protocols: Sequence[Protocol]) -> Path:
        described = [protocol.key for protocol in protocols]
        rest = [SCORING_VERSION, recipe.masks.lam_similarity, *data[protocols[0].split]]
        if any(p.refinement != "none" for p in protocols) and "released" in trained.record:
            rest += map(str, (recipe.masks.dilations, recipe.masks.refinements))
        return trained.folder / f"evaluation-{fingerprint([described, *rest])}.json"

    def missing() -> list[Sequence[Protocol]]:
        """What is not kept yet, as the first process sees it."""
        return shards.gather([each for each in wanted if not place(each).is_file()])[0]

    if missing():
        with exclusive(trained.folder / ".scoring.lock", f"scores {trained.folder.name}", shards):
            _score_and_keep(trained, tree, missing(), place)
    elif shards.is_main:  # who kept it may have been killed before it tidied up
        for lists in _by_pass(wanted):
            _forget_notes(place(_together(lists)))
    return [_load(place(protocols)) for protocols in wanted]


def _score_and_keep(
    trained: Trained,
    tree: ImageTree,
    missing: Sequence[Sequence[Protocol]],
    place: Callable[[Sequence[Protocol]], Path],
) -> None:
    """Score each list of protocols and keep it at its place; those of a split and size together."""
    shards = Shards()
    for lists in _by_pass(missing):
        together = _together(lists)
        tree.require_readable(together[0].split, masks=True)
        where = {"tree": tree, "device": best_device(), "notes": place(together)}
        scored = score(trained.model, trained.recipe, together, **where)
        results = dict(zip(together, scored.results, strict=True))
        for protocols in lists if shards.is_main else ():
            kept = replace(scored, results=tuple(results[protocol] for protocol in protocols))
            with atomic_file(place(protocols)) as temporary:
                temporary.write_text(kept.to_json())
        if shards.is_main:
            _forget_notes(place(together))
        shards.gather(None)  # nobody may look for the files before they are there


def _by_pass(wanted: Sequence[Sequence[Protocol]]) -> list[list[Sequence[Protocol]]]:
    """The lists of protocols, those of one split and size together."""
    passes: dict[str, list[Sequence[Protocol]]] = {}
    for protocols in wanted:
        passes.setdefault(protocols[0].place, []).append(protocols)
    return list(passes.values())


def _together(lists: Sequence[Sequence[Protocol]]) -> list[Protocol]:
    return list(dict.fromkeys(chain(*lists)))


def _forget_notes(file: Path) -> None:
    for note in file.parent.glob(f"{file.name}.*"):
        with suppress(OSError):
            note.unlink()


def _load(path: Path) -> Evaluation:
    try:
        return Evaluation.from_json(path.read_text())
    except InputError as error:
        raise InputError(f"{path} is damaged: delete it and evaluate again") from error


def _shared_split(protocols: Sequence[Protocol]) -> str:
    check_protocols(protocols)
    places = {protocol.place for protocol in protocols}
    if len(places) != 1:
        these = ", ".join(sorted(places)) or "none"
        raise InputError(
            f"protocols of one pass share split, size and precision, these have: {these}"
        )
    return protocols[0].split


def _notes(protocol: Protocol, recipe: Recipe, tally: Tally) -> list[str]:
    """What a reader of the number must know."""
    notes = []
    trains = recipe.loss.segmentation and recipe.schedule.segmentation < recipe.optimizer.iterations
    if protocol.map == "decoder" and not trains:  # it is still at its random start
        notes.append("not trained by this recipe")
    notes += [f"of student {protocol.student}"] * (protocol.student > 1)
    notes += ["maps refined by PAR"] * (protocol.refinement == "par")
    empty = int((tally.logits <= 0).all(1).sum())
    if protocol.labels == "predicted" and empty:
        become = "labelled by the decoder" if protocol.size else "all background"
        notes.append(f"images without a predicted class, {become}: {empty}")
    if protocol.crf != "none":
        lattice = tally.counted - tally.num_exact
        ways = {"exact sums": tally.num_exact, "pydensecrf2's lattice": lattice}
        used = [f"{way} ({count} images)" for way, count in ways.items() if count]
        notes.append(f"CRF by {', '.join(used)}")
    return notes
