"""Figures of images, masks and maps.

A notebook displays the figure that ends its cell, a script calls ``savefig``. Maps are drawn in
viridis, which colour-blind readers can read, masks in VOC's colours with a legend. Images are RGB:
PIL, or (H, W, 3) or (3, H, W), uint8 or float in [0, 1] (``denormalize`` brings the network's input
there). Maps and masks are (H, W) of any size, drawn over the whole image.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from more_lib.figures import canvas
from more_lib.figures.canvas import Array, Names, Picture
from more_lib.system.errors import InputError


def summary(array: Array) -> str:
    """What a figure was drawn from, in a line that any machine prints alike, for checked cells.

    ``shape (12, 12), min 0.00, mean 0.31, max 1.00``; nan where a value is nan.
    """
    values = canvas.as_array(array).astype(np.float64)
    numbers = {"min": values.min(), "mean": values.mean(), "max": values.max()}
    rounded = (f"{name} {round(value, 2) + 0.0:.2f}" for name, value in numbers.items())
    return ", ".join((f"shape {values.shape}", *rounded))


def show_images(images: Sequence, titles: Names = (), title: str = "") -> Picture:
    """Images in rows, each under its own title."""
    figure, panels = canvas.new_panels(titles or [""] * len(images), title)
    for ax, image in zip(panels, images, strict=True):
        ax.imshow(canvas.as_rgb(image))
    return figure


def show_dataset(
    images: Sequence, masks: Sequence, classes: Names, ids: Names = (), title: str = "The data"
) -> Picture:
    """Up to eight images, their masks below, a legend of the classes in them.

    Look for what a mask says and an image label does not: where, how large, which one is in front.
    """
    figure, axes = canvas.new_grid(["image", "mask"], ids or [""] * len(images), title)
    for image, mask, (above, below) in zip(images, masks, axes.T, strict=True):
        above.imshow(canvas.as_rgb(image))
        below.imshow(canvas.colorize(mask, classes))
    canvas.class_legend(figure, masks, classes)
    return figure


def show_maps(
    image: object, maps: Mapping[str, Array], title: str = "Where each map looks"
) -> Picture:
    """An image beside its maps laid over it, all on one colour scale.

    Look for bright patches off the object: false activation, which becomes false foreground.
    """
    figure, panels = canvas.new_panels(["image", *maps], title)
    panels[0].imshow(canvas.as_rgb(image))
    pairs = zip(panels[1:], maps.values(), strict=True)
    overlays = [canvas.draw_overlay(ax, image, values) for ax, values in pairs]
    canvas.share_scale(figure, overlays, panels)
    return figure


def compare_localization(
    images: Sequence,
    masks: Sequence,
    columns: Mapping[str, Sequence],
    classes: Names,
    class_indices: Sequence[int],
    title: str = "The same class, as each map localizes it",
) -> Picture:
    """One row an image, one column a kind of map, between the image and the ground truth.

    ``columns`` holds maps (B, C, h, w), of which each row shows the class 0..C-1 that
    ``class_indices`` gives it, and integer masks (B, h, w) of all classes, by title.

    Look for a map that is bright on the whole object of the class on the left, and dark elsewhere.
    """
    names = [classes[index] for index in class_indices]
    figure, axes = canvas.new_grid(names, ["image", *columns, "ground truth"], title)
    overlays, drawn = [], []
    rows = zip(axes, images, class_indices, *columns.values(), masks, strict=True)
    for panels, image, index, *items in rows:
        panels[0].imshow(canvas.as_rgb(image))
        for ax, item in zip(panels[1:], map(canvas.as_array, items), strict=True):
            if canvas.is_mask(item):
                ax.imshow(canvas.colorize(item, classes))
                drawn.append(item)
            else:
                overlays.append(canvas.draw_overlay(ax, image, item[index]))
    if overlays:
        canvas.share_scale(figure, overlays, axes)
    canvas.class_legend(figure, drawn, classes)
    return figure


def plot_attention_heads(
    image: object, attention: Array, title: str = "What each head looks at"
) -> Picture:
    """Attention of one token, (heads, h, w), over the image. Look for heads that disagree."""
    heads = enumerate(canvas.as_array(attention), start=1)
    return show_maps(image, {f"head {number}": values for number, values in heads}, title)


def plot_patch_grid(image: object, patch: int, title: str = "") -> Picture:
    """An image, and the same image cut into the patches that become the ViT's tokens.

    Look for how little of a thing one patch shows: a raw map can be no finer than this grid.
    Raises ``InputError`` when the patch does not divide the image.
    """
    picture = canvas.as_rgb(image)
    height, width = picture.shape[:2]
    if patch < 1 or height % patch or width % patch:
        raise InputError(f"a patch of {patch} does not divide an image of {height}x{width}")
    rows, columns = height // patch, width // patch
    title = title or f"{rows} × {columns} = {rows * columns} patches of {patch} × {patch} pixels"
    figure, axes = canvas.new_grid([""], ["image", "patches"], title, side=3)
    for ax in axes[0]:
        ax.imshow(picture)
    canvas.draw_grid(axes[0, 1], (height, width), patch, color="white")
    return figure
