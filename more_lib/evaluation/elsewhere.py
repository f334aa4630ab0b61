"""A trained network on another folder than its own, which it knows by the names of its classes."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from more_lib.data.agreement import listed
from more_lib.data.folder import FolderTree
from more_lib.data.tree import ImageTree
from more_lib.recipes.loading import changed
from more_lib.recipes.schema import Recipe
from more_lib.recipes.validation import nearest
from more_lib.system.errors import InputError
from more_lib.system.files import absolute
from more_lib.training import Trained

SPLITS = ("val", "test", "train", "trainval", "all")  # the first of them that a folder has


def recipe_elsewhere(
    own: Recipe, folder: str | Path, labels: str | Path = "", changes: Iterable[str] = ()
) -> Recipe:
    """A network's ``own`` recipe turned to score it on ``folder``; single changes come last.

    The folder is in the plain layout, with a split list or none; its classes may be fewer than the
    network's, and its masks hold its own ids. Classes stay those of the network. Images of own data
    differ in size, so evaluation takes one at a time.

    Raises ``InputError`` as ``FolderTree`` does, and for a class that the network does not know.
    """
    folder, labels = absolute(folder), str(absolute(labels)) if labels else ""
    tree, known = FolderTree(folder, labels=labels), own.data.classes
    if unknown := [name for name in tree.classes_shown() if name not in known]:
        guesses = listed([f"{name!r}{nearest(name, known)}" for name in unknown])
        raise InputError(
            f"{tree.table} has classes that the network does not know, {guesses}; name them as it "
            f"does, or leave those images out (it knows {', '.join(known)})"
        )
    splits = tree.splits()
    val = next((name for name in SPLITS if name in splits), (*splits, "val")[0])
    train = next((name for name in ("train", "trainval") if name in splits), val)
    data = replace(
        own.data,
        dataset="folder",
        root=str(folder),
        labels=labels,
        skip=(),
        train_split=train,
        val_split=val,
        numbering=(*tree.every_class, *(name for name in known if name not in tree.every_class)),
        mask_orientation="upright",
    )
    evaluation = replace(own.evaluation, batch_size=1)
    recipe = changed(replace(own, data=data, evaluation=evaluation), changes)
    if recipe.data.classes != known:
        raise InputError(f"data.classes are the network's: {', '.join(known)}; leave them as given")
    return recipe


def trained_elsewhere(
    network: Callable[[Recipe], Trained], own: Recipe
) -> Callable[[Recipe], Trained]:
    """``network``, asked by its ``own`` data, for recipes of other data, which it then goes by."""

    def trained(recipe: Recipe) -> Trained:
        return replace(network(replace(recipe, data=own.data)), recipe=recipe)

    return trained


def absent_classes(tree: ImageTree) -> tuple[str, ...]:
    """The classes that no image of a folder has by its table, of a data set's none."""
    shown = tree.classes_shown() if isinstance(tree, FolderTree) else tree.classes
    return tuple(name for name in tree.classes if name not in shown)
