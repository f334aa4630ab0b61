"""``comparison.html``: several runs side by side, what differs marked and nothing else repeated.

Runs are called A, B, C in the order given; differences are to A.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from string import ascii_uppercase
from urllib.parse import quote

from more_lib.system.errors import InputError
from more_lib.runs.page import write_page
from more_lib.runs.report import facts
from more_lib.runs.reading import Run, load_run
from more_lib.runs.tables import is_fraction, is_list_of, is_number, label, row_names

MAX_RUNS = len(ascii_uppercase)
SEPARATOR = " · "


@dataclass(frozen=True)
class Row:
    """What each run has at one place, as text; ``changes`` are differences to A, "" without any."""

    name: str
    values: Sequence[str]
    changes: Sequence[str] = ()

    @property
    def differs(self) -> bool:
        return len(set(self.values)) > 1


def write_comparison(folders: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Write a page that sets two runs or more side by side; returns its path.

    Args:
        folders: of runs, each as for ``load_run``; the first is what differences refer to.
        output: the page; ``comparison.html`` in the folder of the run that began last by default.

    Raises ``InputError`` for fewer than two runs, one given twice, and whatever ``load_run`` finds.
    """
    _check(folders)
    runs = [load_run(folder) for folder in folders]
    newest = max(runs, key=lambda run: run.manifest["started"]).folder
    path = Path(output) if output else newest / "comparison.html"
    names = ascii_uppercase[: len(runs)]
    return write_page(
        "comparison.html",
        path,
        names=names,
        runs=[
            (name, run.folder.name, run.manifest, _report_link(run, path))
            for name, run in zip(names, runs, strict=True)
        ],
        agreement=[agreement(runs, *pair) for pair in combinations(range(len(runs)), 2)],
        provenance=provenance(runs),
        verdicts=verdicts(runs),
        metrics=metrics(runs),
    )


def provenance(runs: Sequence[Run]) -> list[Row]:
    """The report's facts of every run; of versions and recipes only what is not the same in all."""
    shown = [dict(facts(run)) for run in runs]
    versions = [run.manifest["versions"] for run in runs]
    recipes = [dict(leaves(run.manifest["recipe"])) for run in runs]
    more = [
        *(_row(name, versions) for name in _keys(versions) if name not in shown[0]),
        *(_row(name, recipes, f"recipe{SEPARATOR}") for name in _keys(recipes)),
    ]
    return [_row(name, shown) for name in _keys(shown)] + [row for row in more if row.differs]


def verdicts(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, str]]]]:
    """For each claim, each run's verdict and value; "not judged" where a run lacks it."""
    found = [{row["claim"]: row for row in run.verdicts} for run in runs]
    none = {"verdict": "not judged", "ours": ""}
    return [
        (claim, [(row["verdict"], row["ours"]) for row in (run.get(claim, none) for run in found)])
        for claim in _keys(found)
    ]


def metrics(runs: Sequence[Run]) -> list[tuple[str, list[Row]]]:
    """By notebook, every metric that all runs have and that is not the same in all."""
    values = [_all_metrics(run) for run in runs]
    rows: dict[str, list[Row]] = {}
    for place in values[0]:
        if all(place in each for each in values):
            found = [each[place] for each in values]
            if any(value != found[0] for value in found):
                name = place[1].removeprefix(f"{place[0]}{SEPARATOR}")
                rows.setdefault(place[0], []).append(_metric_row(name, found))
    return list(rows.items())


def agreement(runs: Sequence[Run], first: int, second: int) -> str:
    """One sentence on the metrics of two of the runs."""
    a, b = ascii_uppercase[first], ascii_uppercase[second]
    one, other = (_all_metrics(runs[place]) for place in (first, second))
    if not one and not other:
        return f"{a} and {b} recorded no metrics."
    if runs[first].metrics == runs[second].metrics:
        return f"The metrics of {a} and {b} are identical, all {len(one):,} values."
    shared = one.keys() & other.keys()
    differing = sum(one[place] != other[place] for place in shared)
    alone = [(a, len(one) - len(shared)), (b, len(other) - len(shared))]
    said = [
        f"{differing:,} of the {len(shared):,} metrics that {a} and {b} share differ",
        *(f"{count:,} more are in {name} alone" for name, count in alone if count),
    ]
    return f"{'; '.join(said)}."


def leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Every single value in nested JSON, with a name that says where it is: ``rows · LAM · miou``.

    Rows of a table are named by the words that tell them apart, so that they find each other in
    another run even when numbers differ; a list of plain values is one value.
    """
    start = f"{name}{SEPARATOR}" if name else ""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{start}{key}")
    elif is_list_of(Mapping, value):
        columns = [key for key in value[0] if key != "note"]
        words = [key for key in columns if len({str(row.get(key)) for row in value}) > 1]
        for row_name, row in zip(row_names(value, words), value, strict=True):
            yield from leaves(row, f"{start}{row_name}")
    else:
        yield name, value


def _check(folders: Sequence[str | Path]) -> None:
    if len(folders) < 2:
        raise InputError("a comparison needs two runs or more")
    if len(folders) > MAX_RUNS:
        raise InputError(f"a comparison takes {MAX_RUNS} runs at most, not {len(folders)}")
    seen = set()
    for folder in folders:
        if (place := Path(folder).resolve()) in seen:
            raise InputError(f"run {folder} is given twice: compare it with another")
        seen.add(place)


def _report_link(run: Run, page: Path) -> str:
    """The run's report as seen from the page, "" where there is none."""
    report = run.folder / "report.html"
    if not report.is_file():
        return ""
    return quote(Path(os.path.relpath(report.resolve(), page.resolve().parent)).as_posix())


def _all_metrics(run: Run) -> dict[tuple[str, str], object]:
    """{(notebook, name of the value): value}."""
    return {
        (notebook, name): value
        for notebook, named in run.metrics.items()
        for name, value in leaves(named)
    }


def _metric_row(name: str, values: Sequence[object]) -> Row:
    """Values of one metric, shares in per cent; enough digits to see what differs."""
    *place, key = name.split(SEPARATOR)
    title = SEPARATOR.join([*map(label, place), label(key, values[0])])
    if not all(map(is_number, values)):
        return Row(title, list(map(_text, values)), ["" for _ in values[1:]])
    scale = 100 if is_fraction(key, values[0]) else 1
    changes = [f"{scale * (value - values[0]):+.2g}" for value in values[1:]]
    return Row(title, [f"{scale * value:.6g}" for value in values], changes)


def _row(name: str, mappings: Sequence[Mapping], prefix: str = "") -> Row:
    return Row(f"{prefix}{name}", [_text(mapping.get(name)) for mapping in mappings])


def _text(value: object) -> str:
    return "–" if value is None else str(value)


def _keys(mappings: Sequence[Mapping]) -> list[str]:
    """Keys of all, in the order in which they first appear."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))
