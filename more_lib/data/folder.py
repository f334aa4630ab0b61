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

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from more_lib.data.images import IMAGE_ENDINGS, image_files, readable
from more_lib.data.tree import ImageTree, read_lines
from more_lib.recipes.schema import Recipe
from more_lib.recipes.validation import nearest
from more_lib.system.errors import InputError

MOST_CLASSES = 254  # mask values are bytes; 0 and 255 are taken
ALL = "all"
"""The one split of a folder without split lists: every image of the table."""

Rows = list[tuple[str, frozenset[str]]]
"""Image name and class names, as the rows of a table of labels give them."""


class FolderTree(ImageTree):
    """A folder in the plain layout, restricted to some of its classes.

    root: the folder. classes: C of its classes; their order numbers them 1..C. None takes all.
    labels: the table of labels, if it is not ``<root>/labels.csv``. skip: as in ``ImageTree``.

    Raises ``InputError`` for a folder without images, a table that is missing, malformed or does
    not fit the images one to one, and for unknown classes. Files are not opened.
    """

    LISTS = "splits"

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str] | None = None,
        labels: str | Path = "",
        skip: Iterable[str] = (),
    ):
        root = Path(root).expanduser()
        self.table = Path(labels).expanduser() if labels else root / "labels.csv"
        self._files = _image_files(root)
        self._ids = {path.name: image_id for image_id, path in self._files.items()}
        self._ids |= {image_id: image_id for image_id in self._files}
        rows = _read_table(self.table)
        self._names = self._matched(rows)
        every = _all_classes(root / "classes.txt", self.table, rows)
        chosen = every if classes is None else tuple(classes)
        _refuse_unknown("data.classes", chosen, every, root)
        super().__init__(root, chosen, [every.index(name) + 1 for name in chosen], skip)

    def split_ids(self, split: str) -> list[str]:
        """Ids of ``splits/<split>.txt`` in its order; of ``all``, where there is no such folder.

        Raises ``InputError`` for a missing or empty list, an unknown image or one named twice.
        """
        if split == ALL and not (self.root / self.LISTS).is_dir():
            return list(self._names)
        path, lines = self.listed(split)
        _refuse(path, "no image of this folder", [line for line in lines if line not in self._ids])
        ids = [self._ids[line] for line in lines]
        _refuse(path, "listed more than once", _repeated(ids))
        return ids

    def splits(self) -> list[str]:
        """Names of the splits; ``all`` alone, where there are no lists."""
        return super().splits() if (self.root / self.LISTS).is_dir() else [ALL]

    def image_path(self, image_id: str) -> Path:
        return self._files[image_id]

    def mask_path(self, image_id: str) -> Path:
        return self.root / "masks" / f"{image_id}.png"

    def labels(self, image_id: str) -> np.ndarray:
        """Image-level labels y of one image, (C,) float32 of 0 and 1, all 0 for an empty row.

        Classes that were not chosen are left out.
        """
        present = self._names[image_id]
        return np.array([name in present for name in self.classes], dtype=np.float32)

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

    def _matched(self, rows: Rows) -> dict[str, frozenset[str]]:
        """Classes by image id; the rows must fit the images one to one."""
        names = [name for name, _ in rows]
        unknown = [name for name in names if name not in self._ids]
        _refuse(self.table, "not among the images", unknown)
        ids = [self._ids[name] for name in names]
        _refuse(self.table, "named by more than one row", _repeated(ids))
        bare = sorted(self._files[image_id].name for image_id in self._files.keys() - set(ids))
        _refuse(self.table, "without a row (an image of no class has an empty one)", bare)
        return {image_id: present for image_id, (_, present) in zip(ids, rows, strict=True)}


def recipe_for_folder(recipe: Recipe, folder: str | Path, labels: str | Path = "") -> Recipe:
    """``recipe`` turned to the data in ``folder``, all other settings as they are.

    Classes are those of the folder that at least one image has. Of its splits, training takes
    ``train`` or ``trainval``, evaluation ``val`` or ``test``, or what training takes; without
    lists both take all images. Images of own data differ in size, so evaluation takes one at a
    time. Raises ``InputError`` as ``FolderTree`` does, and when the lists have other names.
    """
    folder = Path(folder).expanduser().resolve()
    labels = str(Path(labels).expanduser().resolve()) if labels else ""
    tree = FolderTree(folder, labels=labels)
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
    data = replace(recipe.data, **own, train_split=train, val_split=val)
    return replace(recipe, data=data, evaluation=replace(recipe.evaluation, batch_size=1))


def _image_files(root: Path) -> dict[str, Path]:
    """The images of a folder by id, in the order of their names."""
    if not root.is_dir():
        raise InputError(f"the folder {root} is missing: give a folder of images")
    folder = root / "images" if (root / "images").is_dir() else root
    paths = image_files(folder)
    if not paths:
        endings = ", ".join(ending[1:] for ending in IMAGE_ENDINGS)
        raise InputError(f"{folder} holds no image ({endings}): put the photographs right into it")
    twice = _repeated(path.stem for path in paths)
    clashes = [path.name for path in paths if path.stem in twice]
    _refuse(folder, "files with one name before the ending; rename one", clashes)
    return {path.stem: path for path in paths}


def read_labels(path: str | Path) -> dict[str, frozenset[str]]:
    """Class names by image, as a table of labels gives them, whatever images there are.

    Raises ``InputError`` for a table that is missing or malformed, or names an image twice.
    """
    rows = _read_table(Path(path))
    _refuse(Path(path), "named by more than one row", _repeated(name for name, _ in rows))
    return dict(rows)


def _read_table(path: Path) -> Rows:
    cure = ", the table of labels: write a header image,classes and a row for each image, in UTF-8"
    with readable(path, cure), path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, skipinitialspace=True)
        try:
            header = [name.strip() for name in next(lines, [])]
            table = [(lines.line_num, fields) for fields in lines if any(fields)]
        except csv.Error as error:
            raise InputError(f"{path} line {lines.line_num} is no CSV ({error})") from error
    if header != ["image", "classes"]:
        raise InputError(f"{path} begins with {','.join(header)!r}: its first line must be "
                         "image,classes")  # fmt: skip
    rows = []
    for number, fields in table:
        if len(fields) != 2 or not fields[0].strip():
            raise InputError(
                f"{path} line {number} has {len(fields)} fields: write image,classes, the "
                'classes separated by ";"'
            )
        names = (name.strip() for name in fields[1].split(";"))
        rows.append((fields[0].strip(), frozenset(name for name in names if name)))
    return rows


def _all_classes(path: Path, table: Path, rows: Rows) -> tuple[str, ...]:
    """Every class of the folder in order, from classes.txt or else from the table."""
    named = {name for _, present in rows for name in present}
    every = tuple(read_lines(path) if path.is_file() else sorted(named))
    _refuse(path, "named more than once", _repeated(every))
    _refuse_unknown(str(table), sorted(named), every, path)
    if len(every) > MOST_CLASSES:
        raise InputError(f"{table} has {len(every)} classes: masks can tell {MOST_CLASSES} apart")
    return every


def _refuse_unknown(where: str, names: Sequence[str], known: Sequence[str], source: Path) -> None:
    for name in names:
        if name not in known:
            guess = nearest(name, known)
            raise InputError(f"{where} has the class {name!r}, which {source} does not know{guess}")


def _refuse(where: Path, fault: str, names: Sequence[str]) -> None:
    """Raise one ``InputError`` that names what has a fault, the first ten of many."""
    if names:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        raise InputError(f"{where}: {fault}: {', '.join(names[:10])}{more}")


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
