"""Oxford-IIIT Pet in the plain layout: a cat or dog a photograph, its class the breed or species.

Trimaps become masks: 1 (pet) the class's value, 2 (background) 0, 3 (border, also whatever was
hard to tell) 255. ``trainval`` and ``test`` are the data set's own lists.
"""

from pathlib import Path

import numpy as np

from more_lib.data.images import read_mask
from more_lib.data.prepare.fetch import check_counts
from more_lib.data.prepare.plain import Item, is_prepared, obtain, write_folder
from more_lib.data.prepare.sources import PET_ANNOTATIONS, PET_IMAGES
from more_lib.data.tree import read_lines
from more_lib.recipes.classes import PET_BREEDS, PET_SPECIES
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.errors import InputError
from more_lib.system.files import absolute

CLASSES = {"breed": PET_BREEDS, "species": PET_SPECIES}
PARTS = {"annotations": PET_ANNOTATIONS, "images": PET_IMAGES}
COUNTS = {"trainval": 3_680, "test": 3_669, "breeds": 37}


def record_of(kind: str = "breed", partial: bool = False) -> dict:
    """What a folder that was prepared so says of itself; ``InputError`` for an unknown kind."""
    if kind not in CLASSES:
        raise InputError(f"the kind of class {kind!r} is unknown: take {' or '.join(CLASSES)}")
    return {"data": "Oxford-IIIT Pet", "format": 1, "class": kind, "partial": partial}


def prepare(
    folder: str | Path, source: str | Path | None = None, kind: str = "breed", partial: bool = False
) -> Path:
    """Write Oxford-IIIT Pet to ``folder`` in the plain layout unless it is there, and return it.

    Args:
        source: the folder with the data set's ``images`` and ``annotations``; None downloads them.
            Photographs are linked, not copied.
        kind: which class a photograph has, "breed" (37) or "species" (2).
        partial: take the photographs that are there, however few.

    Raises ``InputError`` for missing or malformed files, a folder in use, and, unless ``partial``,
    counts other than ``COUNTS``.
    """
    folder, record = absolute(folder), record_of(kind, partial)
    if is_prepared(folder, record):
        return folder
    images, annotations = map(obtain(PARTS, source).get, ("images", "annotations"))
    listed = {split: _listed(annotations / f"{split}.txt") for split in ("trainval", "test")}
    splits = {
        split: [name for name in names if (images / f"{name}.jpg").is_file()]
        for split, names in listed.items()
    }
    entries = listed["trainval"] | listed["test"]
    if len(entries) < sum(map(len, listed.values())):
        both = next(name for name in listed["test"] if name in listed["trainval"])
        raise InputError(f"{annotations} lists {both} in trainval.txt and in test.txt, which would "
                         "then be scored on what was trained: take it out of one")  # fmt: skip
    names = sorted(name for ids in splits.values() for name in ids)
    counts = {split: len(ids) for split, ids in splits.items()}
    counts["breeds"] = len({entries[name]["breed"] for name in names})
    check_counts(counts, COUNTS, annotations.parent, partial)
    if not names:
        raise InputError(f"{images} holds none of the photographs that {annotations} lists")
    classes, items = CLASSES[kind], []
    for name in names:
        value, trimap = entries[name][kind], annotations / "trimaps" / f"{name}.png"
        items.append(Item(images / f"{name}.jpg", (classes[value - 1],), (trimap, value)))
    return write_folder(folder, classes, items, splits, paint, record)


def paint(trimap: Path, value: int) -> np.ndarray:
    """The mask of a photograph, (H, W) uint8: 0 background, the class's value, 255 the border."""
    values = read_mask(trimap)
    if not np.isin(values, (1, 2, 3)).all():
        raise InputError(f"{trimap} is no trimap of the values 1, 2 and 3: restore it")
    return np.array([0, value, 0, IGNORE_INDEX], np.uint8)[values]


def _listed(path: Path) -> dict[str, dict[str, int]]:
    """Breed, 1..37, and species, 1 cat or 2 dog, of each photograph that a split list names."""
    entries = {}
    for line in read_lines(path, ": unpack annotations.tar.gz there"):
        name, *numbers = line.split()
        if name.startswith("#"):
            continue
        numbers = [int(number) for number in numbers[:2] if number.isdecimal()]
        breed, species = numbers if len(numbers) == 2 else (0, 0)
        if not (1 <= breed <= len(PET_BREEDS) and species in (1, 2)) or "/" in name:
            raise InputError(f"{path} has the line {line!r}: it must be a name, its breed 1 to 37 "
                             "and its species 1 or 2; restore it from its archive")  # fmt: skip
        entry = {"breed": breed, "species": species}
        if entries.setdefault(name, entry) != entry:
            raise InputError(f"{path} lists {name} twice, of breeds {entries[name]['breed']} and "
                             f"{breed}: keep the right line")  # fmt: skip
    return entries
