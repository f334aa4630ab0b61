"""What all data sets share: keys that see the data, masks of pictures that EXIF turns, texts."""

import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from more_lib.data import validation_fingerprint, without_bad
from more_lib.data.folder import FolderTree, recipe_for_folder
from more_lib.data.images import mask_image
from more_lib.data.tree import read_lines, save_list
from more_lib.data.voc import VocTree
from more_lib.recipes.profiles import PROFILES
from tests.data.helpers import annotation, laid_down, noise, refused

IDS = ("one", "two")


@pytest.fixture
def tree(tmp_path):
    """Two photographs of VOC's layout with a mask each, a cat and a dog."""
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for seed, (name, kind, value) in enumerate((("one", "cat", 8), ("two", "dog", 12))):
        noise(seed).save(tmp_path / f"JPEGImages/{name}.jpg")
        (tmp_path / f"Annotations/{name}.xml").write_text(annotation(kind))
        mask = np.zeros((30, 40), np.uint8)
        mask[:9, :9] = value
        mask_image(mask).save(tmp_path / f"SegmentationClass/{name}.png")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("one\ntwo\n")
    (tmp_path / "manifest.json").write_text('{"sha256": "' + 64 * "0" + '"}')
    return VocTree(tmp_path)


def keys(tree):
    again = VocTree(tree.root, tree.classes)
    return again.fingerprint(["train"]), again.fingerprint(["train"], masks=True)


def exchange(one, two):
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(kept)


def test_the_key_is_of_the_content_and_not_of_the_place(tree, tmp_path_factory):
    before = keys(tree)
    assert len(set(before)) == 2 and all(len(key) == 64 for key in before)
    place = tmp_path_factory.mktemp("elsewhere") / "tree"
    tree.root.rename(place)
    assert keys(VocTree(place)) == before
    assert tree.__class__(place).fingerprint(["train"], labels=False) not in before


def test_the_key_sees_labels_though_sizes_and_manifest_stay(tree):
    before = keys(tree)
    exchange(*(tree.root / f"Annotations/{name}.xml" for name in IDS))
    assert not set(keys(tree)) & set(before)


def test_the_key_sees_ids_and_pictures(tree):
    seen = {keys(tree)[0]}
    exchange(*(tree.root / f"JPEGImages/{name}.jpg" for name in IDS))
    seen.add(keys(tree)[0])
    for lines in ("two\none\n", "one\n"):
        (tree.root / "ImageSets/Segmentation/train.txt").write_text(lines)
        seen.add(keys(tree)[0])
    assert len(seen) == 4
    (tree.root / "JPEGImages/one.jpg").unlink()
    with refused("one.jpg is missing"):
        keys(tree)


def test_the_key_of_a_score_sees_masks_and_that_of_a_training_does_not(tree):
    training, score = keys(tree)
    for name in IDS:  # their sizes stay
        path = tree.root / f"SegmentationClass/{name}.png"
        mask_image(np.asarray(Image.open(path))[::-1].copy()).save(path)
    turned = keys(tree)
    assert turned[0] == training and turned[1] != score
    narrow = VocTree(tree.root, ("cat", "dog"))
    narrow.stored = True
    assert narrow.fingerprint(["train"], masks=True) != keys(narrow)[1]
    assert keys(narrow)[0] == narrow.fingerprint(["train"])


@pytest.fixture
def turned(tmp_path):
    """A folder with a photograph of one orientation, and a mask as seen or of stored pixels."""

    def make(orientation, size, stored):
        seen = np.zeros(size[::-1], np.uint8)
        seen[2:9, 3:20] = 1
        exif = Image.Exif()
        exif[0x0112] = orientation
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir()
        laid_down(noise(0, *size), orientation).save(tmp_path / "images/a.jpg", exif=exif)
        mask = laid_down(Image.fromarray(seen), orientation if stored else 1)
        mask.save(tmp_path / "masks/a.png")
        (tmp_path / "labels.csv").write_text("image,classes\na,cat\n")
        return FolderTree(tmp_path), seen

    return make


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(40, 30), (32, 32)])
@pytest.mark.parametrize("stored", [False, True])
def test_masks_lie_on_what_is_seen(turned, orientation, size, stored, capsys):
    tree, seen = turned(orientation, size, stored)
    sure = orientation == 1 or (orientation > 4 and size == (40, 30))
    tree.stored = stored and not sure
    assert tree.image("a").size == size and np.array_equal(tree.mask("a"), seen)
    assert tree.scan("all", masks=True) == {}
    told = "1 of 1 photographs of all are turned" in capsys.readouterr().out
    assert told == (not sure)
    tree.stored = not tree.stored
    assert np.array_equal(tree.mask("a"), seen) == sure  # the word of who knows better


def test_the_way_out_of_doubt_is_named(turned, capsys):
    tree, seen = turned(3, (40, 30), True)
    assert not np.array_equal(tree.mask("a"), seen)
    tree.scan("all", masks=True)
    assert "else give --set data.mask_orientation=stored" in capsys.readouterr().out
    tree.scan("all")
    assert capsys.readouterr().out == ""


def test_a_mask_of_neither_size_is_refused(turned):
    tree, _ = turned(6, (40, 30), False)
    mask_image(np.zeros((30, 41), np.uint8)).save(tree.mask_path("a"))
    with refused("a.png is 41×30, its image 40×30"):
        tree.mask("a")
    assert list(tree.scan("all", masks=True)) == ["a"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_texts_are_read_as_editors_save_them(tmp_path, encoding):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "a.txt").write_bytes(f"{mark}käse \r\n\r\n  two\r\n".encode(encoding))
    assert read_lines(tmp_path / "a.txt") == ["käse", "two"]
    for other in ("latin-1", "utf-16-le"):
        (tmp_path / "a.txt").write_bytes("käse".encode(other))
        with refused("a.txt cannot be read.*save it as text in UTF-8"):
            read_lines(tmp_path / "a.txt")


def test_what_a_network_is_judged_by_has_a_key_with_and_without_masks(turned):
    tree, _ = turned(3, (40, 30), False)
    recipe = recipe_for_folder(PROFILES["mini"], tree.root)
    before = validation_fingerprint(recipe.data)
    mask_image(np.zeros((30, 40), np.uint8)).save(tree.mask_path("a"))
    mended = validation_fingerprint(recipe.data)
    stored = replace(recipe.data, mask_orientation="stored")
    tree.mask_path("a").unlink()
    without = validation_fingerprint(recipe.data)
    assert len({before, mended, without, tree.fingerprint(["all"])}) == 3
    mask_image(np.zeros((30, 40), np.uint8)).save(tree.mask_path("a"))
    assert validation_fingerprint(stored) not in (before, mended)


def test_a_table_or_list_of_gigabytes_is_not_read(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"")
    os.truncate(tmp_path / "train.txt", 2**40)
    with refused("train.txt cannot be read .larger than 256 MB.: save it as text"):
        read_lines(tmp_path / "train.txt")


def test_lists_of_what_is_bad_are_apart_and_never_in_the_way(tree, tmp_path, monkeypatch, capsys):
    places = [save_list(tmp_path / parent / "photos", "all", [parent]) for parent in "xy"]
    assert [place.read_text() for place in places] == ["x\n", "y\n"]
    (tree.root / "JPEGImages/one.jpg").write_text("cut")
    monkeypatch.setenv("MORE_DATA", str(tree.root / "manifest.json/data"))
    with refused("1 of 2 images of .*, split train, cannot be used: .*one.jpg.*--skip-bad"):
        tree.require_readable("train")
    mini = PROFILES["mini"]
    recipe = replace(mini, data=replace(mini.data, dataset="voc", root=str(tree.root)))
    assert without_bad(recipe, "train").data.skip == ("one",)
    said = capsys.readouterr().out
    assert "skipped 1 of 2" in said and "the list is kept" not in said
