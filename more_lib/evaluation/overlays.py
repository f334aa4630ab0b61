"""Figures of predictions on images without a ground truth (notebook 08)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from more_lib.evaluation.predict import Prediction
from more_lib.figures.canvas import (
    WIDTH,
    Names,
    Picture,
    class_legend,
    colorize,
    draw_overlay,
    new_figure,
    new_grid,
    share_scale,
)

LONGEST = 640  # pixels: no panel shows more


def plot_prediction(prediction: Prediction, classes: Names, title: str = "") -> Picture:
    """An image beside the map of each class that was looked for; a line encloses its mask.

    ``classes`` are the recipe's; beside a class's name is its probability to be in the image. An
    image without a map is shown alone. Look for maps whose bright part is the object, and for
    outlines that cut through it or enclose what is none.
    """
    image, mask = _small(prediction)
    numbers = [classes.index(name) + 1 for name in prediction.labels]
    names = [f"{classes[n - 1]} {prediction.probabilities[n - 1]:.2f}" for n in numbers]
    figure, panels = _shaped(["image", *names], image.size, title or prediction.id)
    panels[0].imshow(image)
    overlays = []
    for ax, values, number in zip(panels[1:], prediction.maps, numbers, strict=True):
        overlays.append(draw_overlay(ax, image, values))
        _outline(ax, mask == number)
    if overlays:
        share_scale(figure, overlays, panels)
    else:
        panels[0].set_title("no class found" if prediction.asked else "no class looked for")
    return figure


def plot_masks(
    predictions: Sequence[Prediction], classes: Names, title: str = "Images and their masks"
) -> Picture:
    """Up to eight images, their masks below, a legend of the classes in them.

    Look for objects that are missing, and for masks that run over into the background.
    """
    shown = [_small(prediction) for prediction in predictions]
    figure, axes = new_grid(["image", "mask"], [_plain(each.id) for each in predictions], title)
    for (image, mask), (above, below) in zip(shown, axes.T, strict=True):
        above.imshow(image)
        below.imshow(colorize(mask, classes))
    class_legend(figure, [mask for _, mask in shown], classes)
    return figure


def _shaped(names: Names, size: tuple[int, int], title: str) -> tuple[Picture, np.ndarray]:
    """Panels in rows of up to four, in the shape of an image of ``size`` (W, H)."""
    rows = -(-len(names) // 4)
    columns = -(-len(names) // rows)
    width = (WIDTH - 1.1) / max(columns, 2)
    height = width * min(max(size[1] / size[0], 0.4), 1.5) + 0.3
    most = int(7 * (columns * width + 1.1))  # letters that fit: file names can be long
    title = title if len(title) <= most else f"{title[: most - 1]}…"
    whole = columns * width + 1.1, rows * height + 0.5
    figure = new_figure(whole, _plain(title))
    figure.set_layout_engine("none")  # sizes are known, and finding them takes as long as drawing
    edges = {"left": 0.1 / whole[0], "right": 1 - 0.1 / whole[0], "bottom": 0.1 / whole[1]}
    edges |= {"top": 1 - 0.6 / whole[1], "wspace": 0.04, "hspace": 0.3 / height}
    panels = figure.subplots(rows, columns, squeeze=False, gridspec_kw=edges).ravel()
    for ax in panels:  # without ticks, which take long to lay out though nobody sees them
        ax.set(xticks=[], yticks=[])
        ax.axis("off")
    for ax, name in zip(panels, names, strict=False):
        ax.set_title(_plain(name), fontsize=10)
    return figure, panels[: len(names)]


def _plain(name: str) -> str:
    """A name as it is: between dollars the figure would set a formula."""
    return name.replace("$", r"\$")


def _small(prediction: Prediction) -> tuple[Image.Image, np.ndarray]:
    """Image and mask, reduced to what a figure can show."""
    image, mask = prediction.image.copy(), Image.fromarray(prediction.mask)
    image.thumbnail((LONGEST, LONGEST))
    return image, np.asarray(mask.resize(image.size, Image.Resampling.NEAREST))


def _outline(ax: Axes, inside: np.ndarray) -> None:
    """A line around the region ``inside``, (H, W) of bool, that shows on every colour."""
    if inside.any():  # closed at the image's edge by a border of nothing
        bordered = np.pad(inside, 1).astype(float)
        rows, columns = (np.arange(-1, side + 1) for side in inside.shape)
        for color, width in (("black", 2.4), ("white", 1.2)):
            ax.contour(columns, rows, bordered, [0.5], colors=color, linewidths=width)
