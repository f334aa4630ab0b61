"""The archive for VOC's test server: its layout, its ids, and how it gets there."""

import shutil
import tarfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from more_lib.data.images import PALETTE
from more_lib.evaluation.protocols import named_protocol
from more_lib.evaluation.voc_server import RESULTS, export_voc
from more_lib.system.errors import InputError
from tests.evaluation.helpers import CAT, DOG, ColourModel, recipe_with, save_wide, set_split


@pytest.fixture
def root(root):
    """A split test of two images, one of them of another size, without masks and annotations."""
    save_wide(root, channel=1, value=0, label="dog")
    set_split(root, "named", "wide", split="test")
    for name in ("named", "wide"):
        (root / f"SegmentationClass/{name}.png").unlink()
        (root / f"Annotations/{name}.xml").unlink()
    return root


def trained_on(root, *changes):
    recipe = recipe_with(root, "evaluation.batch_size=1", *changes)
    record = {"weights_sha256": "0" * 64}
    return SimpleNamespace(model=ColourModel(), recipe=recipe, record=record)


@pytest.fixture
def trained(root):
    return trained_on(root)


def protocol_of(trained, name="cam-log", **changes):
    protocol = named_protocol(name, trained.recipe, "test")
    return replace(protocol, labels="predicted", **changes)


def test_folder_layout_ids_and_sizes(trained, tmp_path):
    assert RESULTS == "results/VOC2012/Segmentation/comp5_test_cls"
    assert export_voc(trained, protocol_of(trained), tmp_path / "out") == 2
    files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert files == [tmp_path / "out" / RESULTS / f"{name}.png" for name in ("named", "wide")]
    with Image.open(files[0]) as named, Image.open(files[1]) as wide:
        assert named.mode == wide.mode == "P" and wide.size == (14, 6)
        assert named.getpalette() == PALETTE.flatten().tolist()
        assert set(np.unique(named)) == {0, CAT}
        np.testing.assert_array_equal(np.asarray(wide)[:, :7], DOG)
        np.testing.assert_array_equal(np.asarray(wide)[:, 7:], 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tree"]


def test_a_tree_of_images_and_split_alone_is_enough(trained, root, tmp_path):
    for part in ("Annotations", "SegmentationClass"):
        shutil.rmtree(root / part)
    assert export_voc(trained, protocol_of(trained), tmp_path / "out") == 2
    with pytest.raises(InputError, match="the folder .*Annotations is missing"):
        export_voc(trained, replace(protocol_of(trained), labels="true"), tmp_path / "true")


@pytest.mark.parametrize("name", ["masks.tgz", "masks.tar.gz"])
def test_archive(trained, tmp_path, name):
    protocol = protocol_of(trained, "paper-val")
    export_voc(trained, protocol, tmp_path / name)
    export_voc(trained, protocol, tmp_path / "folder")
    export_voc(trained, protocol, tmp_path / f"again-{name}")
    with tarfile.open(tmp_path / name, "r:gz") as archive:
        assert archive.getnames() == [f"{RESULTS}/named.png", f"{RESULTS}/wide.png"]
        for entry in archive:
            written = (tmp_path / "folder" / entry.name).read_bytes()
            assert archive.extractfile(entry).read() == written
            assert entry.isfile() and entry.mode & 0o444 == 0o444
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_nothing_is_overwritten(trained, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="out is there already: delete it, or name another"):
        export_voc(trained, protocol_of(trained), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir()) and trained.model.inputs == []


def test_a_stopped_export_goes_on(trained, root, tmp_path):
    image = root / "JPEGImages/wide.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:100])
    for _ in range(2):
        with pytest.raises(InputError, match="wide.jpg"):
            export_voc(trained, protocol_of(trained), tmp_path / "masks.tgz")
    assert not (tmp_path / "masks.tgz").exists()
    assert trained.model.inputs == [(2, 3, 8, 8)]  # `named` with its mirror image, once
    image.write_bytes(whole)
    export_voc(trained, protocol_of(trained), tmp_path / "masks.tgz")
    assert len(trained.model.inputs) == 2
    export_voc(trained, protocol_of(trained), tmp_path / "anew.tgz")
    assert (tmp_path / "anew.tgz").read_bytes() == (tmp_path / "masks.tgz").read_bytes()


@pytest.mark.parametrize("change", ["protocol", "network"])
def test_another_export_takes_nothing_over(trained, root, tmp_path, change):
    image = root / "JPEGImages/wide.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:100])
    with pytest.raises(InputError):
        export_voc(trained, protocol_of(trained), tmp_path / "masks")
    image.write_bytes(whole)
    protocol = protocol_of(trained, threshold=0.9) if change == "protocol" else None
    if change == "network":
        trained.record["weights_sha256"] = "1" * 64
    trained.model.inputs.clear()
    export_voc(trained, protocol or protocol_of(trained), tmp_path / "masks")
    assert len(trained.model.inputs) == 2


def test_true_labels_need_annotations(trained, tmp_path):
    with pytest.raises(InputError, match=r"named.xml is missing"):
        export_voc(trained, named_protocol("lam-log", trained.recipe, "test"), tmp_path / "out")


def test_classes_that_are_not_vocs(tmp_path):
    folder = tmp_path / "own"
    (folder / "images").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "images/a.png")
    (folder / "labels.csv").write_text("image,classes\na.png,fox;cat\n")
    changes = ("data.dataset=folder", f"data.root={folder}", "data.classes=[cat, fox]")
    trained = trained_on(folder, *changes)
    with pytest.raises(InputError, match="'fox' is not VOC's.*`predict`"):
        export_voc(trained, named_protocol("paper-val", trained.recipe, "all"), tmp_path / "out")


def test_a_subset_of_classes_in_another_order(root, tmp_path):
    class Turned(ColourModel):
        """Dog first, then cat."""

        def forward(self, images):
            output = super().forward(images)
            return output._replace(class_logits=output.class_logits.flip(1), cam=output.cam.flip(1))

    trained = trained_on(root, "data.classes=[dog, cat]")
    trained.model = Turned()
    export_voc(trained, protocol_of(trained), tmp_path / "out")
    with Image.open(tmp_path / "out" / RESULTS / "named.png") as named:
        assert set(np.unique(named)) == {0, CAT}
