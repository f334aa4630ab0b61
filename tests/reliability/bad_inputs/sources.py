"""Sources of COCO, pets and SBD as they should not be, and what the data scripts are told."""

import json
from collections.abc import Callable
from pathlib import Path

from more_lib.data.prepare.instances import CATEGORY_IDS
from more_lib.recipes.classes import COCO_CLASSES
from tests.reliability.bad_inputs.building import (
    Build,
    Case,
    case,
    copy,
    cut,
    folder,
    gone,
    mask,
    picture,
    several,
    sparse,
    write,
)

COCO = "prepare_coco.py --coco coco --folder out --partial --strict"
PETS = "prepare_pets.py --pets pets --folder out --partial"
SBD = "prepare_voc.py --voc voc --sbd sbd --root voc"
VAL = "coco/annotations/instances_val2014.json"
INSTANCES = "coco/annotations/instances_train2014.json"
TRIMAP, PET_LIST = "pets/annotations/trimaps/pug_3.png", "pets/annotations/trainval.txt"
BOX = [[2, 2, 20, 2, 20, 20, 2, 20]]


def coco(edit: Callable[[dict], object]) -> Build:
    """COCO of two photographs of a cat, its instances edited; ``edit`` may return others."""

    def build(place: Path) -> None:
        for number in (1, 2):
            picture(f"coco/train2014/{number}.jpg")(place)
        names = zip(CATEGORY_IDS, COCO_CLASSES, strict=True)
        content = {
            "categories": [{"id": number, "name": name} for number, name in names],
            "images": [
                {"id": number, "file_name": f"{number}.jpg", "width": 48, "height": 40}
                for number in (1, 2)
            ],
            "annotations": [
                {
                    "id": 70 + number,
                    "image_id": number,
                    "category_id": 17,
                    "segmentation": BOX,
                    "area": 324.0,
                    "iscrowd": 0,
                }
                for number in (1, 2)
            ],
        }
        write(INSTANCES, json.dumps(edit(content) or content))(place)

    return build


def instances(name: str, edit: Callable[[dict], object], *said: str) -> Case:
    return case(f"COCO, {name}", COCO, coco(edit), "instances", *said)


def annotation(name: str, field: str, value: object, *said: str) -> Case:
    """The annotation 71 with another value in one field, in the file of a strict user."""

    def edit(content: dict) -> None:
        content["annotations"][0][field] = value

    return case(f"COCO, {name}", COCO, coco(edit), "instances", "71", *said)


def photograph(name: str, field: str, value: object, *said: str) -> Case:
    """The entry of the first photograph with another value in one field."""

    def edit(content: dict) -> None:
        content["images"][0][field] = value

    return case(f"COCO, {name}", COCO, coco(edit), "instances", *said)


def pets(place: Path) -> None:
    write(PET_LIST, "pug_3 26 2 17\nBengal_20 6 1 2\n")(place)
    write("pets/annotations/test.txt", "Abyssinian_1 1 1 1\n")(place)
    for name in ("pug_3", "Bengal_20", "Abyssinian_1"):
        picture(f"pets/images/{name}.jpg")(place)
        mask(f"pets/annotations/trimaps/{name}.png", 1, 2, 3)(place)


def pet(name: str, build: Build, *said: str) -> Case:
    return case(f"pets, {name}", PETS, several(pets, build), *said)


def sbd(name: str, build: Build, *said: str) -> Case:
    return case(f"SBD, {name}", SBD, build, *said)


RUNS = {"size": [40, 48], "counts": "no code"}

CASES = [
    case("COCO, no folder", "prepare_coco.py --coco absent --folder out", None, "absent", "folder"),
    case("COCO, an empty folder", COCO, folder("coco"), "coco", "annotat"),
    case(
        "COCO, not whole",
        COCO.replace(" --partial --strict", ""),
        several(coco(lambda c: None), picture("coco/val2014/1.jpg"), copy(INSTANCES, VAL)),
        "2 instead of 82,081",
        "--partial",
    ),
    case(
        "COCO, instances cut short",
        COCO,
        several(coco(lambda c: None), cut(INSTANCES)),
        "instances_train2014.json",
    ),
    case(
        "COCO, instances that are no text",
        COCO,
        several(coco(lambda c: None), write(INSTANCES, b"\xff\xfe\x00")),
        "instances",
    ),
    case(
        "COCO, instances nested without end",
        COCO,
        several(coco(lambda c: None), write(INSTANCES, "[" * 200_000)),
        "instances",
    ),
    case(
        "COCO, a folder in use",
        COCO,
        several(coco(lambda c: None), write("out/mine", "mine")),
        "out",
        "another folder",
    ),
    case(
        "COCO, a file in the way",
        "prepare_coco.py --coco coco --folder small.yaml/out --partial",
        coco(lambda c: None),
        "small.yaml",
    ),
    instances("a list", lambda c: [1, 2]),
    instances("other categories", lambda c: c["categories"].pop(), "categories"),
    instances("no categories", lambda c: c.pop("categories")),
    instances("no images", lambda c: c.pop("images")),
    instances("no annotations", lambda c: c.pop("annotations")),
    instances("images without fields", lambda c: c["images"].append({})),
    photograph("a photograph under two ids", "file_name", "2.jpg", "2.jpg"),
    photograph("a file name of a number", "file_name", 7, "file_name"),
    photograph("a size below zero", "width", -48, "-48×40"),
    photograph("a size beyond memory", "width", 10**9, "1000000000×40"),
    photograph("another size than the photograph's", "width", 40, "1.jpg", "48"),
    annotation("a category that is none", "category_id", 12, "12"),
    annotation("a category in text", "category_id", "cat", "cat"),
    annotation("a polygon with NaN", "segmentation", [[2, 2, float("nan"), 2, 20, 20]]),
    annotation("an infinite polygon", "segmentation", [[2, 2, float("inf"), 2, 20, 20]]),
    annotation("a polygon 2e8 pixels away", "segmentation", [[2, 2, 2e8, 2, 20, 2e8]]),
    annotation("a polygon of two points", "segmentation", [[2, 2, 20, 20]]),
    annotation("a polygon of half a point", "segmentation", [[2, 2, 20, 20, 3, 4, 5]]),
    annotation("an empty polygon", "segmentation", [[]]),
    annotation("a polygon of text", "segmentation", [["2", "2", "20", "2", "x", "20"]]),
    annotation("a polygon of objects", "segmentation", [[{}, {}, {}, {}, {}, {}]]),
    annotation("a code that is none", "segmentation", RUNS),
    annotation("a code of another size", "segmentation", {"size": [9, 9], "counts": [81]}),
    annotation("a code beyond memory", "segmentation", {"size": [10**6, 10**6], "counts": [1]}),
    annotation("runs below zero", "segmentation", {"size": [40, 48], "counts": [-80, 2000]}),
    annotation("a crowd in text", "iscrowd", "perhaps", "iscrowd"),
    case("pets, no folder", "prepare_pets.py --pets absent --folder out", None, "absent", "folder"),
    case("pets, another class", f"{PETS} --classes colour", pets, "'colour'", "breed or species"),
    case("pets, not whole", PETS.replace(" --partial", ""), pets, "--partial"),
    pet("no list", gone(PET_LIST), PET_LIST, "annotations.tar.gz"),
    pet(
        "an empty list",
        several(write(PET_LIST, ""), write("pets/annotations/test.txt", "")),
        "annotations",
    ),
    pet("a line without numbers", write(PET_LIST, "pug_3\n"), PET_LIST, "'pug_3'", "1 to 37"),
    pet("a breed that is none", write(PET_LIST, "pug_3 38 2 1\n"), PET_LIST, "pug_3 38"),
    pet("a species that is none", write(PET_LIST, "pug_3 26 3 1\n"), PET_LIST, "pug_3 26 3"),
    pet("a path for a name", write(PET_LIST, "../pug_3 26 2 1\n"), PET_LIST, "../pug_3"),
    pet("a name of two breeds", write(PET_LIST, "pug_3 26 2 1\npug_3 6 1 1\n"), PET_LIST, "pug_3"),
    pet("a list that is no text", write(PET_LIST, b"\x80\x81"), PET_LIST),
    pet("no photographs", folder("pets/images"), "pets/images", "none of the photographs"),
    pet("no trimap", gone(TRIMAP), TRIMAP, "missing"),
    pet("a trimap cut short", cut(TRIMAP), TRIMAP),
    pet("a trimap with other values", mask(TRIMAP, 0, 255), TRIMAP, "1, 2 and 3"),
    pet("a trimap in colours", picture(TRIMAP), TRIMAP, "RGB"),
    sbd("not there", lambda place: None, "sbd", "does not exist"),
    sbd("an empty folder", folder("sbd"), "sbd", "dataset/cls"),
    sbd("a mask that is no .mat", write("sbd/dataset/cls/s1.mat", "no mask"), "s1.mat"),
    sbd("an empty mask", write("sbd/dataset/cls/s1.mat", b""), "s1.mat"),
    sbd("a mask of zeros", sparse("sbd/dataset/cls/s1.mat", 2**33), "s1.mat"),
    case("VOC, not there", "prepare_voc.py --voc absent --root out", None, "absent", "not exist"),
    case(
        "VOC, another folder",
        "prepare_voc.py --voc photos --no-sbd --root out",
        None,
        "photos",
        "VOCdevkit/VOC2012",
    ),
    case(
        "VOC, a root in use",
        "prepare_voc.py --voc voc --no-sbd --root photos",
        None,
        "photos",
        "in use",
        "another root",
    ),
    case(
        "EmojiVOC, a folder in use",
        "make_emoji_voc.py --folder photos",
        None,
        "photos",
        "no EmojiVOC tree",
    ),
    case("EmojiVOC, too small", "make_emoji_voc.py --folder out --size 3", None, "--size", "96"),
    case(
        "EmojiVOC, another seed",
        "make_emoji_voc.py --folder out --seed x",
        None,
        "--seed",
        "integer",
    ),
    case(
        "EmojiVOC, a file in the way",
        "make_emoji_voc.py --folder small.yaml/out --train 1",
        None,
        "small.yaml",
    ),
    case(
        "pretraining, another backbone",
        "pretrain_mini_vit.py --backbone vit",
        None,
        "'vit'",
        "mini_w96",
    ),
    case(
        "VOC, a tree that is not whole",
        "prepare_voc.py --no-sbd --root voc",
        None,
        "voc",
        "train has 2 instead of 1,464",
    ),
]
