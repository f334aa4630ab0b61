"""Maps against pixel masks: every score with the protocol it was measured by (notebook 06).

One pass over the validation split scores every map under every kind of image labels. A number
without its protocol means nothing: the same network gives another mIoU for each line of it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from more_lib.data import open_tree
from more_lib.data.scan import require_readable
from more_lib.data.transforms import evaluation_transform
from more_lib.data.voc import VocMasks, VocTree
from more_lib.errors import InputError
from more_lib.localization import fuse, multiscale_maps
from more_lib.metrics import Scores, average_precision, confusion_matrix, scores
from more_lib.progress import progress_bar
from more_lib.pseudo_labels import foreground_mask
from more_lib.recipes import Recipe, fingerprint
from more_lib.storage import atomic_file

if TYPE_CHECKING:
    from more_lib.training import Trained

MAP_NAMES = {
    "attention": "attention",  # ViT-LAM: the last block's class-patch scores
    "cam": "CAM",
    "lam": "LAM",
    "fused": "LAM × CAM",
    "decoder": "decoder",  # scores every class at every pixel: no labels, no threshold
}
MAPS = tuple(MAP_NAMES)
LABELS = ("true", "predicted")
PER_CENT = ("miou", "precision", "recall")
Device = torch.device | str | None


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a score was measured.

    labels: "true" takes the classes of an image from its annotation, "predicted" those with a
        positive logit (probability above 0.5), so that **an image in which no class is predicted
        is background altogether**; "none" for the decoder, which asks for neither.
    scales, flip: factors of the input's size, and whether each came with its mirror image. At
        scale 1 an image has its own size, rounded to whole patches; maps go back to the mask's.
    threshold: a pixel is background where no map of a class exceeds it; None for the decoder.
    """

    dataset: str
    split: str
    map: str  # one of MAPS
    labels: str
    scales: tuple[float, ...]
    flip: bool = True
    threshold: float | None
    crf: str = "none"

    def describe(self) -> str:
        """The whole protocol on one line."""
        labels = self.labels.replace("none", "no")
        threshold = "no threshold" if self.threshold is None else f"threshold {self.threshold:g}"
        crf = "no CRF" if self.crf == "none" else f"CRF {self.crf}"
        what = f"{self.dataset} {self.split}, {MAP_NAMES[self.map]}, {labels} image labels"
        return f"{what}, scales {self.views}, {threshold}, {crf}"

    @property
    def views(self) -> str:
        """Scales and mirror images in short."""
        return " ".join(f"{scale:g}" for scale in self.scales) + (" + flip" if self.flip else "")


@dataclass(frozen=True, eq=False)
class Result:
    """What one protocol measured; ``scores`` follows from the confusion matrix.

    matrix: (C + 1, C + 1) int64 pixel counts, true classes in rows, background first.
    classes: the C foreground names. note: what a reader of the number must know, or "".
    """

    protocol: Protocol
    matrix: np.ndarray
    classes: tuple[str, ...]
    note: str = ""

    @cached_property
    def scores(self) -> Scores:
        return scores(self.matrix)

    @property
    def name(self) -> str:
        """Short name for a legend: the map and, if it takes any, whose image labels."""
        name, labels = MAP_NAMES[self.protocol.map], self.protocol.labels
        return name if labels == "none" else f"{name}, {labels} labels"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All results of one pass over a split, and how well the network names what is in an image.

    image_map: mean average precision of the image-level logits, in [0, 1].
    """

    results: tuple[Result, ...]
    image_map: float
    num_images: int

    def result(self, map: str, labels: str = "true") -> Result:
        """The result of one map and kind of labels ("none" for the decoder), or ``InputError``."""
        there = {(result.protocol.map, result.protocol.labels): result for result in self.results}
        if (map, labels) not in there:
            rows = ", ".join(f"{kind} with labels {given}" for kind, given in there)
            raise InputError(f"no result of map {map!r} with labels {labels!r}; there are: {rows}")
        return there[map, labels]

    def to_json(self) -> str:
        """Everything as JSON, each class's scores spelled out; nan and inf become null."""
        results = [
            {
                "protocol": asdict(result.protocol),
                "note": result.note,
                "summary": result.scores.summary(),
                "classes": result.classes,
                "scores": {
                    kind: [_finite(value) for value in getattr(result.scores, kind).tolist()]
                    for kind in ("iou", "precision", "recall", "confusion_ratio")
                },
                "matrix": result.matrix.tolist(),
            }
            for result in self.results
        ]
        head = {"num_images": self.num_images, "image_map": _finite(self.image_map)}
        return json.dumps({**head, "results": results}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        """The inverse of ``to_json``; ``InputError`` for text that it did not write."""
        try:
            content = json.loads(text)
            results = []
            for entry in content["results"]:
                scales = tuple(entry["protocol"].pop("scales"))
                protocol = Protocol(scales=scales, **entry["protocol"])
                matrix = np.array(entry["matrix"], dtype=np.int64)
                results.append(Result(protocol, matrix, tuple(entry["classes"]), entry["note"]))
            image_map = content["image_map"]
            image_map = float("nan") if image_map is None else float(image_map)
            return cls(tuple(results), image_map, int(content["num_images"]))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(f"this is no evaluation in JSON ({error}); evaluate again") from error


def evaluate(
    model: nn.Module,
    recipe: Recipe,
    *,
    tree: VocTree | None = None,
    maps: Sequence[str] = MAPS,
    labels: Sequence[str] = LABELS,
    device: Device = None,
) -> Evaluation:
    """Score every map with every kind of labels on ``recipe.data.val_split``, in one pass.

    Args:
        model: as ``MoRe``; put in evaluation mode for the pass and then back in its own.
        recipe, tree: how, and on what; the data set is the recipe's, if no other is given.
        maps, labels: which of ``MAPS`` and ``LABELS``; the decoder has one row without labels.
        device: where to run, by default where the model is; it returns there.

    Memory hardly grows with the number of images. Raises ``InputError`` for unknown maps or
    labels, unusable data, and images of several sizes in one batch.
    """
    _check_choice("maps", maps, MAPS)
    _check_choice("labels", labels, LABELS)
    protocols = [
        _protocol(recipe, kind, given)
        for kind in maps
        for given in (("none",) if kind == "decoder" else labels)
    ]
    return _score(model, recipe, protocols, tree or open_tree(recipe.data), device)


def sweep_thresholds(
    model: nn.Module,
    recipe: Recipe,
    map: str,
    thresholds: Iterable[float],
    labels: str = "true",
    device: Device = None,
) -> list[Result]:
    """One result for each threshold on one map, from a single pass (notebook 06).

    A threshold chosen by this curve has seen the masks it is judged by. Raises as ``evaluate``
    does, also for the decoder, which takes no threshold.
    """
    _check_choice("map", [map], [kind for kind in MAPS if kind != "decoder"])
    _check_choice("labels", [labels], LABELS)
    protocol = _protocol(recipe, map, labels)
    protocols = [replace(protocol, threshold=float(threshold)) for threshold in thresholds]
    return list(_score(model, recipe, protocols, open_tree(recipe.data), device).results)


def evaluate_or_load(trained: "Trained") -> Evaluation:
    """The evaluation of a trained network: kept in its folder, or made now and kept there.

    The file's name covers the recipe's evaluation section, the split and its data. Runs on a GPU
    where there is one. Raises what ``evaluate`` raises, and ``InputError`` for a damaged file.
    """
    recipe, split = trained.recipe, trained.recipe.data.val_split
    tree = open_tree(recipe.data)
    similarity = recipe.masks.lam_similarity
    key = fingerprint([asdict(recipe.evaluation), similarity, split, tree.fingerprint((split,))])
    path = trained.folder / f"evaluation-{key}.json"
    if path.is_file():
        try:
            return Evaluation.from_json(path.read_text())
        except InputError as error:
            raise InputError(f"{path} is damaged: delete it and evaluate again") from error
    require_readable(tree, split, masks=True)
    gpu = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    evaluation = evaluate(trained.model, recipe, tree=tree, device=gpu)
    with atomic_file(path) as temporary:
        temporary.write_text(evaluation.to_json())
    return evaluation


def rows(evaluation: Evaluation) -> list[dict]:
    """One dictionary a result, protocol and scores together, for reports and ``format_table``.

    Scores are means as in ``Scores.summary``: shares rounded to four decimals (``PER_CENT`` names
    them) and the confusion ratio to two; None where there is no mean.
    """
    return [_row(result, evaluation.num_images) for result in evaluation.results]


def format_table(rows: Sequence[Mapping]) -> str:
    """``rows`` as aligned text: what all share in the first line, the rest below, notes last."""
    if not rows:
        return "no results"
    texts = [{name: _text(name, value) for name, value in row.items()} for row in rows]
    names = [name for name in texts[0] if name != "note"]
    measured = names[names.index("miou") :]
    shared = [name for name in names if name not in measured and len({r[name] for r in texts}) == 1]
    columns = [name for name in names if name not in shared]
    titles = {name: name.replace("_", " ") for name in columns}
    titles |= {name: f"{name.replace('miou', 'mIoU')} %" for name in PER_CENT}
    widths = {name: max(len(row[name]) for row in (*texts, titles)) for name in columns}
    lines = [
        "  ".join(
            row[name].rjust(widths[name]) if name in measured else row[name].ljust(widths[name])
            for name in columns
        )
        for row in (titles, *texts)
    ]
    notes = [f"{row['map']}, labels {row['labels']}: {row['note']}" for row in texts if row["note"]]
    return "\n".join([", ".join(f"{name} {texts[0][name]}" for name in shared), *lines, *notes])


def _protocol(recipe: Recipe, kind: str, labels: str) -> Protocol:
    decoder = kind == "decoder"
    return Protocol(
        dataset=recipe.data.dataset,
        split=recipe.data.val_split,
        map=kind,
        labels=labels,
        scales=(1.0,) if decoder else recipe.evaluation.scales,
        flip=not decoder,
        threshold=None if decoder else recipe.evaluation.threshold,
    )


def _score(
    model: nn.Module, recipe: Recipe, protocols: Sequence[Protocol], tree: VocTree, device: Device
) -> Evaluation:
    """The pass itself: each batch through the network, each protocol's counts added up."""
    loader = DataLoader(
        VocMasks(tree, recipe.data.val_split, evaluation_transform(None)),
        recipe.evaluation.batch_size,
        num_workers=recipe.data.workers,
        collate_fn=_same_size,
    )
    wanted = {protocol.map for protocol in protocols} - {"decoder"}
    num_outputs = len(tree.classes) + 1
    matrices = [torch.zeros(num_outputs, num_outputs, dtype=torch.int64) for _ in protocols]
    logits, truths = [], []
    with _evaluation_mode(model, device) as place, torch.inference_mode():
        for batch in progress_bar(loader, description="evaluation"):
            truth, target = batch["labels"].to(place), batch["mask"].to(place)
            images = _whole_patches(batch["image"].to(place), model.patch_size)
            output = model(images)
            maps = _maps(model, images, recipe, wanted, target.shape[-2:])
            given = {"true": truth, "predicted": (output.class_logits > 0).to(truth.dtype)}
            for matrix, protocol in zip(matrices, protocols, strict=True):
                if protocol.map == "decoder":
                    prediction = _resized(output.seg_logits, target.shape[-2:]).argmax(1)
                else:
                    labels, threshold = given[protocol.labels], protocol.threshold
                    prediction = foreground_mask(maps[protocol.map], labels, threshold)
                matrix += confusion_matrix(prediction, target, num_outputs).cpu()
            logits.append(output.class_logits.cpu())
            truths.append(batch["labels"])
    logits, truths = torch.cat(logits), torch.cat(truths)
    notes = [_note(protocol, recipe, logits) for protocol in protocols]
    triples = zip(protocols, matrices, notes, strict=True)
    results = tuple(Result(p, matrix.numpy(), tree.classes, note) for p, matrix, note in triples)
    return Evaluation(results, float(np.nanmean(average_precision(logits, truths))), len(truths))


def _maps(
    model: nn.Module, images: Tensor, recipe: Recipe, wanted: set[str], size: Sequence[int]
) -> dict[str, Tensor]:
    """The wanted maps by name, each (B, C, H, W) in [0, 1], H and W as in ``size``."""
    if not wanted:
        return {}
    scales, similarity = recipe.evaluation.scales, recipe.masks.lam_similarity
    maps = multiscale_maps(model, images, scales, similarity)._asdict()
    if "fused" in wanted:
        maps["fused"] = fuse(maps["lam"], maps["cam"])
    return {kind: _resized(maps[kind], size) for kind in wanted}


def _whole_patches(images: Tensor, patch: int) -> Tensor:
    """Images resized, if need be, to the multiple of the patch nearest to their size."""
    return _resized(images, [max(int(s / patch + 0.5), 1) * patch for s in images.shape[-2:]])


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def _same_size(items: list[dict]) -> dict:
    """A batch; ``InputError`` when its images differ in size."""
    sizes = {"x".join(map(str, item["mask"].shape)): item["id"] for item in items}
    if len(sizes) > 1:
        two = " and ".join(f"{image_id} is {size}" for size, image_id in list(sizes.items())[:2])
        raise InputError(f"images of one batch differ in size ({two}); set evaluation.batch_size=1")
    return default_collate(items)


@contextmanager
def _evaluation_mode(model: nn.Module, device: Device) -> Iterator[torch.device]:
    """Every module of the model in evaluation mode and on ``device``; afterwards as it was."""
    modes = [(module, module.training) for module in model.modules()]
    home = next(model.parameters()).device
    try:
        yield next(model.eval().to(home if device is None else device).parameters()).device
    finally:
        model.to(home)
        for module, training in modes:
            module.training = training


def _note(protocol: Protocol, recipe: Recipe, logits: Tensor) -> str:
    if protocol.map == "decoder":  # before its loss sets in, it stays at its random start
        starts = recipe.schedule.segmentation if recipe.loss.segmentation else float("inf")
        return "" if starts < recipe.optimizer.iterations else "not trained by this recipe"
    empty = int((logits <= 0).all(1).sum()) if protocol.labels == "predicted" else 0
    return f"images without a predicted class, all background: {empty}" if empty else ""


def _row(result: Result, num_images: int) -> dict:
    summary = result.scores.summary()
    digits = {**dict.fromkeys(PER_CENT, 4), "confusion_ratio": 2}
    hidden = summary["classes_without_hits"]
    left_out = f"classes without hits, not in the confusion ratio: {hidden}" if hidden else ""
    fields = ("map", "labels", "dataset", "split", "scales", "threshold", "crf")
    return {
        **{name: getattr(result.protocol, name) for name in fields},
        "scales": result.protocol.views,
        "images": num_images,
        **{k: None if summary[k] is None else round(summary[k], n) for k, n in digits.items()},
        "note": "; ".join(filter(None, (result.note, left_out))),
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _text(name: str, value: object) -> str:
    if isinstance(value, float):
        return f"{100 * value:.2f}" if name in PER_CENT else f"{value:.2f}"
    return "-" if value is None else str(value)


def _check_choice(name: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    strange = [str(choice) for choice in chosen if choice not in known]
    if strange or not chosen:
        wrong = f"holds {', '.join(strange)}" if strange else "is empty"
        raise InputError(f"{name} {wrong}; choose from {', '.join(known)}")
