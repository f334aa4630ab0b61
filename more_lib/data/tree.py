"""What every data set on disk offers, whatever its layout: splits, images, labels, masks, a scan.

A layout says where a file lies and what an image's labels are; reading is the same for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from more_lib.data.images import check_mask, image_header, read_mask, readable, whole_header
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.errors import InputError
from more_lib.system.files import atomic_file, data_folder
from more_lib.system.progress import progress_bar

THREADS = 16  # the disk is waited for, not the processor


class ImageTree(ABC):
    """A folder of images with image-level labels and, if it has any, pixel masks.

    root: the folder. classes: names of the C classes; their order numbers them 1..C. values: mask
    value on disk of each class, C numbers between 1 and 254. skip: ids that every split leaves out.
    """

    LISTS: str
    """Folder of the split lists, ``<split>.txt`` with one image id a line."""

    def __init__(
        self, root: Path, classes: Sequence[str], values: Sequence[int], skip: Iterable[str] = ()
    ):
        self.root, self.classes, self.skip = root, tuple(classes), frozenset(skip)
        # Mask value on disk -> class 1..C, -1 for values that may not occur.
        self._class_of = np.full(256, -1, np.int16)
        self._class_of[[0, IGNORE_INDEX]] = 0, IGNORE_INDEX
        self._class_of[list(values)] = np.arange(1, len(values) + 1)

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

    @abstractmethod
    def fingerprint(self, splits: Iterable[str]) -> str:
        """Sixty-four hex digits that change with the data a training on ``splits`` reads."""

    def splits(self) -> list[str]:
        """Names of the splits."""
        return sorted(path.stem for path in (self.root / self.LISTS).glob("*.txt"))

    def ids(self, split: str) -> list[str]:
        """Image ids of a split in its order, without those to skip.

        Raises ``InputError`` for a split that is missing, malformed or empty.
        """
        ids = [image_id for image_id in self.split_ids(split) if image_id not in self.skip]
        if not ids:
            raise InputError(f"data.skip leaves no image of the split {split!r} of {self.root}")
        return ids

    def listed(self, split: str, cure: str = "") -> tuple[Path, list[str]]:
        """A split's list and the lines in it that are not blank.

        Raises ``InputError`` for a list that is missing, with the cure, or empty.
        """
        path = self.root / self.LISTS / f"{split}.txt"
        if not path.is_file():
            known = ", ".join(self.splits()) or "none"
            raise InputError(f"the split list {path} is missing (splits here: {known}){cure}")
        lines = read_lines(path)
        if not lines:
            raise InputError(f"the split list {path} names no image: write one image id a line")
        return path, lines

    def image(self, image_id: str) -> Image.Image:
        """The photograph as an RGB PIL image, also where the file is greyscale or CMYK.

        Pixels come as stored: an EXIF orientation is not applied, as masks refer to stored pixels.
        Raises ``InputError`` when the file is missing, truncated or no image.
        """
        path = self.image_path(image_id)
        with readable(path), Image.open(path) as file:
            return file.convert("RGB")

    def require_masks(self) -> None:
        """Raise ``InputError`` when the data set has no pixel masks at all."""
        folder = self.mask_path("").parent
        if not folder.is_dir():
            raise InputError(
                f"{folder} is missing: this data has no pixel masks, and scores need them; "
                "training and prediction do without"
            )

    def mask(self, image_id: str) -> np.ndarray:
        """The pixel mask, (H, W) uint8: 0 background, 1..C the chosen classes, 255 ignore.

        Raises ``InputError`` when the data set has no masks, and when the PNG is missing, damaged,
        neither palette nor greyscale, of another size than its image, or holds a value that is no
        chosen class's id.
        """
        self.require_masks()
        path = self.mask_path(image_id)
        values = read_mask(path, image_header(self.image_path(image_id)).size)
        mask = self._class_of[values]
        if (mask < 0).any():
            strange = np.unique(values[mask < 0]).tolist()
            raise InputError(
                f"{path} holds {', '.join(map(str, strange))}: allowed are 0, 255 and the ids of "
                f"data.classes{self.mask_hint(strange)}"
            )
        return mask.astype(np.uint8)

    def mask_value(self, number: int) -> int:
        """What a mask on disk holds for class ``number``, 1..C; also for 0 and 255."""
        return int(np.flatnonzero(self._class_of == number)[0])

    def mask_hint(self, strange: list[int]) -> str:
        """What mask values that may not occur tell of where they come from, or ""."""
        return ""

    def scan(self, split: str, masks: bool = False) -> dict[str, str]:
        """What is wrong with each image of a split that has a fault, by id, in the split's order.

        A fault is an image, or with ``masks`` a mask, that is missing, no image or cut short, a
        mask whose kind or size is wrong, and labels that cannot be read; not mask values that are
        no class, which evaluation refuses. Files are decoded only in doubt (``whole_header``).
        Raises ``InputError`` for a split that cannot be read, and with ``masks`` without any.
        """
        ids = self.ids(split)
        if masks:
            self.require_masks()
        with ThreadPoolExecutor(THREADS) as pool:
            faults = pool.map(lambda image_id: self._fault(image_id, masks), ids)
            bar = progress_bar(faults, total=len(ids), description=f"scanning {split}")
            return {image_id: fault for image_id, fault in zip(ids, bar, strict=True) if fault}

    def _fault(self, image_id: str, masks: bool) -> str:
        try:
            self.labels(image_id)
            size = whole_header(self.image_path(image_id)).size
            if masks:
                path = self.mask_path(image_id)
                check_mask(path, whole_header(path), size)
        except InputError as error:
            return str(error)
        return ""

    def require_readable(self, split: str, masks: bool = False) -> None:
        """Raise one ``InputError`` that names every fault of a split, the first five of many.

        All of them are then in a list in the data folder, which the message names.
        """
        bad = self.scan(split, masks)
        if bad:
            faults = list(dict.fromkeys(bad.values()))  # a missing folder is one for all images
            more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise InputError(
                f"{len(bad)} of {len(self.ids(split))} images of {self.root}, split {split}, cannot"
                f" be used (listed in {self.save_faults(split, bad)}): {'; '.join(faults[:5])}"
                f"{more}. Mend them, or go on without them: --skip-bad"
            )

    def save_faults(self, split: str, bad: dict[str, str]) -> Path:
        """The list of a split's faults in the data folder, written anew: an id and why, a line."""
        path = data_folder() / "bad_files" / f"{self.root.name}-{split}.txt"
        with atomic_file(path) as temporary:
            temporary.write_text("".join(f"{name}\t{reason}\n" for name, reason in bad.items()))
        return path


def read_lines(path: Path, cure: str = ": save it as text in UTF-8") -> list[str]:
    """The lines of a text that are not blank, stripped; ``InputError`` that ends on the cure."""
    with readable(path, cure):
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
    return [line.strip() for line in text.splitlines() if line.strip()]
