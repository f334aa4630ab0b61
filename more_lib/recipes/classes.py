"""Class names of each data set, in the order that numbers them from 1."""

import json
from importlib import resources

from more_lib.recipes.schema import DataRecipe

_NAMES = (resources.files(__package__) / "classes.json").read_text(encoding="utf-8")
CLASSES: dict[str, tuple[str, ...]] = {
    dataset: tuple(names) for dataset, names in json.loads(_NAMES).items()
}
"""By data set, as ``DataRecipe.dataset`` names it."""

VOC_CLASSES = CLASSES["voc"]
"""The 20 classes in VOC's order: the mask value of ``VOC_CLASSES[i]`` on disk is ``i + 1``."""

EMOJI_CLASSES = CLASSES["emoji"]
"""EmojiVOC's ten, out of VOC's; its masks hold VOC's ids."""

COCO_CLASSES = CLASSES["coco"]
"""The 80 classes in COCO's order: the mask value of ``COCO_CLASSES[i]`` is ``i + 1``."""

PET_BREEDS = CLASSES["pets"]
"""The 37 breeds in the order of their class ids, which count from 1."""

PET_SPECIES = ("cat", "dog")


def mask_ids(data: DataRecipe) -> tuple[int, ...]:
    """Value of each of ``data.classes`` in masks, C numbers from 1 on.

    That of the data set's own masks, whichever of its classes were chosen: VOC's on EmojiVOC and
    VOC 2012, the place in ``data.numbering`` on a folder. Names that have no place there follow.
    """
    own = {"emoji": VOC_CLASSES, "voc": VOC_CLASSES, "coco": COCO_CLASSES, "pets": PET_BREEDS}
    order = data.numbering or own.get(data.dataset, ())
    if data.dataset == "pets" and set(data.classes) <= set(PET_SPECIES):
        order = PET_SPECIES
    order = (*order, *(name for name in data.classes if name not in order))
    return tuple(order.index(name) + 1 for name in data.classes)
