"""The scan of a data set for damaged files, in a folder of four photographs."""

import io

import numpy as np
import pytest
from PIL import Image

from more_lib.data.folder import FolderTree
from tests.data.helpers import HEIGHT, ROWS, WIDTH, cut, noise, photos, refused, save_mask


@pytest.fixture
def root(tmp_path):
    return photos(tmp_path / "my photographs")


def test_scan_finds_what_is_cut_short_missing_or_no_image(root):
    save_mask(root / "masks/one.png", np.zeros((HEIGHT, WIDTH)))
    tree = FolderTree(root)
    assert tree.scan("all") == {}
    for name in ("one.jpg", "two.PNG", "three.webp"):
        cut(root / "images" / name, 30)
    (root / "images/four.jpeg").write_text("<html>not found</html>")
    bad = tree.scan("all")
    assert list(bad) == ["one", "two", "three", "four"]
    assert "truncated" in bad["one"] and "not an image" in bad["four"]
    (root / "images/two.PNG").unlink()
    assert "missing" in tree.scan("all")["two"]


@pytest.mark.parametrize("name", list(ROWS)[:3])
def test_scan_finds_a_file_cut_anywhere(root, name):
    path = root / "images" / name
    whole, tree = path.read_bytes(), FolderTree(root)
    for length in np.linspace(0, len(whole) - 60, 23).astype(int):
        path.write_bytes(whole[:length])
        assert list(tree.scan("all")) == [path.stem], length


def test_scan_is_not_fooled_by_a_thumbnails_end_nor_by_notes_behind_the_image(root):
    thumbnail, path = io.BytesIO(), root / "images/one.jpg"
    noise(1, 8, 8).save(thumbnail, "JPEG")
    noise(2).save(path, exif=b"Exif\0\0" + thumbnail.getvalue())
    tree, whole = FolderTree(root), path.read_bytes()
    for extra in (b"\0" * 100, b"notes" * 2000):  # the second is longer than the tail that is read
        path.write_bytes(whole + extra)
        assert tree.scan("all") == {}
    path.write_bytes(whole[:-200])
    assert list(tree.scan("all")) == ["one"]


def test_scan_looks_at_masks_when_asked(root):
    tree = FolderTree(root)
    with refused("no pixel masks"):
        tree.scan("all", masks=True)
    values = np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH))
    for name, mask in (("one", values), ("two", values.T), ("three", values)):
        save_mask(root / f"masks/{name}.png", mask)
    cut(root / "masks/three.png", 40)
    Image.new("RGBA", (WIDTH, HEIGHT)).save(root / "masks/four.png")
    bad = tree.scan("all", masks=True)
    assert list(bad) == ["two", "three", "four"] and tree.scan("all") == {}
    assert "same size" in bad["two"] and "mode RGBA" in bad["four"]


def test_one_error_names_all_bad_files_and_the_cure(root, tmp_path):
    tree = FolderTree(root)
    tree.require_readable("all")
    for name in ("one.jpg", "two.PNG"):
        cut(root / "images" / name, 30)
    kept = tmp_path / "more_data/bad_files/my photographs-all.txt"
    with refused("2 of 4 images", "one.jpg", "two.PNG", "--skip-bad", str(kept)):
        tree.require_readable("all")
    assert [line.split("\t")[0] for line in kept.read_text().splitlines()] == ["one", "two"]
