"""The figure of the ablation (notebook 06): what each part of the method does to a map's scores.

As in ``viz``, rows in, a figure out that shows itself.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from more_lib.figures.canvas import LINES, WIDTH, Picture, new_figure
from more_lib.system.errors import InputError


def plot_ablation(rows: Sequence[Mapping], kind: str = "LAM", title: str = "") -> Picture:
    """mIoU and confusion ratio of one map, a bar a condition, from the rows of ``ablation.run``.

    Bars are means over the seeds; with several, a line reaches one standard deviation to either
    side. A score without a value (no class has a hit) is written out in place of its bar.

    Look for bars that grow on the left and shrink on the right from the baseline to MoRe, and for
    steps that are larger than the lines.
    Raises ``InputError`` when no row is of this map.
    """
    chosen = [row for row in rows if row["map"] == kind]
    if not chosen:
        there = ", ".join(dict.fromkeys(row["map"] for row in rows)) or "none"
        raise InputError(f"no row of map {kind!r} to draw; there are: {there}")
    figure = new_figure((WIDTH, 1.5 + 0.4 * len(chosen)), title or f"{kind}, part by part")
    left, right = figure.subplots(1, 2, sharey=True)
    ratios = [(row["confusion_ratio"], _std(row, "confusion_ratio")) for row in chosen]
    _bars(left, [_percent(row) for row in chosen], LINES[0], ".1f")
    _bars(right, ratios, LINES[1], ".2f")
    names = [row["title"] for row in chosen]
    left.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
    left.set(xlabel="mIoU (%), higher is better", title="how much is right")
    right.set(xlabel="FP / TP, lower is better", title="confusion ratio")
    return figure


def _percent(row: Mapping) -> tuple[float | None, float]:
    value = row["miou"]
    return (None if value is None else 100 * value), 100 * _std(row, "miou")


def _std(row: Mapping, score: str) -> float:
    return row.get(f"{score}_std") or 0.0


def _bars(ax: Axes, values: Sequence[tuple[float | None, float]], color: str, fmt: str) -> None:
    """Horizontal bars with their numbers, means with standard deviations."""
    means = np.array([0.0 if mean is None else mean for mean, _ in values])
    spreads = np.array([spread for _, spread in values])
    error = {"xerr": spreads, "error_kw": {"capsize": 3}} if spreads.any() else {}
    ax.barh(range(len(values)), means, 0.6, color=color, **error)
    for place, (mean, spread) in enumerate(values):
        text = "no value" if mean is None else f"{mean:{fmt}}"
        text += f" ± {spread:{fmt}}" if spread else ""
        end = means[place] + spreads[place]
        ax.annotate(text, (end, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
    longest = (means + spreads).max()
    room = 1.5 if spreads.any() else 1.2  # for the numbers
    ax.set_xlim(0, room * longest if longest > 0 else 1)
    ax.grid(axis="x", alpha=0.3)
