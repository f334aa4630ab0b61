"""What every data set on disk offers, whatever its layout: splits, images, labels, masks, a scan.

A layout says where a file lies and what an image's labels are; reading is the same for all.
"""

import codecs
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from more_lib.data.contents import THREADS, digests
from more_lib.data.images import (
    check_mask,
    image_header,
    read_image,
    read_mask,
    readable,
    require_range,
    whole_header,
)
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.devices import say
from more_lib.system.errors import InputError
from more_lib.system.files import atomic_file, data_folder
from more_lib.system.progress import progress_bar

MOST_BYTES = 2**28  # of a table, a list or an annotation; what is larger is something else


class ImageTree(ABC):
    """A folder of images with image-level labels and, if it has any, pixel masks.

    root: the folder. classes: names of the C classes; their order numbers them 1..C. values: mask
    value on disk of each class, C numbers between 1 and 254. skip: ids that every split leaves out.
    stored: masks whose size does not tell are of the pixels as stored, not as EXIF turns them.
    """

    LISTS: str
    """Folder of the split lists, ``<split>.txt`` with one image id a line."""

    stored = False

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
        """The photograph as an RGB PIL image, upright: as ``read_image`` opens it."""
        return read_image(self.image_path(image_id))

    def fingerprint(
        self, splits: Iterable[str], *, labels: bool = True, masks: bool = False
    ) -> str:
        """sha256 over all that is read of some splits: a result that rests on them is kept by it.

        That is the classes, the splits' ids, the content of their photographs, the image-level
        ``labels``, and with ``masks`` the content of the masks and how their values are read.
        Raises ``InputError`` for a split or file that is missing, and labels that cannot be read.
        """
        digest = hashlib.sha256("\n".join(self.classes).encode())
        if masks:
            digest.update(self._class_of.tobytes() + bytes([self.stored]))
        for split in splits:
            ids = self.ids(split)
            columns = [ids, digests(map(self.image_path, ids))]
            if labels:  # as text of 0 and 1
                columns.append(
                    [(self.labels(i) + ord("0")).astype("u1").tobytes().decode() for i in ids]
                )
            columns += [digests(map(self.mask_path, ids))] if masks else []
            for row in zip(*columns, strict=True):
                line = "\t".join((split, *row)) + "\n"
                digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()

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
        values = read_mask(path, image_header(self.image_path(image_id)), self.stored)
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
            each = pool.map(lambda image_id: self._inspected(image_id, masks), ids)
            bar = progress_bar(each, total=len(ids), description=f"scanning {split}")
            faults, unsure = zip(*bar, strict=True)
        if any(unsure):
            ways = ("upright", "stored")[:: -1 if self.stored else 1]
            say(
                f"{sum(unsure)} of {len(ids)} photographs of {split} are turned by their EXIF note "
                f"and their masks do not tell how they lie: they are taken as {ways[0]}; else give "
                f"--set data.mask_orientation={ways[1]}"
            )
        return {image_id: fault for image_id, fault in zip(ids, faults, strict=True) if fault}

    def _inspected(self, image_id: str, masks: bool) -> tuple[str, bool]:
        """What is wrong with an image, or "", and whether its mask does not tell how it lies."""
        try:
            self.labels(image_id)
            photograph = self.image_path(image_id)
            header = whole_header(photograph)
            require_range(photograph, header)
            if masks:
                path = self.mask_path(image_id)
                check_mask(path, whole_header(path), header)
        except InputError as error:
            return str(error), False
        return "", masks and header.mask_could_be_stored

    def require_readable(self, split: str, masks: bool = False) -> None:
        """Raise one ``InputError`` that names every fault of a split, the first five of many.

        All of them are then in a list, which the message names (``save_faults``).
        """
        bad = self.scan(split, masks)
        if bad:
            faults = list(dict.fromkeys(bad.values()))  # a missing folder is one for all images
            more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
            place = self.save_faults(split, bad)
            where = f" (listed in {place})" if place else ""
            raise InputError(
                f"{len(bad)} of {len(self.ids(split))} images of {self.root}, split {split}, cannot"
                f" be used{where}: {'; '.join(faults[:5])}{more}. Mend them, or go on without "
                "them: --skip-bad"
            )

    def save_faults(self, split: str, bad: dict[str, str]) -> Path | None:
        """The list of a split's faults, an id and why a line; kept as ``save_list`` does."""
        return save_list(self.root, split, (f"{name}\t{why}" for name, why in bad.items()))


def save_list(root: Path, name: str, lines: Iterable[str]) -> Path | None:
    """A list of what is bad in ``root``, written anew in the data folder.

    None where that cannot be written: what is bad matters more than the list.
    """
    place = str(root.absolute()).encode(errors="surrogateescape")  # others may have its name
    file = f"{root.name}-{hashlib.sha256(place).hexdigest()[:8]}-{name}.txt"
    path = data_folder() / "bad_files" / file
    with suppress(InputError):
        with atomic_file(path) as temporary:
            text = "".join(f"{line}\n" for line in lines)
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        return path
    return None


def read_lines(path: Path, cure: str = ": save it as text in UTF-8") -> list[str]:
    """The lines of a text that are not blank, stripped; raises as ``read_text``."""
    return [line.strip() for line in read_text(path, cure).splitlines() if line.strip()]


def read_bytes(path: Path, cure: str) -> bytes:
    """What a text holds; ``InputError`` that ends on the cure where it is missing or no text."""
    with readable(path, cure):
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES >> 20} MB")
        return path.read_bytes()


def read_text(path: Path, cure: str = ": save it as text in UTF-8") -> str:
    """A text in UTF-8 or, as editors and spreadsheets mark it, UTF-16; marks are taken off.

    Raises ``InputError`` that ends on the cure for a file that is missing or of another encoding.
    """
    with readable(path, cure):
        content = read_bytes(path, cure)
        marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if marked else "utf-8-sig")
        if "\0" in text:
            raise ValueError("UTF-16 without a mark, or no text")
        return text
