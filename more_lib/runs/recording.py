"""What a notebook measured, kept where the run's report finds it.

Metrics are what the same code, data and seed give again on the same machine, to the last digit.
Costs are what they do not: times, throughput, memory. The two stay apart, so that ``metrics.json``
of two runs can be compared byte by byte.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from more_lib.system.errors import InputError
from more_lib.system.files import write_json

TRAINING_AHEAD = "training_ahead"  # what precedes the notebooks, beside them in costs.json
Values = Mapping | Sequence | pd.DataFrame


def record_metrics(out_dir: str | Path, name: str, metrics: Values) -> None:
    """Keep a notebook's numbers for the report, as ``<out_dir>/metrics/<name>.json``.

    Args:
        out_dir: the notebook's parameter of that name; "" (reading, not reproducing) keeps nothing.
        name: a file name without its ending. ``verdicts`` has a form of its own: rows of text with
            the columns of ``paper.claims.VERDICT_COLUMNS``; the report begins with them.
        metrics: a mapping, or rows (a list of mappings, or a data frame, whose index is dropped) to
            be shown as a table. Arrays, tensors and tuples become lists; nan, inf and what is
            missing become null. Nothing that was timed: see ``record_costs``.

    Raises ``InputError`` for another kind of value or name, and when nothing can be written there.
    """
    _record(out_dir, "metrics", name, metrics)


def record_costs(out_dir: str | Path, name: str, costs: Values) -> None:
    """Keep measured times, throughput and memory, as ``<out_dir>/costs/<name>.json``.

    Arguments and errors are those of ``record_metrics``.
    """
    _record(out_dir, "costs", name, costs)


def collected(folder: Path, kind: str, parts: Sequence[str]) -> dict[str, dict]:
    """{part: {name: value}} of all that was recorded in a run's folder, in the order of ``parts``.

    kind: ``metrics`` or ``costs``. parts: the notebooks' names, which are their folders'.
    """
    return {
        part: {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
        for part in parts
        if (files := sorted((folder / part / kind).glob("*.json")))
    }


def _record(out_dir: str | Path, kind: str, name: str, values: object) -> None:
    if not str(out_dir):
        return
    if not name or Path(name).name != name:
        raise InputError(f"{kind} name {name!r} must be a plain file name, as results")
    rows = values if isinstance(values, (list, tuple)) else [values]
    if not all(isinstance(row, Mapping) for row in rows) and not isinstance(values, pd.DataFrame):
        given = type(values).__name__
        raise InputError(f"{kind} {name} are a {given}; give a mapping or a list of mappings")
    write_json(_plain(values, f"{kind} {name}"), Path(out_dir) / kind / f"{name}.json")


def _plain(value: object, name: str) -> object:
    """``value`` in JSON's own types; ``name`` says where it is, should it not fit."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, pd.DataFrame):  # as objects, so that whole numbers stay whole
        rows = value.astype(object).where(value.notna(), None)
        return _plain(rows.to_dict("records"), name)
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return _plain(value.tolist(), name)
    raise InputError(f"{name} is a {type(value).__name__}; give numbers, text, lists or mappings")
