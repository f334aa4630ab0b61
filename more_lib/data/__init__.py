"""Data sets: VOC 2012 and EmojiVOC in VOC's layout, COCO, pets and your own in a plain one."""

from dataclasses import replace
from pathlib import Path

from more_lib.data.agreement import not_shown
from more_lib.data.folder import FolderTree
from more_lib.data.prepare import emoji
from more_lib.data.tree import ImageTree
from more_lib.data.voc import VocTree
from more_lib.recipes.schema import DataRecipe, Recipe
from more_lib.system.errors import InputError
from more_lib.system.files import absolute, data_folder

__all__ = ["open_tree", "split_file", "tree_root", "validation_fingerprint", "without_bad"]

_VOC_LAYOUT = ("emoji", "voc")
_FOLDERS = {"voc": "VOC2012", "coco": "COCO2014", "pets": "OxfordPets"}  # in the data folder


def tree_root(data: DataRecipe) -> Path:
    """Folder of a recipe's data set, whether or not it is there yet."""
    if data.root:
        return absolute(data.root)
    if data.dataset == "emoji":
        return emoji.tree_folder()
    return data_folder() / _FOLDERS[data.dataset]


def split_file(data: DataRecipe, split: str) -> Path:
    """Where a recipe's data set lists the ids of a split, whether or not it does."""
    layout = VocTree if data.dataset in _VOC_LAYOUT else FolderTree
    return tree_root(data) / layout.LISTS / f"{split}.txt"


def open_tree(data: DataRecipe) -> ImageTree:
    """The data set of a recipe. EmojiVOC is made on first use; others must be there.

    Raises ``InputError`` when the folder is missing or is not in the data set's layout.
    """
    if data.dataset == "emoji" and not data.root:
        emoji.prepare()
    tree = _tree(data)
    tree.stored = data.mask_orientation == "stored"
    return tree


def _tree(data: DataRecipe) -> ImageTree:
    root = tree_root(data)
    if data.dataset in _VOC_LAYOUT:
        return VocTree(root, data.classes, data.skip)
    if data.dataset in _FOLDERS and not root.is_dir():
        raise InputError(
            f"the folder {root} is missing: `python data_scripts/prepare_{data.dataset}.py` makes "
            "it, or say with data.root where it is"
        )
    return FolderTree(root, data.classes, data.labels, data.skip)


def validation_fingerprint(data: DataRecipe) -> str:
    """The fingerprint of what a recipe's network is judged by: masks too, where each image has one.

    Raises ``InputError`` for data that cannot be read.
    """
    tree, split = open_tree(data), data.val_split
    masks = all(tree.mask_path(image_id).is_file() for image_id in tree.ids(split))
    return tree.fingerprint((split,), masks=masks)


def without_bad(recipe: Recipe, split: str, masks: bool = False) -> Recipe:
    """The recipe with the bad files of one of its splits in ``data.skip``; prints and saves them.

    The recipe that a run keeps thus names what was left out, and the data's fingerprint covers the
    images that are left: a training without the bad files is kept apart from one with them. With
    ``masks`` images go too whose labels name a class that no mask shows (``not_shown``). Raises
    ``InputError`` that names the first faults where no image is left.
    """
    tree = open_tree(recipe.data)
    count, bad = len(tree.ids(split)), tree.scan(split, masks)
    tree.skip |= bad.keys()
    while masks and len(bad) < count and (contradicted := not_shown(tree, split)):
        bad |= contradicted  # without them others may be
        tree.skip |= contradicted.keys()
    if len(bad) == count:
        faults = "; ".join(list(dict.fromkeys(bad.values()))[:5])
        raise InputError(
            f"no image of the split {split!r} of {tree.root} is left: {faults}. Mend them"
        )
    if not bad:
        return recipe
    print(f"skipped {len(bad)} of {count} images of the split {split}:")
    print("\n".join(f"  {reason}" for reason in bad.values()))
    if place := tree.save_faults(split, bad):
        print(f"the list is kept in {place}")
    return replace(recipe, data=replace(recipe.data, skip=(*recipe.data.skip, *bad)))
