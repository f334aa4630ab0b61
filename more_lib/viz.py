"""Every figure of the notebooks: arrays or tensors in, a matplotlib figure out.

Nothing is computed here that a notebook should teach, and nothing is shown: a notebook displays the
figure that ends its cell, a script calls ``savefig``. Maps are drawn in viridis, which colour-blind
readers can read and which survives printing in grey; masks in VOC's palette with a legend.

Images are RGB, (H, W, 3) or (3, H, W), uint8 or float in [0, 1] (``denormalize`` brings the
network's input there), or PIL. Maps and masks are (H, W) of any size, drawn over the whole image.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from more_lib.data.voc import IGNORE, PALETTE, VOC_CLASSES
from more_lib.errors import InputError

if TYPE_CHECKING:
    from more_lib.evaluation import Result

MAPS = "viridis"
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
"""Okabe and Ito's colours, which colour-blind readers tell apart, in an order that keeps contrast."""
STYLES = ("-", "--", "-.", ":")
WIDTH, DPI = 8.8, 100  # inches: 880 pixels, what a notebook shows without scrolling


class Picture(Figure):
    """A figure that a notebook shows by itself, without pyplot and its list of open figures.

    What is stored in the notebook stays small: see ``png``. ``savefig`` keeps every colour.
    """

    def png(self, limit: int = 180_000) -> bytes:
        """PNG of at most ``limit`` bytes where 4 bits a channel can do it.

        Photographs compress badly. Their low bits go first, as few as need be, so that colours
        stay true to the colour scale and the legend, which a palette of the figure's own does not
        grant.
        """
        buffer = BytesIO()
        self.savefig(buffer, format="png")
        pixels = np.asarray(Image.open(buffer).convert("RGB"))
        for bits in (8, 7, 6, 5, 4):
            steps = 2**bits - 1
            coarse = np.rint(np.rint(pixels / 255 * steps) * (255 / steps)).astype(np.uint8)
            buffer = BytesIO()
            Image.fromarray(coarse).save(buffer, format="png", optimize=True)
            if buffer.tell() <= limit:
                break
        return buffer.getvalue()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict:
        return {"image/png": self.png()}


def class_colors(classes: Sequence[str]) -> np.ndarray:
    """VOC's colour of each mask value, (C + 1, 3) uint8: background, then ``classes`` in order.

    Raises ``InputError`` for a class that VOC has no colour for.
    """
    unknown = [name for name in classes if name not in VOC_CLASSES]
    if unknown:
        raise InputError(f"no colour for {', '.join(unknown)}: VOC's are {', '.join(VOC_CLASSES)}")
    return PALETTE[[0, *(VOC_CLASSES.index(name) + 1 for name in classes)]]


def colorize(mask: Tensor | ArrayLike, classes: Sequence[str]) -> np.ndarray:
    """A mask (..., H, W) of 0, 1..C and 255 in VOC's colours: (..., H, W, 3) uint8.

    Pixels of 255 are VOC's cream. Raises ``InputError`` for any other value.
    """
    mask = _array(mask)
    colors = np.zeros((256, 3), dtype=np.uint8)
    colors[: len(classes) + 1] = class_colors(classes)
    colors[IGNORE] = PALETTE[IGNORE]
    allowed = (mask == IGNORE) | ((mask >= 0) & (mask <= len(classes)))
    if not np.issubdtype(mask.dtype, np.integer) or not allowed.all():
        raise InputError(
            f"a mask of {mask.dtype} from {mask.min()} to {mask.max()}: give integers 0 to "
            f"{len(classes)}, and {IGNORE} for what is left open"
        )
    return colors[mask]


def summary(array: Tensor | ArrayLike) -> str:
    """What a figure was drawn from, in one line that any machine prints alike.

    ``shape (12, 12), min 0.00, mean 0.31, max 1.00``; values that are not finite are counted
    instead.
    """
    array = _array(array)
    finite = array[np.isfinite(array)].astype(np.float64)
    if not finite.size:
        return f"shape {array.shape}, no finite value"
    numbers = {"min": finite.min(), "mean": finite.mean(), "max": finite.max()}
    text = ", ".join(f"{name} {round(value, 2) + 0.0:.2f}" for name, value in numbers.items())
    left_out = f", {array.size - finite.size} not finite" if finite.size < array.size else ""
    return f"shape {array.shape}, {text}{left_out}"


def show_images(images: Sequence, titles: Sequence[str] = (), title: str = "") -> Figure:
    """Images in rows, each under its own title."""
    figure, panels = _panels(len(images), title)
    for ax, image in zip(panels, images, strict=True):
        ax.imshow(_picture(image))
    _name(panels, titles)
    return figure


def show_dataset(
    images: Sequence,
    masks: Sequence,
    classes: Sequence[str],
    ids: Sequence[str] = (),
    title: str = "Images, and the masks that training never sees",
) -> Figure:
    """Images above, their masks below, a legend of the classes in them.

    Look for what a mask says and an image label does not: where, how large, which one is in front.
    """
    masks = [_array(mask) for mask in masks]
    figure, axes = _grid(2, len(images), title)
    for column, (image, mask) in enumerate(zip(images, masks, strict=True)):
        axes[0, column].imshow(_picture(image))
        axes[1, column].imshow(colorize(mask, classes))
    _name(axes[0], ids)
    _name_rows(axes, ["image", "mask"])
    _class_legend(figure, masks, classes)
    return figure


def show_maps(
    image: object, maps: Mapping[str, Tensor | ArrayLike], title: str = "Where each map looks"
) -> Figure:
    """An image beside its maps laid over it, all on one colour scale.

    Look for bright patches off the object: false activation, which becomes false foreground.
    """
    arrays = {name: _array(values) for name, values in maps.items()}
    scale = _shared_scale(list(arrays.values()))
    figure, panels = _panels(1 + len(arrays), title)
    panels[0].imshow(_picture(image))
    _name(panels, ["image", *arrays])
    for ax, values in zip(panels[1:], arrays.values(), strict=True):
        _overlay(ax, image, values, scale)
    _colorbar(figure, panels, scale)
    return figure


def compare_localization(
    images: Sequence,
    masks: Sequence,
    columns: Mapping[str, Sequence],
    classes: Sequence[str],
    class_indices: Sequence[int],
    title: str = "The same class, as each map localizes it",
) -> Figure:
    """One row an image, one column a kind of map, between the image and the ground truth.

    Args:
        columns: title to maps (B, C, h, w), of which each row shows its class, or to masks
            (B, h, w) of integers, shown in colour.
        class_indices: for each image the class to show, 0..C-1.

    Look for a map that is bright on the whole object and dark elsewhere, and compare it with the
    mask in the last column. The raw attention is usually the poorest.
    """
    truths = [_array(mask) for mask in masks]
    shown = {name: _of_class(column, class_indices) for name, column in columns.items()}
    drawn = [item for column in shown.values() for item in column]
    maps = [item for item in drawn if not _is_mask(item)]
    scale = _shared_scale(maps)
    figure, axes = _grid(len(images), 2 + len(shown), title)
    for row, (image, truth) in enumerate(zip(images, truths, strict=True)):
        axes[row, 0].imshow(_picture(image))
        for ax, column in zip(axes[row, 1:-1], shown.values(), strict=True):
            if _is_mask(column[row]):
                ax.imshow(colorize(column[row], classes))
            else:
                _overlay(ax, image, column[row], scale)
        axes[row, -1].imshow(colorize(truth, classes))
    _name(axes[0], ["image", *shown, "ground truth"])
    _name_rows(axes, [classes[index] for index in class_indices])
    if maps:
        _colorbar(figure, axes, scale)
    _class_legend(figure, [*truths, *filter(_is_mask, drawn)], classes)
    return figure


def plot_attention_heads(
    image: object,
    attention: Tensor | ArrayLike,
    title: str = "What each head of the last block looks at",
) -> Figure:
    """Attention of one token, (heads, h, w), head by head over the image.

    Look for heads that disagree: some follow the object, some its outline or the background.
    """
    maps = _array(attention)
    return show_maps(image, {f"head {head + 1}": each for head, each in enumerate(maps)}, title)


def plot_patch_grid(image: object, patch: int, title: str = "") -> Figure:
    """An image, and the same image cut into the patches that become the ViT's tokens.

    Look for how much of a thing is left in one patch: a map can be no finer than this grid.
    Raises ``InputError`` when the patch does not divide the image.
    """
    picture = _picture(image)
    height, width = picture.shape[:2]
    rows, columns = height // patch, width // patch
    if (rows * patch, columns * patch) != (height, width):
        raise InputError(f"patch {patch} does not divide an image of {height}x{width}; crop it")
    gap = max(patch // 6, 1)
    sheet = np.ones((rows * (patch + gap) - gap, columns * (patch + gap) - gap, 3))
    down, across = (np.arange(side) + np.arange(side) // patch * gap for side in (height, width))
    sheet[np.ix_(down, across)] = picture
    title = title or f"{rows} × {columns} = {rows * columns} patches of {patch} × {patch} pixels"
    figure, (left, right) = _axes(1, 2, (WIDTH * 0.75, WIDTH * 0.4), title)
    for ax, content, name in ((left, picture, "image"), (right, sheet, "patches")):
        ax.imshow(content)
        ax.set_title(name)
        _no_ticks(ax)
    return figure


def plot_training(log: Sequence[Mapping[str, float]], title: str = "Training") -> Figure:
    """Every loss and the learning rate over the iterations, from the lines of a training log.

    Look for the losses that fall and for the one that waits: while all class tokens are alike, the
    token discrepancy stays at ln C.
    """
    if not log:
        raise InputError("the training log is empty; train for at least optimizer.log_every")
    losses = [n for n in log[0] if n not in ("iteration", "lr", "images_per_second")]
    iterations = [line["iteration"] for line in log]
    figure, (left, right) = _axes(1, 2, (WIDTH, 3.2), title, width_ratios=(2, 1))
    for index, name in enumerate(losses):
        left.plot(iterations, [line[name] for line in log], **_line(index), label=name)
    left.set(xlabel="iteration", ylabel="loss", title="losses")
    left.legend()
    right.plot(iterations, [line["lr"] for line in log], **_line(0))
    right.set(xlabel="iteration", ylabel="learning rate", title="learning rate of the backbone")
    right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for ax in (left, right):
        ax.grid(alpha=0.3)
    return figure


def plot_iou_per_class(results: Sequence["Result"], title: str = "IoU of each class") -> Figure:
    """Horizontal bars, one group a class and one bar a result; a mean line for each result.

    Look for the classes in which two maps part: those decide the mIoU.
    """
    _same_classes(results)
    names = ("background", *results[0].classes)
    figure, ax = _axes(1, 1, (WIDTH, 0.8 + 0.11 * len(names) * (len(results) + 1.5)), title)
    height = 0.8 / len(results)
    for index, result in enumerate(results):
        positions = np.arange(len(names)) + (index + 0.5) * height - 0.4
        color = LINES[index % len(LINES)]
        label = f"{result.name}: mIoU {100 * result.scores.miou:.1f}"
        ax.barh(positions, 100 * result.scores.iou, height, color=color, label=label)
        ax.axvline(100 * result.scores.miou, color=color, linestyle="--", linewidth=1)
    ax.set(yticks=range(len(names)), yticklabels=names, xlabel="IoU (%)", xlim=(0, 100))
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.3)
    ax.legend(title="dashed: the mean", loc="lower right")
    return figure


def plot_confusion(
    matrix: Tensor | ArrayLike,
    classes: Sequence[str],
    title: str = "Which class the pixels of a class become",
) -> Figure:
    """A confusion matrix (C + 1, C + 1), each row in per cent of the class's pixels.

    Look along a row for where a class's pixels go, in the first row for background taken for
    objects: false activation.
    """
    counts = _array(matrix).astype(np.float64)
    names = ("background", *classes)
    if counts.shape != (len(names), len(names)):
        raise InputError(f"the matrix is {counts.shape}, the classes with background {len(names)}")
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(100 * counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    axis_labels = ("predicted class", "true class")
    return _heatmap(share, names, (0, 100), MAPS, ".0f", "% of the row's pixels", axis_labels, title)


def plot_threshold_sweep(
    sweeps: Mapping[str, Sequence["Result"]], title: str = "mIoU against the threshold"
) -> Figure:
    """mIoU over the threshold, one line a map, its best point marked.

    Look for a flat top: a map whose mIoU hangs on the exact threshold will not carry over. The best
    point was chosen on the very masks that judge it.
    """
    figure, ax = _axes(1, 1, (WIDTH * 0.8, 3.6), title)
    for index, (name, results) in enumerate(sweeps.items()):
        thresholds = [result.protocol.threshold for result in results]
        values = [100 * result.scores.miou for result in results]
        best = int(np.nanargmax(values))
        label = f"{name}: best {values[best]:.1f} at {thresholds[best]:g}"
        ax.plot(thresholds, values, **_line(index), label=label)
        ax.plot(thresholds[best], values[best], "o", color=_line(index)["color"])
    ax.set(xlabel="threshold", ylabel="mIoU (%)", ylim=(0, None))
    ax.grid(alpha=0.3)
    ax.legend()
    return figure


def plot_token_similarity(
    similarity: Tensor | ArrayLike,
    classes: Sequence[str],
    title: str = "Cosine similarity of the class tokens",
) -> Figure:
    """Cosines (C, C) between class tokens, from -1 to 1.

    Look off the diagonal: at the start every pair is near 1, and training has to part them.
    """
    values = _array(similarity)
    if values.shape != (len(classes), len(classes)):
        raise InputError(f"similarity is {values.shape}, but there are {len(classes)} classes")
    return _heatmap(values, classes, (-1, 1), "PuOr_r", ".2f", "cosine", ("", ""), title)


def _array(values: object) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def _picture(image: object) -> np.ndarray:
    """(H, W, 3) float in [0, 1]; ``InputError`` for anything that is not an RGB image."""
    picture = _array(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if picture.ndim == 3 and picture.shape[2] != 3:
        picture = picture.transpose(1, 2, 0)
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"an image of shape {picture.shape}: give RGB, (H, W, 3) or (3, H, W)")
    if picture.dtype == np.uint8:
        return picture / 255
    if picture.min() < -1e-4 or picture.max() > 1 + 1e-4:
        raise InputError(
            f"an image with values {picture.min():.2f} to {picture.max():.2f}: give [0, 1], for "
            "instance by more_lib.data.transforms.denormalize"
        )
    return picture.clip(0, 1)


def _axes(
    rows: int, columns: int, size: tuple[float, float], title: str, **layout
) -> tuple[Figure, np.ndarray]:
    figure = Picture(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, **layout)
    if title:
        figure.suptitle(title)
    return figure, axes


def _grid(rows: int, columns: int, title: str) -> tuple[Figure, np.ndarray]:
    """A figure of ``rows`` x ``columns`` square pictures without ticks; axes always in 2-D."""
    if not rows * columns:
        raise InputError("there is nothing to draw: give at least one image")
    side = min((WIDTH - 0.9) / columns, 1.8)
    size = (round(side * columns + 0.9, 2), round(side * rows + 0.9, 2))
    figure, axes = _axes(rows, columns, size, title, squeeze=False)
    for ax in axes.flat:
        _no_ticks(ax)
    return figure, axes


def _panels(count: int, title: str) -> tuple[Figure, np.ndarray]:
    """``count`` square pictures in rows of up to seven; axes in one row."""
    rows = -(-count // 7)
    figure, axes = _grid(rows, -(-count // max(rows, 1)), title)
    for spare in axes.flat[count:]:
        spare.remove()
    return figure, axes.flat[:count]


def _no_ticks(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _name(axes: Sequence[Axes], names: Sequence[str]) -> None:
    for ax, name in zip(axes, names, strict=bool(names)):
        ax.set_title(name, fontsize=10)


def _name_rows(axes: np.ndarray, names: Sequence[str]) -> None:
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(name)


def _overlay(ax: Axes, image: object, values: np.ndarray, scale: Normalize) -> None:
    """The map in colour over the image in grey."""
    grey = _picture(image) @ (0.299, 0.587, 0.114)
    height, width = grey.shape
    ax.imshow(grey, cmap="gray", vmin=0, vmax=1)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    ax.imshow(values, cmap=MAPS, norm=scale, alpha=0.65, extent=extent, interpolation="nearest")


def _of_class(column: Sequence, class_indices: Sequence[int]) -> list[np.ndarray]:
    """Masks as they are; of maps (C, h, w) the one of each image's class."""
    arrays = [_array(item) for item in column]
    return [
        array if _is_mask(array) else array[index]
        for array, index in zip(arrays, class_indices, strict=True)
    ]


def _is_mask(array: np.ndarray) -> bool:
    return np.issubdtype(array.dtype, np.integer)


def _shared_scale(maps: Sequence[np.ndarray]) -> Normalize:
    """From the least to the largest value of all maps."""
    low = min((float(each.min()) for each in maps), default=0.0)
    high = max((float(each.max()) for each in maps), default=1.0)
    return Normalize(low, high if high > low else low + 1)


def _colorbar(figure: Figure, axes: np.ndarray, scale: Normalize) -> None:
    figure.colorbar(ScalarMappable(scale, MAPS), ax=axes, label="map value", shrink=0.8, aspect=30)


def _class_legend(figure: Figure, masks: Sequence[np.ndarray], classes: Sequence[str]) -> None:
    """Names of what the masks hold, below the panels in rows of up to seven."""
    names = dict(enumerate(("background", *classes))) | {IGNORE: "not counted"}
    colors = colorize(np.array(list(names)), classes) / 255
    present = np.unique(np.concatenate([np.unique(mask) for mask in masks]))
    handles = [
        Patch(facecolor=color, edgecolor="grey", linewidth=0.5, label=name)
        for (value, name), color in zip(names.items(), colors, strict=True)
        if value in present
    ]
    lines = -(-len(handles) // 7)
    columns = -(-len(handles) // lines)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=9)


def _line(index: int) -> dict[str, str]:
    return {"color": LINES[index % len(LINES)], "linestyle": STYLES[index % len(STYLES)]}


def _same_classes(results: Sequence["Result"]) -> None:
    if len({result.classes for result in results}) != 1:
        raise InputError("the results must be of the same classes, and at least one")


def _heatmap(
    values: np.ndarray,
    names: Sequence[str],
    limits: tuple[float, float],
    colors: str,
    numbers: str,
    meaning: str,
    axis_labels: tuple[str, str],
    title: str,
) -> Figure:
    import seaborn

    side = min(2.2 + 0.5 * len(names), WIDTH)
    figure, ax = _axes(1, 1, (side + 0.6, side), title)
    seaborn.heatmap(
        values,
        ax=ax,
        vmin=limits[0],
        vmax=limits[1],
        cmap=colors,
        annot=True,
        fmt=numbers,
        annot_kws={"size": 7},
        square=True,
        xticklabels=names,
        yticklabels=names,
        cbar_kws={"label": meaning, "shrink": 0.8},
    )
    ax.set(xlabel=axis_labels[0], ylabel=axis_labels[1])
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(axis="y", rotation=0)
    return figure
