"""Oxford-IIIT Pet's preparation: trimaps to masks, breeds and species, bad input."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from more_lib.data.folder import FolderTree
from more_lib.data.prepare import pets
from more_lib.recipes.classes import PET_BREEDS
from tests.data.helpers import real_data, refused, run_script

WIDTH, HEIGHT = 6, 5
TRIMAP = np.full((HEIGHT, WIDTH), 2, np.uint8)
TRIMAP[1:4, 1:5] = 3
TRIMAP[2, 2:4] = 1
LISTS = {
    "trainval": "Abyssinian_1 1 1 1\nBengal_20 6 1 2\npug_3 26 2 17\n",
    "test": "#Image CLASS-ID SPECIES BREED ID\n\nyorkshire_terrier_4 37 2 25\n",
}


@pytest.fixture
def source(tmp_path):
    """The data set's own layout with four photographs, and one that no list names."""
    folder = tmp_path / "pets"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations/trimaps").mkdir(parents=True)
    for split, text in LISTS.items():
        (folder / "annotations" / f"{split}.txt").write_text(text)
    for name in ("Abyssinian_1", "Bengal_20", "pug_3", "yorkshire_terrier_4", "beagle_5"):
        Image.new("RGB", (WIDTH, HEIGHT), "grey").save(folder / "images" / f"{name}.jpg")
        Image.fromarray(TRIMAP).save(folder / "annotations/trimaps" / f"{name}.png")
    return folder


@pytest.fixture
def counts(monkeypatch):
    """The counts of this module's pets."""
    monkeypatch.setattr(pets, "COUNTS", {"trainval": 3, "test": 1, "breeds": 4})


def test_breeds_are_in_the_order_of_their_ids():
    assert len(PET_BREEDS) == len(set(PET_BREEDS)) == 37
    known = {1: "Abyssinian", 6: "Bengal", 26: "pug", 33: "Siamese", 37: "yorkshire_terrier"}
    assert {number: PET_BREEDS[number - 1] for number in known} == known
    assert list(PET_BREEDS) == sorted(PET_BREEDS, key=str.lower)


def test_prepared_tree_has_the_breeds_and_the_official_splits(source, tmp_path, counts):
    tree = FolderTree(pets.prepare(tmp_path / "prepared", source))
    assert tree.classes == PET_BREEDS
    assert tree.ids("trainval") == ["Abyssinian_1", "Bengal_20", "pug_3"]
    assert tree.ids("test") == ["yorkshire_terrier_4"]
    assert np.flatnonzero(tree.labels("pug_3")).tolist() == [25]
    for name, breed in (("pug_3", 26), ("yorkshire_terrier_4", 37)):
        assert np.array_equal(tree.mask(name), np.vectorize({1: breed, 2: 0, 3: 255}.get)(TRIMAP))
    assert tree.image("pug_3").size == (WIDTH, HEIGHT)
    assert not (tree.root / "images/beagle_5.jpg").exists()  # in no list
    few = FolderTree(tree.root, ("pug", "Bengal"))
    assert few.labels("Bengal_20").tolist() == [0, 1] and few.mask("Bengal_20").max() == 255
    assert 2 in few.mask("Bengal_20")


def test_species_are_two_classes(source, tmp_path, counts):
    tree = FolderTree(pets.prepare(tmp_path / "prepared", source, kind="species"))
    assert tree.classes == ("cat", "dog")
    assert tree.labels("Bengal_20").tolist() == [1, 0] and tree.labels("pug_3").tolist() == [0, 1]
    assert np.unique(tree.mask("pug_3")).tolist() == [0, 2, 255]
    with refused("class species, not breed"):
        pets.prepare(tree.root, source)
    with refused("'colour' is unknown: take breed or species"):
        pets.prepare(tmp_path / "other", source, kind="colour")


def test_counts_that_are_off_are_named_unless_partial(source, tmp_path, capsys):
    with refused("3 instead of 3,680.*1 instead of 3,669.*4 instead of 37"):
        pets.prepare(tmp_path / "prepared", source)
    assert not (tmp_path / "prepared").exists()
    (source / "images/Abyssinian_1.jpg").unlink()
    tree = FolderTree(pets.prepare(tmp_path / "prepared", source, partial=True))
    assert tree.ids("trainval") == ["Bengal_20", "pug_3"] and tree.classes == PET_BREEDS
    assert "trainval has 2 instead of 3,680" in capsys.readouterr().out
    for path in (source / "images").iterdir():
        path.unlink()
    with refused("none of the photographs"):
        pets.prepare(tmp_path / "other", source, partial=True)


@pytest.mark.parametrize(
    "line",
    "pug_3, pug_3 26, pug_3 38 2 1, pug_3 0 2 1, pug_3 26 3 1, ../pug_3 26 2 1, a b c".split(", "),
)
def test_malformed_lists_are_named(source, tmp_path, counts, line):
    (source / "annotations/test.txt").write_text(line + "\n")
    with refused("test.txt has the line", line):
        pets.prepare(tmp_path / "prepared", source)


def test_lists_are_read_however_an_editor_saved_them(source, tmp_path, counts):
    trainval, test = (source / "annotations" / f"{split}.txt" for split in LISTS)
    twice = LISTS["trainval"] + "\n" + LISTS["trainval"]
    trainval.write_bytes(twice.replace("\n", "\r\n").encode("utf-16"))
    test.write_bytes(LISTS["test"].replace("#Image", "\ufeff#Image").encode())
    tree = FolderTree(pets.prepare(tmp_path / "prepared", source))
    assert tree.ids("trainval") == ["Abyssinian_1", "Bengal_20", "pug_3"]
    assert tree.ids("test") == ["yorkshire_terrier_4"]


def test_lists_that_contradict_themselves_or_each_other_are_refused(source, tmp_path, counts):
    path = source / "annotations/trainval.txt"
    path.write_text(LISTS["trainval"] + "pug_3 25 2 17\n")
    with refused("trainval.txt lists pug_3 twice, of breeds 26 and 25"):
        pets.prepare(tmp_path / "prepared", source)
    path.write_text(LISTS["trainval"] + "yorkshire_terrier_4 37 2 25\n")
    with refused("lists yorkshire_terrier_4 in trainval.txt and in test.txt"):
        pets.prepare(tmp_path / "prepared", source)


def test_missing_lists_and_damaged_trimaps_are_named(source, tmp_path, counts):
    path = source / "annotations/trimaps/pug_3.png"
    Image.fromarray(TRIMAP * 0).save(path)
    with refused("pug_3.png is no trimap"):
        pets.prepare(tmp_path / "prepared", source)
    path.unlink()
    with refused("pug_3.png is missing"):
        pets.prepare(tmp_path / "prepared", source)
    (source / "annotations/trainval.txt").unlink()
    with refused("trainval.txt is missing: unpack annotations.tar.gz"):
        pets.prepare(tmp_path / "prepared", source)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["pets"]


def test_script_prepares_what_is_there(source, tmp_path, monkeypatch, capsys):
    options = ("--pets", source, "--folder", tmp_path / "out", "--partial", "--classes", "species")
    run = partial(run_script, monkeypatch, capsys, "prepare_pets.py", *options)
    status, out, _ = run("--dry-run")
    assert status == 0 and "CC BY-SA 4.0" in out and not (tmp_path / "out").exists()
    status, out, _ = run()
    assert status == 0 and f"data set: {tmp_path / 'out'}" in out
    assert f"--set data.root={tmp_path / 'out'} --set data.classes=[cat,dog]" in out
    assert FolderTree(tmp_path / "out").ids("test") == ["yorkshire_terrier_4"]
    assert "nothing: " in run("--dry-run")[1]
    status, _, err = run("--classes", "breed", "--dry-run")  # as without it
    assert status == 2 and "out was prepared with class species, not breed" in err


def test_real_photographs_fit_their_masks(tmp_path):
    tree = FolderTree(pets.prepare(tmp_path / "prepared", real_data("pets60"), partial=True))
    assert [len(tree.ids(split)) for split in ("trainval", "test")] == [40, 20]
    for image_id in tree.ids("trainval") + tree.ids("test"):
        value = np.flatnonzero(tree.labels(image_id)) + 1
        assert set(np.unique(tree.mask(image_id))) == {0, *value.tolist(), 255}
