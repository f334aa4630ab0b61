"""What an evaluation found: scores with their protocols, as JSON and as a table (notebook 06)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from more_lib.evaluation.metrics import Scores, scores
from more_lib.evaluation.protocols import MAP_NAMES, Protocol
from more_lib.system.errors import InputError

PER_CENT = ("miou", "precision", "recall")


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
