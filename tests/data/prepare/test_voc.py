"""VOC 2012 and SBD prepared: archives of a few tiny images, through the code for the real ones."""

import shutil
import tarfile
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from more_lib.cli import doctor
from more_lib.data import tree_root
from more_lib.data.images import PALETTE
from more_lib.data.prepare import voc as voc_prepare
from more_lib.data.prepare.fetch import downloads_folder
from more_lib.data.prepare.sources import SBD_BENCHMARK, VOC_TRAINVAL
from more_lib.data.prepare.voc import COUNTS, check, find_voc, sbd_mask, steps
from more_lib.data.voc import VocTree
from more_lib.recipes.profiles import PROFILES
from more_lib.system.files import sha256
from tests.data.helpers import annotation, contents, refused, run_script, save_mask, serving

WIDTH, HEIGHT = 12, 10
TRAIN, VAL, OTHERS = ["v1", "v2"], ["v3", "v4"], ["s1", "s2", "s3"]
SBD_IDS = ["v1", "v3", *OTHERS]  # SBD segments VOC's own images too
TRAIN_AUG = ["s1", "s2", "s3", "v1", "v2"]  # (train + SBD) without val, sorted
FEW = {"train": 2, "val": 2, "test": 1, "train_aug": 5}
VOC_VALUE, SBD_VALUE = 3, 7


def mask(value):
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[2:5, 3:9] = value
    return values


@pytest.fixture
def voc(tmp_path):
    """VOC 2012 as its archive unpacks, beside things of other tasks; returns VOCdevkit."""
    folder = tmp_path / "given" / "VOCdevkit" / "VOC2012"
    for part in ("JPEGImages", "Annotations", "ImageSets/Segmentation", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for name in (*TRAIN, *VAL, *OTHERS):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "JPEGImages" / f"{name}.jpg")
        (folder / "Annotations" / f"{name}.xml").write_text(annotation("bird"))
    for name in (*TRAIN, *VAL):
        save_mask(folder / "SegmentationClass" / f"{name}.png", mask(VOC_VALUE))
        save_mask(folder / "SegmentationObject" / f"{name}.png", mask(1))
    for name, ids in (("train", TRAIN), ("val", VAL), ("trainval", TRAIN + VAL)):
        (folder / "ImageSets/Segmentation" / f"{name}.txt").write_text("\n".join(ids) + "\n")
    (folder / "ImageSets/Main/bird_train.txt").write_text("v1 1\n")
    return folder.parent


@pytest.fixture
def sbd(tmp_path):
    """SBD as its archive unpacks; returns benchmark_RELEASE."""
    dataset = tmp_path / "given" / "benchmark_RELEASE" / "dataset"
    for part in ("cls", "img"):
        (dataset / part).mkdir(parents=True)
    for name in SBD_IDS:
        save_mat(dataset / "cls" / f"{name}.mat", mask(SBD_VALUE))
        (dataset / "img" / f"{name}.jpg").write_bytes(b"a photograph")
    (dataset / "cls/._s1.mat").write_bytes(b"what macOS leaves behind")
    (dataset / "train.txt").write_text("s1\nv3\ns2\n")
    (dataset / "val.txt").write_text("v1\ns3\n")
    return dataset.parent


def save_mat(path, values):
    savemat(path, {"GTcls": {"Segmentation": values, "CategoriesPresent": np.uint8([1])}})


@pytest.fixture
def archives(voc, sbd, tmp_path):
    """Both as the files that their publishers offer."""
    paths = tmp_path / VOC_TRAINVAL.file, tmp_path / SBD_BENCHMARK.file
    for path, folder, mode in zip(paths, (voc, sbd), ("w", "w:gz"), strict=True):
        with tarfile.open(path, mode) as archive:
            archive.add(folder, folder.name)
    return paths


@pytest.fixture
def published(archives, monkeypatch):
    """A server of this machine stands in for the publishers'."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(partial(SimpleHTTPRequestHandler, directory=archives[0].parent)) as url:
        for name, archive in zip(("VOC_TRAINVAL", "SBD_BENCHMARK"), archives, strict=True):
            here = dict(urls=(f"{url}/{archive.name}",), checksum=f"sha256:{sha256(archive)}")
            source = replace(getattr(voc_prepare, name), size=archive.stat().st_size, **here)
            monkeypatch.setattr(voc_prepare, name, source)
        yield


def prepare(root, *given, **options):
    """Do all steps and check; returns the steps' words."""
    todo = steps(root, *given, **options)
    for _, do in todo:
        do()
    check(root, options.get("with_sbd", True), FEW)
    return [words for words, _ in todo]


def snapshot(folder):
    """Time of every file and folder below, links followed by no one, and the files' bytes."""
    times = {str(p.relative_to(folder)): p.lstat().st_mtime_ns for p in folder.rglob("*")}
    return {name: (time, contents(folder).get(name)) for name, time in times.items()}


def assert_complete(root):
    tree = VocTree(root)
    assert tree.ids("train_aug") == TRAIN_AUG
    assert tree.ids("train") == TRAIN and tree.ids("val") == VAL
    for name in (*TRAIN_AUG, *VAL):
        assert tree.image(name).size == (WIDTH, HEIGHT) and tree.labels(name).sum() == 1
        value = SBD_VALUE if name in OTHERS else VOC_VALUE  # VOC's own masks come first
        assert np.array_equal(tree.mask(name), mask(value))
        with Image.open(root / "SegmentationClassAug" / f"{name}.png") as image:
            assert image.mode == "P" and image.getpalette() == PALETTE.ravel().tolist()
            assert np.array_equal(np.asarray(image), mask(value))


def test_from_nothing_to_a_tree_and_once_is_enough(published, tmp_path):
    root = tmp_path / "trees" / "VOC2012"
    assert len(prepare(root)) == 4  # two downloads, unpack, augment
    assert_complete(root)
    parts = ["Annotations", "ImageSets", "JPEGImages", "SegmentationClass", "SegmentationClassAug"]
    assert sorted(path.name for path in root.iterdir()) == parts
    assert [path.name for path in (root / "ImageSets").iterdir()] == ["Segmentation"]
    assert [path.name for path in root.parent.iterdir()] == ["VOC2012"]  # nothing left behind
    before = snapshot(root)
    assert steps(root) == [] and prepare(root) == []
    assert snapshot(root) == before


@pytest.mark.parametrize("deeper, dataset", [("", ""), ("VOC2012", "dataset")])
def test_a_folder_elsewhere_is_linked_and_left_as_it_is(voc, sbd, tmp_path, deeper, dataset):
    before = snapshot(voc)
    prepare(tmp_path / "root", voc / deeper, sbd / dataset)
    assert_complete(tmp_path / "root")
    assert (tmp_path / "root/JPEGImages").resolve() == voc / "VOC2012/JPEGImages"
    assert snapshot(voc) == before and not downloads_folder().exists()


def test_a_tree_that_is_there_is_completed_in_place(voc, archives):
    root = voc / "VOC2012"
    before = snapshot(root)
    words = prepare(root, root, archives[1])
    assert len(words) == 1 and "SegmentationClassAug" in words[0]
    assert_complete(root)
    after = snapshot(root)
    times = {"", "ImageSets", "ImageSets/Segmentation"}  # folders that got a new entry
    assert all(after[name] == before[name] for name in before.keys() - times)


def test_ready_masks_serve_in_place_of_sbd(voc, sbd, tmp_path):
    prepare(tmp_path / "first", voc, sbd)
    ready = tmp_path / "first/SegmentationClassAug"
    with zipfile.ZipFile(tmp_path / "ready.zip", "w") as archive:
        for file in ready.iterdir():
            archive.write(file, f"SegmentationClassAug/{file.name}")
            archive.writestr(f"__MACOSX/SegmentationClassAug/._{file.name}", b"")
    prepare(tmp_path / "second", voc, tmp_path / "ready.zip")
    prepare(tmp_path / "third", voc, ready)
    ready.rename(voc / "VOC2012/SegmentationClassAug")
    words = prepare(tmp_path / "fourth", voc)  # the user's tree has them already: no download
    assert len(words) == 2 and not downloads_folder().exists()
    for name in ("second", "third", "fourth"):
        assert_complete(tmp_path / name)


def test_without_sbd_vocs_own_images_are_enough(archives, tmp_path):
    root = tmp_path / "root"
    assert len(prepare(root, archives[0], with_sbd=False)) == 1
    assert not (root / "SegmentationClassAug").exists()
    assert check(root, False, FEW) == {"train": 2, "val": 2}
    with refused("prepare_voc.py"):
        VocTree(root).ids("train_aug")
    prepare(root, sbd=archives[1])  # SBD may come later
    assert_complete(root)


def test_a_preparation_that_was_stopped_goes_on(archives, sbd, tmp_path, monkeypatch):
    root = tmp_path / "root"
    read, done = voc_prepare.sbd_mask, []

    def breaks(path):
        done.append(path)
        if len(done) == 2:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(voc_prepare, "sbd_mask", breaks)
    with pytest.raises(KeyboardInterrupt):
        prepare(root, *archives)
    assert not (root / "SegmentationClassAug").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert len(prepare(root, *archives)) == 1  # VOC itself was finished
    assert_complete(root)
    assert not downloads_folder().exists()


def test_a_list_of_the_users_own_keeps_its_order_and_only_a_missing_one_is_made(voc, sbd, tmp_path):
    root, own = tmp_path / "root", "ImageSets/Segmentation/train_aug.txt"
    (voc / "VOC2012" / own).write_text("".join(f"{name}\n" for name in reversed(TRAIN_AUG)))
    prepare(root, voc, sbd)
    assert VocTree(root).ids("train_aug") == TRAIN_AUG[::-1]
    (root / own).unlink()
    masks = snapshot(root / "SegmentationClassAug")
    prepare(root)
    assert_complete(root)
    assert snapshot(root / "SegmentationClassAug") == masks
    for name in ("v1", "s1"):  # VOC's own masks are read before others
        save_mask(root / "SegmentationClassAug" / f"{name}.png", mask(1))
    assert np.array_equal(VocTree(root).mask("v1"), mask(VOC_VALUE))
    assert np.array_equal(VocTree(root).mask("s1"), mask(1))


def test_looking_at_the_steps_writes_nothing(archives, voc, tmp_path):
    before = snapshot(tmp_path)
    words = [words for words, _ in steps(tmp_path / "root")]
    assert "download http" in words[0] and "2.00 GB" in words[0] and "1.42 GB" in words[2]
    assert str(tmp_path / "root") in words[1] and "train_aug.txt" in words[3]
    steps(tmp_path / "root", *archives)
    steps(tmp_path / "root", voc)
    assert snapshot(tmp_path) == before


def test_wrong_counts_are_named(voc, sbd, tmp_path):
    assert COUNTS == {"train": 1464, "val": 1449, "test": 1456, "train_aug": 10582}
    (sbd / "dataset/cls/s2.mat").unlink()
    (voc / "VOC2012/ImageSets/Segmentation/test.txt").write_text("t1\nt2\n")
    off = "train_aug has 4 instead of 5, test has 2 instead of 1"
    with refused(f"^{tmp_path / 'root'} is not complete: {off}: restore it"):
        prepare(tmp_path / "root", voc, sbd)
    (voc / "VOC2012/ImageSets/Segmentation/val.txt").write_text("v3\nv3\n")
    with refused("val.txt lists more than once: v3"):
        prepare(tmp_path / "other", voc, with_sbd=False)


def test_lists_are_read_however_an_editor_saved_them(voc, sbd, tmp_path):
    lists = voc / "VOC2012/ImageSets/Segmentation"
    for name, encoding in (("train", "utf-16"), ("val", "utf-8-sig")):
        text = (lists / f"{name}.txt").read_text().replace("\n", "\r\n\r\n")
        (lists / f"{name}.txt").write_bytes(text.encode(encoding))
    prepare(tmp_path / "root", voc, sbd)
    assert_complete(tmp_path / "root")


@pytest.mark.parametrize(
    "file, split",
    [
        ("JPEGImages/s1.jpg", "train_aug"),
        ("Annotations/s3.xml", "train_aug"),
        ("SegmentationClass/v3.png", "val"),
        ("JPEGImages/v2.jpg", "train"),
        ("SegmentationClassAug/s1.png", "train_aug"),
    ],
)
def test_missing_files_are_named(voc, sbd, tmp_path, file, split):
    root = tmp_path / "root"
    prepare(root, voc, sbd)
    (root / "SegmentationClassAug/v1.png").unlink()  # nothing is missing yet: VOC has that mask
    check(root, counts=FEW)
    (root / file).unlink()
    folder, name = file.split("/")
    with refused(f"{folder.removesuffix('Aug')} lacks {Path(name).stem} .* of {split}:"):
        check(root, counts=FEW)


def test_voc_is_found_where_its_archive_puts_it_and_other_folders_are_refused(voc, sbd, tmp_path):
    for folder in (voc.parent, voc, voc / "VOC2012", str(voc)):
        assert find_voc(folder) == voc / "VOC2012"
    with refused("no VOC 2012 tree"):
        steps(tmp_path / "root", sbd)
    with refused("holds neither SBD"):
        steps(tmp_path / "root", voc, voc)
    for given in ({"voc": tmp_path / "nowhere"}, {"sbd": tmp_path / "nowhere"}):
        with refused("nowhere does not exist"):
            steps(tmp_path / "root", **given)


def test_what_cannot_be_prepared_leaves_nothing(archives, voc, sbd, tmp_path):
    with refused("benchmark.tgz holds none of the files"):
        prepare(tmp_path / "trees/root", archives[1])
    assert list((tmp_path / "trees").iterdir()) == []
    (voc / "VOC2012/SegmentationClass/v4.png").unlink()
    with refused("v4.png is missing"):
        prepare(tmp_path / "root", voc, sbd)
    assert not (tmp_path / "root/SegmentationClassAug").exists()


def test_a_folder_in_use_is_left_alone(voc, tmp_path):
    (tmp_path / "root").mkdir()
    assert len(steps(tmp_path / "root", voc)) == 3  # an empty one is as good as none
    (tmp_path / "root/mine.txt").write_text("mine")
    with refused("in use and no VOC 2012 tree: it lacks JPEGImages"):
        steps(tmp_path / "root", voc)
    with refused("in use"):
        steps(tmp_path / "root/mine.txt", voc)


def test_a_root_on_another_disk_is_filled_there_and_one_that_is_a_disk_is_refused(
    voc, sbd, tmp_path, monkeypatch
):
    (tmp_path / "disk").mkdir()
    for name in ("empty", "new"):
        (tmp_path / name).symlink_to(tmp_path / "disk")
        prepare(tmp_path / name, voc, sbd)
        assert_complete(tmp_path / "disk")
        (tmp_path / "disk").rename(tmp_path / f"was {name}")
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "disk")
    with refused("disk is a mount point.*name a folder in it"):
        steps(tmp_path / "empty", voc)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_sbd_masks_are_read(tmp_path, dtype):
    values = np.arange(21, dtype=dtype).reshape(3, 7)
    save_mat(tmp_path / "one.mat", values)
    read = sbd_mask(tmp_path / "one.mat")
    assert read.dtype == np.uint8 and np.array_equal(read, values)


def test_sbd_masks_that_are_none_are_named(tmp_path):
    path, unreadable = tmp_path / "one.mat", []
    two = np.ones((2, 2), np.int8)
    for values in (21 * two, -two, np.ones((2, 2)), np.zeros((2, 2, 2), np.uint8)):
        save_mat(path, values)
        with refused("one.mat holds no"):
            sbd_mask(path)
    for content in ({"GTcls": {"Boundaries": mask(1)}}, {"GTinst": 1}):
        savemat(path, content)
        unreadable.append(path.read_bytes())
    save_mat(path, np.random.default_rng(0).integers(0, 21, (40, 50)).astype(np.uint8))
    content = path.read_bytes()
    lengths = (0, 50, 130, 200, len(content) // 2, len(content) - 1)
    for damaged in (*unreadable, *(content[:length] for length in lengths)):
        path.write_bytes(damaged)
        with refused("one.mat is no readable SBD mask"):
            sbd_mask(path)
    path.unlink()
    with refused("one.mat is no readable SBD mask"):
        sbd_mask(path)


def test_the_scripts_dry_run_names_everything_and_writes_nothing(tmp_path, monkeypatch, capsys):
    before = snapshot(tmp_path)
    options = ("--dry-run", "--root", tmp_path / "root")
    status, out, _ = run_script(monkeypatch, capsys, "prepare_voc.py", *options)
    assert status == 0 and out.count("would download http") == 2 and "GB" in out
    assert "Flickr" in out and "no licence stated" in out
    assert snapshot(tmp_path) == before


def test_the_script_says_in_one_line_what_is_off_or_prepares(voc, sbd, monkeypatch, capsys):
    run, given = partial(run_script, monkeypatch, capsys, "prepare_voc.py"), ("--voc", voc)
    assert "prepare_voc.py" in doctor.data(PROFILES["voc"]).cost
    status, _, errors = run(*given, "--sbd", sbd)
    assert status == 2 and errors.count("\n") == 1 and errors.startswith("error: ")
    assert "train has 2 instead of 1,464" in errors
    monkeypatch.setattr(voc_prepare, "check", partial(check, counts=FEW))
    shutil.rmtree(tree_root(PROFILES["voc"].data))
    assert "train 2, val 2, train_aug 5" in run(*given, "--sbd", sbd)[1]
    assert "everything was there already" in run()[1]
    assert "everything is in" in run("--dry-run")[1]
    assert doctor.data(PROFILES["voc"]).status == "ok"  # it lies where the profile looks
