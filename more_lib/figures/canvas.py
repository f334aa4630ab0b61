"""What every figure is drawn on: pictures, grids of panels, colours, maps over images."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from more_lib.data.images import PALETTE
from more_lib.recipes.classes import VOC_CLASSES
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.errors import InputError

Array = Tensor | ArrayLike
Names = Sequence[str]
COLORMAP = "viridis"
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")  # Okabe, Ito
STYLES = ("-", "--", "-.", ":")
WIDTH, DPI = 8.8, 100  # inches and dots an inch: as wide as a notebook's column
MAX_PNG = 75_000  # bytes: a dozen figures in a notebook of 1 MB


class Picture(Figure):
    """A figure that a notebook shows by itself, without pyplot and its list of open figures."""

    def png(self) -> bytes:
        """PNG of at most ``MAX_PNG`` bytes, if 4 bits a channel can do it.

        Photographs compress badly, so low bits go, as few as need be. A palette of the figure's own
        would be smaller still, but would bend the colours that carry meaning.
        """
        pixels = self.pixels()
        for steps in (255, 63, 31, 15):
            coarse = np.rint(np.rint(np.arange(256) / 255 * steps) * (255 / steps))
            picture = Image.fromarray(coarse.astype(np.uint8)[pixels])
            picture.save(buffer := BytesIO(), format="png")  # zlib's best: 6 times as long for 7 %
            if buffer.tell() <= MAX_PNG:
                break
        return buffer.getvalue()

    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8: what ``savefig`` would write, which lays a figure out twice."""
        canvas = FigureCanvasAgg(self)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3]

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict:
        return {"image/png": self.png()}


def class_colors(classes: Names) -> np.ndarray:
    """Colour of each mask value, (C + 1, 3) uint8, background first.

    Classes of VOC have VOC's own colours, also a few of them. With any other class among them, the
    colours are VOC's palette in order.
    """
    if set(classes) <= set(VOC_CLASSES):
        return PALETTE[[0, *(VOC_CLASSES.index(name) + 1 for name in classes)]]
    return PALETTE[: len(classes) + 1]


def colorize(mask: Array, classes: Names) -> np.ndarray:
    """A mask (..., H, W) of integers 0..C and 255 in VOC's colours: (..., H, W, 3) uint8.

    Any other value is an ``InputError``.
    """
    mask = as_array(mask)
    allowed = (mask == IGNORE_INDEX) | ((mask >= 0) & (mask <= len(classes)))
    if not is_mask(mask) or not allowed.all():
        raise InputError(
            f"a mask of {mask.dtype} with values from {mask.min()} to {mask.max()}: give integers "
            f"from 0 to {len(classes)}, and {IGNORE_INDEX} for what is left open"
        )
    colors = PALETTE.copy()
    colors[: len(classes) + 1] = class_colors(classes)
    return colors[mask]


def as_array(values: object) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)


def is_mask(array: np.ndarray) -> bool:
    return np.issubdtype(array.dtype, np.integer)


def as_rgb(image: object) -> np.ndarray:
    """(H, W, 3) float in [0, 1]; ``InputError`` for anything that is not an RGB image."""
    array = as_array(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if array.ndim == 3 and array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3:
        raise InputError(f"an image of shape {array.shape}: give RGB, (H, W, 3) or (3, H, W)")
    picture = array / 255 if array.dtype == np.uint8 else array
    low, high = picture.min(), picture.max()
    if low < -1e-4 or high > 1 + 1e-4:
        raise InputError(f"an image with values from {low:.2f} to {high:.2f}: denormalize it first")
    return picture.clip(0, 1)


def new_figure(size: tuple[float, float], title: str) -> Picture:
    figure = Picture(figsize=np.round(size, 2), dpi=DPI, layout="constrained")
    figure.suptitle(title)
    return figure


def new_grid(
    rows: Names, columns: Names, title: str, side: float = 2
) -> tuple[Picture, np.ndarray]:
    """Square pictures by the names of their rows and columns; axes in 2-D, without ticks."""
    if not len(rows) * len(columns):
        raise InputError("there is nothing to draw: give at least one image")
    side = min((WIDTH - 0.9) / len(columns), side)
    figure = new_figure((side * len(columns) + 0.9, side * len(rows) + 0.9), title)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for (row, column), ax in np.ndenumerate(axes):
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_title(columns[column] if row == 0 else "", fontsize=10)
        ax.set_ylabel(rows[row] if column == 0 else "")
    return figure, axes


def new_panels(names: Names, title: str) -> tuple[Picture, np.ndarray]:
    """Square pictures by their names, in rows of up to seven; axes in 1-D."""
    rows = max(-(-len(names) // 7), 1)
    figure, axes = new_grid([""] * rows, [""] * -(-len(names) // rows), title)
    for ax, name in zip(axes.flat, names, strict=False):
        ax.set_title(name, fontsize=10)
    for spare in axes.flat[len(names) :]:
        spare.remove()
    return figure, axes.flat[: len(names)]


def draw_overlay(ax: Axes, image: object, values: Array) -> AxesImage:
    """The map in colour over the image in grey."""
    grey = as_rgb(image) @ (0.299, 0.587, 0.114)
    ax.imshow(grey, cmap="gray", vmin=0, vmax=1)
    whole = (-0.5, grey.shape[1] - 0.5, grey.shape[0] - 0.5, -0.5)
    return ax.imshow(as_array(values), COLORMAP, alpha=0.75, interpolation="nearest", extent=whole)


def share_scale(figure: Figure, overlays: Sequence[AxesImage], axes: np.ndarray) -> None:
    """One scale from the least to the largest value of all maps, with its colour bar."""
    values = np.concatenate([np.ma.filled(each.get_array(), np.nan).ravel() for each in overlays])
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0, 1)
    if low == high:  # a constant map keeps its colour between 0 and 1
        low, high = min(low, 0), max(high, 1)
    for overlay in overlays:
        overlay.set_clim(low, high)
    figure.colorbar(overlays[0], ax=axes, label="map value", shrink=0.8, aspect=30)


def draw_grid(ax: Axes, size: tuple[int, int], step: int = 1, **style) -> None:
    """Lines between the cells, ``step`` pixels wide and high, of a picture of ``size`` (H, W)."""
    height, width = size
    ax.vlines(np.arange(step, width, step) - 0.5, -0.5, height - 0.5, **style)
    ax.hlines(np.arange(step, height, step) - 0.5, -0.5, width - 0.5, **style)


def outline_patches(ax: Axes, chosen: Array, size: tuple[int, int], color: str = LINES[1]) -> None:
    """A line around the chosen patches, (h, w) of bool, of an image of ``size`` (H, W) pixels."""
    chosen = as_array(chosen)
    segments = []
    for inside, step in ((chosen, 1), (chosen.T, -1)):  # edges that lie across, then upright ones
        edges = np.argwhere(np.diff(np.pad(inside, ((1, 1), (0, 0))).astype(int), axis=0))
        segments += [np.array([(x, y), (x + 1, y)])[:, ::step] for y, x in edges]
    patch = np.divide(size[::-1], chosen.shape[::-1])
    places = [ends * patch - 0.5 for ends in segments]
    for colors, width in (("white", 3), (color, 1.6)):  # the white sets it off from any map
        style = {"colors": colors, "linewidths": width, "capstyle": "projecting"}
        ax.add_collection(LineCollection(places, zorder=3, **style), autolim=False)


def class_legend(
    figure: Figure, masks: Sequence[Array], classes: Names, ignored: str = "not counted"
) -> None:
    """Names of the classes that the masks hold, and what 255 stands for, below the panels."""
    names = dict(enumerate(("background", *classes))) | {IGNORE_INDEX: ignored}
    present = sorted(set().union(*(np.unique(as_array(mask)).tolist() for mask in masks)))
    handles = [
        Patch(facecolor=color / 255, edgecolor="grey", linewidth=0.5, label=names[value])
        for value, color in zip(present, colorize(present, classes), strict=True)
    ]
    legend_below(figure, handles)


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend below the panels, in rows of about the same length."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    most = max(int(figure.get_figwidth() / max(1.25, 0.5 + 0.08 * longest)), 1)  # as fit in one row
    columns = -(-len(handles) // -(-len(handles) // most))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=9)


def line_color(index: int) -> str:
    """Colour of the line of this number; colours go round."""
    return LINES[index % len(LINES)]


def line_style(index: int) -> dict[str, str]:
    """Colour and dashes of the line of this number; both go round."""
    return {"color": line_color(index), "linestyle": STYLES[index % len(STYLES)]}
