"""COCO 2014 in the plain layout: 80 classes without gaps, masks painted from the instances.

Rules, where a mask has to choose:

- Overlaps: larger objects (by the file's ``area``, or their pixels where that is none) are painted
  first, so that smaller ones stay visible; of equal ones the one with the lower annotation id.
- Crowds (``iscrowd``) are 255, not counted, where no other object covers them. They do count for
  the image's labels: a crowd of people shows people.
- Images without any object have a mask of background and an empty row of labels. The split lists
  leave them out, as the released training and validation do: 82,081 of 82,783 and 40,137 of
  40,504 images stay.
"""

from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
from pycocotools import mask as rle

from more_lib.data.prepare.fetch import check_counts
from more_lib.data.prepare.instances import Picture, Shape, read_instances
from more_lib.data.prepare.plain import Item, is_prepared, obtain, write_folder
from more_lib.data.prepare.sources import COCO_ANNOTATIONS, COCO_TRAIN, COCO_VAL
from more_lib.recipes.classes import COCO_CLASSES
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.errors import InputError
from more_lib.system.files import absolute

PARTS = {"annotations": COCO_ANNOTATIONS, "train2014": COCO_TRAIN, "val2014": COCO_VAL}
COUNTS = {"train": 82_081, "val": 40_137}  # images with objects


def record_of(partial: bool = False, strict: bool = False) -> dict:
    """What a folder that was prepared so says of itself, among other things."""
    record = {"data": "COCO 2014", "format": 1, "partial": partial}
    return record | ({"left_out": 0} if strict else {})


def prepare(
    folder: str | Path,
    source: str | Path | None = None,
    partial: bool = False,
    strict: bool = False,
) -> Path:
    """Write COCO 2014 to ``folder`` in the plain layout unless it is there, and return it.

    Args:
        source: the folder with COCO's ``annotations``, ``train2014`` and ``val2014``; None
            downloads them. Photographs are linked, not copied.
        partial: take what is there of splits and photographs, however few.
        strict: stop at annotations that cannot be used instead of leaving their images out.

    Raises ``InputError`` for missing or malformed files, a folder in use, and, unless ``partial``,
    counts of images with objects other than ``COUNTS``; images left out count as there.
    """
    folder, record = absolute(folder), record_of(partial, strict)
    if is_prepared(folder, record):
        return folder
    parts = obtain(PARTS, source)
    items, splits, counts, left_out = [], {}, dict.fromkeys(COUNTS, 0), 0
    for split in COUNTS:
        instances = parts["annotations"] / f"instances_{split}2014.json"
        photographs = parts[f"{split}2014"]
        if partial and not (instances.is_file() and photographs.is_dir()):
            continue
        read = read_instances(instances, photographs, strict)
        listed = [_item(picture) for picture in read.pictures]
        items += listed
        splits[split] = [item.photograph.stem for item in listed if item.classes]
        counts[split] = len(splits[split]) + read.left_out
        left_out += read.left_out
    where = parts["annotations"].parent
    check_counts(counts, COUNTS, where, partial)
    if not any(splits.values()):
        raise InputError(f"{where} has no photograph with an annotated object")
    stem, count = Counter(item.photograph.stem for item in items).most_common(1)[0]
    if count > 1:
        raise InputError(f"{where} has {count} photographs named {stem}, and masks are named by "
                         "their photographs: rename one, also in its instances")  # fmt: skip
    record["left_out"] = left_out
    return write_folder(folder, COCO_CLASSES, items, splits, paint, record)


def paint(width: int, height: int, shapes: Sequence[Shape]) -> np.ndarray:
    """The mask of an image, (H, W) uint8: 0 background, 1..80 classes, 255 crowds alone."""
    layers = []
    for shape in shapes:
        code = _code(shape, width, height)
        area = shape.area or int(rle.area(code))
        value = IGNORE_INDEX if shape.crowd else shape.value
        layers.append((not shape.crowd, -area, -shape.annotation_id, value, code))
    mask = np.zeros((height, width), np.uint8)
    for *_, value, code in sorted(layers, key=itemgetter(0, 1, 2)):
        mask[rle.decode(code).astype(bool)] = value
    return mask


def _code(shape: Shape, width: int, height: int) -> dict:
    """The pixels of a shape as one compressed run-length code."""
    code = rle.frPyObjects(shape.segmentation, height, width)
    return rle.merge(code) if isinstance(code, list) else code


def _item(picture: Picture) -> Item:
    values = sorted({shape.value for shape in picture.shapes})
    classes = tuple(COCO_CLASSES[value - 1] for value in values)
    return Item(picture.photograph, classes, (picture.width, picture.height, picture.shapes))
