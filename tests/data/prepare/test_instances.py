"""Instances files as annotation tools write them: what is meant, what is left out, what stops."""

import codecs
import json
import time
from copy import deepcopy

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from more_lib.data.prepare.coco import paint
from more_lib.data.prepare.instances import CATEGORY_IDS, checked, read_instances
from more_lib.recipes.classes import COCO_CLASSES
from more_lib.system.files import data_folder
from tests.data.helpers import refused

WIDTH, HEIGHT, COUNT = 40, 30, 12
BOX = [2, 3, 12, 3, 12, 9, 2, 9]  # covers columns 2 to 11, rows 3 to 8
NUMBER, ID = 3, 103  # of the annotation and image that a test changes: third in their lists
INFINITE, NAN = float("inf"), float("nan")


def name(number):
    return f"p{number}.jpg"


@pytest.fixture
def content(tmp_path):
    """A file of twelve photographs, each with a cat; the photographs are saved."""
    folder = tmp_path / "coco" / "train2014"
    folder.mkdir(parents=True)
    (folder.parent / "annotations").mkdir()
    for number in range(1, COUNT + 1):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name(number))
    size = {"width": WIDTH, "height": HEIGHT}
    images = [{"id": n, "file_name": name(n)} | size for n in range(1, COUNT + 1)]
    cat = {"category_id": 17, "segmentation": [BOX], "area": 60.0, "iscrowd": 0}
    annotations = [{"id": 100 + n, "image_id": n} | cat for n in range(1, COUNT + 1)]
    categories = [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, COCO_CLASSES, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def read(tmp_path):
    def reads(content, strict=False):
        path = tmp_path / "coco/annotations/instances_train2014.json"
        whole = content if isinstance(content, bytes) else json.dumps(content).encode()
        path.write_bytes(whole)
        return read_instances(path, tmp_path / "coco/train2014", strict)

    return reads


def changed(content, kind, **values):
    """The file with other values in its third image or annotation; ... takes one out."""
    content = deepcopy(content)
    entry = content[kind][NUMBER - 1]
    for key, value in values.items():
        entry[key] = value
        if value is ...:
            del entry[key]
    return content


@pytest.mark.parametrize(
    "kind, values",
    [
        ("images", {"id": "3"}),
        ("images", {"id": 3.0}),
        ("images", {"width": str(WIDTH), "height": float(HEIGHT)}),
        ("images", {"file_name": "train2014/p3.jpg"}),
        ("images", {"file_name": "C:\\data\\train2014\\p3.jpg"}),
        ("images", {"file_name": "/data/coco/p3.jpg"}),
        ("annotations", {"id": "103"}),
        ("annotations", {"image_id": "3"}),
        ("annotations", {"category_id": "17"}),
        *(("annotations", {"iscrowd": value}) for value in ("0", None, False, 0.0, ...)),
    ],
)
def test_what_leaves_no_doubt_is_taken_as_meant(content, read, capsys, kind, values):
    expected = read(content)
    assert len(expected.pictures) == COUNT and expected.left_out == 0
    assert expected.pictures[2].shapes == [(16, [BOX], 60, False, ID)]
    assert read(changed(content, kind, **values), strict=True) == expected
    assert capsys.readouterr().out == ""


def test_entries_repeated_word_for_word_count_once_and_marks_of_order_are_passed_over(
    content, read
):
    expected = read(content)
    content["annotations"].append(dict(content["annotations"][4]))
    content["images"].append(dict(content["images"][4]))
    assert read(content, strict=True) == expected
    content["images"].reverse()
    assert read(codecs.BOM_UTF8 + json.dumps(content).encode(), strict=True) == expected
    assert read(json.dumps(content).encode("utf-16"), strict=True) == expected


@pytest.mark.parametrize("value", [1, "1", True, 1.0])
def test_crowds_are_told_from_text_as_from_numbers(content, read, value):
    [shape] = read(changed(content, "annotations", iscrowd=value)).pictures[2].shapes
    assert shape.crowd is True


@pytest.mark.parametrize("value", [None, "60.0", ..., -60, 0, NAN, INFINITE, True, [60]])
def test_an_area_that_is_none_is_to_be_counted(content, read, value):
    [shape] = read(changed(content, "annotations", area=value), strict=True).pictures[2].shapes
    assert shape.area is None and shape.segmentation == [BOX]


def polygon(*values):
    return {"segmentation": [list(values)]}


def code(counts, size=(HEIGHT, WIDTH)):
    return {"segmentation": {"size": list(size), "counts": counts}}


BAD = [
    (polygon(*BOX[:-1], NAN), "has a coordinate nan outside its picture of 40×30"),
    (polygon(*BOX[:-1], -INFINITE), "has a coordinate -inf outside"),
    (polygon(*BOX[:-1], 2e8), "has a coordinate 200000000.0 outside"),
    (polygon(*BOX[:-1], 10**400), "has a coordinate 1000.* outside"),
    (polygon(*BOX[:-2], -11, 9), "has a coordinate -11 outside"),
    (polygon(*(2 * value for value in (*BOX, 30, 30))), "has a coordinate 60 outside"),
    (polygon(*[0, 0, WIDTH, HEIGHT] * 500), "has an outline of 40,000 pixels"),
    (polygon(*(value / WIDTH for value in BOX)), "has coordinates of 1 and less: write pixels"),
    (polygon(*BOX[:4]), "has a polygon of 4 numbers"),
    (polygon(*BOX[:-1]), "has a polygon of 7 numbers"),
    (polygon(), "has a polygon of 0 numbers"),
    (polygon(*BOX[:-1], "9"), "has a polygon that is no list of numbers"),
    (polygon(*BOX[:-1], None), "has a polygon that is no list of numbers"),
    (polygon([2, 3], [12, 3], [12, 9]), "has a polygon that is no list of numbers"),
    ({"segmentation": [BOX, BOX[:4]]}, "has a polygon of 4 numbers"),
    ({"segmentation": BOX}, "has a polygon that is no list of numbers"),
    ({"segmentation": []}, "has no segmentation: .* a box alone"),
    ({"segmentation": None}, "has no segmentation"),
    ({"segmentation": ..., "bbox": [2, 3, 10, 6]}, "has no segmentation"),
    (code([WIDTH * HEIGHT], (WIDTH, HEIGHT)), r"has a code of size \[40, 30\], not \[30, 40\]"),
    (code([WIDTH * HEIGHT], (10**6, 10**6)), "has a code of size"),
    (code([5, 7]), "has a code whose runs do not fill"),
    (code([-5, WIDTH * HEIGHT + 5]), "has a code whose runs do not fill"),
    (code([2**64, WIDTH * HEIGHT]), "has a code whose runs do not fill"),
    (code([5.0, WIDTH * HEIGHT - 5.0]), "has a code whose runs do not fill"),
    (code("~~ no code ~~"), "has a compressed code that is damaged"),
    (code("o" * 100_000), "has a compressed code that is damaged"),
    (code("PP"), "has a compressed code that is cut short"),
    (code("0101"), "has a code whose runs do not fill"),
    (code(None), "has a code whose runs do not fill"),
    ({"segmentation": {}}, "has a code of size None"),
    ({"iscrowd": "yes"}, "has iscrowd 'yes', neither 0 nor 1"),
    ({"iscrowd": 2}, "has iscrowd 2"),
    ({"category_id": 12}, "has the category_id 12, which is none of COCO's"),
    ({"category_id": "cat"}, "has the category_id 'cat', which is no whole number"),
    ({"id": 101}, "has the id of another annotation"),
    ({"id": None}, "has the id None"),
]


@pytest.mark.parametrize("values, fault", BAD)
def test_a_bad_annotation_costs_its_image_and_is_named(content, read, capsys, values, fault):
    expected = read(content).pictures
    bad = changed(content, "annotations", **values)
    start = time.monotonic()
    pictures, left_out = read(bad)
    assert pictures == [*expected[:2], *expected[3:]] and left_out == 1
    assert time.monotonic() - start < 2
    said = capsys.readouterr().out
    annotation = f"annotation {values.get('id', ID)} (number {NUMBER} in the list)"
    assert said.count("\n") == 1 and "Images left out for it: 1." in said
    assert "instances_train2014.json: 1 of 12 annotations cannot be used" in said
    (kept,) = (data_folder() / "bad_files").glob("coco-*-instances_train2014.txt")
    assert annotation in said and f"(all listed in {kept})" in said
    assert kept.read_text().startswith(annotation)
    with refused(
        "instances_train2014.json", rf"\(number {NUMBER} in the list\) {fault}", "Mend them"
    ):
        read(bad, strict=True)


def test_a_bad_annotation_is_named_where_no_list_can_be_kept(
    content, read, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MORE_DATA", str(tmp_path / "file/data"))
    assert read(changed(content, "annotations", id=None)).left_out == 1
    assert "1 of 12 annotations cannot be used: annotation None" in capsys.readouterr().out


@pytest.mark.parametrize(
    "values, fault",
    [
        ({"width": 2 * WIDTH, "height": 2 * HEIGHT}, "is 80×60, its photograph 'p3.jpg' 40×30"),
        ({"width": HEIGHT, "height": WIDTH}, "is 30×40, its photograph"),
        ({"width": 10**9, "height": 10**9}, "is 1000000000×1000000000"),
        ({"width": 0}, "is 0×30"),
        ({"width": ...}, "has the width None, which is no whole number"),
        ({"height": "tall"}, "has the height 'tall'"),
        ({"height": 30.5}, "has the height 30.5"),
    ],
)
def test_a_picture_of_another_size_is_left_out_with_its_annotations(
    content, read, capsys, values, fault
):
    expected = read(content).pictures
    bad = changed(content, "images", **values)
    assert read(bad) == ([*expected[:2], *expected[3:]], 1)
    said = capsys.readouterr().out
    assert "1 of 12 images" in said and f"image 3 (number 3 in the list) {fault}" in said
    with refused(r"image 3 \(number 3 in the list\)"):
        read(bad, strict=True)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        7,
        {"id": "x"},
        {"id": 13},
        {"id": 13, "file_name": "a\n"},
        {"id": 13, "file_name": "\udcff.jpg"},
    ],
)
def test_an_image_entry_without_id_or_name_is_named(content, read, capsys, entry):
    expected = read(content)
    content["images"].append(entry)
    assert read(content) == expected
    assert "(number 13 in the list) " in capsys.readouterr().out


def test_a_photograph_that_cannot_be_read_is_left_out(content, read, tmp_path, capsys):
    (tmp_path / "coco/train2014/p3.jpg").write_bytes(b"no picture")
    assert read(content).left_out == 1
    assert "image 3 (number 3 in the list) has a bad photograph: " in capsys.readouterr().out


def test_annotations_of_an_image_that_is_not_listed_are_named(content, read, capsys):
    expected = read(content)
    content["annotations"].append(content["annotations"][0] | {"id": 113, "image_id": 99})
    content["annotations"].append(None)
    assert read(content) == expected
    said = capsys.readouterr().out
    assert "annotation 113 (number 13 in the list) is of image 99, which the file" in said
    assert "annotation without id (number 14 in the list) is no entry" in said


def test_images_without_a_photograph_are_passed_over_with_what_is_wrong_with_them(
    content, read, tmp_path, capsys
):
    (tmp_path / "coco/train2014/p3.jpg").unlink()
    bad = changed(changed(content, "annotations", segmentation=None), "images", width=None)
    assert len(read(bad, strict=True).pictures) == COUNT - 1
    assert capsys.readouterr().out == ""


def test_a_few_bad_annotations_go_on_and_a_dozen_stop(content, read, capsys):
    for entry in content["annotations"][:5]:
        entry["segmentation"] = []
    assert len(read(content).pictures) == COUNT - 5
    assert "5 of 12 annotations" in capsys.readouterr().out
    content["annotations"][5]["segmentation"] = []
    with refused("6 of 12 annotations", "annotation 101", "; and 1 more", "is it another file"):
        read(content)
    del content["annotations"][1:]  # one of one
    with refused("1 of 1 annotations", "annotation 101"):
        read(content)
    for entry in content["images"]:
        entry["width"] = 2 * WIDTH
    with refused("12 of 12 images"):
        read(content)


def test_entries_for_one_picture_that_disagree_stop(content, read):
    again = content["images"][4] | {"height": HEIGHT + 1}
    with refused("instances_train2014.json has two entries for image 5 that differ"):
        read(content | {"images": [*content["images"], again]})
    for file_name in ("p5.jpg", "other/p5.jpg", "other\\p5.jpg"):
        again = content["images"][4] | {"id": 99, "file_name": file_name}
        with refused("lists the photograph 'p5.jpg' as image 5 and image 99: keep one"):
            read(content | {"images": [*content["images"], again]})


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda text: b"", "cannot be read"),
        (lambda text: b"[" * 100_000, "cannot be read .nested too deep"),
        (lambda text: text.replace(b"p5", b"\xff\xfe"), "cannot be read"),
        (lambda text: b"[%s]" % text, "no instances file, which has lists named images"),
        (lambda text: b"null", "no instances file"),
        (lambda text: text.replace(b'"annotations"', b'"marks"'), "no instances file"),
        (lambda text: text.replace(b'"id": 90', b'"id": "x"'), "a category has the id 'x'"),
        (lambda text: text.replace(b'"toothbrush"', b'"comb"'), "other categories than COCO's 80"),
    ],
)
def test_a_file_that_is_none_stops(content, read, damage, complaint):
    with refused("instances_train2014.json", complaint):
        read(damage(json.dumps(content).encode()))


def test_an_outline_that_leaves_its_picture_a_little_is_painted_as_far_as_it_goes(content, read):
    beyond = polygon(-10, -10, 12, -10, 12, 9, -10, 9) | {"area": 1}
    picture = read(changed(content, "annotations", **beyond), strict=True).pictures[2]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:9, :12] = 16
    assert np.array_equal(paint(WIDTH, HEIGHT, picture.shapes), expected)
    far = polygon(30, 20, 50, 20, 50, 40, 30, 40)
    picture = read(changed(content, "annotations", **far), strict=True).pictures[2]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[20:, 30:] = 16
    assert np.array_equal(paint(WIDTH, HEIGHT, picture.shapes), expected)


def test_a_turned_photograph_may_be_annotated_upright_or_as_stored(content, read, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "coco/train2014/p3.jpg", exif=exif)
    for width, height in ((WIDTH, HEIGHT), (HEIGHT, WIDTH)):
        turned = changed(content, "images", width=width, height=height)
        picture = read(turned, strict=True).pictures[2]
        assert (picture.width, picture.height) == (width, height)
    with refused("is 30×30"):
        read(changed(content, "images", width=HEIGHT, height=HEIGHT), strict=True)


@pytest.mark.parametrize("seed", range(4))
def test_compressed_codes_are_unpacked_as_pycocotools_packs_them(seed):
    rng = np.random.default_rng(seed)
    mask = np.asfortranarray(rng.random((61, 83)) < [0, 0.02, 0.5, 1][seed], np.uint8)
    if seed == 1:
        mask[:, 20:60] = 1  # runs of thousands of pixels
    packed = rle.encode(mask)
    text = {"size": [61, 83], "counts": packed["counts"].decode()}
    unpacked = checked(text, 83, 61)
    assert sum(unpacked["counts"]) == mask.size
    assert np.array_equal(rle.decode(rle.frPyObjects(unpacked, 61, 83)), mask)
