"""Data sets, all read in the VOC 2012 layout."""

from pathlib import Path
from typing import TYPE_CHECKING

from more_lib.data import emoji
from more_lib.data.voc import VocTree
from more_lib.storage import data_folder

if TYPE_CHECKING:
    from more_lib.recipes import DataRecipe


def tree_root(data: "DataRecipe") -> Path:
    """Folder of a recipe's data set, whether or not it is there yet."""
    if data.root:
        return Path(data.root).expanduser()
    return emoji.tree_folder() if data.dataset == "emoji" else data_folder() / "VOC2012"


def open_tree(data: "DataRecipe") -> VocTree:
    """The data set of a recipe. EmojiVOC is made on first use; others must be there.

    Raises ``InputError`` when the folder is missing or is no tree in VOC layout.
    """
    if data.dataset == "emoji" and not data.root:
        emoji.prepare()
    return VocTree(tree_root(data), data.classes)
