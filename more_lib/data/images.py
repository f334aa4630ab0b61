"""Image files as people have them: any format, any mode, turned by the camera, some of them broken.

Everything is checked before anything is computed, so that a long run does not end at image 900.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from more_lib.data.tree import DAMAGED_IMAGE
from more_lib.system.errors import InputError
from more_lib.system.progress import progress_bar


def voc_palette() -> np.ndarray:
    """VOC's colour of each mask value, (256, 3) uint8.

    The bits of the value, three at a time from the lowest, fill red, green and blue from the
    highest bit down, so that neighbouring ids get colours far apart.
    """
    values = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for triple in range(8):
        for channel in range(3):
            bit = (values >> (3 * triple + channel)) & 1
            palette[:, channel] |= (bit << (7 - triple)).astype(np.uint8)
    return palette


PALETTE = voc_palette()


def mask_image(values: np.ndarray, palette: np.ndarray = PALETTE) -> Image.Image:
    """A mask (H, W) uint8 as the palette image that it is saved as; palette (256, 3) uint8."""
    image = Image.fromarray(values)
    image.putpalette(palette.tobytes())
    return image


SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_DAMAGED = (*DAMAGED_IMAGE, Image.DecompressionBombError)


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """The image files among ``inputs``: files as they are, of folders what ends as an image does.

    Folders are not searched deeper, hidden files are left out, a file named twice counts once.
    Raises ``InputError`` for what is not there, a folder without images, no input at all, and for
    two images whose names differ in their ending or folder only: their masks would be one file.
    """
    paths: dict[Path, Path] = {}
    for entry in map(Path, inputs):
        for path in _images_of(entry):
            paths.setdefault(path.resolve(), path)
    if not paths:
        raise InputError("no images given: name files, or a folder that holds some")
    names: dict[str, Path] = {}
    for path in paths.values():
        other = names.setdefault(path.stem.casefold(), path)
        if other is not path:
            raise InputError(
                f"{other} and {path} would both become {path.stem}.png: rename one, or give them "
                "in two runs with two output folders"
            )
    return list(names.values())


def _images_of(entry: Path) -> Sequence[Path]:
    if entry.is_file():
        return [entry]
    if not entry.is_dir():
        raise InputError(f"{entry} does not exist: name image files, or a folder that holds some")
    found = sorted(
        path
        for path in entry.iterdir()
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not found:
        raise InputError(f"the folder {entry} holds no image (looked for {' '.join(SUFFIXES)})")
    return found


def read_image(path: str | Path) -> Image.Image:
    """The image as RGB, upright: the orientation that a camera left in EXIF is applied.

    Grey, palette and CMYK images are converted, transparent ones laid on white; of an animation
    the first picture counts. Raises ``InputError`` for a file that is missing, damaged, truncated,
    no image, or has more than 8 bits a channel.
    """
    return _decoded(Path(path))


def image_size(path: Path) -> tuple[int, int]:
    """(W, H) of a readable file as stored, from its header."""
    with Image.open(path) as file:
        return file.size


def unreadable(paths: Iterable[Path]) -> dict[Path, str]:
    """The files that ``read_image`` would refuse, each with the reason.

    Every file is read to its end; JPEGs are decoded to an eighth of their size, which is faster.
    """
    reasons = {}
    for path in progress_bar(list(paths), description="checking images"):
        try:
            _decoded(path, quick=True)
        except InputError as error:
            reasons[path] = str(error).removeprefix(f"{path} ")
    return reasons


def _decoded(path: Path, quick: bool = False) -> Image.Image:
    try:
        with Image.open(path) as file:
            if quick:
                file.draft(None, (1, 1))
            return _rgb(ImageOps.exif_transpose(file), path)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if str(path) in reason:  # Pillow repeats the path
            reason = "not an image"
        raise InputError(f"{path} cannot be read ({reason})") from error


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        raise InputError(f"{path} has mode {image.mode}: save it with 8 bits a channel")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
