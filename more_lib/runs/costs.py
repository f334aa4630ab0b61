"""Where the minutes of a run or a training step go, and what became slower since another."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from more_lib.recipes.loading import from_dict
from more_lib.runs.reading import load_run
from more_lib.runs.recording import TRAINING_AHEAD
from more_lib.system.errors import InputError
from more_lib.training.step_cost import PLAIN, StepCost, forwards, plain_forward

COLUMNS = ("part", "seconds", "cpu_seconds", "forwards")
NOTABLE = 1.1  # more than noise, as a ratio of forwards


def run_costs(folder: str | Path) -> list[dict]:
    """What each part of a finished run cost, the whole last; a row has ``COLUMNS``.

    Seconds are by the clock, cpu_seconds of all threads and processes, forwards how many of the
    plain ViT on a batch of the recipe that makes, measured here and now. Raises ``InputError`` for
    a folder that holds no run, or one of a time that did not count CPU time.
    """
    run = load_run(folder)
    parts = [(entry["name"], entry) for entry in run.manifest["notebooks"] if entry["seconds"]]
    ahead = run.costs.get(TRAINING_AHEAD, {}).get("training")
    parts = [("trainings side by side, scored", ahead)] * bool(ahead) + parts
    if not parts or not all("cpu_seconds" in costs for _, costs in parts):
        raise InputError(f"{folder} did not count CPU time: run `reproduce` again")
    forward = plain_forward(from_dict(run.manifest["recipe"]))
    rows = [_row(name, costs["seconds"], costs["cpu_seconds"], forward) for name, costs in parts]
    whole = (sum(row[clock] for row in rows) for clock in COLUMNS[1:3])
    return [*rows, _row("whole run", *whole, forward)]


def step_rows(costs: Sequence[StepCost]) -> list[dict]:
    """The parts of a step in every precision, as rows with ``COLUMNS``."""
    return [
        {
            "part": f"{cost.precision}: {part}",
            "seconds": cost.milliseconds[part] / 1000,
            "cpu_seconds": cost.cpu_milliseconds[part] / 1000,
            "forwards": share,
        }
        for cost in costs
        for part, share in forwards(cost).items()
        if part != PLAIN
    ]


def format_costs(rows: Sequence[Mapping]) -> str:
    """A run's parts by the clock, in CPU time, as a share of all and in forwards."""
    whole = rows[-1]["cpu_seconds"]
    table = [
        {
            "part": row["part"],
            "minutes": f"{row['seconds'] / 60:.1f}",
            "CPU minutes": f"{row['cpu_seconds'] / 60:.1f}",
            "share": f"{row['cpu_seconds'] / whole:.0%}",
            "forwards of the plain ViT": f"{row['forwards']:.0f}",
        }
        for row in rows
    ]
    return pd.DataFrame(table).to_string(index=False)


def format_speed(rows: Sequence[Mapping]) -> str:
    """What ``speed.measure_speed`` found; a share is of a loop's time."""
    return pd.DataFrame(rows).to_string(index=False, na_rep="", float_format="{:.3f}".format)


def compare_costs(before: str | Path, after: str | Path) -> str:
    """What two files of ``bench --json`` have in common, in forwards, and what became slower.

    Raises ``InputError`` for a file that cannot be read, or two without a common part.
    """
    old, new = _read(before), _read(after)
    table = [
        {
            "part": part,
            "forwards before": f"{old[part]:.2f}",
            "after": f"{new[part]:.2f}",
            "ratio": f"{new[part] / old[part]:.2f}" if old[part] else "-",
            "": "slower" if new[part] > NOTABLE * old[part] + 0.01 else "",
        }
        for part in old
        if part in new
    ]
    if not table:
        raise InputError(f"{before} and {after} have no part in common: compare files of one kind")
    return pd.DataFrame(table).to_string(index=False)


def _row(part: str, seconds: float, cpu_seconds: float, forward: float) -> dict:
    values = (part, round(seconds, 1), round(cpu_seconds, 1), cpu_seconds / forward)
    return dict(zip(COLUMNS, values, strict=True))


def _read(path: str | Path) -> dict[str, float]:
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = rows["rows"] if isinstance(rows, dict) else rows
        # Of a loop's time, what `bench speed` measured is a share.
        return {str(row["part"]): float(row.get("forwards", row.get("share"))) for row in rows}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no file that `bench --json` wrote ({error})") from error
