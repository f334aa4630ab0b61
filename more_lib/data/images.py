"""Image files as people have them: any format, any mode, turned by the camera, some of them broken.

Everything is checked before anything is computed, so that a long run does not end at image 900.
"""

import mimetypes
import os
import stat
import struct
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from more_lib.system.errors import InputError
from more_lib.system.progress import progress_bar

IMAGE_ENDINGS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
    *(".png", ".tif", ".tiff", ".webp"),
)
"""Of the files that are images, in a folder to train on as in one to predict."""

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, count=9, bitorder="little")
PALETTE = np.packbits(_BITS.reshape(256, 3, 3), axis=1)[:, 0]
"""VOC's colour of each mask value, (256, 3) uint8.

The bits of the value, three at a time from the lowest, fill red, green and blue from the highest
bit down, so that neighbouring ids get colours far apart.
"""

TAIL = 4096  # bytes in which a format's end is looked for; cameras write notes behind it

ORIENTATION = 0x0112  # EXIF's note of how a picture lies
_PNG_NOTES = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # where a PNG may have it
TURNS = dict(
    enumerate(
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        start=2,
    )
)
"""What turns a picture of each orientation upright; from 5 on, width and height change places."""

# What Pillow raises for a file that is cut short or no image (of AVIF RuntimeError), beside the
# DecompressionBombError of one that is larger than it dares to decode.
_DAMAGED = (OSError, SyntaxError, ValueError, RuntimeError, EOFError, struct.error, zlib.error)


class Header(NamedTuple):
    """What an image file says before it is decoded."""

    size: tuple[int, int]  # (W, H) upright
    stored: tuple[int, int]  # (W, H) as the file has it
    orientation: int  # EXIF's, a key of TURNS; 1 is upright as stored
    mode: str
    format: str

    @property
    def mask_could_be_stored(self) -> bool:
        """Whether a mask's size does not tell if it was drawn on the picture upright or stored."""
        return self.orientation != 1 and self.size == self.stored


def mask_image(values: np.ndarray, palette: np.ndarray = PALETTE) -> Image.Image:
    """A mask (H, W) uint8 as the palette image that it is saved as; palette (256, 3) uint8."""
    image = Image.fromarray(values)
    image.putpalette(palette.tobytes())
    return image


@contextmanager
def readable(
    path: Path, cure: str = ": restore it, or take its id out of the split"
) -> Iterator[None]:
    """Turn what reading ``path`` may raise into one ``InputError`` that ends on the cure."""
    try:
        if _is_endless(path):
            raise ValueError("a pipe or device, no file")
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing{cure}") from error
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        if str(path) in reason:  # Pillow repeats the path
            reason = "not an image"
        raise InputError(
            f"{path} cannot be read ({reason or type(error).__name__}){cure}"
        ) from error


def _is_endless(path: Path) -> bool:
    """Whether reading would wait for ever, as on a pipe, or never end."""
    with suppress(OSError, ValueError):  # which reading it will meet as well
        kind = path.stat().st_mode
        return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))
    return False


def image_files(folder: Path) -> list[Path]:
    """The images right in a folder, by their names; hidden files and folders are none."""
    with readable(folder, cure=": name another folder"), os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if Path(entry.name).suffix.lower() in IMAGE_ENDINGS
            and not entry.name.startswith(".")
            and not Path(entry).is_dir()  # False for a link that leads nowhere
        ]
    return [folder / name for name in sorted(names)]


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """The image files among ``inputs``: files as they are, of folders what ends as an image does.

    Folders are not searched deeper, hidden files are left out. A file named twice counts once, but
    each of its names does: DVC and git-annex keep photographs that are the same as links to one.
    Raises ``InputError`` for what is not there, a folder without images, no input at all, and for
    two images whose names differ in their ending or folder only: their masks would be one file.
    """
    paths: dict[tuple[Path, str], Path] = {}
    for entry in map(Path, inputs):
        cure = ": name image files, or a folder that holds some"
        with readable(entry, cure):
            if not (entry.exists() or entry.is_symlink()):
                raise InputError(f"{entry} does not exist{cure}")
        files = image_files(entry) if entry.is_dir() else [entry]
        if not files:
            note = left_out_note(entry) or f"it needs some of {' '.join(IMAGE_ENDINGS)}"
            raise InputError(f"the folder {entry} holds no image: {note}")
        for path in files:
            real = path.resolve() if path.exists() else path
            paths.setdefault((real, path.name), path)
    if not paths:
        raise InputError("no images given: name files, or a folder that holds some")
    names: dict[str, Path] = {}
    for path in paths.values():
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path.stem).casefold())
        other = names.setdefault(key, path)
        if other is not path:
            raise InputError(
                f"{other} and {path} would both become {path.stem}.png: rename one, or give them "
                "in two runs with two output folders"
            )
    return list(names.values())


def read_image(path: str | Path, quick: bool = False) -> Image.Image:
    """The image as RGB, upright: the one way in which pictures are opened, whatever for.

    The orientation that a camera left in EXIF is applied. Grey, palette and CMYK images are
    converted, 16 bits a channel become 8, what is transparent is laid on white; of an animation
    the first picture counts. Raises ``InputError`` for a file that is missing, damaged, truncated,
    no image, or of numbers without a range. ``quick`` decodes a JPEG to an eighth of its size.
    """
    path = Path(path)
    # A stream, as Pillow maps a file that it opens by name, and a turned TIFF wrongly.
    with readable(path, cure=""), path.open("rb") as raw, Image.open(raw) as file:
        require_range(path, file)
        if quick:
            file.draft(None, (1, 1))
        file.load()  # after which a TIFF is upright
        turn = TURNS.get(file.getexif().get(ORIENTATION, 1))  # exif_transpose would rewrite EXIF
        image = file if turn is None else file.transpose(turn)
        image = _eight_bits(image) if image.mode.startswith("I") else image
        if not image.has_transparency_data:
            return image.convert("RGB")
        image = image.convert("RGBA")
        on_white = Image.new("RGB", image.size, "white")
        on_white.paste(image, mask=image.getchannel("A"))
        return on_white


def require_range(path: Path, picture: Image.Image | Header) -> None:
    """Raise ``InputError`` for pixels that are numbers of which nobody knows what white is."""
    mode = picture.mode
    if mode == "F" or (mode == "I" and picture.format not in ("PNG", "PPM")):
        raise InputError(f"{path} has pixels of mode {mode}: save it with 8 or 16 bits a channel")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit; the one value that may stand for transparent becomes white."""
    values, key = np.asarray(image), image.info.get("transparency")
    grey = (values.astype(np.float32) / 257).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(grey if key is None else np.where(values == key, np.uint8(255), grey))


def unreadable(paths: Iterable[Path]) -> dict[Path, str]:
    """The files that ``read_image`` would refuse, each with the reason; all are read to the end."""
    reasons = {}
    for path in progress_bar(list(paths), description="checking images"):
        try:
            read_image(path, quick=True)
        except InputError as error:
            reasons[path] = str(error).removeprefix(f"{path} ")
    return reasons


def read_mask(path: Path, picture: Header | None = None, stored: bool = False) -> np.ndarray:
    """The values of a mask's file, (H, W) uint8, upright as ``read_image`` gives its picture.

    A mask is as its picture is seen if its size says so, also where the size does not tell;
    ``stored`` says that it then fits the picture as stored, and is turned with it.

    Raises ``InputError`` for a file that is missing or damaged, neither palette nor grey, or not as
    large as its picture.
    """
    with readable(path), Image.open(path) as file:
        check_mask(path, file, picture)
        turned = picture and (file.size != picture.size or (stored and file.size == picture.stored))
        if turned and picture.orientation in TURNS:
            return np.asarray(file.transpose(TURNS[picture.orientation]))
        return np.asarray(file)


def check_mask(path: Path, mask: Image.Image | Header, picture: Header | None = None) -> None:
    """Raise ``InputError`` unless a mask is palette or grey and as large as its picture."""
    if mask.mode not in ("P", "L"):
        raise InputError(
            f"{path} is a mask of mode {mask.mode}: save class ids, not colours, as a palette or "
            "8-bit grey PNG"
        )
    if picture and mask.size not in (picture.size, picture.stored):
        sizes = ("×".join(map(str, size)) for size in (mask.size, picture.size))
        raise InputError(
            f"{path} is {', its image '.join(sizes)}: mask and image must have the same size"
        )


def image_size(path: Path) -> tuple[int, int]:
    """(W, H) of an image file, upright; raises as ``image_header``."""
    return image_header(path).size


def image_header(path: Path) -> Header:
    """The header of an image file, which is not decoded; ``InputError`` if missing or no image."""
    with readable(path), Image.open(path) as file:
        # Pillow decodes a PNG to look for notes at its end, so only if there are any.
        silent = file.format == "PNG" and not any(map(path.read_bytes().__contains__, _PNG_NOTES))
        orientation = 1 if silent else file.getexif().get(ORIENTATION, 1)
        if orientation not in TURNS:
            orientation = 1
        turned = file.size[::-1] if orientation > 4 else file.size
        sizes = (turned, file.size)
        if file.format == "TIFF":  # of which Pillow tells the upright size
            sizes = (file.size, turned)
        return Header(*sizes, orientation, file.mode, file.format)


def whole_header(path: Path) -> Header:
    """The header of an image file that looks whole; ``InputError`` for another.

    Looks whether the file ends as its format ends: what cut-off downloads and copies lack. Only a
    file that ends otherwise is decoded. So damage inside a file whose beginning and end are whole
    is not found; decoders mostly pass over it in silence.
    """
    header = image_header(path)
    with readable(path):
        if not _ends_well(path, header.format):
            with Image.open(path) as file:
                file.load()
    return header


def _ends_well(path: Path, kind: str) -> bool:
    """Whether the file's last bytes are an end of its format; False also for other formats."""
    with path.open("rb") as file:
        head, length = file.read(8), file.seek(0, 2)
        file.seek(max(length - TAIL, 0))
        tail = file.read()
    if kind == "WEBP":
        return int.from_bytes(head[4:], "little") + 8 <= length
    if kind == "PNG":
        return b"IEND" in tail
    # A thumbnail in the header has an end of its own, but before the picture's scan begins.
    return kind in ("JPEG", "MPO") and tail.rfind(b"\xff\xd9") > tail.rfind(b"\xff\xda")


_UNREAD = (".heic", ".heif", ".jxl", ".jp2", ".psd", ".svg", ".arw", ".cr2", ".cr3", ".dng", ".nef",
           ".orf", ".pef", ".raf", ".rw2", ".srw")  # fmt: skip
_NO_PHOTOGRAPHS = ("masks", "overlays", "maps", "SegmentationClass", "SegmentationObject")
_TYPES = mimetypes.MimeTypes()  # without what a machine adds


def left_out(folder: Path) -> list[Path]:
    """What in a folder seems to be a photograph, and ``image_files`` does not take.

    Files of other pictures' endings, such as heic and a camera's raw formats; pictures without an
    ending, or with one that means nothing; and folders that hold images right in them.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    return [path for path in (folder / name for name in names) if _seems_a_photograph(path)]


def left_out_note(folder: Path) -> str:
    """One line about ``left_out``: how many, the first of them, what to do; "" if it is empty."""
    paths = left_out(folder)
    if not paths:
        return ""
    listed = ", ".join(path.name + "/" * path.is_dir() for path in paths[:3])
    more = " …" if len(paths) > 3 else ""
    return (
        f"left out of {folder}: {len(paths)}, {listed}{more}; convert or rename pictures "
        f"({' '.join(IMAGE_ENDINGS)}), and name folders by themselves"
    )


def _seems_a_photograph(path: Path) -> bool:
    ending = path.suffix.lower()
    if path.is_dir():
        with suppress(InputError):  # one that is not ours to read, as lost+found
            return path.name not in _NO_PHOTOGRAPHS and bool(image_files(path))
        return False
    if ending in IMAGE_ENDINGS or _is_endless(path):
        return False
    kind = _TYPES.guess_type(path.name)[0] or ""
    if ending in _UNREAD or kind.startswith("image/"):
        return True
    if kind:  # of something else
        return False
    try:
        with Image.open(path):
            return True
    except (*_DAMAGED, Image.DecompressionBombError):
        return False
