"""COCO 2014 in the plain layout: 80 classes without gaps, masks painted from the instances.

Rules, where a mask has to choose:

- Overlaps: larger objects (by the file's ``area``) are painted first, so that smaller ones stay
  visible; of equal ones the one with the lower annotation id.
- Crowds (``iscrowd``) are 255, not counted, where no other object covers them. They do count for
  the image's labels: a crowd of people shows people.
- Images without any object have a mask of background and an empty row of labels. The split lists
  leave them out, as the released training and validation do: 82,081 of 82,783 and 40,137 of
  40,504 images stay.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools import mask as rle

from more_lib.data.images import image_files, readable
from more_lib.data.prepare.fetch import check_counts
from more_lib.data.prepare.plain import RECORD, Item, obtain, write_folder
from more_lib.data.prepare.record import is_made
from more_lib.data.prepare.sources import COCO_ANNOTATIONS, COCO_TRAIN, COCO_VAL
from more_lib.recipes.classes import COCO_CLASSES
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.errors import InputError

CATEGORY_IDS = tuple(sorted({*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}))
"""The id of each class in COCO's own files, which runs from 1 to 90."""

PARTS = {"annotations": COCO_ANNOTATIONS, "train2014": COCO_TRAIN, "val2014": COCO_VAL}
COUNTS = {"train": 82_081, "val": 40_137}  # images with objects


class Shape(NamedTuple):
    """One annotated object: where it lies, as polygons or a run-length code, and what it is."""

    value: int  # its class's mask value, 1..80
    segmentation: list | dict
    area: float
    crowd: bool
    annotation_id: int


def prepare(folder: str | Path, source: str | Path | None = None, partial: bool = False) -> Path:
    """Write COCO 2014 to ``folder`` in the plain layout unless it is there, and return it.

    Args:
        source: the folder with COCO's ``annotations``, ``train2014`` and ``val2014``; None
            downloads them. Photographs are linked, not copied.
        partial: take what is there of splits and photographs, however few.

    Raises ``InputError`` for missing or malformed files, a folder in use, and, unless ``partial``,
    counts of images with objects other than ``COUNTS``.
    """
    folder = Path(folder).expanduser().absolute()
    record = {"data": "COCO 2014", "format": 1, "partial": partial}
    if is_made(folder / RECORD, record, "prepared COCO 2014"):
        return folder
    parts = obtain(PARTS, source)
    items, splits = [], {}
    for split in COUNTS:
        instances = parts["annotations"] / f"instances_{split}2014.json"
        photographs = parts[f"{split}2014"]
        if partial and not (instances.is_file() and photographs.is_dir()):
            continue
        listed = _items(instances, photographs)
        items += listed
        splits[split] = [item.photograph.stem for item in listed if item.classes]
    counts = {split: len(splits.get(split, ())) for split in COUNTS}
    where = parts["annotations"].parent
    check_counts(counts, COUNTS, where, partial)
    if not any(counts.values()):
        raise InputError(f"{where} has no photograph with an annotated object")
    return write_folder(folder, COCO_CLASSES, items, splits, paint, record)


def paint(width: int, height: int, shapes: Sequence[Shape]) -> np.ndarray:
    """The mask of an image, (H, W) uint8: 0 background, 1..80 classes, 255 crowds alone.

    Raises ``InputError`` for a shape that is no polygon or run-length code of the image's size.
    """
    mask = np.zeros((height, width), np.uint8)
    for shape in sorted(shapes, key=lambda s: (not s.crowd, -s.area, -s.annotation_id)):
        mask[_covered(shape, width, height)] = IGNORE_INDEX if shape.crowd else shape.value
    return mask


def _covered(shape: Shape, width: int, height: int) -> np.ndarray:
    """The pixels of a shape, (H, W) bool."""
    size, code = [height, width], shape.segmentation
    try:
        if isinstance(code, list):
            # pycocotools would take four numbers for a box.
            if not code or min(map(len, code)) < 6 or any(len(points) % 2 for points in code):
                raise ValueError("a polygon of fewer than three points")
            code = rle.merge(rle.frPyObjects(code, *size))
        elif list(code["size"]) != size:
            raise ValueError(f"a code of size {code['size']} in an image of {size}")
        elif isinstance(code["counts"], list):
            if sum(code["counts"]) != height * width:
                raise ValueError("runs that do not fill the image")
            code = rle.frPyObjects(code, *size)
        return rle.decode(code).astype(bool)
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(
            f"annotation {shape.annotation_id} of the instances is malformed ({error}): restore "
            "the file from its archive"
        ) from error


def _items(path: Path, photographs: Path) -> list[Item]:
    """The images of an instances file that are there, in the order of their ids."""
    with readable(path, ": unpack annotations_trainval2014.zip there"):
        content = json.loads(path.read_bytes())
    if not photographs.is_dir():
        raise InputError(f"the folder of photographs {photographs} is missing")
    files = {path.name: path for path in image_files(photographs)}
    try:
        categories = [(entry["id"], entry["name"]) for entry in content["categories"]]
        if sorted(categories) != list(zip(CATEGORY_IDS, COCO_CLASSES, strict=True)):
            raise InputError(f"{path} has other categories than COCO's 80: is it another file?")
        shapes = defaultdict(list)
        for entry in content["annotations"]:
            value, crowd = CATEGORY_IDS.index(entry["category_id"]) + 1, bool(entry["iscrowd"])
            shape = Shape(value, entry["segmentation"], entry["area"], crowd, entry["id"])
            shapes[entry["image_id"]].append(shape)
        return [
            Item(
                files[image["file_name"]],
                tuple(COCO_CLASSES[v - 1] for v in sorted({s.value for s in shapes[image["id"]]})),
                (image["width"], image["height"], shapes[image["id"]]),
            )
            for image in sorted(content["images"], key=itemgetter("id"))
            if image["file_name"] in files
        ]
    except InputError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no instances file ({error!r}): restore it") from error
