"""Class names of each data set, in the order that numbers them from 1."""

import json
from importlib import resources

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
