"""The paper's Figures 1, 3, 4 and 5 for whatever was trained (notebook 07).

As in the room ``figures``: arrays or tensors in, a figure out that shows itself. ``figure_rows``
chooses the images of the rows. A column that is None was not run here, and the figure says so.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from more_lib.figures import canvas
from more_lib.figures.canvas import Array, Names, Picture
from more_lib.method.artifacts import artifact_patches, class_share
from more_lib.paper.figure_rows import image_iou
from more_lib.paper.token_map import TokenMap
from more_lib.system.errors import InputError

MARKERS = "osD^v*PX<>dp"  # 12, no divisor in common with 7 colours: 84 classes look different
NOTE = {"fontsize": 8, "labelpad": 3}  # what stands below a panel
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
    the patch grid, or None. class_indices: the class 0..C-1 of each row, named on the left. Raises
    ``InputError`` for a grid that does not divide a mask.

    Look for orange lines: what they enclose the class token takes for the object, and it is not.
    """

    def draw(ax: Axes, row: int, item: Array) -> AxesImage:
        maps, mask = (torch.as_tensor(canvas.as_array(each))[None] for each in (item, masks[row]))
        share = class_share(mask, maps.shape[1], maps.shape[-2:])
        artifacts = artifact_patches(maps, share, threshold)[0, class_indices[row]]
        values = maps[0, class_indices[row]]
        canvas.outline_patches(ax, artifacts, canvas.as_rgb(images[row]).shape[:2])
        ax.set_xlabel(f"artifacts: {artifacts.sum()} of {(values > threshold).sum()}", **NOTE)
        return canvas.draw_overlay(ax, images[row], values)

    return _rows(images, masks, columns, draw, [classes[i] for i in class_indices], classes, title)


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

    Look for, from left to right, bright patches off the object that vanish, an object that fills.
    """

    def draw(ax: Axes, row: int, item: Array) -> AxesImage:
        return canvas.draw_overlay(ax, images[row], canvas.as_array(item)[class_indices[row]])

    return _rows(images, masks, columns, draw, [classes[i] for i in class_indices], classes, title)


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
    columns: by title, masks as the truth, integers (H, W) of 0..C, or None. names: of the rows.

    Look for what the IoU does not tell: missed objects, background taken for one, wrong classes.
    """

    def draw(ax: Axes, row: int, item: Array) -> None:
        pair = [torch.as_tensor(canvas.as_array(mask))[None] for mask in (item, masks[row])]
        iou = float(image_iou(*pair, len(classes)))
        ax.imshow(canvas.colorize(item, classes))
        ax.set_xlabel("no class" if np.isnan(iou) else f"IoU {100 * iou:.0f} %", **NOTE)

    return _rows(images, masks, columns, draw, names or [""] * len(images), classes, title)


def plot_token_maps(
    maps: Mapping[str, TokenMap], classes: Names, title: str = "Figure 5: class tokens by t-SNE"
) -> Picture:
    """Figure 5: class tokens in the plane, a panel a network, colour and marker by class.

    Above each panel how well they separate in their own space: ``token_map.Separation``.

    Look for classes that keep to themselves, and for tokens among those of another class. How far
    apart two groups are drawn means nothing: t-SNE keeps neighbours, not distances.
    Raises ``InputError`` without a map.
    """
    if not maps:
        raise InputError("there is nothing to draw: give the tokens of at least one network")
    side = canvas.WIDTH / max(len(maps), 2)
    shown = np.unique(np.concatenate([tokens.classes for tokens in maps.values()])).tolist()
    longest = max(len(classes[index]) for index in shown)
    columns = max(int(side * len(maps) / (0.5 + 0.08 * longest)), 1)  # of the legend, in inches
    height = side + 0.6 + 0.17 * -(-len(shown) // columns)
    figure = canvas.new_figure((side * len(maps), height), title)
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for ax, (name, tokens) in zip(panels, maps.items(), strict=True):
        for index in shown:
            points = tokens.points[tokens.classes == index]
            look = {"color": canvas.line_color(index), "marker": MARKERS[index % len(MARKERS)]}
            ax.plot(*points.T, **look, ls="", ms=6, mew=0.4, mec="white", label=classes[index])
        measured = tokens.separation
        alike = f"nearest alike {100 * measured.nearest_alike:.0f} %"
        ax.set_title(f"{name}\nsilhouette {measured.silhouette:.2f}, {alike}", fontsize=9)
        ax.set(xticks=[], yticks=[])
    look = {"fontsize": 8, "columnspacing": 1, "handletextpad": 0.2}
    figure.legend(handles=panels[0].lines, loc="outside lower center", ncols=columns, **look)
    return figure


def _rows(
    images: Sequence,
    masks: Sequence[Array],
    columns: Columns,
    draw: Callable[[Axes, int, Array], AxesImage | None],
    names: Names,
    classes: Names,
    title: str,
) -> Picture:
    """A row an image: itself, what ``draw`` makes of each column's item, its mask; a legend below.

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
    figure, axes = canvas.new_grid(names, ["image", *columns, truth], title, side=1.5)
    not_run = {"s": "not run\nhere", "x": 0.5, "y": 0.5, "ha": "center", "va": "center"}
    overlays = []
    for row, (panels, image, mask) in enumerate(zip(axes, images, masks, strict=True)):
        panels[0].imshow(rgb := canvas.as_rgb(image))
        panels[-1].imshow(canvas.colorize(mask, classes))
        for ax, items in zip(panels[1:-1], columns.values(), strict=True):
            if items is None:  # empty, in the shape of the image
                height, width = rgb.shape[:2]
                ax.set(facecolor="0.93", box_aspect=height / width)
                ax.text(**not_run, transform=ax.transAxes, fontsize=9, color="0.3")
            elif overlay := draw(ax, row, items[row]):
                overlays.append(overlay)
    for ax in axes[0] if narrow else ():
        ax.title.set_fontsize(8)
    figure.get_layout_engine().set(w_pad=0.02, wspace=0.01)
    notes = any(ax.get_xlabel() for ax in axes.flat)
    figure.set_figheight(figure.get_figheight() + 0.25 + 0.2 * notes * len(images))
    for overlay in overlays:
        overlay.set_clim(0, 1)
    if overlays:
        figure.colorbar(overlays[0], ax=axes, label="map value", fraction=0.03, pad=0.01, aspect=40)
    drawn = chain(masks, *(items for items in columns.values() if items is not None))
    canvas.class_legend(figure, list(filter(canvas.is_mask, map(canvas.as_array, drawn))), classes)
    return figure
