"""Figures of notebook 02: measures by class and by block, token lengths, marked patches."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from more_lib.figures import canvas
from more_lib.figures.canvas import Array, Names, Picture
from more_lib.system.errors import InputError
from more_lib.system.shapes import check_shapes


def plot_classes(
    values: Mapping[str, Array],
    classes: Names,
    title: str = "Class by class",
    label: str = "share",
    reference: Array | None = None,
    reference_name: str = "",
) -> Picture:
    """A dot a class and network, joined by a grey line; a tick where ``reference`` is.

    values: by the network's name, (C,) each; nan draws nothing. Look for the order of the dots
    from class to class: is one network better everywhere, or only on the mean?
    Raises ``InputError`` when the numbers do not fit the classes.
    """
    columns = {name: canvas.as_array(column).astype(float) for name, column in values.items()}
    if not columns:
        raise InputError("there is nothing to draw: give the values of at least one network")
    if any(column.shape != (len(classes),) for column in columns.values()):
        raise InputError(f"there are {len(classes)} classes: give each network one value a class")
    figure = canvas.new_figure((canvas.WIDTH * 0.85, 1.4 + 0.28 * len(classes)), title)
    ax, places = figure.subplots(), np.arange(len(classes))
    drawn = pd.DataFrame(columns).dropna(how="all")
    ax.hlines(drawn.index, drawn.min(axis=1), drawn.max(axis=1), color="0.8", lw=3, zorder=1)
    for index, (name, column) in enumerate(columns.items()):
        shape, color = "osD^v"[index % 5], canvas.line_color(index)
        mean = f"{name}: mean {np.nanmean(column):.2f}" if np.isfinite(column).any() else name
        ax.plot(column, places, shape, color=color, label=mean, ms=7)
    if reference is not None:
        style = {"color": "black", "ms": 13, "mew": 2, "label": reference_name}
        ax.plot(canvas.as_array(reference), places, "|", **style)
    ax.set(yticks=places, yticklabels=classes, ylim=(len(classes) - 0.5, -0.5), xlabel=label)
    ax.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def plot_lines(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    xlabel: str,
    title: str = "Block by block",
    first: int = 1,
) -> Picture:
    """One panel a measure, one line a network, over blocks or steps counted from ``first``."""
    figure = canvas.new_figure((canvas.WIDTH, 3.3), title)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (measure, lines) in zip(axes, panels.items(), strict=True):
        for index, (name, line) in enumerate(lines.items()):
            places, mark = np.arange(len(line)) + first, "osD^v"[index % 5]
            style = canvas.line_style(index) | {"marker": mark if len(line) < 20 else ""}
            ax.plot(places, line, label=name, **style)
        ax.set(xlabel=xlabel, ylabel=measure)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.3)
    canvas.legend_below(figure, axes[0].lines)
    return figure


def plot_norms(
    lengths: Sequence[Array], factor: float, title: str = "Length of the patch tokens"
) -> Picture:
    """A histogram a block of each token's length over its image's median, on a log scale.

    lengths: for each block, numbers around 1. The dashed line is ``factor``, beyond which a token
    is an outlier. Look for a second hill to the right of it.
    """
    flat = [canvas.as_array(length).ravel() for length in lengths]
    figure = canvas.new_figure((canvas.WIDTH, 1.2 + 0.55 * len(flat)), title)
    axes = figure.subplots(len(flat), 1, sharex=True, squeeze=False)[:, 0]
    top = max(2 * factor, *(1.05 * float(length.max()) for length in flat))
    for number, (ax, length) in enumerate(zip(axes, flat, strict=True), start=1):
        ax.hist(length, bins=np.linspace(0, top, 81), color=canvas.LINES[0], log=True)
        ax.axvline(factor, color=canvas.LINES[1], ls="--")
        ax.set_ylabel(f"block {number}", rotation=0, ha="right", va="center")
        text = {"transform": ax.transAxes, "ha": "right", "va": "top", "fontsize": 9}
        ax.text(0.99, 0.9, f"largest {length.max():.2f}", **text)
    axes[-1].set_xlabel("length / median of the image (number of tokens on a log scale)")
    return figure


def mark_patches(
    images: Sequence,
    maps: Sequence[Array],
    marks: Mapping[str, Sequence[Array]],
    names: Names = (),
    title: str = "Marked patches",
) -> Picture:
    """A row an image: the image, its map, and for each kind of mark the map with it outlined.

    maps: one (h, w) an image. marks: by title, one (h, w) bool an image. names: of the rows.
    Raises ``InputError`` for marks of another grid than their map's.
    """
    maps = list(map(canvas.as_array, maps))
    drawn = {name: list(map(canvas.as_array, column)) for name, column in marks.items()}
    for name, column in drawn.items():
        for values, mark in zip(maps, column, strict=True):
            check_shapes(map=(values, "h w"), **{f"mark {name}": (mark, "h w")})
    figure, axes = canvas.new_grid(names or [""] * len(maps), ["image", "map", *drawn], title)
    overlays = []
    for row, image, values, *chosen in zip(axes, images, maps, *drawn.values(), strict=True):
        row[0].imshow(canvas.as_rgb(image))
        overlays.extend(canvas.draw_overlay(ax, image, values) for ax in row[1:])
        for ax, mark in zip(row[2:], chosen, strict=True):
            canvas.outline_patches(ax, mark, canvas.as_rgb(image).shape[:2])
    canvas.share_scale(figure, overlays, axes)
    return figure
