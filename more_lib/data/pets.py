"""Oxford-IIIT Pet in the plain layout: a cat or dog a photograph, its class the breed or species.

Trimaps become masks: 1 (pet) the class's value, 2 (background) 0, 3 (border, also whatever was
hard to tell) 255. ``trainval`` and ``test`` are the data set's own lists.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from more_lib.data.fetch import check_counts
from more_lib.data.plain import Item, is_prepared, write_folder
from more_lib.data.tree import DAMAGED_IMAGE, IGNORE, unreadable
from more_lib.errors import InputError

PET_BREEDS = (
    "Abyssinian", "american_bulldog", "american_pit_bull_terrier", "basset_hound", "beagle",
    "Bengal", "Birman", "Bombay", "boxer", "British_Shorthair", "chihuahua", "Egyptian_Mau",
    "english_cocker_spaniel", "english_setter", "german_shorthaired", "great_pyrenees", "havanese",
    "japanese_chin", "keeshond", "leonberger", "Maine_Coon", "miniature_pinscher", "newfoundland",
    "Persian", "pomeranian", "pug", "Ragdoll", "Russian_Blue", "saint_bernard", "samoyed",
    "scottish_terrier", "shiba_inu", "Siamese", "Sphynx", "staffordshire_bull_terrier",
    "wheaten_terrier", "yorkshire_terrier",
)  # fmt: skip
"""The 37 breeds in the order of their class ids, which count from 1."""

PET_SPECIES = ("cat", "dog")
CLASSES = {"breed": PET_BREEDS, "species": PET_SPECIES}
COUNTS = {"trainval": 3_680, "test": 3_669, "breeds": 37}


class Trimap(NamedTuple):
    """All that a mask is painted from."""

    path: Path
    value: int  # the class's mask value


def prepare(
    folder: str | Path,
    images: str | Path,
    annotations: str | Path,
    kind: str = "breed",
    partial: bool = False,
) -> Path:
    """Write Oxford-IIIT Pet to ``folder`` in the plain layout unless it is there, and return it.

    Args:
        images: the folder of the photographs; they are linked.
        annotations: the folder with ``trainval.txt``, ``test.txt`` and ``trimaps``.
        kind: which class a photograph has, "breed" (37) or "species" (2).
        partial: take the photographs that are there, however few.

    Raises ``InputError`` for missing or malformed files, a folder in use, and, unless ``partial``,
    counts other than ``COUNTS``.
    """
    folder, images, annotations = (Path(p).expanduser() for p in (folder, images, annotations))
    if kind not in CLASSES:
        raise InputError(f"the kind of class {kind!r} is unknown: take {' or '.join(CLASSES)}")
    record = {"data": "Oxford-IIIT Pet", "format": 1, "class": kind, "partial": partial}
    if is_prepared(folder, record):
        return folder
    numbers = {split: _listed(annotations / f"{split}.txt") for split in ("trainval", "test")}
    splits = {
        split: [name for name in of_split if (images / f"{name}.jpg").is_file()]
        for split, of_split in numbers.items()
    }
    listed = numbers["trainval"] | numbers["test"]
    there = sorted(name for ids in splits.values() for name in ids)
    if not partial:
        found = {split: len(ids) for split, ids in splits.items()}
        found["breeds"] = len({listed[name][0] for name in there})
        check_counts(found, COUNTS, images.parent)
    if not there:
        raise InputError(f"{images} holds none of the photographs that {annotations} lists")
    column, classes = list(CLASSES).index(kind), CLASSES[kind]
    items = [
        Item(
            images / f"{name}.jpg",
            (classes[listed[name][column] - 1],),
            Trimap(annotations / "trimaps" / f"{name}.png", listed[name][column]),
        )
        for name in there
    ]
    write_folder(folder, classes, items, splits, paint, record)
    return folder


def paint(trimap: Trimap) -> np.ndarray:
    """The mask of a photograph, (H, W) uint8: 0 background, the class's value, 255 the border."""
    try:
        with Image.open(trimap.path) as file:
            mode, values = file.mode, np.asarray(file)
    except DAMAGED_IMAGE as error:
        raise unreadable(trimap.path, error) from error
    if mode not in ("P", "L") or not np.isin(values, (1, 2, 3)).all():
        raise InputError(f"{trimap.path} is no trimap of the values 1, 2 and 3: restore it")
    return np.array([0, trimap.value, 0, IGNORE], np.uint8)[values]


def _listed(path: Path) -> dict[str, tuple[int, int]]:
    """(breed 1..37, species 1..2) of each photograph of a split list."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: unpack annotations.tar.gz there") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: restore it from its archive") from error
    numbers = {}
    for fields in lines:
        if not fields or fields[0].startswith("#"):
            continue
        name, values = fields[0], fields[1:3]
        fits = len(values) == 2 and all(value.isdecimal() for value in values)
        breed, species = map(int, values) if fits else (0, 0)
        if not (1 <= breed <= 37 and species in (1, 2) and "/" not in name):
            raise InputError(f"{path} has the line {' '.join(fields)!r}: write a name, its breed 1 "
                             "to 37 and its species 1 or 2")  # fmt: skip
        numbers[name] = (breed, species)
    return numbers
