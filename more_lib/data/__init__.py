"""Data sets: VOC 2012 and EmojiVOC in VOC's layout, COCO, pets and your own in a plain one."""

from pathlib import Path
from typing import TYPE_CHECKING

from more_lib.data.folder import FolderTree
from more_lib.data.prepare import emoji
from more_lib.data.tree import ImageTree
from more_lib.data.voc import VocTree
from more_lib.system.errors import InputError
from more_lib.system.files import data_folder

if TYPE_CHECKING:
    from more_lib.recipes.schema import DataRecipe

_VOC_LAYOUT = ("emoji", "voc")
_FOLDERS = {"voc": "VOC2012", "coco": "COCO2014", "pets": "OxfordPets"}  # in the data folder


def tree_root(data: "DataRecipe") -> Path:
    """Folder of a recipe's data set, whether or not it is there yet."""
    if data.root:
        return Path(data.root).expanduser()
    return (
        emoji.tree_folder() if data.dataset == "emoji" else data_folder() / _FOLDERS[data.dataset]
    )


def split_file(data: "DataRecipe", split: str) -> Path:
    """Where a recipe's data set lists the ids of a split, whether or not it does."""
    folder = "ImageSets/Segmentation" if data.dataset in _VOC_LAYOUT else "splits"
    return tree_root(data) / folder / f"{split}.txt"


def open_tree(data: "DataRecipe") -> ImageTree:
    """The data set of a recipe. EmojiVOC is made on first use; others must be there.

    Raises ``InputError`` when the folder is missing or is not in the data set's layout.
    """
    if data.dataset == "emoji" and not data.root:
        emoji.prepare()
    root = tree_root(data)
    if data.dataset in _VOC_LAYOUT:
        return VocTree(root, data.classes, data.skip)
    if data.dataset in _FOLDERS and not root.is_dir():
        raise InputError(
            f"the folder {root} is missing: `python data_scripts/prepare_{data.dataset}.py` makes "
            "it, or say with data.root where it is"
        )
    return FolderTree(root, data.classes, data.labels, data.skip)
