"""Your own data, and COCO and pets once prepared: a folder of images and a table of their labels.

    <root>/images/<id>.jpg       photographs of any of IMAGE_ENDINGS (or right in <root>)
    <root>/labels.csv            image,classes: a file's name, its classes separated by ";"
    <root>/classes.txt           optional: class names one a line; else those of labels.csv, sorted
    <root>/masks/<id>.png        optional: palette or grey, 0 background, 1..C, 255 not counted
    <root>/splits/<split>.txt    optional: image ids one a line; else one split, "all"

An image's id is its file's name without the ending. Each image has one row in the table; an empty
row says that it shows none of the classes. Whether such images train is for the split lists to
say: the lists that COCO's preparation writes leave them out, as the released ones do.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from unicodedata import normalize

import numpy as np

from more_lib.data.images import IMAGE_ENDINGS, image_files, left_out_note
from more_lib.data.table import Row, read_classes, read_table
from more_lib.data.tree import ImageTree
from more_lib.recipes.schema import Recipe
from more_lib.recipes.validation import nearest
from more_lib.system.devices import say
from more_lib.system.errors import InputError, printable
from more_lib.system.files import absolute

MOST_CLASSES = 254  # mask values are bytes; 0 and 255 are taken
ALL = "all"
"""The one split of a folder without split lists: every image of the table."""

_nfc = partial(normalize, "NFC")  # macOS and others write an accent in two ways


class FolderTree(ImageTree):
    """A folder in the plain layout, restricted to some of its classes.

    root: the folder. classes: C names; their order numbers them 1..C. None takes all of the folder;
    a class that it lacks is in no image and has no mask value.
    labels: the table of labels, if it is not ``<root>/labels.csv``. skip: as in ``ImageTree``, or
    names of files.
    Ids and classes have Unicode's form NFC, whichever the files, table and lists have.

    Raises ``InputError`` for a folder without images, names of files that would clash elsewhere or
    cannot be written, a table that is missing, malformed or does not fit the images one to one.
    Files are not opened.
    """

    LISTS = "splits"
    every_class: tuple[str, ...]
    """The folder's own classes, in the order of their ids in masks."""

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str] | None = None,
        labels: str | Path = "",
        skip: Iterable[str] = (),
    ):
        root = absolute(root)
        self.table = absolute(labels) if labels else root / "labels.csv"
        for path in map(str, (root, self.table)):
            if printable(path) != path:
                raise InputError(
                    f"the path {printable(path)} is no UTF-8 or has control characters: rename it"
                )
        self._files = _image_files(root)
        self._file_ids = {_nfc(p.name): i for i, p in self._files.items()}
        self.every_class, rows = _read(root / "classes.txt", self.table)
        self._names = self._matched(rows)
        chosen = self.every_class if classes is None else map(_nfc, classes)
        ids = self._file_ids | {i: i for i in self._files}  # as --skip-bad writes them: they win
        left_out = (ids.get(name, name) for name in map(_nfc, skip))
        super().__init__(root, tuple(chosen), (), left_out)
        self._numbers = {name: number for number, name in enumerate(self.classes)}
        for value, name in enumerate(self.every_class, 1):
            if name in self._numbers:
                self._class_of[value] = self._numbers[name] + 1

    def split_ids(self, split: str) -> list[str]:
        """Ids of ``splits/<split>.txt`` in its order; of ``all``, where there is no such folder.

        Raises ``InputError`` for a missing or empty list, an unknown image or one named twice.
        """
        if split == ALL and not (self.root / self.LISTS).exists():
            return list(self._names)
        path, lines = self.listed(split)
        ids = self._identified(path, list(map(_nfc, lines)), "no image of this folder")
        _refuse(path, "listed more than once", sorted(_repeated(ids)))
        return ids

    def splits(self) -> list[str]:
        """Names of the splits; ``all`` alone, where there are no lists."""
        return super().splits() if (self.root / self.LISTS).exists() else [ALL]

    def image_path(self, image_id: str) -> Path:
        return self._files[image_id]

    def mask_path(self, image_id: str) -> Path:
        folder, stems = self.root / "masks", [image_id]
        if not image_id.isascii():  # the file may have the name in another form
            stems += [normalize("NFD", image_id), self._files[image_id].stem]
        paths = [folder / f"{stem}.png" for stem in stems]
        return next((path for path in paths[1:] if path.exists()), paths[0])

    def labels(self, image_id: str) -> np.ndarray:
        """Image-level labels y of one image, (C,) float32 of 0 and 1, all 0 for an empty row.

        Classes that were not chosen are left out.
        """
        labels = np.zeros(len(self.classes), np.float32)
        labels[[self._numbers[n] for n in self._names[image_id] if n in self._numbers]] = 1
        return labels

    def classes_shown(self) -> tuple[str, ...]:
        """The chosen classes that at least one image of the table has."""
        shown = set().union(*self._names.values())
        return tuple(name for name in self.classes if name in shown)

    def mask_hint(self, strange: list[int]) -> str:
        if len(self.classes) == 80 and max(strange) <= 90:
            return (
                "; COCO's own category ids run to 90 with gaps, and a mask with them is wrong in "
                "every class: let data_scripts/prepare_coco.py write the masks"
            )
        return ""

    def _matched(self, rows: Sequence[Row]) -> dict[str, frozenset[str]]:
        """Classes by image id; the rows must fit the images one to one."""
        ids = self._identified(self.table, [row.image for row in rows], "not among the images")
        twice, named = _repeated(ids), zip(ids, rows, strict=True)
        again = [f"{row.image} (line {row.line})" for i, row in named if i in twice]
        _refuse(self.table, "named by more than one row", again)
        bare = sorted(self._files[image_id].name for image_id in self._files.keys() - set(ids))
        _refuse(self.table, "without a row (an image of no class has an empty one)", bare)
        return {image_id: row.classes for image_id, row in zip(ids, rows, strict=True)}

    def _identified(self, source: Path, names: Sequence[str], fault: str) -> list[str]:
        """Ids of the images that a table or list names by their files, with or without ending.

        ``a.jpg`` is the file of that name; another ``a.jpg.png`` makes it doubtful where other
        names have no ending.
        """
        known = self._file_ids
        strange = [name for name in names if name not in known and name not in self._files]
        _refuse(source, fault, strange)
        if not all(name in known for name in names):
            both = [name for name in names if name in self._files and name in known]
            two = [f"{name} (or {self._files[name].name})" for name in both]
            _refuse(source, "may be either of two files; write the ending of every name", two)
        return [known.get(name, name) for name in names]


def recipe_for_folder(recipe: Recipe, folder: str | Path, labels: str | Path = "") -> Recipe:
    """``recipe`` turned to the data in ``folder``, all other settings as they are.

    Classes are those of the folder that at least one image has. Of its splits, training takes
    ``train`` or ``trainval``, evaluation ``val`` or ``test``, or what training takes; without
    lists both take all images. Images of own data differ in size, so evaluation takes one at a
    time. Raises ``InputError`` as ``FolderTree`` does, and when the lists have other names.
    """
    folder, labels = absolute(folder), str(absolute(labels)) if labels else ""
    tree = FolderTree(folder, labels=labels)
    if note := left_out_note(_image_folder(folder)):
        say(printable(note))
    splits = tree.splits()
    train = next((name for name in ("train", "trainval", ALL) if name in splits), None)
    if train is None:
        raise InputError(
            f"{folder / tree.LISTS} has no train.txt (there are: {', '.join(splits) or 'none'}): "
            "name the list to train on so"
        )
    val = next((name for name in ("val", "test") if name in splits), train)
    classes = tree.classes_shown()
    if not classes:
        raise InputError(f"{tree.table} names no class in any row: there is nothing to learn")
    own = dict(dataset="folder", root=str(folder), labels=labels, classes=classes, skip=())
    own |= dict(train_split=train, val_split=val, numbering=tree.every_class)
    data = replace(recipe.data, **own)
    return replace(recipe, data=data, evaluation=replace(recipe.evaluation, batch_size=1))


def _read(listed: Path, table: Path) -> tuple[tuple[str, ...], list[Row]]:
    """Every class of a folder in order, from classes.txt or else from the table; the rows."""
    is_listed = listed.exists() or listed.is_symlink()  # a broken link is meant, too
    every = read_classes(listed) if is_listed else None
    rows = read_table(table, every or ())
    if every is None:
        every = tuple(sorted({name for row in rows for name in row.classes}))
    if len(every) > MOST_CLASSES:
        source = listed if is_listed else table
        raise InputError(f"{source} has {len(every)} classes: masks can tell {MOST_CLASSES} apart")
    known = frozenset(every)
    for row in rows:
        for name in sorted(row.classes - known):
            raise InputError(
                f"{table} line {row.line} has the class {name!r}, which {listed} does not know"
                f"{nearest(name, every) or ': add it there'}"
            )
    return every, rows


def _image_folder(root: Path) -> Path:
    return root / "images" if (root / "images").is_dir() else root


def _image_files(root: Path) -> dict[str, Path]:
    """The images of a folder by id, in the order of their names."""
    if not root.is_dir():
        raise InputError(f"the folder {root} is missing: give a folder of images")
    folder = _image_folder(root)
    paths = image_files(folder)
    if not paths:
        endings = ", ".join(ending[1:] for ending in IMAGE_ENDINGS)
        raise InputError(f"{folder} holds no image ({endings}): put the photographs right into it")
    strange = [path.name for path in paths if printable(path.name) != path.name]
    _refuse(folder, "names that are no UTF-8 or have control characters; rename", strange)
    # Masks of A.jpg and a.png would be one file on some systems, as would the two forms of an é.
    ids = [_nfc(path.stem) for path in paths]
    twice = _repeated(image_id.lower() for image_id in ids)
    clashes = [path.name for path, i in zip(paths, ids, strict=True) if i.lower() in twice]
    _refuse(folder, "files with one name before the ending, but for case; rename one", clashes)
    return dict(zip(ids, paths, strict=True))


def _refuse(where: Path, fault: str, names: Sequence[str]) -> None:
    """Raise one ``InputError`` that names what has a fault, the first ten of many."""
    if names:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        raise InputError(f"{where}: {fault}: {', '.join(map(printable, names[:10]))}{more}")


def _repeated(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}
