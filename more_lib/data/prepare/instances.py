"""COCO's instances files as people's tools write them: read, checked, and told what is wrong.

What leaves no doubt is taken as it is meant: ids written as text, folders before a photograph's
name, no ``iscrowd`` (no crowd), an entry repeated word for word, an outline that leaves the picture
a little (the rest is painted), an ``area`` that is no number above 0 (pixels are counted).

Any other annotation is bad, and its image is left out, labels and all: in a mask without it the
object would be background. So is an image whose own entry is bad. What is left out is said. Faults
of the file as a whole stop, and so do bad entries by the dozen: it is some other file then.
"""

import json
import math
import reprlib
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from more_lib.data.images import image_files, image_header, readable
from more_lib.data.tree import save_list
from more_lib.recipes.classes import COCO_CLASSES
from more_lib.system.errors import InputError

CATEGORY_IDS = tuple(sorted({*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}))
"""The id of each class in COCO's own files, which runs from 1 to 90."""

OVERSHOOT = 0.05  # of the picture's longer side: by so much an outline may leave it, ...
OVERSHOOT_PIXELS = 10  # ... or by these if they are more
LONGEST = 5_000_000  # pixels of an object's outline; painting takes a hundred bytes for each
SHOWN = 5  # bad entries that a message names; so few never stop for their share alone
SHARE = 0.1  # of a list's entries: more bad ones stop


class Shape(NamedTuple):
    """One annotated object: where it lies, as polygons or a run-length code, and what it is."""

    value: int  # its class's mask value, 1..80
    segmentation: list | dict  # as ``checked`` gives it
    area: float | None  # above 0; None where the pixels are to be counted
    crowd: bool
    annotation_id: int


class Picture(NamedTuple):
    """A photograph with its objects; annotated upright or as stored, whichever its size is."""

    photograph: Path
    width: int
    height: int
    shapes: list[Shape]


class Instances(NamedTuple):
    """What an instances file says of the photographs that are there."""

    pictures: list[Picture]  # in the order of their ids
    left_out: int  # further images that have annotations


def read_instances(path: Path, photographs: Path, strict: bool = False) -> Instances:
    """Read an instances file; its images without a photograph in the folder are passed over.

    Images with bad entries are left out, and a line that names them is printed. Raises
    ``InputError`` for them if ``strict`` or if they are too many, and for what is wrong with the
    whole: no JSON, other categories than COCO's 80, entries for one photograph that disagree.
    """
    content = _content(path)
    if not photographs.is_dir():
        raise InputError(f"the folder of photographs {photographs} is missing")
    listed, pictures, bad_images = _pictures(path, content["images"], photographs)
    spoilt, known, bad = set(), dict[int, tuple[int, Shape]](), list[str]()
    for number, entry in enumerate(content["annotations"], 1):
        image_id = None
        try:
            image_id = _whole(entry, "image_id")
            if image_id not in listed:
                raise ValueError(f"is of image {image_id}, which the file does not list")
            if image_id not in pictures:
                continue
            picture = pictures[image_id]
            if picture is None:
                spoilt.add(image_id)
                continue
            shape = _shape(entry, picture.width, picture.height)
            if shape.annotation_id not in known:
                known[shape.annotation_id] = image_id, shape
                picture.shapes.append(shape)
            elif known[shape.annotation_id] != (image_id, shape):
                raise ValueError("has the id of another annotation")
        except ValueError as error:
            bad.append(_in_words("annotation", number, entry, error))
            if image_id in pictures:
                spoilt.add(image_id)
    whole = {image_id: picture for image_id, picture in pictures.items() if picture is not None}
    good = [whole[image_id] for image_id in sorted(whole) if image_id not in spoilt]
    faults = {"images": (bad_images, len(whole)), "annotations": (bad, len(known))}
    if bad_images or bad:
        _tell(path, faults, len(pictures) - len(good), strict)
    return Instances(good, len(spoilt))


def checked(segmentation: object, width: int, height: int) -> list | dict:
    """An object's polygons or run-length code, fit to be painted; codes are unpacked.

    Raises ``ValueError``, in words that go on from the annotation's name, for all that has no
    place in a picture of this size: pycocotools may end the process on it, or take all memory.
    """
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [height, width]:
            raise ValueError(f"has a code of size {reprlib.repr(size)}, not [{height}, {width}]")
        runs = _unpacked(counts) if isinstance(counts, str) else counts
        if (
            not isinstance(runs, list)
            or set(map(type, runs)) != {int}
            or min(runs) < 0
            or sum(runs) != height * width
        ):
            raise ValueError("has a code whose runs do not fill its picture")
        return {"size": [height, width], "counts": runs}
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("has no segmentation: a mask cannot be painted from a box alone")
    margin = max(OVERSHOOT_PIXELS, OVERSHOOT * max(width, height))
    for polygon in segmentation:
        if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
            raise ValueError("has a polygon that is no list of numbers x1, y1, x2, y2, ...")
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"has a polygon of {len(polygon)} numbers: it takes three points")
        for values, side in ((polygon[::2], width), (polygon[1::2], height)):
            far = [value for value in values if not -margin <= value <= side + margin]
            if far:
                raise ValueError(
                    f"has a coordinate {reprlib.repr(far[0])} outside its picture of "
                    f"{width}×{height} pixels"
                )
        if max(polygon) <= 1:
            raise ValueError(
                "has coordinates of 1 and less: write pixels, not parts of the picture"
            )
    longest = min(LONGEST, 4 * (width + 2 * margin) * (height + 2 * margin))
    at_most = sum(map(len, segmentation)) // 2 * (max(width, height) + 2 * margin)
    if at_most > longest and (length := sum(map(_length, segmentation))) > longest:
        raise ValueError(f"has an outline of {length:,.0f} pixels, longer than any real one")
    return segmentation


def _length(polygon: list) -> float:
    """The pixels that a polygon's outline passes."""
    points = np.reshape(polygon, (-1, 2))
    return float(np.abs(np.diff(points, axis=0, append=points[:1])).max(1).sum())


def _unpacked(text: str) -> list[int]:
    """The runs of a compressed code: six bits a character, most runs as differences."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("has a compressed code that is damaged")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # the last of this run
            value -= (bits & 16 > 0) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("has a compressed code that is cut short")
    return runs


def _content(path: Path) -> dict[str, list]:
    """The file's lists, as long as they are those of COCO's classes."""
    with readable(path, ": unpack annotations_trainval2014.zip there"):
        try:
            content = json.loads(path.read_bytes())
        except RecursionError:
            raise ValueError("nested too deep") from None
    wanted = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in wanted):
        raise InputError(f"{path} is no instances file, which has lists named {', '.join(wanted)}: "
                         "restore it")  # fmt: skip
    try:
        categories = sorted((_whole(e, "id"), str(e.get("name"))) for e in content["categories"])
    except ValueError as error:
        raise InputError(f"{path} is no instances file, a category {error}: restore it") from error
    if categories != list(zip(CATEGORY_IDS, COCO_CLASSES, strict=True)):
        raise InputError(f"{path} has other categories than COCO's 80: is it another file?")
    return content


def _pictures(
    path: Path, entries: list, photographs: Path
) -> tuple[set[int], dict[int, Picture | None], list[str]]:
    """Ids of all images listed; those whose photograph is there, None if bad; and what is bad."""
    files = {file.name: file for file in image_files(photographs)}
    said, names, faults = dict[int, tuple](), dict[str, int](), list[str]()
    pictures: dict[int, Picture | None] = {}
    for number, entry in enumerate(entries, 1):
        try:
            image_id, name = _whole(entry, "id"), entry.get("file_name")
            if not isinstance(name, str) or [name] != _utf8(name).splitlines():
                raise ValueError(f"has the file_name {reprlib.repr(name)}, which is none")
            name = name if name in files else PureWindowsPath(name).name
            says = name, entry.get("width"), entry.get("height")
            if said.setdefault(image_id, says) != says:
                raise InputError(f"{path} has two entries for image {image_id} that differ: keep "
                                 "the right one")  # fmt: skip
            if names.setdefault(name, image_id) != image_id:
                raise InputError(f"{path} lists the photograph {name!r} as image {names[name]} and "
                                 f"image {image_id}: keep one, with all annotations")  # fmt: skip
            if name in files and image_id not in pictures:
                pictures[image_id] = None
                pictures[image_id] = _picture(entry, files[name])
        except InputError:
            raise
        except ValueError as error:
            faults.append(_in_words("image", number, entry, error))
    return set(said), pictures, faults


def _utf8(text: str) -> str:
    """A text with ? for what no file can hold as UTF-8."""
    return text.encode(errors="replace").decode()


def _picture(entry: dict, photograph: Path) -> Picture:
    width, height = _whole(entry, "width"), _whole(entry, "height")
    try:
        header = image_header(photograph)
    except InputError as error:
        raise ValueError(f"has a bad photograph: {error}") from error
    if (width, height) not in (header.size, header.stored):
        real = "×".join(map(str, header.size))
        raise ValueError(f"is {width}×{height}, its photograph {photograph.name!r} {real} pixels")
    return Picture(photograph, width, height, [])


def _shape(entry: dict, width: int, height: int) -> Shape:
    annotation_id, category = _whole(entry, "id"), _whole(entry, "category_id")
    if category not in CATEGORY_IDS:
        raise ValueError(f"has the category_id {category}, which is none of COCO's")
    crowd, area = entry.get("iscrowd"), entry.get("area")
    if crowd not in (None, 0, 1, "0", "1"):
        raise ValueError(f"has iscrowd {reprlib.repr(crowd)}, neither 0 nor 1")
    is_area = type(area) in (int, float) and 0 < area < math.inf
    return Shape(
        CATEGORY_IDS.index(category) + 1,
        checked(entry.get("segmentation"), width, height),
        area if is_area else None,
        crowd in (1, "1"),
        annotation_id,
    )


def _whole(entry: Any, key: str) -> int:
    """An entry's whole number, also where it is written as text or with a decimal point."""
    if not isinstance(entry, dict):
        raise ValueError("is no entry of names and values")
    value = entry.get(key)
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise ValueError(f"has the {key} {reprlib.repr(value)}, which is no whole number")
    return value


def _in_words(kind: str, number: int, entry: Any, error: ValueError) -> str:
    name = reprlib.repr(entry.get("id")) if isinstance(entry, dict) else "without id"
    return f"{kind} {name} (number {number} in the list) {error}"


def _tell(
    path: Path, faults: dict[str, tuple[list[str], int]], left_out: int, strict: bool
) -> None:
    """Print which entries are bad, or raise it; ``faults``: the bad ones and the number of good."""
    lines = [line for bad, _ in faults.values() for line in bad]
    place = save_list(path.absolute().parents[1], path.stem, lines)
    counts = " and ".join(
        f"{len(bad):,} of {len(bad) + good:,} {kind}" for kind, (bad, good) in faults.items() if bad
    )
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    named = "; ".join(lines[:SHOWN]) + more
    where = f" (all listed in {place})" if place else ""
    what = f"{path}: {counts} cannot be used{where}: {named}"
    too_many = any(
        bad and (not good or len(bad) > max(SHOWN, SHARE * (len(bad) + good)))
        for bad, good in faults.values()
    )
    if too_many:
        raise InputError(f"{what}. So many are no slip: is it another file? Else mend them")
    if strict:
        raise InputError(f"{what}. Mend them, or go on without their images: without --strict")
    print(f"{what}. Images left out for it: {left_out}. Mend it and prepare anew to have them")
