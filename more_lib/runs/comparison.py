"""``comparison.html``: several runs side by side, what differs and nothing else repeated.

Runs are called A, B, C in the order given; differences are to A.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain, combinations
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple
from urllib.parse import quote

import pandas as pd

from more_lib.paper.frames import cell_text, is_fraction, is_number, label
from more_lib.runs.pages import write_page
from more_lib.runs.reading import Run, load_run
from more_lib.system.errors import InputError

MAX_RUNS = len(ascii_uppercase)
NOT_JUDGED = {"verdict": "not judged", "ours": ""}


class Row(NamedTuple):
    """What each run has at one place, as text; ``changes`` are differences of numbers to A."""

    name: str
    values: list[str]
    changes: list[str]


def write_comparison(folders: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """A page that sets two runs or more side by side; returns its path.

    folders: as for ``load_run``; differences are to the first. output: the page, by default
    ``comparison.html`` in the folder of the run that began last. Raises ``InputError`` for fewer
    than two runs, one given twice, and whatever ``load_run`` finds.
    """
    places = [Path(folder).resolve() for folder in folders]
    if not 2 <= len(folders) <= MAX_RUNS:
        raise InputError(f"a comparison takes two to {MAX_RUNS} runs, not {len(folders)}")
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise InputError(f"run {twice} is given twice: compare it with another")
    runs = [load_run(folder) for folder in folders]
    newest = max(runs, key=lambda run: run.manifest["started"]).folder
    path = Path(output or newest / "comparison.html")
    return write_page(
        "comparison.html",
        path,
        names=ascii_uppercase[: len(runs)],
        runs=[(run.folder.resolve().name, run.manifest, _report_link(run, path)) for run in runs],
        agreement=[agreement(runs, *pair) for pair in combinations(range(len(runs)), 2)],
        provenance=provenance(runs),
        verdicts=verdicts(runs),
        metrics=metrics(runs),
    )


def provenance(runs: Sequence[Run]) -> list[Row]:
    """What is not the same in all runs of what they rest on: code, data, versions, recipe."""
    apart = ("notebooks", "resumed", "status", "seconds")
    bases = [{k: v for k, v in run.manifest.items() if k not in apart} for run in runs]
    for base, run in zip(bases, runs, strict=True):  # their other parameters are the recipe's
        base["notebook"] = {
            each["name"]: {
                "source_sha256": each.get("source_sha256"),
                "full": each.get("parameters", {}).get("full", False),
            }
            for each in run.manifest["notebooks"]
        }
    return [Row(name, _texts(values), []) for name, values in _differing(bases, missing=None)]


def verdicts(runs: Sequence[Run]) -> dict[str, list[tuple[str, str]]]:
    """For each claim, each run's verdict and value; "not judged" where a run lacks it."""
    judged = [{row["claim"]: row for row in run.verdicts} for run in runs]
    return {
        claim: [(row["verdict"], row["ours"]) for row in (r.get(claim, NOT_JUDGED) for r in judged)]
        for claim in dict.fromkeys(chain(*judged))
    }


def metrics(runs: Sequence[Run]) -> dict[str, list[Row]]:
    """By notebook, every metric that all runs have and that is not the same in all."""
    rows = {}
    for notebook in runs[0].metrics:
        differing = _differing([run.metrics.get(notebook, {}) for run in runs], missing=...)
        shared = [(name.removeprefix(f"{notebook} · "), v) for name, v in differing if ... not in v]
        rows[notebook] = [_metric(name, values) for name, values in shared]
    return {notebook: found for notebook, found in rows.items() if found}


def agreement(runs: Sequence[Run], first: int, second: int) -> str:
    """One sentence on the metrics of two of the runs."""
    a, b = ascii_uppercase[first], ascii_uppercase[second]
    one, other = (dict(leaves(runs[place].metrics)) for place in (first, second))
    if not one and not other:
        return f"{a} and {b} recorded no metrics."
    if runs[first].metrics == runs[second].metrics:
        return f"The metrics of {a} and {b} are identical, all {len(one):,} values."
    shared = one.keys() & other.keys()
    differing = sum(one[name] != other[name] for name in shared)
    said = f"{differing:,} of the {len(shared):,} metrics that {a} and {b} share differ"
    for name, count in ((a, len(one) - len(shared)), (b, len(other) - len(shared))):
        said += f"; {count:,} more are in {name} alone" if count else ""
    return f"{said}."


def leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Every single value in nested JSON, with a name that says where it is: ``rows · LAM · miou``.

    Rows of a table are named by the words that tell them apart, so that they find each other in
    another run even when numbers differ; a list of plain values is one value.
    """
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        value = dict(zip(_row_names(value), value, strict=True))
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{name} · {key}" if name else key)
    else:
        yield name, value


def _row_names(rows: Sequence[Mapping]) -> list[str]:
    """A name for each row: the fewest first words that tell all apart, else numbers from 1.

    A seed is as good as a word: it says which row is meant, not what was measured.
    """
    frame = pd.DataFrame(rows).drop(columns="note", errors="ignore")
    texts = [key for key in frame if key == "seed" or frame[key].map(type).eq(str).all()]
    words = [frame[key].map(lambda word: cell_text("", word)) for key in texts]
    apart = (column for column in words if column.nunique() > 1)
    for names in accumulate(apart, lambda first, second: first + "\u00a0· " + second):
        if names.is_unique:
            return list(names)
    return [str(number) for number in range(1, len(rows) + 1)]


def _differing(values: Sequence[Mapping], missing: object) -> Iterator[tuple[str, list[object]]]:
    """Name, and what each of ``values`` has there, wherever that is not the same in all."""
    flat = [dict(leaves(value)) for value in values]
    for name in dict.fromkeys(chain(*flat)):
        row = [each.get(name, missing) for each in flat]
        if any(value != row[0] for value in row):
            yield name, row


def _metric(name: str, values: Sequence[object]) -> Row:
    """A metric of all runs, shares in per cent; enough digits to see what differs.

    Where some have no value or a text, there is no difference to give.
    """
    *place, key = name.split(" · ")
    heading = label(key, next(filter(is_number, values), values[0]))
    scale = 100 if any(is_fraction(key, value) for value in values) else 1
    first, *others = numbers = [value if is_number(value) else None for value in values]
    changes = ["" if None in (first, n) else f"{scale * (n - first):+.2g}" for n in others]
    pairs = zip(numbers, _texts(values), strict=True)
    texts = [text if number is None else f"{scale * number:.6g}" for number, text in pairs]
    return Row(" · ".join([*map(label, place), heading]), texts, changes)


def _texts(values: Sequence[object]) -> list[str]:
    return ["–" if value is None else str(value) for value in values]


def _report_link(run: Run, page: Path) -> str:
    """The run's report as seen from the page, "" where there is none."""
    report = (run.folder / "report.html").resolve()
    seen = Path(os.path.relpath(report, page.resolve().parent))
    return quote(seen.as_posix()) if report.is_file() else ""
