"""Figures of the rivals' own ideas (notebook 10): ToCo's crops, DuPL's threshold and its filter."""

from collections.abc import Mapping

import numpy as np
from matplotlib.patches import Rectangle

from more_lib.figures import canvas
from more_lib.figures.canvas import Array, Picture
from more_lib.system.errors import InputError

ROI = ("background", "uncertain", "sure")  # what 0, 1 and 2 of ``toco.roi_mask`` say
SIGNS = {True: ("positive", canvas.LINES[0]), False: ("negative", canvas.LINES[1])}


def plot_crops(
    image: object,
    roi: Array,
    corners: Array,
    positive: Array,
    size: int,
    title: str = "ToCo's crops of an image",
) -> Picture:
    """An image's ROI with the crops drawn from it framed, then the crops, each with its flag.

    image: RGB of (H, W). roi: (H, W) of 0, 1 and 2. corners: (K, 2), rows and columns. positive:
    (K,) of bool. size: a crop's side in pixels. Raises ``InputError`` without a crop.

    Look for: positive crops that hold a piece of the object's edge, or none of it; how much of a
    negative one is object.
    """
    corners, flags = canvas.as_array(corners), canvas.as_array(positive).astype(bool)
    if not len(corners):
        raise InputError("there is no crop to draw: give the corner of at least one")
    picture = canvas.as_rgb(image)
    names = [f"{number}: {SIGNS[bool(flag)][0]}" for number, flag in enumerate(flags, start=1)]
    figure, panels = canvas.new_panels(["image", "where CAM is", *names], title)
    panels[0].imshow(picture)
    region = panels[1].imshow(canvas.as_array(roi), canvas.COLORMAP, vmin=0, vmax=2)
    for number, (corner, flag) in enumerate(zip(corners, flags, strict=True), start=1):
        row, column = (int(place) for place in corner)
        color = SIGNS[bool(flag)][1]
        for ax in panels[:2]:
            frame = {"fill": False, "edgecolor": color, "linewidth": 1.6}
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), size, size, **frame))
        box = {"boxstyle": "square,pad=0.1", "facecolor": color, "edgecolor": "none"}
        panels[1].text(
            column + 1, row + 1, str(number), color="white", fontsize=8, va="top", bbox=box
        )
        panels[number + 1].imshow(picture[row : row + size, column : column + size])
        panels[number + 1].title.set_color(color)
    colors = region.cmap(np.linspace(0, 1, len(ROI)))
    handles = [
        Rectangle((0, 0), 1, 1, color=color, label=name)
        for color, name in zip(colors, ROI, strict=True)
    ]
    canvas.legend_below(figure, handles)
    return figure


def plot_curves(
    curves: Mapping[str, Array],
    labels: tuple[str, str],
    title: str,
    marks: Mapping[str, float] | None = None,
) -> Picture:
    """A line a name through its points (n, 2); ``marks`` are upright lines by name.

    labels: of the axes. Look for what falls or grows, from where on, and to what value.
    """
    figure = canvas.new_figure((canvas.WIDTH * 0.8, 3.2), title)
    ax = figure.subplots()
    for index, (name, points) in enumerate(curves.items()):
        ax.plot(*canvas.as_array(points).T, **canvas.line_style(index), label=name)
    for name, place in (marks or {}).items():
        ax.axvline(place, color="0.6", linewidth=1)
        where = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        ax.annotate(name, (place, 0.03), (3, 0), va="bottom", fontsize=8, color="0.3", **where)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    ax.grid(alpha=0.3)
    ax.legend(fontsize=9)
    return figure


def plot_mixture(
    values: Array,
    means: Array,
    deviations: Array,
    weights: Array,
    dropped: Array,
    title: str = "Pixel losses of an image and the two normal distributions fitted to them",
) -> Picture:
    """A histogram of losses, each fitted component over it, and which values are dropped.

    values: (P,). means, deviations, weights: (2,). dropped: (P,) of bool.

    Look for the gap between the means: without one, nothing is dropped.
    """
    values, gone = canvas.as_array(values), canvas.as_array(dropped).astype(bool)
    figure = canvas.new_figure((canvas.WIDTH * 0.8, 3.2), title)
    ax = figure.subplots()
    edges = np.linspace(0, values.max() * 1.05, 40)
    kept = [values[~gone], values[gone]]
    colors = [canvas.LINES[0], canvas.LINES[1]]
    ax.hist(kept, edges, stacked=True, color=colors, alpha=0.6, label=["kept", "dropped"])
    places = np.linspace(edges[0], edges[-1], 400)
    components = zip(*map(canvas.as_array, (means, deviations, weights)), strict=True)
    for index, (mean, deviation, weight) in enumerate(components):
        density = np.exp(-(((places - mean) / deviation) ** 2) / 2) / deviation / (2 * np.pi) ** 0.5
        heights = weight * density * len(values) * (edges[1] - edges[0])
        label = f"mean {mean:.2f}, {100 * weight:.0f} %"
        ax.plot(places, heights, color="0.2", linestyle=canvas.STYLES[index], label=label)
    ax.set(xlabel="cross-entropy with the pixel's own label", ylabel="pixels", xlim=(0, edges[-1]))
    ax.legend(fontsize=9)
    return figure
