"""Tables of labels as people and their tools write them: read as meant, or refused by line."""

import unicodedata

import pytest

from more_lib.data.folder import FolderTree
from more_lib.data.table import class_counts, read_classes, read_labels, training_classes
from more_lib.data.voc import VocTree
from more_lib.recipes.loading import load_recipe
from tests.data.helpers import annotation, noise, photos, refused

NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


def table(folder, *cells, name="labels.csv"):
    """A table with a row for each cell, which stands in quotes from line 2 on."""
    rows = (f'{n}.jpg,"{cell.replace(chr(34), chr(34) * 2)}"\n' for n, cell in enumerate(cells))
    path = folder / name
    path.write_text("image,classes\n" + "".join(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "cell, names",
    [
        ("cat", {"cat"}),
        (" cat ; dog;", {"cat", "dog"}),
        ("cat;cat", {"cat"}),
        ("", set()),
        (" ; ", set()),
        ('["cat","dog"]', {"cat", "dog"}),
        ('["caf\\u00e9"]', {NFC}),
        ("[]", set()),
        ('{"choices": ["cat", "dog", "cat"]}', {"cat", "dog"}),
        (NFD, {NFC}),
        ("\ufeffcat\u200b;\xa0dog", {"cat", "dog"}),
        ("tv/monitor;driver's seat;nano", {"tv/monitor", "driver's seat", "nano"}),
    ],
)
def test_cells_are_read_as_they_are_meant(tmp_path, cell, names):
    assert read_labels(table(tmp_path, cell)) == {"0.jpg": names}


@pytest.mark.parametrize(
    "cell",
    "cat,dog|cat, dog|cat\uff0cdog|cat\u3001dog|cat\tdog|cat\ndog|['cat', 'dog']|['cat']|[cat]"
    '|{cat}|"cat"|["cat", 3]|["cat;dog"]|["\\ud83d"]|{"choices": "cat"}|{"labels": []}|[["cat"]]'
    .split("|") + ["cat|dog", "cat |dog;owl"],
)  # fmt: skip
def test_what_is_no_single_name_is_refused_by_line_unless_listed(tmp_path, cell):
    path = table(tmp_path, "owl", cell)
    with refused(
        'labels.csv line 3 has .* for a class: separate class names by ";"', "classes.txt"
    ):
        read_labels(path)
    if not cell.startswith('["') and cell.isprintable():
        assert read_labels(path, ["owl", cell])["1.jpg"] == {cell}


@pytest.mark.parametrize("cell", 'nan NaN None null N/A <NA> #N/A - -- ? cat;nan ["nan"]'.split())
def test_what_programs_write_into_empty_cells_is_no_class_unless_listed(tmp_path, cell):
    path = table(tmp_path, "owl", "cat", cell)
    with refused("labels.csv line 4 has", "leave the cell empty", "classes.txt"):
        read_labels(path)
    assert read_labels(table(tmp_path, "None;owl"), ("None", "owl"))["0.jpg"] == {"None", "owl"}


@pytest.mark.parametrize(
    "cells, lines",
    [
        (("cat", "dog", "Cat"), "2 and 4"),
        (("red fox", "red  fox"), "2 and 3"),
        (("red fox", "red\xa0fox"), "2 and 3"),
        (("cat", "red_fox;Cat"), "2 and 3"),
        (("red_fox", "red-fox"), "2 and 3"),
        (("red fox", "owl;redfox"), "2 and 3"),
        (("\u2764", "\u2764\ufe0f"), "2 and 3"),
    ],
)
def test_one_name_spelled_in_two_ways_is_refused_with_both_lines(tmp_path, cells, lines):
    with refused(f"labels.csv lines {lines} have the classes"):
        read_labels(table(tmp_path, *cells))
    assert len(read_labels(table(tmp_path, "Cat", "cat"), ("Cat", "cat"))) == 2


@pytest.mark.parametrize(
    "cell", ["cat/dog", "cat / owl", "cat+dog", "cat & dog", "cat dog", "cat:1"]
)
def test_names_joined_of_other_names_are_refused(tmp_path, cell):
    with refused("labels.csv line 2 has .*its parts are classes too"):
        read_labels(table(tmp_path, cell, "cat", "dog"))
    assert read_labels(table(tmp_path, "hot dog;C++", "dog;C"))["0.jpg"] == {"hot dog", "C++"}


def test_a_table_names_an_image_once_whatever_the_form_of_its_letters(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(f"image,classes\n{NFD}.jpg,cat\n", encoding="utf-8")
    assert read_labels(path) == {f"{NFC}.jpg": {"cat"}}
    path.write_text(f"image,classes\n{NFD}.jpg,cat\n\n{NFC}.jpg,cat\n", encoding="utf-8")
    with refused(r"named by more than one row: .* \(lines 2 and 4\)"):
        read_labels(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_come_in_the_encodings_of_spreadsheets(tmp_path, encoding, end):
    (tmp_path / "labels.csv").write_bytes(f"image,classes{end}1.jpg,{NFC}{end}".encode(encoding))
    assert read_labels(tmp_path / "labels.csv") == {"1.jpg": {NFC}}


@pytest.mark.parametrize(
    "content, complaint",
    [
        (f"image,classes\n1.jpg,{NFC}\n".encode("latin-1"), "cannot be read .*in UTF-8"),
        (b"image;classes\n1.jpg;cat\n", "begins with .*separated by semicolons.*commas"),
        (b"image\tclasses\n1.jpg\tcat\n", "begins with .*separated by tabs.*commas"),
        ("image,classes\n".encode("utf-16-le"), "cannot be read .UTF-16 without a mark.* in UTF-8"),
        (b'image,classes\n1.jpg,cat\n2.jpg,"cat\n3.jpg,dog\n', "line 3 is no CSV"),
        (b'image,classes\n1.jpg,["cat","dog"]\n', "line 2 is no CSV.*quotes"),
        (b'image,classes\n"1\n.jpg",cat\n2.jpg,cat,dog\n', "line 4 has 3 fields"),
    ],
)
def test_a_table_in_another_form_is_told_which(tmp_path, content, complaint):
    (tmp_path / "labels.csv").write_bytes(content)
    with refused("labels.csv", complaint):
        read_labels(tmp_path / "labels.csv")


def test_classes_txt_is_a_list_of_names_without_the_background(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text(f"none\r\nsalt,  pepper\n{NFD}\n", encoding="utf-16")
    assert read_classes(path) == ("none", "salt, pepper", NFC)
    for text, complaint in (
        (f"{NFD}\ncat\n{NFC}\n", "named more than once: caf"),
        ("_background_\ncat\n", "begins with '_background_', which has the id 0"),
    ):
        path.write_text(text, encoding="utf-8")
        with refused("classes.txt", complaint):
            read_classes(path)


def test_training_says_its_classes_and_refuses_one_that_no_image_shows(tmp_path):
    root = photos(tmp_path / "own")
    (root / "splits").mkdir()
    (root / "splits/train.txt").write_text("one\ntwo\nfour\n")
    tree = FolderTree(root)
    assert class_counts(tree, "all" if tree.splits() == ["all"] else "train") == {
        "cat": 2, "owl": 0, "red fox": 1,
    }  # fmt: skip
    folder = ["data.dataset=folder", f"data.root={root}"]
    data = load_recipe("mini", [*folder, "data.classes=[red fox, cat]"]).data
    said = "classes (images of 3): red fox 1, cat 2"
    assert training_classes(FolderTree(root, data.classes), data) == said
    for classes, complaint in (
        (("cat", "read fox"), "'read fox', which no image .* train .*did you mean red fox"),
        (("cat", "owl"), "'owl', which no image .* add images of it, or choose data.classes"),
    ):
        with refused("data.classes has", complaint):
            training_classes(FolderTree(root, classes), data)
    # A data set's own list may have classes that no image shows, but not those alone.
    pets = load_recipe("pets", [f"data.root={root}", "data.train_split=train"]).data
    with refused("train .* shows one of the classes, as Abyssinian: name those of its labels"):
        training_classes(FolderTree(root, pets.classes), pets)


def test_training_says_the_classes_of_vocs_layout_too(tmp_path):
    for folder in ("JPEGImages", "Annotations", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for name, kinds in (("a", ("cat",)), ("b", ("cat", "dog", "dog"))):
        noise(0).save(tmp_path / f"JPEGImages/{name}.jpg")
        (tmp_path / f"Annotations/{name}.xml").write_text(annotation(*kinds))
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\nb\n")
    data = load_recipe("mini", ["data.dataset=voc", "data.classes=[dog, cat, bus]"]).data
    said = training_classes(VocTree(tmp_path, data.classes), data)
    assert said == "classes (images of 2): dog 1, cat 2, bus 0"  # a class of the data set's own
