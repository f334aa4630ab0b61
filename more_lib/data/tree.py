"""What every data set on disk offers, whatever its layout: ids, images, labels, masks.

A layout says where a file lies and what an image's labels are; reading is the same for all.
"""

import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.errors import InputError

DAMAGED_IMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
"""What Pillow raises for a file that is missing, cut short or no image."""


class ImageTree(ABC):
    """A folder of images with image-level labels and, if it has any, pixel masks.

    Args:
        root: the folder.
        classes: names of the C classes; their order numbers them 1..C.
        values: mask value on disk of each class, C numbers between 1 and 254.
        skip: ids that every split leaves out.
    """

    def __init__(
        self, root: Path, classes: Sequence[str], values: Sequence[int], skip: Iterable[str] = ()
    ):
        self.root, self.classes, self.skip = root, tuple(classes), frozenset(skip)
        # Mask value on disk -> class 1..C, for the values that may occur.
        self._known = np.zeros(256, dtype=bool)
        self._class_of = np.zeros(256, dtype=np.uint8)
        self._known[[0, IGNORE_INDEX, *values]] = True
        self._class_of[list(values)] = np.arange(1, len(values) + 1)
        self._class_of[IGNORE_INDEX] = IGNORE_INDEX

    @abstractmethod
    def split_ids(self, split: str) -> list[str]:
        """All image ids of a split, those to skip included; ``InputError`` without such a split."""

    @abstractmethod
    def labels(self, image_id: str) -> np.ndarray:
        """Image-level labels y of one image, (C,) float32 of 0 and 1."""

    @abstractmethod
    def image_path(self, image_id: str) -> Path:
        """The photograph's file."""

    @abstractmethod
    def mask_path(self, image_id: str) -> Path:
        """The mask's file, whether or not it is there."""

    def require_masks(self) -> None:
        """Raise ``InputError`` when the data set has no pixel masks at all."""
        folder = self.mask_path("").parent
        if not folder.is_dir():
            raise InputError(
                f"{folder} is missing: this data has no pixel masks, and scores need them; "
                "training and prediction do without"
            )

    @abstractmethod
    def fingerprint(self, splits: Iterable[str]) -> str:
        """Sixty-four hex digits that change with the data a training on ``splits`` reads."""

    def ids(self, split: str) -> list[str]:
        """Image ids of a split in its order, without those to skip.

        Raises ``InputError`` for a split that is missing, malformed or empty.
        """
        ids = [image_id for image_id in self.split_ids(split) if image_id not in self.skip]
        if not ids:
            raise InputError(f"data.skip leaves no image of the split {split!r} of {self.root}")
        return ids

    def image(self, image_id: str) -> Image.Image:
        """The photograph as an RGB PIL image, also where the file is greyscale or CMYK.

        Pixels come as stored: an EXIF orientation is not applied, as masks refer to stored pixels.
        Raises ``InputError`` when the file is missing, truncated or no image.
        """
        path = self.image_path(image_id)
        try:
            with Image.open(path) as file:
                return file.convert("RGB")
        except DAMAGED_IMAGE as error:
            raise unreadable(path, error) from error

    def mask(self, image_id: str) -> np.ndarray:
        """The pixel mask, (H, W) uint8: 0 background, 1..C the chosen classes, 255 ignore.

        Raises ``InputError`` when the data set has no masks, and when the PNG is missing, damaged,
        neither palette nor greyscale, of another size than its image, or holds a value that is no
        chosen class's id.
        """
        path = self.mask_path(image_id)
        self.require_masks()
        try:
            with Image.open(path) as file:
                mode, values = file.mode, np.asarray(file)
        except DAMAGED_IMAGE as error:
            raise unreadable(path, error) from error
        size = values.shape[1::-1]
        check_mask_header(path, mode, size, image_header(self.image_path(image_id))[0])
        if not self._known[values].all():
            strange = np.unique(values[~self._known[values]]).tolist()
            raise InputError(
                f"{path} holds {', '.join(map(str, strange))}: allowed are 0, 255 and the ids of "
                f"data.classes{self.mask_hint(strange)}"
            )
        return self._class_of[values]

    def mask_hint(self, strange: list[int]) -> str:
        """What mask values that may not occur tell of where they come from, or ""."""
        return ""


def image_header(path: Path) -> tuple[tuple[int, int], str, str]:
    """((W, H), mode, format) of an image file, without decoding it.

    Raises ``InputError`` when the file is missing or no image.
    """
    try:
        with Image.open(path) as file:
            return file.size, file.mode, file.format
    except DAMAGED_IMAGE as error:
        raise unreadable(path, error) from error


def check_mask_header(
    path: Path, mode: str, size: tuple[int, int], image_size: tuple[int, int]
) -> None:
    """Raise ``InputError`` unless a mask is palette or grey and as large as its image."""
    if mode not in ("P", "L"):
        raise InputError(
            f"{path} is a mask of mode {mode}: save class ids, not colours, as a palette or 8-bit "
            "grey PNG"
        )
    if size != image_size:
        raise InputError(
            f"{path} is {'×'.join(map(str, size))}, its image {'×'.join(map(str, image_size))}: "
            "mask and image must have the same size"
        )


def unreadable(path: Path, error: Exception) -> InputError:
    """The line for a file of the tree that is missing or damaged."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path} is missing: restore it, or take its id out of the split")
    reason = " ".join(str(error).split()) or type(error).__name__
    if str(path) in reason:  # Pillow repeats the path
        reason = "not an image"
    return InputError(f"{path} cannot be read ({reason}): restore the file from its source")
