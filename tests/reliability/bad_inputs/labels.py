"""Own images with a table, classes and lists that are damaged, of other tools or contradictory."""

import os
import shutil
from pathlib import Path

from tests.reliability.bad_inputs.building import (
    Case,
    case,
    change,
    copy,
    folder,
    gone,
    link,
    several,
    sparse,
    write,
)

TRAIN = "train --recipe small.yaml --data photos --folder out"
LABELS, CLASSES, LIST = "photos/labels.csv", "photos/classes.txt", "photos/splits/train.txt"
HEAD = "image,classes\n"


def table(name: str, content: str | bytes, *said: str) -> Case:
    """A table of labels of this content; every message names the file."""
    return case(f"table, {name}", TRAIN, write(LABELS, content), LABELS, *said)


def cell(name: str, written: str, *said: str) -> Case:
    """A table that is right but for the cell of c.jpg, which stands in line 4."""
    return case(f"cell, {name}", TRAIN, change(LABELS, "cat;dog", written), LABELS, *said)


def classes(name: str, content: str | bytes, *said: str) -> Case:
    return case(f"classes.txt, {name}", TRAIN, write(CLASSES, content), CLASSES, *said)


def split(name: str, content: str | bytes, *said: str) -> Case:
    return case(f"split list, {name}", TRAIN, write(LIST, content), LIST, *said)


def undecodable(place: Path) -> None:
    """An image whose name is no UTF-8."""
    shutil.copy(place / "photos/images/a.jpg", place / "photos/images" / os.fsdecode(b"\xff.jpg"))


ROWS = "a.jpg,cat\nb.jpg,dog\nc.jpg,cat;dog\nd.jpg,\n"

CASES = [
    case("no folder of data", "train --data absent", None, "absent", "folder of images"),
    case("a file for a folder of data", "train --data small.yaml", None, "small.yaml", "folder"),
    case("a link to itself for data", "train --data loop", link("loop", "loop"), "loop"),
    case("a name that is no text", TRAIN, undecodable, "photos/images", "UTF-8", "rename"),
    case("an empty folder of data", "train --data here", folder("here"), "here", "no image"),
    case("no table", TRAIN, gone(LABELS), LABELS, "missing", "image,classes"),
    case("a folder for a table", TRAIN, folder(LABELS), LABELS, "directory"),
    case("a photograph for a table", TRAIN, copy("photos/images/a.jpg", LABELS), LABELS, "UTF-8"),
    case("a table of 4 GB", TRAIN, sparse(LABELS, 2**32), LABELS),
    case("an endless table", TRAIN, link(LABELS, "/dev/zero"), LABELS),
    case("--labels that are not there", f"{TRAIN} --labels absent.csv", None, "absent.csv"),
    case("--labels without --data", "train --labels l.csv", None, "--labels", "--data"),
    table("empty", "", "image,classes"),
    table("header alone", HEAD, "without a row"),
    table("no header", ROWS, "a.jpg,cat", "first line"),
    table("columns exchanged", "classes,image\n", "classes,image", "first line"),
    table("semicolons between columns", "image;classes\na.jpg;cat\n", "image;classes", "first"),
    table("tabs between columns", "image\tclasses\na.jpg\tcat\n", "first line"),
    table("a column a class", "image,cat,dog\na.jpg,1,0\n", "image,cat,dog", "first line"),
    table("three fields", HEAD + "a.jpg,cat,dog\n", "line 2", "3 fields", '";"'),
    table("one field", HEAD + "a.jpg\n", "line 2", "image,classes"),
    table("an open quote", HEAD + '"a.jpg,cat\nb.jpg,dog\n', "line"),
    table("NUL bytes", HEAD.encode() + b"a.jpg,c\x00at\n", "no text"),
    table("Latin-1", HEAD.encode() + "a.jpg,Bär\n".encode("latin-1"), "UTF-8"),
    table("UTF-16 without a mark", (HEAD + ROWS).encode("utf-16-le"), "UTF-8"),
    table("an image that is not there", HEAD + ROWS + "e.jpg,cat\n", "e.jpg", "not among"),
    table("a path for an image", HEAD + ROWS + "../small.yaml,cat\n", "../small.yaml"),
    table("an image twice", HEAD + ROWS + "a.jpg,dog\n", "more than one row", "a"),
    table("an image with and without ending", HEAD + ROWS + "a,cat\n", "more than one row"),
    table("an image without a row", HEAD + "a.jpg,cat\n", "b.jpg", "without a row"),
    table("no class in any row", HEAD + "a.jpg,\nb.jpg,\nc.jpg,\nd.jpg,\n", "no class"),
    table("a field beyond measure", HEAD + f"a.jpg,{'c' * 200_000}\n", "line 2"),
    table(
        "300 classes",
        HEAD + f"a.jpg,{';'.join(f'c{n}' for n in range(300))}\nb.jpg,\nc.jpg,\nd.jpg,\n",
        "300 classes",
        "254",
    ),
    cell("a comma within", '"cat,dog"', "line 4", "cat,dog", '";"'),
    cell("a bar within", "cat|dog", "line 4", "cat|dog", '";"'),
    cell("a list of JSON that is open", '"[""cat"",""dog"""', "line 4"),
    cell("other JSON", '"{""label"":{""cat"":1}}"', "line 4"),
    cell("a list of numbers", '"[1, 2]"', "line 4"),
    cell("nan", "nan", "line 4", "nan"),
    cell("a letter in another case", "Cat;dog", "Cat", "cat"),
    cell("a blank in the middle of a name that differs", "cat;do g", "do g"),
    cell("two lines in a name", '"cat\ndog"', "line"),
    classes("empty", "", "'cat'"),
    classes("without a class of the table", "cat\n", "'dog'"),
    classes("a class twice", "cat\ndog\ncat\n", "more than once", "cat"),
    classes("no UTF-8", b"cat\ndog\nB\xe4r\n", "UTF-8"),
    classes("other letters", "Cat\nDog\n", "'cat'", "did you mean"),
    classes("300 of them", "cat\ndog\n" + "".join(f"c{n}\n" for n in range(300)), "302", "254"),
    case("a folder for classes.txt", TRAIN, folder(CLASSES), CLASSES),
    split("empty", "", "names no image", "one image id a line"),
    split("an unknown image", "a\nzebra\n", "zebra", "no image of this folder"),
    split("an image twice", "a\nb\na\n", "more than once", "a"),
    split("no UTF-8", b"a\n\xe4\n", "UTF-8"),
    split("a path", "a\n../images/b\n", "../images/b"),
    case("a folder for a split list", TRAIN, folder(LIST), "photos/splits", "train"),
    case("no list to train on", TRAIN, gone(LIST), "photos/splits", "no train.txt", "val"),
    case("a file for the lists", TRAIN, write("photos/splits", "a\n"), "photos/splits"),
    case(
        "two images of one name",
        TRAIN,
        copy("photos/images/a.jpg", "photos/images/a.jpeg"),
        "a.jpeg, a.jpg",
        "rename",
    ),
    case(
        "a class that no training image shows",
        f"{TRAIN} --set optimizer.batch_size=1",
        several(write(LIST, "a\n"), write("photos/splits/val.txt", "b\nc\n")),
        "dog",
        "train",
    ),
    case("fewer images than a batch", TRAIN, write(LIST, "c\n"), "train", "optimizer.batch_size"),
    case("a broken link for an image", TRAIN, link("photos/images/a.jpg", "nowhere"), "a.jpg"),
    case(
        "no image under the endings",
        "train --data here",
        several(folder("here"), copy("photos/images/a.jpg", "here/a.raw")),
        "here",
        "no image",
        "jpg",
    ),
]
