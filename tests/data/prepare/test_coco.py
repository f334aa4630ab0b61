"""COCO's preparation: categories, masks painted by stated rules, labels, split lists, bad input."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from more_lib.data.folder import FolderTree
from more_lib.data.images import PALETTE
from more_lib.data.prepare import coco, plain
from more_lib.data.prepare.coco import paint
from more_lib.data.prepare.instances import CATEGORY_IDS, Shape, checked
from more_lib.recipes.classes import COCO_CLASSES
from tests.data.helpers import contents, real_data, refused, run_script

WIDTH, HEIGHT = 12, 8
PERSON, CAT, DOG, TOOTHBRUSH = 1, 17, 18, 90  # COCO's own ids


def box(left, top, right, bottom):
    """A polygon that covers the pixels of these half-open ranges exactly."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(mask):
    """Uncompressed run lengths, column by column, as COCO writes crowds."""
    values = mask.T.ravel().astype(int)
    ends = np.flatnonzero(np.diff(values)) + 1
    counts = np.diff([0, *ends, len(values)]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if values[0] else counts}


def pixels(left, top, right, bottom):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def painted(*shapes):
    """The mask of shapes, each a value, segmentation, area, crowd."""
    mask = paint(
        WIDTH,
        HEIGHT,
        [
            Shape(value, checked(segmentation, WIDTH, HEIGHT), area, crowd, number)
            for number, (value, segmentation, area, crowd) in enumerate(shapes, 1)
        ],
    )
    assert mask.dtype == np.uint8 and mask.shape == (HEIGHT, WIDTH)
    return mask


def test_classes_are_coco_s_eighty_without_gaps():
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == len(CATEGORY_IDS) == 80
    known = {1: "person", 13: "stop sign", 17: "cat", 44: "bottle", 72: "tv", 90: "toothbrush"}
    assert {n: COCO_CLASSES[CATEGORY_IDS.index(n)] for n in known} == known
    assert COCO_CLASSES.index("cat") + 1 == 16 and CATEGORY_IDS[-1] == 90


LOWER, UPPER = (0, 0, 6, 4), (4, 2, 9, 6)  # two boxes that overlap
CAT_SHAPE = (16, box(*UPPER), 20, False)


@pytest.mark.parametrize(
    "below, value",
    [
        ((1, box(*LOWER), 24, False), 1),  # an object that is larger
        ((1, runs(pixels(*LOWER)), 4, True), 255),  # a crowd counts nowhere, whatever its area
        ((1, runs(pixels(*LOWER)), 4000, True), 255),
    ],
)
def test_smaller_objects_cover_larger_ones_and_crowds_whatever_the_order(below, value):
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[pixels(*LOWER)] = value
    expected[pixels(*UPPER)] = 16
    for shapes in ((below, CAT_SHAPE), (CAT_SHAPE, below)):
        assert np.array_equal(painted(*shapes), expected)


def test_of_equal_areas_the_lower_annotation_id_is_on_top():
    first, second = (1, box(0, 0, 4, 4), 16, False), (2, box(2, 0, 6, 4), 16, False)
    assert painted(first, second)[0].tolist() == [1, 1, 1, 1, 2, 2, 0, 0, 0, 0, 0, 0]


def test_where_there_is_no_area_pixels_are_counted():
    """The smaller box is on top, be it first or last, and compared with a file's area too."""
    for area in (None, 24):
        small, large = (16, box(0, 0, 2, 2), None, False), (1, box(0, 0, 6, 4), area, False)
        expected = 1 * pixels(0, 0, 6, 4) + 15 * pixels(0, 0, 2, 2)
        for shapes in ((small, large), (large, small)):
            assert np.array_equal(painted(*shapes), expected)


def test_an_object_may_have_several_polygons_or_a_compressed_code_and_an_image_no_object():
    parts = box(0, 0, 2, 2) + box(6, 4, 9, 8)
    expected = pixels(0, 0, 2, 2) | pixels(6, 4, 9, 8)
    code = rle.encode(np.asfortranarray(expected.astype(np.uint8)))
    code["counts"] = code["counts"].decode()  # as JSON holds it
    for shape in (parts, code):
        assert np.array_equal(painted((5, shape, 16, False)) == 5, expected)
    assert not painted().any()


def annotation(number, image, category, segmentation, area, crowd=0):
    ids = {"id": number, "image_id": image, "category_id": category}
    return ids | {"segmentation": segmentation, "area": area, "iscrowd": crowd}


def name(split, number):
    return f"COCO_{split}2014_{number:012d}.jpg"


def write_instances(source, split, annotations, count):
    size = {"width": WIDTH, "height": HEIGHT}
    images = [{"id": n, "file_name": name(split, n)} | size for n in range(count, 0, -1)]
    categories = [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, COCO_CLASSES, strict=True)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (source / f"annotations/instances_{split}2014.json").write_text(json.dumps(content))


STEMS = [Path(name("train", number)).stem for number in range(1, 5)]


@pytest.fixture
def source(tmp_path):
    """COCO's own layout: four training photographs, one without objects, and two of validation."""
    folder = tmp_path / "coco"
    for part in ("annotations", "train2014", "val2014"):
        (folder / part).mkdir(parents=True)
    modes = {1: "RGB", 2: "L", 3: "CMYK", 4: "RGB"}
    for split, count in (("train", 4), ("val", 2)):
        for number in range(1, count + 1):
            photograph = Image.new(modes[number], (WIDTH, HEIGHT))
            photograph.save(folder / f"{split}2014" / name(split, number))
    train = [
        annotation(10, 1, CAT, box(0, 0, 4, 4), 16.0),
        annotation(11, 1, TOOTHBRUSH, box(1, 1, 2, 2), 1.0),
        annotation(12, 2, PERSON, runs(pixels(0, 0, 6, 4)), 24, crowd=1),
        annotation(13, 4, DOG, box(0, 0, 12, 8), 96.0),
    ]
    write_instances(folder, "train", train, 4)
    write_instances(folder, "val", [annotation(20, 2, PERSON, box(0, 0, 3, 3), 9.0)], 2)
    return folder


@pytest.fixture
def counts(monkeypatch):
    """The counts of this module's COCO."""
    monkeypatch.setattr(coco, "COUNTS", {"train": 3, "val": 1})


def test_prepared_tree_reads_as_any_folder(source, tmp_path, counts):
    root = coco.prepare(tmp_path / "prepared", source)
    tree = FolderTree(root, COCO_CLASSES)
    stems = [STEMS[0], STEMS[1], STEMS[3]]  # of the images with objects
    assert tree.ids("train") == stems and tree.ids("val") == [Path(name("val", 2)).stem]
    shown = [[tree.classes[i] for i in np.flatnonzero(tree.labels(s))] for s in stems]
    assert shown == [["cat", "toothbrush"], ["person"], ["dog"]]  # a crowd shows people
    mask = tree.mask(stems[0])
    assert mask[0, 0] == 16 and mask[1, 1] == 80 and mask[5, 5] == 0
    assert np.unique(tree.mask(stems[1])).tolist() == [0, 255]
    stored = Image.open(root / "masks" / f"{stems[0]}.png")
    assert stored.mode == "P" and stored.getpalette() == PALETTE.ravel().tolist()
    assert {tree.image(stem).mode for stem in STEMS} == {"RGB"}
    # An image without objects is in the table and in no list.
    assert not tree.labels(STEMS[2]).any() and not tree.mask(STEMS[2]).any()
    (tree.root / "splits/everything.txt").write_text(f"{STEMS[2]}\n")
    assert tree.ids("everything") == [STEMS[2]]
    # Masks of other makers, with COCO's own ids, are refused with the cure.
    Image.new("L", (WIDTH, HEIGHT), TOOTHBRUSH).save(root / "masks" / f"{stems[0]}.png")
    with refused("holds 90.*ids run to 90.*prepare_coco.py"):
        tree.mask(stems[0])


def test_photographs_are_linked_and_stay_as_they_were(source, tmp_path, counts, monkeypatch):
    before = contents(source)
    root = coco.prepare(tmp_path / "hard", source)
    linked = root / "images" / name("train", 1)
    assert linked.stat().st_ino == (source / "train2014" / name("train", 1)).stat().st_ino

    def other_disk(*paths):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    root = coco.prepare(tmp_path / "soft", source)
    assert (root / "images" / name("train", 1)).is_symlink()
    assert FolderTree(root).image(STEMS[0]).size == (WIDTH, HEIGHT)
    assert before == contents(source)


def test_preparing_again_does_nothing_and_never_overwrites(source, tmp_path, counts):
    root = coco.prepare(tmp_path / "prepared", source)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert coco.prepare(root, tmp_path / "gone") == root
    assert times == {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    with refused("prepared with partial False, not True"):
        coco.prepare(root, source, partial=True)
    (tmp_path / "mine").mkdir()
    with refused("mine exists and is no prepared COCO 2014"):
        coco.prepare(tmp_path / "mine", source)


def test_counts_that_are_off_are_named_unless_partial(source, tmp_path, capsys):
    with refused("train has 3 instead of 82,081, val has 1 instead of"):
        coco.prepare(tmp_path / "prepared", source)
    (source / "train2014" / name("train", 4)).unlink()
    (source / "annotations/instances_val2014.json").unlink()
    root = coco.prepare(tmp_path / "prepared", source, partial=True)
    said = capsys.readouterr().out
    assert f"partial data: of {source}, train has 2 instead of 82,081" in said
    assert "restore" not in said
    assert len(FolderTree(root).ids("train")) == 2 and FolderTree(root).splits() == ["train"]


def spoil(source):
    """Give one of the training annotations a polygon of two points."""
    path = source / "annotations/instances_train2014.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[0, 0, 4, 4]]
    path.write_text(json.dumps(content))


def test_an_image_with_a_bad_annotation_is_left_out_whole_or_stops(
    source, tmp_path, counts, capsys
):
    whole = contents(coco.prepare(tmp_path / "whole", source, strict=True))
    spoil(source)
    with refused("annotation 10 .* polygon of 4 numbers"):
        coco.prepare(tmp_path / "prepared", source, strict=True)
    assert not (tmp_path / "prepared").exists()
    root = coco.prepare(tmp_path / "prepared", source)  # the source is complete all the same
    assert "annotation 10 (number 1" in capsys.readouterr().out
    assert FolderTree(root).ids("train") == [STEMS[1], STEMS[3]]
    left = contents(root)
    assert whole.keys() - left.keys() == {f"images/{STEMS[0]}.jpg", f"masks/{STEMS[0]}.png"}
    assert STEMS[0] not in left["labels.csv"].decode()
    masks = [name for name in left if name.startswith("masks")]
    assert len(masks) == 5 and all(left[name] == whole[name] for name in masks)
    assert coco.prepare(root, source) == root
    with refused("prepared was prepared with left_out 1, not 0"):
        coco.prepare(root, source, strict=True)


def test_two_photographs_of_one_name_are_refused(source, tmp_path, counts):
    path = source / "annotations/instances_val2014.json"
    path.write_text(path.read_text().replace(name("val", 2), name("train", 1)))
    (source / "val2014" / name("val", 2)).rename(source / "val2014" / name("train", 1))
    with refused(f"2 photographs named {STEMS[0]}"):
        coco.prepare(tmp_path / "prepared", source)


@pytest.mark.slow
def test_many_masks_in_several_processes_are_the_same(source, tmp_path, counts, monkeypatch):
    one = coco.prepare(tmp_path / "one", source)
    monkeypatch.setattr(plain, "TASKS_A_PROCESS", 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    two = coco.prepare(tmp_path / "two", source)
    assert len(contents(one)) > 12 and contents(one) == contents(two)


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda text: "{", "cannot be read .*unpack annotations"),
        (lambda text: "[]", "no instances file"),
        (lambda text: "{}", "no instances file"),
        (lambda text: text.replace('"cat"', '"kat"'), "80"),
        (lambda text: text.replace('"segmentation"', '"bbox"'), "has no segmentation"),
    ],
)
def test_damaged_instances_are_named(source, tmp_path, counts, change, complaint):
    path = source / "annotations/instances_train2014.json"
    path.write_text(change(path.read_text()))
    with refused("instances_train2014.json", complaint):
        coco.prepare(tmp_path / "prepared", source)


def test_what_is_missing_or_malformed_is_named_and_nothing_is_left(source, tmp_path, counts):
    with refused("nowhere is no folder.*annotations and train2014"):
        coco.prepare(tmp_path / "prepared", tmp_path / "nowhere")
    (source / "annotations").rename(source / "elsewhere")
    with refused("instances_train2014.json is missing: unpack annotations_trainval2014.zip"):
        coco.prepare(tmp_path / "prepared", source)
    (source / "elsewhere").rename(source / "annotations")
    write_instances(source, "val", [annotation(20, 2, PERSON, [[0, 0, 1, 1]], 9.0)], 2)
    with refused("annotation 20"):
        coco.prepare(tmp_path / "out/prepared", source)
    assert not (tmp_path / "out").exists()
    (source / "val2014").rename(source / "moved")
    with refused("val2014 is missing"):
        coco.prepare(tmp_path / "prepared", source)
    (source / "train2014").rename(source / "moved too")
    with refused("no photograph with an annotated object"):
        coco.prepare(tmp_path / "prepared", source, partial=True)


def test_script_says_licence_and_plan_and_prepares(source, tmp_path, monkeypatch, capsys):
    run = partial(run_script, monkeypatch, capsys, "prepare_coco.py")
    status, out, _ = run("--dry-run")
    assert status == 0 and "CC BY 4.0" in out and "train2014.zip" in out
    assert not (tmp_path / "more_data").exists()
    options = ("--coco", source, "--folder", tmp_path / "out")
    status, _, err = run(*options)
    assert status == 2 and "82,081" in err and "--partial" in err
    spoil(source)
    status, _, err = run(*options, "--partial", "--strict")
    assert status == 2 and "annotation 10" in err and err.count("\n") == 1
    status, out, _ = run(*options, "--partial")
    assert "annotation 10 (number 1 in the list) has a polygon of 4 numbers" in out
    assert status == 0 and f"data set: {tmp_path / 'out'}" in out
    status, out, _ = run(*options, "--partial", "--dry-run")
    assert status == 0 and "nothing: " in out
    status, _, err = run(*options, "--partial", "--strict", "--dry-run")  # as without it
    assert status == 2 and "out was prepared with left_out 1, not 0" in err


def test_real_photographs_have_the_classes_of_their_masks(tmp_path):
    tree = FolderTree(coco.prepare(tmp_path / "prepared", real_data("coco128"), partial=True))
    assert len(tree.ids("train")) == 128
    for image_id in tree.ids("train"):
        mask, image = tree.mask(image_id), tree.image(image_id)
        assert image.mode == "RGB" and image.size == mask.shape[::-1]
        present = np.flatnonzero(tree.labels(image_id)) + 1
        assert set(np.unique(mask)) - {0, 255} <= set(present.tolist())
