"""Figures of numbers: losses, IoU, confusions, thresholds, likeness of tokens, the ablation."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from more_lib.figures import canvas
from more_lib.figures.canvas import Array, Names, Picture
from more_lib.system.errors import InputError


def plot_training(log: Sequence[Mapping[str, float]], title: str = "Training") -> Picture:
    """Every loss and the learning rate over the iterations, from the lines of a training log.

    Look for the losses that fall, and for the one that waits: while all class tokens are alike,
    the token discrepancy stays at ln C.
    """
    figure = canvas.new_figure((canvas.WIDTH, 4.2), title)
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    iterations = [line["iteration"] for line in log]
    names = dict.fromkeys(name for line in log for name in line)  # some losses set in later
    losses = [name for name in names if name not in ("iteration", "lr", "images_per_second")]
    for index, name in enumerate(losses):
        values = [line.get(name, np.nan) for line in log]
        left.plot(iterations, values, **canvas.line_style(index), label=name)
    right.plot(iterations, [line["lr"] for line in log], **canvas.line_style(0))
    left.set(xlabel="iteration", ylabel="loss", title="losses")
    right.set(xlabel="iteration", ylabel="learning rate", title="learning rate of the backbone")
    right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    # Inside it would hide some of them.
    figure.legend(handles=left.get_lines(), loc="outside lower center", ncols=4, fontsize=8)
    for ax in (left, right):
        ax.grid(alpha=0.3)
    return figure


def plot_iou_per_class(
    ious: Mapping[str, Array], classes: Names, title: str = "IoU of each class"
) -> Picture:
    """Horizontal bars, one group a class and one bar a name; dashed lines are the means.

    ious: by name, (C + 1,) fractions, background first, nan where a class has none.
    Look for the classes in which two maps part: they decide the mIoU.
    """
    names = ("background", *classes)
    rows = {name: canvas.as_array(values) for name, values in ious.items()}
    if not rows or any(row.shape != (len(names),) for row in rows.values()):
        raise InputError(f"give the IoU of {len(names)} classes, background first, at least once")
    tall = 0.8 + 0.11 * len(names) * (len(rows) + 1.5)
    figure = canvas.new_figure((canvas.WIDTH, max(2.6, tall)), title)
    ax = figure.subplots()
    height = 0.8 / len(rows)
    for index, (name, row) in enumerate(rows.items()):
        color, miou = canvas.line_color(index), 100 * np.nanmean(row)
        places = np.arange(len(names)) + (index + 0.5) * height - 0.4
        label = f"{name}: mIoU {miou:.1f}"
        ax.barh(places, 100 * row, height, color=color, label=label)
        ax.axvline(miou, color=color, linestyle="--", linewidth=1)
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    ax.set(xlabel="IoU (%)", xlim=(0, 100))
    ax.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, title="dashed: the mean over the classes")
    return figure


def plot_confusion(
    matrix: Array, classes: Names, title: str = "Which class the pixels of a class become"
) -> Picture:
    """A confusion matrix (C + 1, C + 1), each row in per cent of its class's pixels.

    Look at the first row for background taken for objects (false activation), at the first column
    for objects missed, and between them for classes taken for one another.
    """
    counts = canvas.as_array(matrix).astype(np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(100 * counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    figure = _heatmap(share, ("background", *classes), (0, 100), canvas.COLORMAP, ".0f", title)
    figure.axes[0].set(xlabel="predicted class", ylabel="true class")
    figure.axes[1].set_ylabel("% of the true class's pixels")
    return figure


def plot_threshold_sweep(
    sweeps: Mapping[str, Mapping[float, float]], title: str = "mIoU against the threshold"
) -> Picture:
    """mIoU, a fraction, by threshold: one line a map, its best point marked.

    Look for a flat top: a map whose mIoU hangs on the exact threshold will not carry over. The best
    point was chosen on the very masks that judge it.
    """
    figure = canvas.new_figure((canvas.WIDTH * 0.8, 3.6), title)
    ax = figure.subplots()
    for index, (name, sweep) in enumerate(sweeps.items()):
        points = [(threshold, 100 * miou) for threshold, miou in sweep.items()]
        best = max(points, key=lambda point: (not np.isnan(point[1]), point[1]))
        label = f"{name}: best {best[1]:.1f} at {best[0]:g}"
        ax.plot(*zip(*points, strict=True), **canvas.line_style(index), label=label)
        ax.plot(*best, "o", color=canvas.line_color(index))
    ax.set(xlabel="threshold", ylabel="mIoU (%)", ylim=(0, None))
    ax.grid(alpha=0.3)
    ax.legend()
    return figure


def plot_token_similarity(
    similarity: Array, classes: Names, title: str = "Cosine similarity of the class tokens"
) -> Picture:
    """Cosines (C, C) between class tokens, from -1 to 1.

    Look off the diagonal: at the start every pair is near 1, and training has to part them.
    """
    figure = _heatmap(canvas.as_array(similarity), classes, (-1, 1), "PuOr_r", ".2f", title)
    figure.axes[1].set_ylabel("cosine")
    return figure


def plot_ablation(rows: Sequence[Mapping], kind: str = "LAM", title: str = "") -> Picture:
    """mIoU, confusion ratio and token mAP of one map, from the rows of ``ablation.run``.

    A bar a condition: the mean over the seeds; with several, a line reaches one standard deviation
    to either side. A score without a value (no class has a hit) is written out in place of its bar.

    Look for bars that grow on the left and shrink in the middle from the baseline to MoRe, by steps
    larger than the lines, while those on the right, how well tokens know their class, stay as they
    are. Raises ``InputError`` when no row is of this map.
    """
    chosen = [row for row in rows if row["map"] == kind]
    if not chosen:
        kinds = ", ".join(dict.fromkeys(row["map"] for row in rows)) or "none"
        raise InputError(f"no row of map {kind!r} to draw; there are: {kinds}")
    title = title or f"{kind}, part by part"
    figure = canvas.new_figure((canvas.WIDTH, 1.5 + 0.4 * len(chosen)), title)
    axes = figure.subplots(1, 3, sharey=True)
    names = [row["title"] for row in chosen]
    axes[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
    panels = {
        "miou": ("how much is right", "mIoU (%), higher is better", 100, ".1f"),
        "confusion_ratio": ("confusion ratio", "FP / TP, lower is better", 1, ".2f"),
        "token_map": ("what tokens know", "token mAP (%)", 100, ".1f"),
    }
    for index, (ax, (score, (what, unit, factor, fmt))) in enumerate(
        zip(axes, panels.items(), strict=True)
    ):
        values = pd.DataFrame(chosen).reindex(columns=[score, f"{score}_std"])
        _bars(ax, factor * values.to_numpy(float), canvas.LINES[index], fmt)  # nan for no value
        ax.set(xlabel=unit, title=what)
    return figure


def _heatmap(
    values: np.ndarray, names: Names, limits: tuple[int, int], colors: str, fmt: str, title: str
) -> Picture:
    """A square matrix with its numbers; the figure's axes are the matrix and its colour bar."""
    import seaborn

    if values.shape != (len(names), len(names)):
        raise InputError(f"the matrix is {values.shape}, but there are {len(names)} names for it")
    side = min(2.2 + 0.5 * len(names), canvas.WIDTH - 0.6)
    figure = canvas.new_figure((side + 0.6, side), title)
    ax = figure.subplots()
    scale = {"vmin": limits[0], "vmax": limits[1], "cmap": colors, "cbar_kws": {"shrink": 0.8}}
    text = {"annot": True, "fmt": fmt, "annot_kws": {"size": 7}, "xticklabels": names}
    seaborn.heatmap(values, ax=ax, square=True, yticklabels=names, **scale, **text)
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(axis="y", rotation=0)
    return figure


def _bars(ax: Axes, values: np.ndarray, color: str, fmt: str) -> None:
    """Horizontal bars with their numbers; values: (rows, 2), mean and deviation, nan for none."""
    means, spreads = np.nan_to_num(values).T
    error = {"xerr": spreads, "error_kw": {"capsize": 3}} if spreads.any() else {}
    ax.barh(range(len(values)), means, 0.6, color=color, **error)
    for place, (mean, spread) in enumerate(zip(values[:, 0], spreads, strict=True)):
        text = "no value" if np.isnan(mean) else f"{mean:{fmt}}"
        text += f" ± {spread:{fmt}}" if spread else ""
        end = means[place] + spreads[place]
        ax.annotate(text, (end, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
    longest = (means + spreads).max()
    room = 1.8 if spreads.any() else 1.3  # for the numbers
    ax.set_xlim(0, room * longest if longest > 0 else 1)
    ax.grid(axis="x", alpha=0.3)
