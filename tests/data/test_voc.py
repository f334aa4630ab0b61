"""The VOC reader, on trees of two or three tiny images written here."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from more_lib.data.images import mask_image
from more_lib.data.transforms import evaluation_transform
from more_lib.data.voc import VocImages, VocMasks, VocTree
from more_lib.recipes.classes import VOC_CLASSES
from tests.data.helpers import annotation, cut, refused, save_mask

SIZE = WIDTH, HEIGHT = 12, 10
AEROPLANE, CAT, PERSON = 1, 8, 15
MASK = "SegmentationClass/one.png"

# Shaped like VOC 2012's own files: parts have names too, and objects may be difficult.
ANNOTATION = """<annotation>
  <folder>VOC2012</folder><filename>one.jpg</filename>
  <source><database>The VOC2008 Database</database></source>
  <object>
    <name>person</name><difficult>0</difficult>
    <part><name>head</name><bndbox><xmin>1.5</xmin></bndbox></part>
    <part><name>hand</name></part>
  </object>
  <object>
    <part><name>foot</name></part>
    <name> cat </name><difficult>1</difficult>
  </object>
  <object><name>person</name><truncated>1</truncated></object>
</annotation>
"""


def mask_values():
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[1:4, 2:7] = PERSON
    values[4, 2:7] = 255
    values[6:, :3] = CAT
    return values


@pytest.fixture
def root(tmp_path):
    """A tree with the images `one` (person, difficult cat) and `two` (aeroplane)."""
    folder = tmp_path / "VOC2012"
    for part in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    (folder / "ImageSets/Segmentation/train.txt").write_text("two\none\n")
    (folder / "ImageSets/Segmentation/val.txt").write_text("one\r\n\r\n")
    for name, colour in (("one", (200, 30, 60)), ("two", (10, 120, 240))):
        photograph = Image.new("RGB", SIZE, colour)
        photograph.save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
    (folder / "Annotations/one.xml").write_text(ANNOTATION)
    (folder / "Annotations/two.xml").write_text(annotation("aeroplane"))
    save_mask(folder / MASK, mask_values())
    return folder


def test_labels_count_difficult_objects_but_no_parts_and_are_read_once(root):
    tree = VocTree(root)
    labels = tree.labels("one")
    assert labels.dtype == np.float32 and labels.shape == (20,)
    assert [VOC_CLASSES[index] for index in np.flatnonzero(labels)] == ["cat", "person"]
    (root / "Annotations/one.xml").unlink()
    expected = labels.copy()
    labels[:] = 7  # what is handed out is a copy
    assert np.array_equal(tree.labels("one"), expected)


@pytest.mark.parametrize("kind", [mask_image, Image.fromarray])  # palette or grey
def test_masks_are_the_file_s_values_and_the_chosen_classes_number_them_and_labels(root, kind):
    kind(mask_values()).save(root / MASK)
    mask, expected = VocTree(root).mask("one"), mask_values()
    assert mask.dtype == np.uint8 and np.array_equal(mask, expected)
    tree = VocTree(root, ("person", "aeroplane", "cat"))
    expected[mask_values() == PERSON] = 1
    expected[mask_values() == CAT] = 3
    assert np.array_equal(tree.mask("one"), expected)
    assert tree.labels("one").tolist() == [1, 0, 1]
    assert VocTree(root, ("person", "aeroplane")).labels("one").tolist() == [1, 0]


def test_training_items_come_in_the_files_order_and_need_no_mask(root):
    (root / "SegmentationClass").rename(root.parent / "moved")
    tree = VocTree(root)
    images = VocImages(tree, "train", evaluation_transform(None))
    assert len(images) == 2
    batch = next(iter(DataLoader(images, batch_size=2)))
    assert batch["image"].shape == (2, 3, HEIGHT, WIDTH) and batch["image"].dtype == torch.float32
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].nonzero().tolist() == [[0, 0], [1, CAT - 1], [1, PERSON - 1]]
    assert batch["id"] == ["two", "one"]
    with refused("SegmentationClass"):
        VocMasks(tree, "val", evaluation_transform(None))[0]
    (root / "Annotations").rename(root.parent / "too")  # images alone can be read
    tree = VocTree(root)
    assert tree.ids("val") == ["one"] and tree.image("one").size == SIZE  # blank lines are skipped


def test_evaluation_items_hold_the_mask_in_its_own_size(root):
    tree = VocTree(root, ("cat", "person"))
    item = VocMasks(tree, "val", evaluation_transform(16))[0]
    assert item["image"].shape == (3, 16, 16) and item["labels"].tolist() == [1, 1]
    assert item["mask"].dtype == torch.int64
    assert np.array_equal(item["mask"].numpy(), tree.mask("one"))


@pytest.mark.parametrize("part", ["", "JPEGImages", "Annotations", "ImageSets/Segmentation"])
@pytest.mark.parametrize(
    "method, argument",
    [("labels", "one"), ("fingerprint", ["train"]), ("require_readable", "train")],
)
def test_missing_folder_says_what_makes_it(root, part, method, argument):
    missing = root / part
    missing.rename(root.parent / "moved")
    with refused(f"{missing} is missing", "data_scripts/make_emoji_voc.py", "VOCdevkit/VOC2012"):
        getattr(VocTree(root), method)(argument)


@pytest.mark.parametrize("classes", [("cat", "kat"), ("cat", "cat"), ()])
def test_classes_must_be_vocs_each_once(root, classes):
    with refused("data.classes"):
        VocTree(root, classes)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (None, r"is missing \(splits here: train\): .*make_emoji_voc.py"),
        ("", "names no image"),
        ("\n \n", "names no image"),
        ("one 1\n", "'one 1'"),
        ("/JPEGImages/one.jpg /SegmentationClass/one.png\n", "one image id a line"),
    ],
)
def test_split_file_must_list_ids(root, content, complaint):
    path = root / "ImageSets/Segmentation/val.txt"
    path.unlink() if content is None else path.write_text(content)
    with refused("val.txt", complaint):
        VocTree(root).ids("val")
    with refused("SBD.*10,582"):
        VocTree(root).ids("train_aug")


def test_jpeg_cut_short_anywhere_is_refused(root):
    path = root / "JPEGImages/one.jpg"
    whole = path.read_bytes()
    tree = VocTree(root)
    for length in (0, 1, 20, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:length])
        with refused("one.jpg cannot be read"):
            tree.image("one")


def test_missing_files_are_named(root):
    (root / "Annotations/one.xml").unlink()
    with refused("one.xml is missing"):
        VocTree(root).labels("one")
    (root / "JPEGImages/one.jpg").unlink()
    tree = VocTree(root)
    for read in (tree.image, tree.mask):
        with refused("one.jpg is missing"):
            read("one")
    with refused("two.png is missing"):
        tree.mask("two")


NOISE = np.random.default_rng(0).integers(0, 21, (HEIGHT, WIDTH)).astype(np.uint8)


@pytest.mark.parametrize(
    "mask, complaint",
    [
        *(
            (Image.new(mode, SIZE), f"a mask of mode {mode}: save class ids")
            for mode in ("RGB", "RGBA", "1", "I;16")
        ),
        (mask_image(mask_values().T.copy()), "10×12, its image 12×10"),
        (mask_image(NOISE), "cannot be read"),  # cut short
    ],
)
def test_mask_must_be_whole_palette_or_grey_and_of_its_images_size(root, mask, complaint):
    mask.save(root / MASK)
    if complaint == "cannot be read":
        cut(root / MASK, 40)
    with refused(f"one.png.* {complaint}"):
        VocTree(root).mask("one")


@pytest.mark.parametrize(
    "value, classes", [(21, VOC_CLASSES), (254, VOC_CLASSES), (CAT, ("person", "aeroplane"))]
)
def test_mask_values_must_be_chosen_classes(root, value, classes):
    values = np.where(mask_values() == CAT, 0, mask_values()).astype(np.uint8)
    save_mask(root / MASK, values)
    VocTree(root, classes).mask("one")
    values[0, 0] = value
    save_mask(root / MASK, values)
    with refused(f"one.png holds {value}: allowed are 0, 255"):
        VocTree(root, classes).mask("one")


GROWING = """<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY a "cat"><!ENTITY b "&a;&a;">]>
<annotation><object><name>&b;</name></object></annotation>"""


@pytest.mark.parametrize(
    "content, complaint",
    [
        (annotation(), "has no object"),
        (annotation("cat", "unicorn"), "unknown class 'unicorn'"),
        (annotation(""), "unknown class ''"),
        ("<annotation><object/></annotation>", "unknown class ''"),
        ("<annotation><object>", "no readable annotation"),
        ("", "no readable annotation"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "no readable annotation"),
        (GROWING, "DOCTYPE"),
        (annotation("sheep", "horse"), "shows horse, sheep and none of the chosen classes"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_bad_annotation_is_named(root, content, complaint, encoding):
    (root / "Annotations/one.xml").write_bytes(content.encode(encoding))
    with refused("one.xml", complaint):
        VocTree(root, ("cat", "person")).labels("one")


def test_an_id_listed_twice_is_refused(root):
    (root / "ImageSets/Segmentation/train.txt").write_text("two\none\ntwo\n")
    with refused("train.txt lists more than once: two; leave one"):
        VocTree(root).ids("train")
