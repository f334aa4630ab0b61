"""The VOC 2012 folder layout: images, image-level labels, pixel masks, each read on its own.

    <root>/JPEGImages/<id>.jpg                   photographs
    <root>/Annotations/<id>.xml                  objects: all that training learns from
    <root>/SegmentationClass/<id>.png            palette masks with VOC's fixed ids: evaluation only
    <root>/SegmentationClassAug/<id>.png         the same for images that only SBD segments
    <root>/ImageSets/Segmentation/<split>.txt    one image id a line

EmojiVOC is written in the same layout with the same ids, so one reader serves both.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from more_lib.data.tree import ImageTree, read_bytes
from more_lib.recipes.classes import VOC_CLASSES
from more_lib.system.errors import InputError
from more_lib.system.files import absolute

AUGMENTED = "SegmentationClassAug"
"""Folder of the masks that data_scripts/prepare_voc.py makes of SBD's."""

_WHERE_TREES_COME_FROM = (
    "`python data_scripts/make_emoji_voc.py` makes EmojiVOC, `python data_scripts/prepare_voc.py` "
    "fetches VOC 2012 or takes yours (--voc VOCdevkit/VOC2012); data.root names a tree elsewhere"
)
_WHERE_TRAIN_AUG_COMES_FROM = (
    "train_aug, VOC 2012 and SBD together, is not in VOC's download: "
    "`python data_scripts/prepare_voc.py` adds its 10,582 images"
)


class VocTree(ImageTree):
    """One folder in VOC 2012 layout, restricted to some of its classes.

    root: folder that holds JPEGImages and ImageSets. classes: C names out of ``VOC_CLASSES``; their
    order numbers the classes 1..C. skip: ids that every split leaves out.

    Raises ``InputError`` for a missing folder, an unknown class or one named twice.
    Neither SegmentationClass nor Annotations is asked for: a tree without masks serves training,
    one without annotations, as VOC's test images come, prediction.
    """

    LISTS = "ImageSets/Segmentation"

    def __init__(
        self, root: str | Path, classes: Sequence[str] = VOC_CLASSES, skip: Iterable[str] = ()
    ):
        unknown = [name for name in classes if name not in VOC_CLASSES]
        if unknown or not classes or len(set(classes)) < len(classes):
            raise InputError(
                f"data.classes is {list(classes)}: give each of the classes you want once, "
                f"out of {', '.join(VOC_CLASSES)}"
            )
        values = [VOC_CLASSES.index(name) + 1 for name in classes]
        super().__init__(absolute(root), classes, values, skip)
        for folder in ("", "JPEGImages", self.LISTS):
            _require_folder(self.root / folder)
        self._labels: dict[str, np.ndarray] = {}

    def split_ids(self, split: str) -> list[str]:
        """Image ids of ``ImageSets/Segmentation/<split>.txt``, in the file's order.

        Raises ``InputError`` for a missing or empty file, lines that are no plain id, an id twice.
        """
        cure = _WHERE_TREES_COME_FROM if split != "train_aug" else _WHERE_TRAIN_AUG_COMES_FROM
        path, ids = self.listed(split, f": {cure}")
        for line in ids:
            if "/" in line or len(line.split()) != 1:
                raise InputError(f"{path} has the line {line!r}: write one image id a line")
        if twice := [image_id for image_id, count in Counter(ids).items() if count > 1]:
            more = f" and {len(twice) - 10} more" if len(twice) > 10 else ""
            names = ", ".join(twice[:10])
            raise InputError(f"{path} lists more than once: {names}{more}; leave one line of each")
        return ids

    def image_path(self, image_id: str) -> Path:
        return self.root / "JPEGImages" / f"{image_id}.jpg"

    def mask_path(self, image_id: str) -> Path:
        """In SegmentationClass, or in SegmentationClassAug where only that has the mask."""
        own = self.root / "SegmentationClass" / f"{image_id}.png"
        augmented = self.root / AUGMENTED / own.name
        return augmented if augmented.is_file() and not own.is_file() else own

    def labels(self, image_id: str) -> np.ndarray:
        """Image-level labels y of one image, (C,) float32 of 0 and 1; read once, then kept.

        A class is present when the image's annotation holds an object of it, also one marked
        ``difficult``: so the labels of PSA and IRN were made, on which the weakly supervised
        segmentation literature trains. Objects of VOC classes that were not chosen are left out.

        Raises ``InputError`` for an annotation that is missing, alone or with the whole folder, or
        malformed, has no object, an unknown class or none of the chosen ones.
        """
        if image_id not in self._labels:
            path = self.root / "Annotations" / f"{image_id}.xml"
            _require_folder(path.parent)
            present = set(_object_names(path))
            labels = np.array([name in present for name in self.classes], dtype=np.float32)
            if not labels.any():
                raise InputError(
                    f"{path} shows {', '.join(sorted(present))} and none of the chosen classes: "
                    "add one to data.classes or take the image out of the split"
                )
            self._labels[image_id] = labels
        return self._labels[image_id].copy()


class VocImages(Dataset):
    """Images and image-level labels of one split: all that training sees. Opens no mask.

    ``transform`` takes an RGB PIL image to a (3, H, W) float32 tensor, to that and a box, or to a
    dictionary with ``image`` and whatever else it makes. Items are dictionaries: ``image``
    (3, H, W) float32, ``labels`` (C,) float32 of 0 and 1, ``id`` str, what else the transform
    makes, and ``box`` (4,) int64 where it gives one: the part of ``image`` that is no padding.
    """

    def __init__(self, tree: ImageTree, split: str, transform: Callable[[Image.Image], Any]):
        self.tree = tree
        self.ids = tree.ids(split)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        image_id = self.ids[index]
        seen = self.transform(self.tree.image(image_id))
        if not isinstance(seen, dict):
            image, *box = seen if isinstance(seen, tuple) else (seen,)
            seen = {"image": image, "box": box[0]} if box else {"image": image}
        return seen | {"labels": torch.from_numpy(self.tree.labels(image_id)), "id": image_id}


class VocMasks(VocImages):
    """The same items with ``mask``, (H, W) int64 in the image's own size, for evaluation.

    The transform sees the image alone; a prediction is brought to the mask's size, not the
    other way round.
    """

    def __getitem__(self, index: int) -> dict:
        mask = self.tree.mask(self.ids[index])
        return super().__getitem__(index) | {"mask": torch.from_numpy(mask).long()}


def _require_folder(path: Path) -> None:
    if not path.is_dir():
        raise InputError(f"the folder {path} is missing: {_WHERE_TREES_COME_FROM}")


class _NoDoctype(ElementTree.TreeBuilder):
    """Stops at a document type: VOC has none, and its entities can grow without bound."""

    def doctype(self, name, public_id, system_id):
        raise ValueError("it declares a DOCTYPE, which no VOC annotation does")


def _object_names(path: Path) -> list[str]:
    """Class name of each object in an annotation; the names of its parts do not count."""
    text = read_bytes(path, ": restore it, or take its id out of the split")
    try:
        parser = ElementTree.XMLParser(target=_NoDoctype())
        annotation = ElementTree.fromstring(text, parser)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{path} is no readable annotation ({error}): restore it") from error
    names = [(item.findtext("name") or "").strip() for item in annotation.findall("object")]
    if not names:
        raise InputError(f"{path} has no object: an image without labels teaches nothing, so take "
                         "it out of the split")  # fmt: skip
    unknown = sorted(set(names) - set(VOC_CLASSES))
    if unknown:
        raise InputError(
            f"{path} has an object of unknown class {', '.join(map(repr, unknown))}: "
            f"the classes are {', '.join(VOC_CLASSES)}"
        )
    return names
