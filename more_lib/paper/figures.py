"""The paper's Figures 1, 3, 4 and 5 for whatever was trained (notebook 07).

As in the room ``figures``: arrays or tensors in, a figure out that shows itself. Which images make
the rows is ``figure_rows``' business. A column that is None was not run here, and the figure says
so.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from more_lib.figures.canvas import (
    LINES,
    WIDTH,
    Array,
    Names,
    Picture,
    as_array,
    as_rgb,
    class_legend,
    colorize,
    draw_overlay,
    new_figure,
    new_grid,
)
from more_lib.method.artifacts import artifact_patches, class_share
from more_lib.paper.figure_rows import image_iou
from more_lib.paper.token_map import TokenMap
from more_lib.system.errors import InputError

MARKERS = "osD^v*PX<>dp"
"""12 shapes and 7 colours have no divisor in common: 84 classes differ in one or both."""

Columns = Mapping[str, Sequence | None]


def plot_artifacts(
    images: Sequence,
    masks: Sequence[Array],
    columns: Columns,
    threshold: float,
    classes: Names,
    class_indices: Sequence[int],
    title: str = "Figure 1: active patches that show nothing of the class",
) -> Picture:
    """Figure 1: an image, one class's map of each network with its artifacts enclosed, the truth.

    Below a map: how many of its patches above ``threshold`` are artifacts (notebook 02 §4).

    images, masks: one a row, masks of integers. columns: by title, maps (B, C, h, w) in [0, 1] on
    the patch grid, which divides the masks, or None. class_indices: the class 0..C-1 of each row,
    named on the left.

    Look for orange lines: what they enclose the class token takes for the object, and it is not.
    Raises ``InputError`` for a grid that does not divide a mask.
    """

    def draw(ax: Axes, row: int, item: Array) -> AxesImage:
        maps, mask = (torch.as_tensor(as_array(each))[None] for each in (item, masks[row]))
        share = class_share(mask, maps.shape[1], maps.shape[-2:])
        artifacts = artifact_patches(maps, share, threshold)[0, class_indices[row]]
        values = maps[0, class_indices[row]]
        _enclose(ax, artifacts.numpy(), as_rgb(images[row]).shape[:2])
        _note(ax, f"artifacts: {artifacts.sum()} of {(values > threshold).sum()}")
        return draw_overlay(ax, images[row], values)

    names = [classes[index] for index in class_indices]
    figure = _rows(images, masks, columns, draw, names, classes, title)
    class_legend(figure, masks, classes)
    return figure


def plot_localization(
    images: Sequence,
    masks: Sequence[Array],
    columns: Columns,
    classes: Names,
    class_indices: Sequence[int],
    title: str = "Figure 3: the same class, as each map localizes it",
) -> Picture:
    """Figure 3: an image, one class's map by each way of making one, the truth.

    columns: by title (two short lines where there are many), maps (B, C, h, w) in [0, 1] of any
    size, or None. class_indices: the class 0..C-1 of each row, named on the left.

    Look for: from left to right, bright patches off the object that vanish, and the object that
    fills up.
    """

    def draw(ax: Axes, row: int, item: Array) -> AxesImage:
        return draw_overlay(ax, images[row], as_array(item)[class_indices[row]])

    names = [classes[index] for index in class_indices]
    figure = _rows(images, masks, columns, draw, names, classes, title)
    class_legend(figure, masks, classes)
    return figure


def plot_segmentations(
    images: Sequence,
    masks: Sequence[Array],
    columns: Columns,
    classes: Names,
    names: Names = (),
    title: str = "Figure 4: the masks of each network",
) -> Picture:
    """Figure 4: an image, each network's mask of it, the truth; below a mask, its IoU.

    The IoU is that of the one image: the mean of the classes in mask or truth, without background.
    columns: by title, masks like the truth's, integers (H, W) with 0 background and 1..C, or None.
    names: of the rows.

    Look for what the IoU does not tell: objects missed, background taken for an object, or the
    wrong class.
    """

    def draw(ax: Axes, row: int, item: Array) -> None:
        pair = [torch.as_tensor(as_array(mask))[None] for mask in (item, masks[row])]
        iou = float(image_iou(*pair, len(classes)))
        ax.imshow(colorize(item, classes))
        _note(ax, "no class" if np.isnan(iou) else f"IoU {100 * iou:.0f} %")

    figure = _rows(images, masks, columns, draw, names or [""] * len(images), classes, title)
    drawn = [mask for column in columns.values() if column is not None for mask in column]
    class_legend(figure, [*masks, *drawn], classes)
    return figure


def plot_token_maps(
    maps: Mapping[str, TokenMap],
    classes: Names,
    title: str = "Figure 5: class tokens by t-SNE",
) -> Picture:
    """Figure 5: class tokens in the plane, a panel a network, colour and marker by class.

    Above each panel how well they separate in their own space: ``token_map.Separation``.

    Look for classes that keep to themselves, and for tokens among those of another class. How far
    apart two groups are drawn means nothing: t-SNE keeps neighbours, not distances.
    Raises ``InputError`` without a map.
    """
    if not maps:
        raise InputError("there is nothing to draw: give the tokens of at least one network")
    side = WIDTH / max(len(maps), 2)
    shown = np.unique(np.concatenate([tokens.classes for tokens in maps.values()])).tolist()
    longest = max(len(classes[index]) for index in shown)
    columns = max(int(side * len(maps) / (0.5 + 0.08 * longest)), 1)  # of the legend, in inches
    height = side + 0.6 + 0.17 * -(-len(shown) // columns)
    figure = new_figure((side * len(maps), height), title)
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for ax, (name, tokens) in zip(panels, maps.items(), strict=True):
        for index in shown:
            ax.plot(*tokens.points[tokens.classes == index].T, **_mark(index))
        measured = tokens.separation
        alike = f"nearest alike {100 * measured.nearest_alike:.0f} %"
        ax.set_title(f"{name}\nsilhouette {measured.silhouette:.2f}, {alike}", fontsize=9)
        ax.set(xticks=[], yticks=[])
    handles = [Line2D([], [], label=classes[index], **_mark(index)) for index in shown]
    place = {"loc": "outside lower center", "ncols": columns}
    figure.legend(handles=handles, fontsize=8, columnspacing=1, handletextpad=0.2, **place)
    return figure


def _mark(index: int) -> dict:
    color, shape = LINES[index % len(LINES)], MARKERS[index % len(MARKERS)]
    return {"color": color, "marker": shape, "ls": "", "ms": 6, "mew": 0.4, "mec": "white"}


def _rows(
    images: Sequence,
    masks: Sequence[Array],
    columns: Columns,
    draw: Callable[[Axes, int, Array], AxesImage | None],
    names: Names,
    classes: Names,
    title: str,
) -> Picture:
    """A row an image: itself, what ``draw`` makes of each column's item, its mask.

    ``draw(ax, row, item)`` returns the map that it drew, if it did: maps share the scale 0 to 1.
    """
    if not len(images) == len(masks) == len(names):
        raise InputError(
            f"{len(images)} images, {len(masks)} masks and {len(names)} names or classes of rows: "
            "give one of each a row"
        )
    for name, items in columns.items():
        if items is not None and len(items) != len(images):
            raise InputError(f"column {name!r} has {len(items)} items for {len(images)} images")
    narrow = len(columns) > 4
    truth = "ground\ntruth" if narrow else "ground truth"
    figure, axes = new_grid(names, ["image", *columns, truth], title, side=1.5)
    overlays = []
    for column, items in zip(axes.T[1:-1], columns.values(), strict=True):
        if items is None:
            for ax, image in zip(column, images, strict=True):
                _say_not_run(ax, as_rgb(image).shape[:2])
        else:
            panels = zip(column, range(len(images)), items, strict=True)
            overlays += [draw(*panel) for panel in panels]
    for first, last, image, mask in zip(axes[:, 0], axes[:, -1], images, masks, strict=True):
        first.imshow(as_rgb(image))
        last.imshow(colorize(mask, classes))
    for ax in axes[0] if narrow else ():
        ax.title.set_fontsize(8)
    figure.get_layout_engine().set(w_pad=0.02, wspace=0.01)
    notes = any(ax.get_xlabel() for ax in axes.flat)
    figure.set_figheight(figure.get_figheight() + 0.25 + 0.2 * notes * len(images))
    overlays = [overlay for overlay in overlays if overlay is not None]
    for overlay in overlays:
        overlay.set_clim(0, 1)
    if overlays:
        figure.colorbar(overlays[0], ax=axes, label="map value", fraction=0.03, pad=0.01, aspect=40)
    return figure


def _say_not_run(ax: Axes, size: tuple[int, int]) -> None:
    """An empty panel in the shape of the image that the missing network would have seen."""
    ax.set_facecolor("0.93")
    ax.set_box_aspect(size[0] / size[1])
    place = {"transform": ax.transAxes, "ha": "center", "va": "center"}
    ax.text(0.5, 0.5, "not run\nhere", fontsize=9, color="0.3", **place)


def _note(ax: Axes, text: str) -> None:
    ax.set_xlabel(text, fontsize=8, labelpad=3)


def _enclose(ax: Axes, chosen: np.ndarray, size: tuple[int, int]) -> None:
    """An orange line around the chosen patches, (h, w) of bool, of an image of ``size``."""
    segments = []
    for inside, across in ((chosen, True), (chosen.T, False)):
        edges = np.diff(np.pad(inside, ((1, 1), (0, 0))).astype(int), axis=0)
        for y, x in np.argwhere(edges):
            ends = np.array([(x, y), (x + 1, y)])
            segments.append(ends if across else ends[:, ::-1])
    patch = np.array(size[::-1]) / chosen.shape[::-1]
    lines = LineCollection(
        [ends * patch - 0.5 for ends in segments], colors=LINES[1], linewidths=1.6, zorder=3
    )
    lines.set_capstyle("projecting")
    ax.add_collection(lines, autolim=False)
