"""A row of the explorer (notebook 09): a picture, a map, its mask, its errors, and one patch.

Drawn pixel by pixel rather than by matplotlib, which takes a tenth of a second and more: a row is
drawn anew at every turn of a slider.
"""

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import to_hex, to_rgb
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from more_lib.figures import canvas
from more_lib.figures.canvas import Names
from more_lib.recipes.constants import IGNORE_INDEX

ERRORS = {"right": canvas.LINES[2], "false": canvas.LINES[1], "missed": canvas.LINES[4]}
BAR = canvas.LINES[0]
MOST_TOKENS = 15  # bars that can be read beside a picture
LEAST_TOKENS = 10  # for whose bars there is room: fewer are no taller
ONE_TOKEN = "all classes"  # what the only token of a network stands for
MOST_LINES = 20  # patches a side whose grid can be seen

# In pixels. A side shows EmojiVOC's 96 pixels doubled.
SIDE, GAP, ABOVE, BELOW = 192, 12, 44, 44
NAMES, BARS = 80, 70  # the column of the class tokens: names, bars, then numbers
WIDTH, HEIGHT = 5 * (SIDE + GAP) + NAMES + BARS + 85, ABOVE + SIDE + BELOW


class Seen(NamedTuple):
    """What one row of settings shows of a picture of H x W pixels in h x w patches.

    ``scores``, by name, are the class's in this one picture; empty without ``truth``. ``gathered``
    and ``neighbors`` are None where the network has no graph.
    """

    image: np.ndarray  # (H, W, 3) uint8
    map: np.ndarray  # of any size, in [0, 1]: the class's
    mask: np.ndarray  # (H, W) of 0, the background, and 1..C
    truth: np.ndarray | None  # (H, W) likewise, 255 is not counted
    number: int  # the class's, 1..C
    scores: dict[str, float]
    patch: tuple[int, int]  # row and column of the chosen one
    likeness: np.ndarray  # (h, w): its cosine with every patch
    tokens: np.ndarray  # (C,): its cosine with every class token; (1,) where all share one
    gathered: np.ndarray | None  # (C,): weight S with which GCR gathers it for each; nan: not
    neighbors: np.ndarray | None  # (h, w) of bool: the patches that GCR gathers for the class


def errors(mask: np.ndarray, truth: np.ndarray, number: int) -> dict[str, np.ndarray]:
    """Where a class is "right" (TP), "false" (FP) and "missed" (FN): (H, W) of bool each.

    A pixel that is 255 in the truth is none of them.
    """
    claimed, there, counted = mask == number, truth == number, truth != IGNORE_INDEX
    false = claimed & ~there & counted
    return {"right": claimed & there, "false": false, "missed": there & ~claimed}


def picture_boxes(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """(left, top, width, height) of a row's five pictures of (H, W), in pixels of the row."""
    height, width = (max(round(SIDE * side / max(size)), 1) for side in size)
    top, inner = ABOVE + (SIDE - height) // 2, (SIDE - width) // 2
    return [((SIDE + GAP) * k + inner, top, width, height) for k in range(5)]


def patch_at(
    x: float, y: float, size: tuple[int, int], grid: tuple[int, int]
) -> tuple[int, int] | None:
    """Row and column of the patch at a place, in whichever of the row's pictures; None outside.

    x, y: in [0, 1] from the row's top left. size: (H, W). grid: (h, w).
    """
    for left, top, width, height in picture_boxes(size):
        across, down = (x * WIDTH - left) / width, (y * HEIGHT - top) / height
        if 0 <= across < 1 and 0 <= down < 1:
            return int(down * grid[0]), int(across * grid[1])
    return None


def draw_seen(seen: Seen, classes: Names, title: str = "") -> Image.Image:
    """The row: picture, map, mask, errors, what is like the chosen patch, and its class tokens.

    Look for brightness off the object, and what becomes of it in the mask; then choose the patch
    that is to blame: which patches are like it, which class token is, and whom GCR gathers it for.
    """
    row = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen, boxes = ImageDraw.Draw(row), picture_boxes(seen.image.shape[:2])
    lefts, width, below = [box[0] for box in boxes], boxes[0][2], ABOVE + SIDE + 4
    picture = Image.fromarray(seen.image).resize(boxes[0][2:], Image.Resampling.BICUBIC)
    grey = np.asarray(picture.convert("L"))[..., None].repeat(3, 2)
    name, least = classes[seen.number - 1], float(seen.likeness.min())
    chosen = np.zeros(seen.likeness.shape, bool)
    chosen[seen.patch] = True
    found = {} if seen.truth is None else errors(seen.mask, seen.truth, seen.number)

    like = _overlay(grey, seen.likeness, least)
    if seen.neighbors is not None:
        like = _framed(like, seen.neighbors, canvas.LINES[1])
        _write(pen, (lefts[4], below + 27), f"framed: gathered for {name}", canvas.LINES[1], 11)
    panels = (
        ("picture", _framed(_lined(np.array(picture), seen.likeness.shape), chosen, "black")),
        (f"map of {name}", _overlay(grey, seen.map)),
        ("mask", _enlarged(canvas.colorize(seen.mask, classes), grey)),
        ("" if found else "no ground truth", _painted(grey, found)),
        ("like patch {}, {}".format(*seen.patch), _framed(like, chosen, "black")),
    )
    _write(pen, (2, 2), title, size=14, bold=True)
    for (left, top, *_), (text, pixels) in zip(boxes, panels, strict=True):
        row.paste(Image.fromarray(pixels), (left, top))
        _write(pen, (left + width // 2, ABOVE - 5), text, anchor="ms")
    _write_line(pen, (lefts[3], ABOVE - 17), width, [(f"■ {k}", ERRORS[k]) for k in found])
    _write_line(pen, (lefts[2], below), width, _largest(seen.mask, classes))
    words = [(f"{key} {value:.2f}", "black") for key, value in seen.scores.items()]  # of nan: "nan"
    for line in range(0, len(words), 2):
        _write_line(pen, (lefts[3], below + 8 * line), width, words[line : line + 2])
    for left, low in ((lefts[1], 0.0), (lefts[4], least)):
        row.paste(
            Image.fromarray(_viridis(np.linspace(0, 1, width)[None].repeat(8, 0))), (left, below)
        )
        _write(pen, (left, below + 10), f"{low:.2f}", size=11)
        _write(pen, (left + width, below + 10), "1", size=11, anchor="ra")
    _draw_tokens(pen, seen, classes)
    return row


def png(image: Image.Image) -> bytes:
    """A drawn row as a file, written quickly rather than small."""
    image.save(buffer := BytesIO(), format="png", compress_level=1)
    return buffer.getvalue()


def _draw_tokens(pen: ImageDraw.ImageDraw, seen: Seen, classes: Names) -> None:
    """The patch's cosine with each class token, and the weight with which GCR gathers it for it."""
    shared = len(seen.tokens) < len(classes)
    names = [ONE_TOKEN] if shared else classes
    order = np.arange(len(names))
    if len(order) > MOST_TOKENS:  # the row's own class, and those that the patch is most like
        ranked = np.argsort(-seen.tokens)
        ranked = np.concatenate([[seen.number - 1], ranked[ranked != seen.number - 1]])
        order = np.sort(ranked[:MOST_TOKENS])
    left, step = 5 * (SIDE + GAP) + NAMES, SIDE / max(len(order), LEAST_TOKENS)
    low, high = min(0.0, seen.tokens.min()), max(0.0, seen.tokens.max(), 1e-6)
    high = 1.0 if shared else high  # with nothing to compare it with, a share of all
    zero = left + BARS * -low / (high - low)
    head = "cosine with class token" + "s" * (not shared)
    head += f", {len(order)} of {len(names)}" * (len(order) < len(names))
    _write(pen, (left - NAMES, ABOVE - 5), head, anchor="ls")
    for k, number in enumerate(order):
        y, cosine = ABOVE + step * (k + 0.5), seen.tokens[number]
        own = not shared and number + 1 == seen.number
        ends = sorted((zero, zero + BARS * cosine / (high - low)))
        pen.rectangle(
            (ends[0], y - 0.35 * step, ends[1], y + 0.35 * step), BAR if own else "#bbbbbb"
        )
        _write(pen, (left - 4, y), names[number], size=11, anchor="rm", bold=own)
        _write(pen, (left + BARS + 34, y), f"{cosine:.2f}", size=11, anchor="rm")
        if seen.gathered is not None and not np.isnan(seen.gathered[number]):
            text = f"S {seen.gathered[number]:.2f}"
            _write(pen, (WIDTH - 1, y), text, canvas.LINES[1], 11, anchor="rm")
    if seen.gathered is not None:
        place = (left - NAMES, ABOVE + SIDE + 31)
        _write(pen, place, "S: weight with which GCR gathers it", canvas.LINES[1], 11)


def _overlay(grey: np.ndarray, values: np.ndarray, least: float = 0.0) -> np.ndarray:
    """Values from ``least`` to 1 in colour over a grey picture (H, W, 3) uint8; the same again."""
    size = grey.shape[1::-1]
    large = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.NEAREST)
    share = (np.asarray(large) - least) / max(1 - least, 1e-6)
    return (0.3 * grey + 0.7 * _viridis(share)).astype(np.uint8)


def _viridis(share: np.ndarray) -> np.ndarray:
    return matplotlib.colormaps[canvas.COLORMAP](share, bytes=True)[..., :3]


def _enlarged(pixels: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Pixels (h, w, 3) or (h, w), uint8 or bool, in the size of another picture, none blended."""
    image = Image.fromarray(pixels).resize(like.shape[1::-1], Image.Resampling.NEAREST)
    return np.asarray(image)


def _painted(grey: np.ndarray, found: dict[str, np.ndarray]) -> np.ndarray:
    """Each kind of error in its colour over a grey picture."""
    painted = grey.astype(float)
    for kind, where in found.items():
        inside = _enlarged(where, grey)
        painted[inside] = 0.25 * painted[inside] + 0.75 * 255 * np.array(to_rgb(ERRORS[kind]))
    return painted.astype(np.uint8)


def _lined(pixels: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """A faint grid of the patches to choose from, where they are few."""
    if max(grid) <= MOST_LINES:
        for axis, count in enumerate(grid):
            places = np.arange(1, count) * pixels.shape[axis] // count
            lines = pixels[places] if axis == 0 else pixels[:, places]
            index = places if axis == 0 else (slice(None), places)
            pixels[index] = 0.7 * lines + 0.3 * 255
    return pixels


def _framed(pixels: np.ndarray, chosen: np.ndarray, color: str) -> np.ndarray:
    """A line around the chosen patches, (h, w) of bool, set off in white from any colour."""
    inside = Image.fromarray(_enlarged(chosen, pixels).astype(np.uint8) * 255)
    bordered = ImageOps.expand(inside, 3)  # closed at the picture's edge
    framed = pixels.copy()
    for tone, outer, inner in (("white", 3, 7), (color, 1, 5)):
        ring = (
            bordered.filter(ImageFilter.MaxFilter(outer)),
            bordered.filter(ImageFilter.MinFilter(inner)),
        )
        wide, narrow = (np.asarray(each)[3:-3, 3:-3] > 0 for each in ring)
        framed[wide & ~narrow] = np.array(to_rgb(tone)) * 255
    return framed


def _largest(mask: np.ndarray, classes: Names) -> list[tuple[str, str]]:
    """The mask's three largest classes, each in its colour."""
    numbers, counts = np.unique(mask[mask > 0], return_counts=True)
    colors = canvas.class_colors(classes) / 255
    order = numbers[np.argsort(-counts)][:3]
    words = [(f"■ {classes[number - 1]}", to_hex(colors[number])) for number in order]
    return words or [("background alone", "black")]


def _write_line(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], width: int, words: Sequence[tuple[str, str]]
) -> None:
    """Words in their colours, each in an equal share of the width, or behind the one before it."""
    left = 0.0
    for k, (word, color) in enumerate(words):
        left = max(left, place[0] + width * k // len(words))
        _write(pen, (left, place[1]), word, color)
        left += pen.textlength(word, _font(12, False)) + 4


def _write(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    color: str = "black",
    size: int = 12,
    anchor: str = "la",
    bold: bool = False,
) -> None:
    pen.text(place, text, color, _font(size, bold), anchor)


@cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """The type of all figures, which matplotlib brings."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)
