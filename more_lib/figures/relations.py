"""Figures of notebook 04: three-way masks, the uncertain kernel on them, and what CRE does to LAM.

Masks are three-way: 0 background, 1..C the classes, 255 uncertain, one value a patch.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from more_lib.figures import canvas
from more_lib.figures.canvas import Array, Names, Picture
from more_lib.method.lir import uncertain_patches
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.errors import InputError
from more_lib.system.shapes import check_shapes

WINDOW, TESTED, TAKEN = "#D55E00", "#0072B2", "#CC79A7"  # Okabe, Ito
GREYS = ("#444444", "#A6A6A6", "#F2F2F2")  # of 0, 1 and 2, so that the colours above stand out
MEANINGS = {"background": 0, "uncertain": 1, "foreground": 2}  # what a patch counts in Eq. 8


def plot_three_way(
    image: object,
    masks: Mapping[str, Array],
    classes: Names,
    maps: Mapping[str, Array] | None = None,
    title: str = "What the map is sure of",
) -> Picture:
    """An image, maps over it, and three-way masks (h, w) with a line between patches (Eq. 6).

    Look for a ring of uncertain patches between a class and the background, and for classes that
    claim a patch of something else.
    Raises ``InputError`` for values that are no class, and without masks.
    """
    maps = maps or {}
    if not masks:
        raise InputError("there is nothing to draw: give at least one mask")
    figure, panels = canvas.new_panels(["image", *maps, *masks], title)
    panels[0].imshow(canvas.as_rgb(image))
    pairs = zip(panels[1:], maps.values(), strict=False)
    overlays = [canvas.draw_overlay(ax, image, values) for ax, values in pairs]
    for ax, mask in zip(panels[1 + len(maps) :], masks.values(), strict=True):
        ax.imshow(canvas.colorize(mask, classes))
        canvas.draw_grid(ax, canvas.as_array(mask).shape, color="white", linewidth=0.4)
    if overlays:
        canvas.share_scale(figure, overlays, panels)
    canvas.class_legend(figure, masks.values(), classes, "uncertain")
    return figure


def plot_windows(
    mask: Array,
    patch: tuple[int, int],
    kernel_size: int = 6,
    phi: float = 1.2,
    title: str = "The uncertain kernel: paper and released code",
) -> Picture:
    """The kernel around one patch with the value of every cell, as in the paper and as released.

    mask: (h, w) integers. patch: row and column of the uncertain patch that is tested. Cells
    outside of the map count 0 in the paper's search; the released one does not test patches so near
    to the border, which the title of its panel then says. Rings mark the tokens that are taken.

    Look for the same window in both panels and another token taken from it.
    Raises ``InputError`` when the patch is not an uncertain patch of the mask.
    """
    values, reach = kernel_values(mask), kernel_size // 2
    if tuple(patch) not in map(tuple, np.argwhere(values == MEANINGS["uncertain"])):
        raise InputError(f"patch {patch} is not uncertain in this mask; choose one that is 255")
    corner = (patch[0] - reach, patch[1] - reach)
    sides = zip(patch, values.shape, strict=True)
    tested = all(reach <= place < side - reach for place, side in sides)
    tensor = torch.as_tensor(canvas.as_array(mask))[None]
    centres = uncertain_patches(tensor, kernel_size, phi)[0]
    corners = uncertain_patches(tensor, kernel_size, phi, "corner")[0]
    mean = f"mean {window_mean(mask, patch, kernel_size):.2f}"
    verdicts = {True: f"{mean} > φ = {phi:g}, kept", False: f"{mean} ≤ φ = {phi:g}"}
    verdicts[None] = "too near to the border, not tested"
    figure, axes = canvas.new_grid([""], ["", ""], title, side=4)
    released = bool(corners[corner]) if tested else None
    variants = (("paper", bool(centres[patch]), patch), ("released code", released, corner))
    for ax, (name, kept, token) in zip(axes[0], variants, strict=True):
        _draw_values(ax, values)
        ax.set_title(f"{name}: {verdicts[kept]}", fontsize=10)
        if kept is not None:
            _frame(ax, corner, kernel_size, WINDOW)
        _frame(ax, patch, 1, TESTED)
        if kept:
            _ring(ax, token)
        ax.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(values.shape[0] - 0.5, -0.5))
    frames = {f"window, {kernel_size} × {kernel_size}": WINDOW, "patch tested": TESTED}
    _legend(figure, frames, "token taken")
    return figure


def plot_kept_patches(
    mask: Array, chosen: Mapping[str, Array], title: str = "Patches for the uncertain relation"
) -> Picture:
    """What every patch counts, a panel for each choice (h, w) bool, a ring on what is chosen.

    Look for where the rings lie: on the border of a class, inside it, or on the background.
    Raises ``InputError`` for choices of another size than the mask, and without any.
    """
    values = kernel_values(mask)
    if not chosen:
        raise InputError("there is nothing to draw: give at least one choice of patches")
    figure, panels = canvas.new_panels(list(chosen), title)
    for ax, (name, choice) in zip(panels, chosen.items(), strict=True):
        patches = canvas.as_array(choice).astype(bool)
        check_shapes(mask=(values, "h w"), **{f"choice {name}": (patches, "h w")})
        _draw_values(ax, values, digits=False)
        for place in np.argwhere(patches):
            _ring(ax, place)
        ax.set_title(f"{name}: {patches.sum()}", fontsize=10)
    _legend(figure, {}, "chosen")
    return figure


def plot_lam_steps(
    image: object,
    mask: Array,
    steps: Mapping[str, Array],
    classes: Names,
    class_indices: Sequence[int],
    title: str = "What CRE teaches the class tokens",
) -> Picture:
    """One row a class, one column a stage of its LAM, its confident patches framed in all.

    mask: (h, w) integers. steps: maps (C, h, w) in [0, 1] by name. class_indices: of 0..C-1.
    Look for rows that begin alike and end apart, each brightest inside its own frame.
    Raises ``InputError`` when mask and maps do not fit.
    """
    mask = canvas.as_array(mask)
    if not canvas.is_mask(mask):
        raise InputError(f"a mask of {mask.dtype}: give integers from 0 to C, and 255")
    names = [classes[index] for index in class_indices]
    figure, axes = canvas.new_grid(names, ["image", *steps], title)
    overlays = []
    for row, index in zip(axes, class_indices, strict=True):
        row[0].imshow(canvas.as_rgb(image))
        for ax, (name, maps) in zip(row[1:], steps.items(), strict=True):
            values = canvas.as_array(maps)[index]
            check_shapes(mask=(mask, "h w"), **{f"map {name}": (values, "h w")})
            overlays.append(canvas.draw_overlay(ax, image, values))
        for ax in row:
            canvas.outline_patches(ax, mask == index + 1, canvas.as_rgb(image).shape[:2])
    canvas.share_scale(figure, overlays, axes)
    return figure


def plot_log_terms(
    logs: Mapping[str, Sequence[Mapping[str, float]]],
    terms: Mapping[str, str],
    levels: Mapping[str, Mapping[str, float]],
    together: bool = False,
    title: str = "",
) -> Picture:
    """Terms of training logs over the iterations: one column a term, one row a log.

    logs: lines as ``Trained.log()`` returns them, by name; a line without the term is left out.
    terms: titles by name in the log. levels: for each log, the value of a term that a dashed line
    marks. together: all logs in one row, as lines of their own. Look for where a curve leaves its
    dashed line. Raises ``InputError`` for a term that no line of a log has, and without logs.
    """
    if not logs or not terms:
        raise InputError("there is nothing to draw: give at least one log and one term")
    num_rows = 1 if together else len(logs)
    figure = canvas.new_figure((canvas.WIDTH, 0.7 + 2.3 * num_rows), title)
    axes = figure.subplots(num_rows, len(terms), squeeze=False)
    for index, (name, log) in enumerate(logs.items()):
        for ax, (term, label) in zip(axes[0 if together else index], terms.items(), strict=True):
            points = [(line["iteration"], line[term]) for line in log if term in line]
            if not points:
                held = ", ".join(log[0]) if log else "nothing"
                raise InputError(f"{name} has no {term}; its lines hold: {held}")
            style = canvas.line_style(index if together else 0)
            ax.plot(*zip(*points, strict=True), **style, label=name)
            level = levels.get(name, {}).get(term)
            if level is not None:
                ax.axhline(level, color="0.3", linestyle="--", linewidth=1)
            lowest, highest = ax.dataLim.intervaly  # of all lines so far; an energy is negative
            limits = (1.05 * min(0, lowest), 1.05 * max(0, highest))
            ax.set(xlabel="iteration", ylabel="loss", ylim=limits)
            ax.set_title(label if together else f"{name}: {label}", fontsize=10)
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            ax.grid(alpha=0.3)
    if together:
        canvas.legend_below(figure, axes[0, 0].get_legend_handles_labels()[0])
    return figure


def kernel_values(mask: Array) -> np.ndarray:
    """What each patch counts in Eq. 8: 2 foreground, 1 uncertain, 0 background; (h, w) int64.

    mask: (h, w) integers, three-way. Anything else is an ``InputError``.
    """
    mask = canvas.as_array(mask)
    if mask.ndim != 2 or not canvas.is_mask(mask):
        raise InputError(f"a mask of shape {mask.shape}, {mask.dtype}: give (h, w) integers")
    return np.where(mask == IGNORE_INDEX, 1, 2 * (mask > 0)).astype(np.int64)


def window_mean(mask: Array, patch: tuple[int, int], kernel_size: int = 6) -> float:
    """Mean of ``kernel_values`` over the kernel around a patch (row, column); outside counts 0.

    The kernel covers ``kernel_size`` rows from ``kernel_size // 2`` above the patch on, columns
    alike (Eq. 8, notebook 04 §3).
    """
    reach = kernel_size // 2
    padded = np.pad(kernel_values(mask), kernel_size)
    top, left = (place + kernel_size - reach for place in patch)
    return float(padded[top : top + kernel_size, left : left + kernel_size].mean())


def _draw_values(ax: Axes, values: np.ndarray, digits: bool = True) -> None:
    ax.imshow(values, ListedColormap(GREYS), vmin=0, vmax=2)
    canvas.draw_grid(ax, values.shape, color="#808080", linewidth=0.4)
    for place, value in np.ndenumerate(values) if digits else ():
        ax.text(*place[::-1], value, ha="center", va="center", color="k" if value else "w")


def _frame(ax: Axes, corner: Sequence[int], side: int, color: str) -> None:
    """A square of ``side`` patches whose upper left one is ``corner`` (row, column)."""
    place = (corner[1] - 0.5, corner[0] - 0.5)
    ax.add_patch(Rectangle(place, side, side, fill=False, edgecolor=color, linewidth=3))


def _ring(ax: Axes, place: Sequence[int]) -> None:
    for color, width in (("black", 4), (TAKEN, 2.5)):
        ax.add_patch(Circle((place[1], place[0]), 0.36, fill=False, ec=color, lw=width))


def _legend(figure: Picture, frames: Mapping[str, str], ring: str) -> None:
    """What the greys, the frames (colours by name) and the rings stand for."""
    greys = [Patch(fc=GREYS[n], ec="grey", label=f"{n} {name}") for name, n in MEANINGS.items()]
    squares = [Patch(fill=False, ec=color, lw=2, label=name) for name, color in frames.items()]
    circle = {"marker": "o", "ms": 9, "mew": 2.5, "ls": "", "fillstyle": "none", "color": TAKEN}
    canvas.legend_below(figure, [*greys, *squares, Line2D([], [], label=ring, **circle)])
