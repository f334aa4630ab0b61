"""The archive that VOC's test server takes."""

import shutil
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from more_lib.data.images import PALETTE
from more_lib.evaluation.voc_server import RESULTS, export_voc
from more_lib.system import locks
from more_lib.system.errors import InputError
from tests.evaluation import helpers
from tests.evaluation.helpers import CAT, DOG, named, recipe_with, set_split, trained_on


@pytest.fixture
def root(root):
    """A split test of two images, one of them of another size, without masks and annotations."""
    helpers.save_wide(root, channel=1, value=0, label="dog")
    set_split(root, "named", "wide", split="test")
    for name in ("named", "wide"):
        (root / f"SegmentationClass/{name}.png").unlink()
        (root / f"Annotations/{name}.xml").unlink()
    return root


@pytest.fixture
def trained(root):
    return trained_on(recipe_with(root, "evaluation.batch_size=1"))


def protocol_of(trained, name="cam-log-native", labels="predicted", **changes):
    (protocol,) = named(trained.recipe, name, split="test")
    return replace(protocol, labels=labels, **changes)


def test_folder_layout_ids_and_sizes(trained, tmp_path):
    assert RESULTS == "results/VOC2012/Segmentation/comp5_test_cls"
    assert export_voc(trained, protocol_of(trained), tmp_path / "out") == 2
    files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert files == [tmp_path / "out" / RESULTS / f"{name}.png" for name in ("named", "wide")]
    with Image.open(files[0]) as small, Image.open(files[1]) as wide:
        assert small.mode == wide.mode == "P"
        assert small.getpalette() == PALETTE.flatten().tolist()
        assert set(np.unique(small)) == {0, CAT}
        np.testing.assert_array_equal(wide, [[DOG] * 7 + [0] * 7] * 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tree"]
    trained.model = None  # nothing is computed where nothing may be overwritten
    with pytest.raises(InputError, match="out is there already: delete it, or name another"):
        export_voc(trained, protocol_of(trained), tmp_path / "out")


def test_annotations_are_read_for_true_labels_alone(trained, root, tmp_path):
    with pytest.raises(InputError, match=r"named.xml is missing"):
        export_voc(trained, protocol_of(trained, labels="true"), tmp_path / "true")
    for part in ("Annotations", "SegmentationClass"):
        shutil.rmtree(root / part)
    assert export_voc(trained, protocol_of(trained), tmp_path / "out") == 2
    with pytest.raises(InputError, match="the folder .*Annotations is missing"):
        export_voc(trained, protocol_of(trained, labels="true"), tmp_path / "true")


@pytest.mark.parametrize("name", ["masks.tgz", "masks.tar.gz"])
def test_archive(trained, tmp_path, name):
    for destination in (name, "folder", f"again-{name}"):
        export_voc(trained, protocol_of(trained, "paper-val"), tmp_path / destination)
    with tarfile.open(tmp_path / name, "r:gz") as archive:
        assert archive.getnames() == [f"{RESULTS}/named.png", f"{RESULTS}/wide.png"]
        for entry in archive:
            written = (tmp_path / "folder" / entry.name).read_bytes()
            assert archive.extractfile(entry).read() == written
            assert entry.isfile() and entry.mode & 0o444 == 0o444
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("threshold", "network", "views"),
    [
        pytest.param(0.5, "0", 2, id="the same"),
        pytest.param(0.9, "0", 3, id="another protocol"),
        pytest.param(0.5, "1", 3, id="another network"),
    ],
)
def test_a_stopped_export_goes_on_as_the_same(trained, root, tmp_path, threshold, network, views):
    image, archive = root / "JPEGImages/wide.jpg", tmp_path / "masks.tgz"
    whole = image.read_bytes()
    image.write_bytes(whole[:100])
    for _ in range(2):
        with pytest.raises(InputError, match="wide.jpg"):
            export_voc(trained, protocol_of(trained), archive)
    image.write_bytes(whole)
    assert not archive.exists()
    assert trained.model.inputs == [(2, 3, 8, 8)]  # `named` with its mirror image, once
    trained.record["weights_sha256"] = network * 64
    protocol = protocol_of(trained, threshold=threshold)
    export_voc(trained, protocol, archive)
    assert len(trained.model.inputs) == views
    export_voc(trained, protocol, tmp_path / "anew.tgz")
    assert (tmp_path / "anew.tgz").read_bytes() == archive.read_bytes()


def test_of_two_exports_at_once_the_second_waits_and_is_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "POLL", 0.01)
    trained.model.register_forward_hook(lambda *_: time.sleep(0.2))
    with ThreadPoolExecutor() as pool:
        both = [
            pool.submit(export_voc, trained, protocol_of(trained), tmp_path / "m.tgz")
            for _ in range(2)
        ]
    refused = [str(error) for each in both if (error := each.exception())]
    assert len(refused) == 1 and "m.tgz is there already: delete it" in refused[0]
    assert len(trained.model.inputs) == 2  # images, each once
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.tgz", "tree"]


def test_a_picture_that_changed_is_not_taken_from_an_unfinished_export(trained, root, tmp_path):
    image, other = root / "JPEGImages/wide.jpg", root / "JPEGImages/named.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:100])
    with pytest.raises(InputError, match="wide.jpg"):
        export_voc(trained, protocol_of(trained), tmp_path / "masks")
    image.write_bytes(whole)
    Image.new("RGB", (8, 8)).save(other)  # a mask of its red corner was kept
    export_voc(trained, protocol_of(trained), tmp_path / "masks")
    with Image.open(tmp_path / "masks" / RESULTS / "named.png") as mask:
        assert not np.asarray(mask).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks", "tree"]


def test_classes_that_are_not_vocs(tmp_path):
    folder = tmp_path / "own"
    (folder / "images").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "images/a.png")
    (folder / "labels.csv").write_text("image,classes\na.png,fox;cat\n")
    recipe = recipe_with(folder, "data.dataset=folder", "data.classes=[cat, fox]")
    with pytest.raises(InputError, match="'fox' is not VOC's.*`predict`"):
        export_voc(trained_on(recipe), named(recipe, "paper-val")[0], tmp_path / "out")


def test_a_subset_of_classes_in_another_order(trained, root, tmp_path):
    def turned(model, images, output):
        return output._replace(class_logits=output.class_logits.flip(1), cam=output.cam.flip(1))

    trained.recipe = recipe_with(root, "evaluation.batch_size=1", "data.classes=[dog, cat]")
    trained.model.register_forward_hook(turned)  # dog first, then cat
    export_voc(trained, protocol_of(trained), tmp_path / "out")
    with Image.open(tmp_path / "out" / RESULTS / "named.png") as mask:
        assert set(np.unique(mask)) == {0, CAT}
