"""What an evaluation found: scores with their protocols, as JSON and as a table (notebook 06)."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from more_lib.evaluation.metrics import Scores, scores
from more_lib.evaluation.protocols import MAP_NAMES, Protocol
from more_lib.system.errors import InputError

PER_CENT = ("image_map", "token_map", "miou", "precision", "recall")
DIGITS = {**dict.fromkeys(PER_CENT, 4), "confusion_ratio": 2}
SETTINGS = ("map", "labels", "dataset", "split", "scales", "threshold", "crf")


@dataclass(frozen=True, eq=False)
class Result:
    """What one protocol measured; ``scores`` follows from the confusion matrix.

    matrix: (C + 1, C + 1) int64 pixel counts, true classes in rows, background first.
    classes: the C foreground names. note: what a reader of the number must know, or "", one thing
    after the other with "; " between. absent: the classes that the data do not have; their scores
    are nan.
    """

    protocol: Protocol
    matrix: np.ndarray
    classes: tuple[str, ...]
    note: str = ""
    absent: tuple[str, ...] = ()

    @cached_property
    def scores(self) -> Scores:
        return scores(self.matrix, [self.classes.index(name) + 1 for name in self.absent])

    @property
    def name(self) -> str:
        """Short name for a legend: the map and, if it takes any, whose image labels."""
        name, labels = MAP_NAMES[self.protocol.map], self.protocol.labels
        return name if labels == "none" else f"{name}, {labels} labels"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All results of one pass over a split, and how well the network names what is in an image.

    image_map: mean average precision of the image-level logits over the classes that an image has,
        in [0, 1]; nan if no image has any.
    token_map: that of the class tokens' logits: LAM of tokens that do not know their class says
        little about attention. None also where the recipe does not train their read-out.
    """

    results: tuple[Result, ...]
    image_map: float
    token_map: float | None
    num_images: int

    def result(self, map: str, labels: str = "true") -> Result:
        """The result of one map and kind of labels ("none" for the decoder), or ``InputError``."""
        known = {(result.protocol.map, result.protocol.labels): result for result in self.results}
        if (map, labels) not in known:
            those = ", ".join(f"{kind} with labels {given}" for kind, given in known)
            raise InputError(f"no result of map {map!r} with labels {labels!r}; there are: {those}")
        return known[map, labels]

    def to_json(self) -> str:
        """Everything as JSON, each class's scores spelled out; nan and inf become null."""
        kinds = ("iou", "precision", "recall", "confusion_ratio")
        results = [
            {
                "protocol": asdict(result.protocol),
                "note": result.note,
                "summary": result.scores.summary(),
                "classes": result.classes,
                "absent": result.absent,
                "scores": {kind: _finite(getattr(result.scores, kind)) for kind in kinds},
                "matrix": result.matrix.tolist(),
            }
            for result in self.results
        ]
        named = {"image_map": _finite(self.image_map), "token_map": self.token_map}
        content = {"num_images": self.num_images, **named, "results": results}
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

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
                classes, absent = tuple(entry["classes"]), tuple(entry["absent"])
                results.append(Result(protocol, matrix, classes, entry["note"], absent))
            image_map = float(np.array(content["image_map"], dtype=float))  # null becomes nan
            token_map = content["token_map"] and float(content["token_map"])
            return cls(tuple(results), image_map, token_map, int(content["num_images"]))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"this is no evaluation in JSON ({error}); evaluate again") from error


def rows(evaluation: Evaluation) -> pd.DataFrame:
    """A row for each result, protocol and scores together, for reports and ``format_table``.

    ``image_map`` and ``token_map`` are the evaluation's, and the same in each of its rows.
    Scores are means as in ``Scores.summary``: shares rounded to four decimals (``PER_CENT`` names
    them) and the confusion ratio to two; None or NaN where there is no mean or no threshold.
    """
    table, named = [], {name: getattr(evaluation, name) for name in ("image_map", "token_map")}
    for result in evaluation.results:
        summary = result.scores.summary()
        hidden = summary["classes_without_hits"]
        left_out = f"classes without hits, not in the confusion ratio: {hidden}" if hidden else ""
        row = {name: getattr(result.protocol, name) for name in SETTINGS}
        row |= {"scales": result.protocol.views, "images": evaluation.num_images}
        means = named | {name: mean for name, mean in summary.items() if name in DIGITS}
        row |= {name: mean and round(mean, DIGITS[name]) for name, mean in means.items()}
        table.append(row | {"note": "; ".join(filter(None, (result.note, left_out)))})
    return pd.DataFrame(table)


def format_table(frame: pd.DataFrame) -> str:
    """``rows`` as aligned text: what all share in the first line, the rest below, notes last.

    Notes that all rows share are said once. Columns before those of ``rows`` stay as they are.
    """
    if frame.empty:
        return "no results"
    texts = frame.apply(lambda column: column.map(partial(_text, column.name)))
    shared = [name for name in texts.loc[:, :"token_map"] if texts[name].nunique() == 1]
    columns = []
    for name, column in texts.drop(columns=[*shared, "note"]).items():
        cells = [_title(str(name)), *column]
        align = str.rjust if name in DIGITS else str.ljust
        columns.append([align(cell, max(len(each) for each in cells)) for cell in cells])
    head = ", ".join(f"{_title(name)} {texts[name].iloc[0]}" for name in shared)
    lines = ["  ".join(cells) for cells in zip(*columns, strict=True)]
    each = [note.split("; ") if note else [] for note in texts["note"]]
    common = [part for part in each[0] if len(each) > 1 and all(part in own for own in each)]
    notes = [f"in every row: {part}" for part in common]
    for (_, row), own in zip(texts.iterrows(), each, strict=True):
        if rest := "; ".join(part for part in own if part not in common):
            notes.append(f"{row['map']}, labels {row['labels']}: {rest}")
    return "\n".join([head, *lines, *notes])


def _finite(values: ArrayLike) -> list[float | None] | float | None:
    return np.where(np.isfinite(values), values, np.array(None)).tolist()


def _title(name: str) -> str:
    title = name.replace("miou", "mIoU").replace("_map", " mAP").replace("_", " ")
    return f"{title} %" if name in PER_CENT else title


def _text(name: str, value: object) -> str:
    if value is None or value != value:  # nan is not equal to itself
        return "–"
    if isinstance(value, float):
        more = name == "threshold" and value != round(value, 2)
        return f"{100 * value:.2f}" if name in PER_CENT else f"{value:{'g' if more else '.2f'}}"
    return str(value)
