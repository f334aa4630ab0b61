"""The table of image labels: which classes each image shows, as people and their tools write it.

    image,classes
    one.jpg,red fox;cat
    two.jpg,

A cell holds class names separated by ";", or a list of them in JSON, alone or in Label Studio's
{"choices": [...]}. A table cannot tell a class from a slip, so what looks like several names in
one, like none, or like another name spelled otherwise is refused with its line. Names that
``classes.txt`` lists are classes, however they look.
"""

import csv
import io
import json
import re
from collections.abc import Collection
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np

from more_lib.data.tree import ImageTree, read_lines, read_text
from more_lib.recipes.classes import CLASSES
from more_lib.recipes.schema import DataRecipe
from more_lib.recipes.validation import nearest
from more_lib.system.errors import InputError

# What pandas and other programs write into an empty cell, and people for an image of no class.
_NOTHING = set("- -- ? # nan none null nil nat na n/a #n/a <na> background".split())
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))  # soft hyphen, no space, marks
# Separators of other tools, Chinese ones too, lists that are no JSON, and what no name can hold.
_NO_NAME = re.compile(r"""[,;|\uff0c\uff1b\uff5c\u3001\0-\x1f\x7f\ud800-\udfff]|^[\[{"']""")
_OR_LIST = "or list every class in classes.txt if one is called so"
_JOINTS = re.compile(r" ?[/\\+&:] ?")  # names have them too


class Row(NamedTuple):
    """One line of a table: its number, the name of an image, the classes that this shows."""

    line: int
    image: str
    classes: frozenset[str]


def read_labels(path: str | Path, known: Collection[str] = ()) -> dict[str, frozenset[str]]:
    """Class names by image, as a table of labels gives them, whatever images there are.

    Raises ``InputError`` as ``read_table`` does, and for a table that names an image twice.
    """
    lines: dict[str, int] = {}
    rows = read_table(Path(path), known)
    for row in rows:
        if lines.setdefault(row.image, row.line) != row.line:
            raise InputError(
                f"{path}: named by more than one row: {row.image} (lines {lines[row.image]} and "
                f"{row.line})"
            )
    return {row.image: row.classes for row in rows}


def read_table(path: Path, known: Collection[str] = ()) -> list[Row]:
    """The rows of a table of labels. Names of files and classes come in Unicode's form NFC.

    known: classes that are taken whatever their names look like.

    Raises ``InputError`` that names the line, for a table that is missing, in another encoding or
    malformed, and for class names that nobody gave.
    """
    known, cells = frozenset(known), _cells(path)
    names = {line: _names(cell, known, f"{path} line {line}") for line, _, cell in cells}
    if not known:
        _refuse_variants(path, names)
    return [
        Row(line, normalize("NFC", image), frozenset(map(tidy, names[line])))
        for line, image, _ in cells
    ]


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names of a ``classes.txt``, in order; raises ``InputError`` unless each is once."""
    names = tuple(map(tidy, read_lines(path, ": write a class name a line, in UTF-8")))
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise InputError(f"{path}: named more than once: {', '.join(twice)}: keep one line of each")
    if names and names[0].strip("_").casefold() == "background":
        raise InputError(f"{path} begins with {names[0]!r}, which has the id 0 of itself and moves "
                         "all others: delete that line")  # fmt: skip
    return names


@lru_cache(1000)  # a table has few names, many times
def tidy(name: str) -> str:
    """A class name in Unicode's form NFC, with single spaces and nothing that cannot be seen."""
    return " ".join(_visible(name).split())


def class_counts(tree: ImageTree, split: str) -> dict[str, int]:
    """Number of a split's images that show each of the tree's classes."""
    counts = np.zeros(len(tree.classes), np.int64)
    for image_id in tree.ids(split):
        counts += tree.labels(image_id) > 0
    return dict(zip(tree.classes, counts.tolist(), strict=True))


def training_classes(tree: ImageTree, data: DataRecipe) -> str:
    """One line that says what a training is taught: its classes, with the images of each.

    Raises ``InputError`` for a class that no image shows, unless the data set's own list has it,
    and when no image shows any.
    """
    counts = class_counts(tree, data.train_split)
    if not any(counts.values()):
        raise InputError(
            f"no image of the split {data.train_split} of {tree.root} shows one of the classes, as "
            f"{next(iter(counts))}: name those of its labels in data.classes"
        )
    for name, count in counts.items():
        if not count and name not in CLASSES.get(data.dataset, ()):
            every = getattr(tree, "every_class", tree.classes)
            guess = "" if name in every else nearest(name, every)
            cure = guess or ": add images of it, or choose data.classes without it"
            raise InputError(
                f"data.classes has {name!r}, which no image of the split {data.train_split} of "
                f"{tree.root} shows{cure}"
            )
    said = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"classes (images of {len(tree.ids(data.train_split))}): {said}"


def _cells(path: Path) -> list[tuple[int, str, str]]:
    """Line, image and classes of each row, as they stand there."""
    cure = ", the table of labels: write a header image,classes and a row for each image, in UTF-8"
    lines = csv.reader(io.StringIO(read_text(path, cure), ""), strict=True, skipinitialspace=True)
    table, begin = [], 1
    try:
        for fields in lines:
            table.append((begin, fields))
            begin = lines.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path} line {begin} is no CSV ({error}): mend its quotes") from error
    header = [name.strip() for name in table[0][1]] if table else []
    if header != ["image", "classes"]:
        text = ",".join(header)[:80]
        kinds = {";": "separated by semicolons", "\t": "separated by tabs"}
        found = next((f", {kinds[mark]}" for mark in text if mark in kinds), "")
        raise InputError(f"{path} begins with {text!r}{found}: its first line must be "
                         "image,classes; save it with commas, in UTF-8")  # fmt: skip
    rows = [(line, fields) for line, fields in table[1:] if any(fields)]
    for line, fields in rows:
        if len(fields) != 2 or not fields[0].strip():
            raise InputError(
                f"{path} line {line} has {len(fields)} fields: write image,classes, the "
                'classes separated by ";"'
            )
    return [(line, fields[0].strip(), fields[1].strip()) for line, fields in rows]


def _names(cell: str, known: Collection[str], where: str) -> list[str]:
    """The class names of a cell, spelled as they are there."""
    if cell in known or tidy(cell) in known:
        return [cell]
    listed = _listed(cell) if cell[:1] in ("[", "{") else None
    names = [_visible(name) for name in listed or cell.split(";")]
    for name in names:
        if tidy(name) in known:
            continue
        if name and (name.casefold() in _NOTHING or not _folded(name)):
            raise InputError(f"{where} has {name!r} for a class: leave the cell empty where an "
                             f"image shows none, {_OR_LIST}")  # fmt: skip
        if _NO_NAME.search(name):
            raise InputError(f'{where} has {name[:80]!r} for a class: separate class names by ";", '
                             f"{_OR_LIST}")  # fmt: skip
    return [name for name in names if name]


def _listed(cell: str) -> list[str] | None:
    """The names of a JSON list, or of Label Studio's; None for other text."""
    with suppress(ValueError, RecursionError):
        value = json.loads(cell)
        if isinstance(value, dict) and value.keys() == {"choices"}:
            value = value["choices"]
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            return value or [""]
    return None


@lru_cache(1000)
def _visible(name: str) -> str:
    """A name as it is spelled, in Unicode's form NFC, without what takes no place."""
    return normalize("NFC", name.translate(_INVISIBLE)).strip()


def _refuse_variants(path: Path, names: dict[int, list[str]]) -> None:
    """Raise ``InputError`` where two names seem to be one, or one name to be several."""
    first: dict[str, tuple[str, int]] = {}
    spelled: dict[str, int] = {}
    for line, each in names.items():
        for name in each:
            spelled.setdefault(name, line)
    for name, line in spelled.items():
        other, before = first.setdefault(_folded(name), (name, line))
        if other != name:
            raise InputError(
                f"{path} lines {before} and {line} have the classes {other!r} and {name!r}: spell "
                f"a class in one way, {_OR_LIST}"
            )
    for key, (name, line) in first.items():
        parts, words = _JOINTS.split(key), tidy(name).casefold().split()
        several = len(parts) > 1 and all(parts) and any(part in first for part in parts)
        if several or (len(words) > 1 and all(word in first for word in words)):
            raise InputError(
                f"{path} line {line} has {name!r} for a class, and its parts are classes too: "
                f'separate class names by ";", {_OR_LIST}'
            )


def _folded(name: str) -> str:
    """What is left of a name without case, kinds of spaces, and joiners that cannot be seen."""
    seen = re.sub("[\u200c-\u200f\ufe0e\ufe0f]", "", tidy(name).casefold())
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", "", seen)
