"""Where predictions may go, and images whose names no file of theirs could have."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from more_lib.evaluation.output import Output, bad_name, printable
from more_lib.evaluation.writing import plan_predictions
from more_lib.system.errors import InputError
from tests.evaluation.helpers import picture

LATIN = os.fsdecode(b"caf\xe9.jpg")  # as old systems wrote é


@pytest.fixture
def tree(tmp_path):
    """A folder of data: photographs, their table, masks."""
    folder = tmp_path / "tree"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    picture().save(folder / "images/a.png")
    (folder / "labels.csv").write_text("image,classes\na.png,cat\n")
    return folder


@pytest.fixture
def planned(own_recipe):
    """Whether predictions of these images may go there, forced or not."""

    def plan(images, output, recipe=own_recipe):
        for force in (False, True):
            plan_predictions(recipe, [images], Output(output, force=force))

    return plan


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("tree", r"is a folder of data \(it holds images\)"),
        ("tree/../link", "is a folder of data"),
        ("tree/masks", "lies in .*tree/masks, a part of a folder of data"),
        ("tree/masks/new", "lies in .*tree/masks"),
        ("tree/images", "is a folder of data"),
        ("tree/images/new", "lies in .*tree/images"),
        ("linked", "leads to .*tree/masks, the masks of .*tree"),
        ("photographs", "leads to .*tree/images, where the images are"),
        ("masks_only/SegmentationClass/new", "lies in .*SegmentationClass"),
    ],
)
def test_predictions_never_become_data(tree, planned, tmp_path, output, told):
    (tmp_path / "link").symlink_to(tree)
    for name, target in (("linked/masks", "masks"), ("photographs/overlays", "images")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(tree / target)
    (tmp_path / "masks_only/JPEGImages").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=told):
        planned(tree / "images", tmp_path / output)
    assert sorted(tmp_path.rglob("*")) == before


def test_photographs_right_in_a_folder_make_it_one_of_data(planned, own_recipe, photos, tmp_path):
    with pytest.raises(InputError, match=r"is a folder of data \(it holds cat.png\)"):
        planned(photos, photos)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    own = replace(own_recipe.data, dataset="folder", root=str(elsewhere))
    with pytest.raises(InputError, match="elsewhere is a folder of data"):
        planned(photos, elsewhere, replace(own_recipe, data=own))
    (photos / "sub").mkdir()
    (photos / "cat.png").rename(photos / "sub/cat.png")
    (photos / "masks").symlink_to(elsewhere)
    with pytest.raises(InputError, match="lies in .*elsewhere, a part of a folder of data"):
        planned(photos, photos / "masks/new")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/masks").symlink_to(photos / "masks")
    with pytest.raises(InputError, match="leads to .*elsewhere, the masks of .*photos"):
        planned(photos, tmp_path / "new")


def test_other_folders_beside_and_inside_stay_possible(tree, planned, photos, tmp_path):
    for output in (tree / "predictions", photos / "predictions", tmp_path / "masks", tmp_path):
        planned(tree / "images", output)
        planned(photos, output)
    (tmp_path / "old/masks").mkdir(parents=True)  # an earlier output is no data
    (tmp_path / "old/classes.csv").touch()
    with pytest.raises(InputError, match=r"holds 1 of the files to be written: classes.csv"):
        planned(photos, tmp_path / "old")


def test_a_place_that_cannot_be_written(planned, photos, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to("nowhere")
    with pytest.raises(InputError, match="broken is a link that leads nowhere"):
        planned(photos, tmp_path / "broken")
    with pytest.raises(InputError, match="file is a file; name a folder"):
        planned(photos, tmp_path / "file/deeper")
    with pytest.raises(InputError, match="too long: shorten it"):
        planned(photos, tmp_path / ("x" * 256) / "out")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match="is not writable; name another"):
        planned(photos, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "npz", "fault"),
    [
        ("x" * 249 + ".webp", True, ""),
        ("x" * 251 + ".png", True, ""),
        ("x" * 252, True, "too long for its mask or maps (256 bytes): rename"),
        ("é" * 126 + ".j", False, "too long for its mask or maps (256 bytes): rename"),
        (LATIN, False, "no text in UTF-8: rename the file"),
        ("two\nlines.png", False, "no text in UTF-8: rename the file"),
        ("猫\u202f1.png", False, ""),
    ],
)
def test_names(name, npz, fault):
    said = bad_name(Path("folder") / name, Output(Path("out"), npz))
    assert fault in said and bool(said) == bool(fault)


def test_what_is_printed_is_text():
    assert printable(Path("in") / LATIN) == r"in/caf\xe9.jpg"
    assert printable("a\nb 猫") == r"a\nb 猫"
    printable(Path(LATIN)).encode("utf-8")
