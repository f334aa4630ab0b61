"""The plain folder layout, the scan for damaged files, and training on one's own data."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from more_lib.cli.commands import app
from more_lib.data import open_tree, scan, split_file
from more_lib.data.folder import FolderTree, recipe_for_folder
from more_lib.data.images import PALETTE
from more_lib.data.transforms import evaluation_transform
from more_lib.data.voc import VocImages, VocMasks
from more_lib.method.backbones import mini_vit
from more_lib.recipes.loading import load_recipe
from more_lib.recipes.profiles import PROFILES
from more_lib.system.errors import InputError
from more_lib.system.weights import save_weights
from more_lib.training import cache as training

WIDTH, HEIGHT = 40, 30
ROWS = {
    "one.jpg": "red fox;cat",
    "two.PNG": "cat",
    "three.webp": "owl",
    "four.jpeg": "",
}


def save_table(root, rows):
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "classes"), *rows.items()])


def save_mask(root, name, values):
    mask = Image.fromarray(values.astype(np.uint8), "P")
    mask.putpalette(PALETTE.tobytes())
    (root / "masks").mkdir(exist_ok=True)
    mask.save(root / "masks" / f"{name}.png")


def noise(seed, width=WIDTH, height=HEIGHT):
    """A photograph that no format compresses to a few bytes."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


@pytest.fixture
def root(tmp_path):
    """Four photographs of four formats: fox and cat, cat, owl, nothing."""
    folder = tmp_path / "my photographs"
    (folder / "images").mkdir(parents=True)
    for seed, name in enumerate(ROWS):
        noise(seed).save(folder / "images" / name)
    save_table(folder, ROWS)
    return folder


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def test_classes_are_sorted_and_labels_follow_their_order(root):
    tree = FolderTree(root)
    assert tree.classes == ("cat", "owl", "red fox")
    assert tree.ids("all") == ["one", "two", "three", "four"]  # as the table lists them
    labels = [tree.labels(name).tolist() for name in tree.ids("all")]
    assert labels == [[1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert tree.labels("one").dtype == np.float32


def test_chosen_classes_number_labels_and_masks(root):
    values = np.zeros((HEIGHT, WIDTH))
    values[:5], values[5:9], values[9] = 3, 1, 255
    save_mask(root, "one", values)
    assert np.array_equal(FolderTree(root).mask("one"), values)
    tree = FolderTree(root, ("red fox", "cat"))
    assert tree.labels("three").tolist() == [0, 0] and tree.labels("one").tolist() == [1, 1]
    expected = values.copy()
    expected[:5], expected[5:9] = 1, 2
    assert np.array_equal(tree.mask("one"), expected) and tree.mask("one").dtype == np.uint8
    with pytest.raises(InputError, match="one.png holds 3: allowed are 0, 255"):
        FolderTree(root, ("cat",)).mask("one")


def test_classes_txt_sets_the_order_and_may_name_more(root):
    (root / "classes.txt").write_text("red fox\nbear\n\ncat\nowl\n")
    tree = FolderTree(root)
    assert tree.classes == ("red fox", "bear", "cat", "owl")
    assert tree.classes_shown() == ("red fox", "cat", "owl")
    assert tree.labels("one").tolist() == [1, 0, 1, 0]


def test_images_may_lie_in_the_folder_itself_and_the_table_elsewhere(root, tmp_path):
    for path in (root / "images").iterdir():
        path.rename(root / path.name)
    (root / "images").rmdir()
    (root / "labels.csv").rename(tmp_path / "table.csv")
    tree = FolderTree(root, labels=tmp_path / "table.csv")
    assert tree.image("one").size == (WIDTH, HEIGHT)
    assert tree.labels("one").sum() == 2


def test_rows_may_leave_endings_out_and_spreadsheets_may_have_saved_them(root):
    text = "image, classes\r\none, cat ; red fox;\r\ntwo,cat\r\n\r\nthree,owl\r\nfour,\r\n"
    (root / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    tree = FolderTree(root)
    assert tree.classes == ("cat", "owl", "red fox")
    assert tree.labels("one").tolist() == [1, 0, 1]


def test_hidden_files_and_other_kinds_are_no_images(root):
    (root / "images/._one.jpg").write_bytes(b"resource fork")
    (root / "images/notes.txt").write_text("notes")
    assert len(FolderTree(root).ids("all")) == 4


def test_images_are_rgb_whatever_the_file_holds(root):
    Image.new("L", (WIDTH, HEIGHT), 77).save(root / "images/one.jpg")
    Image.new("RGBA", (WIDTH, HEIGHT), (9, 90, 200, 10)).save(root / "images/two.PNG")
    # Colours of a CMYK file are ink: full cyan without magenta and yellow leaves green and blue.
    Image.new("CMYK", (WIDTH, HEIGHT), (255, 0, 0, 0)).save(root / "images/four.jpeg")
    tree = FolderTree(root)
    pixels = {name: tree.image(name).getpixel((3, 3)) for name in ("one", "two", "four")}
    assert pixels["one"] == (77, 77, 77) and pixels["two"] == (9, 90, 200)
    np.testing.assert_allclose(pixels["four"], (0, 255, 255), atol=2)
    assert all(tree.image(name).mode == "RGB" for name in pixels)


def test_photographs_are_turned_as_the_camera_noted_unless_a_mask_refers_to_them(root):
    turned = Image.Exif()
    turned[0x0112] = 6  # to be seen, turn by a quarter
    noise(0).save(root / "images/one.jpg", exif=turned)
    assert FolderTree(root).image("one").size == (HEIGHT, WIDTH)
    save_mask(root, "one", np.zeros((HEIGHT, WIDTH)))
    assert FolderTree(root).image("one").size == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    "rows, complaint",
    [
        (ROWS | {"five.jpg": "cat"}, "not among the images: five.jpg"),
        (ROWS | {"two": "cat"}, "named by more than one row: two"),
        ({"one.jpg": "cat"}, "without a row .*: four.jpeg, three.webp, two.PNG"),
    ],
)
def test_table_must_fit_the_images_one_to_one(root, rows, complaint):
    save_table(root, rows)
    with pytest.raises(InputError, match=complaint) as error:
        FolderTree(root)
    assert "labels.csv" in one_line(error)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "image,classes"),
        (b"one.jpg,cat\n", "begins with 'one.jpg,cat'.*image,classes"),
        (b"image;classes\none.jpg;cat\n", "begins with 'image;classes'"),
        (b"image,classes\none.jpg,cat,dog\n", "line 2 has 3 fields"),
        (b"image,classes\n\none.jpg\n", "line 3 has 1 fields"),
        (b"image,classes\n,cat\n", "line 2"),
        ("image,classes\none.jpg,pájaro\n".encode("latin-1"), "no UTF-8"),
        (b'image,classes\n"one.jpg' + b"x" * 200_000 + b"\n", "is no CSV"),
    ],
)
def test_malformed_table_is_named(root, content, complaint):
    (root / "labels.csv").write_bytes(content)
    with pytest.raises(InputError, match=complaint) as error:
        FolderTree(root)
    assert "labels.csv" in one_line(error)


def test_unknown_classes_are_named_with_the_nearest_that_exists(root):
    (root / "classes.txt").write_text("cat\nowl\nred fox\n")
    save_table(root, ROWS | {"two.PNG": "read fox"})
    with pytest.raises(InputError, match="labels.csv has the class 'read fox'.*mean 'red fox'"):
        FolderTree(root)
    save_table(root, ROWS)
    with pytest.raises(InputError, match="data.classes has the class 'dog'"):
        FolderTree(root, ("cat", "dog"))
    (root / "classes.txt").write_text("cat\nowl\ncat\nred fox\n")
    with pytest.raises(InputError, match="classes.txt: named more than once: cat"):
        FolderTree(root)


def test_empty_and_missing_folders_are_named(root, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no image"):
        FolderTree(tmp_path / "empty")
    with pytest.raises(InputError, match="nowhere is missing"):
        FolderTree(tmp_path / "nowhere")
    (root / "labels.csv").unlink()
    with pytest.raises(InputError, match="labels.csv is missing.*image,classes"):
        FolderTree(root)


def test_two_images_with_one_id_are_refused(root):
    noise(9).save(root / "images/one.png")
    with pytest.raises(InputError, match="one.png"):
        FolderTree(root)


def test_more_classes_than_mask_values_are_refused(root):
    save_table(root, ROWS | {"one.jpg": ";".join(map(str, range(255)))})
    with pytest.raises(InputError, match="254"):
        FolderTree(root)


def test_split_lists_keep_their_order_and_must_fit(root):
    (root / "splits").mkdir()
    (root / "splits/train.txt").write_text("three\n\none.jpg\n")
    tree = FolderTree(root)
    assert tree.ids("train") == ["three", "one"] and tree.splits() == ["train"]
    with pytest.raises(InputError, match=r"val.txt is missing \(splits here: train\)"):
        tree.ids("val")
    for content, complaint in (
        ("one\nfive\n", "no image of this folder: five"),
        ("one\none.jpg\n", "more than once: one"),
        ("\n", "names no image"),
    ):
        (root / "splits/train.txt").write_text(content)
        with pytest.raises(InputError, match=complaint):
            tree.ids("train")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "1", "I;16"])
def test_mask_in_colours_is_refused(root, mode):
    (root / "masks").mkdir()
    Image.new(mode, (WIDTH, HEIGHT)).save(root / "masks/one.png")
    with pytest.raises(InputError, match=f"one.png is a mask of mode {mode}: save class ids"):
        FolderTree(root).mask("one")


def test_without_masks_scores_are_refused_in_words(root):
    with pytest.raises(InputError, match="no pixel masks.*training and prediction do without"):
        FolderTree(root).mask("one")
    save_mask(root, "two", np.zeros((HEIGHT, WIDTH)))
    with pytest.raises(InputError, match="one.png is missing"):
        FolderTree(root).mask("one")


def test_data_sets_serve_a_plain_folder(root):
    save_mask(root, "one", np.full((HEIGHT, WIDTH), 2))
    tree = FolderTree(root)
    assert len(VocImages(tree, "all", evaluation_transform(16))) == 4
    item = VocMasks(tree, "all", evaluation_transform(16))[0]
    assert item["labels"].tolist() == [1, 0, 1] and item["id"] == "one"
    assert item["image"].shape == (3, 16, 16) and item["mask"].shape == (HEIGHT, WIDTH)


def test_fingerprint_changes_with_what_training_reads_and_nothing_else(root):
    before = FolderTree(root).fingerprint(["all"])
    save_mask(root, "one", np.zeros((HEIGHT, WIDTH)))
    assert len(before) == 64
    assert FolderTree(root, skip=["elsewhere"]).fingerprint(["all"]) == before
    changed = {
        before,
        FolderTree(root, ("cat", "owl")).fingerprint(["all"]),
        FolderTree(root, skip=["two"]).fingerprint(["all"]),
    }
    save_table(root, ROWS | {"two.PNG": "owl"})
    changed.add(FolderTree(root).fingerprint(["all"]))
    save_table(root, ROWS)
    noise(5, WIDTH + 1).save(root / "images/one.jpg")
    changed.add(FolderTree(root).fingerprint(["all"]))
    assert len(changed) == 5


def test_skipping_all_of_a_split_is_refused(root):
    assert FolderTree(root, skip=["two", "four"]).ids("all") == ["one", "three"]
    with pytest.raises(InputError, match="leaves no image of the split 'all'"):
        FolderTree(root, skip=["one", "two", "three", "four"]).ids("all")


def cut(path, count):
    path.write_bytes(path.read_bytes()[:-count])


def test_scan_finds_what_is_cut_short_missing_or_no_image(root):
    save_mask(root, "one", np.zeros((HEIGHT, WIDTH)))
    tree = FolderTree(root)
    assert scan.scan(tree, "all") == {}
    cut(root / "images/one.jpg", 30)
    cut(root / "images/two.PNG", 30)
    cut(root / "images/three.webp", 30)
    (root / "images/four.jpeg").write_text("<html>not found</html>")
    bad = scan.scan(tree, "all")
    assert list(bad) == ["one", "two", "three", "four"]
    assert "truncated" in bad["one"] and "not an image" in bad["four"]
    (root / "images/two.PNG").unlink()
    assert "missing" in scan.scan(tree, "all")["two"]


@pytest.mark.parametrize("name", list(ROWS)[:3])
def test_scan_finds_a_file_cut_anywhere(root, name):
    path = root / "images" / name
    whole, tree = path.read_bytes(), FolderTree(root)
    for length in np.linspace(0, len(whole) - 60, 23).astype(int):
        path.write_bytes(whole[:length])
        assert list(scan.scan(tree, "all")) == [path.stem], length


def test_scan_is_not_fooled_by_a_thumbnails_end_nor_by_notes_behind_the_image(root):
    thumbnail = io.BytesIO()
    noise(1, 8, 8).save(thumbnail, "JPEG")
    photograph = noise(2)
    photograph.save(root / "images/one.jpg", exif=b"Exif\0\0" + thumbnail.getvalue())
    tree, path = FolderTree(root), root / "images/one.jpg"
    whole = path.read_bytes()
    for extra in (b"\0" * 100, b"notes" * 2000):  # the second is longer than the tail that is read
        path.write_bytes(whole + extra)
        assert scan.scan(tree, "all") == {}
    path.write_bytes(whole[:-200])
    assert list(scan.scan(tree, "all")) == ["one"]


def test_scan_looks_at_masks_when_asked(root):
    tree = FolderTree(root)
    with pytest.raises(InputError, match="no pixel masks"):
        scan.scan(tree, "all", masks=True)
    for name, shape in (
        ("one", (HEIGHT, WIDTH)),
        ("two", (WIDTH, HEIGHT)),
        ("three", (HEIGHT, WIDTH)),
    ):
        save_mask(root, name, np.random.default_rng(0).integers(0, 3, shape))
    cut(root / "masks/three.png", 40)
    Image.new("RGBA", (WIDTH, HEIGHT)).save(root / "masks/four.png")
    bad = scan.scan(tree, "all", masks=True)
    assert list(bad) == ["two", "three", "four"] and scan.scan(tree, "all") == {}
    assert "same size" in bad["two"] and "mode RGBA" in bad["four"]


def test_one_error_names_all_bad_files_and_the_cure(root, tmp_path):
    tree = FolderTree(root)
    scan.require_readable(tree, "all")
    for name in ("one.jpg", "two.PNG"):
        cut(root / "images" / name, 30)
    with pytest.raises(InputError, match="2 of 4 images") as error:
        scan.require_readable(tree, "all")
    message = one_line(error)
    assert "one.jpg" in message and "two.PNG" in message and "--skip-bad" in message
    kept = tmp_path / "more_data/bad_files/my photographs-all.txt"
    assert str(kept) in message
    assert [line.split("\t")[0] for line in kept.read_text().splitlines()] == ["one", "two"]


def test_recipe_for_a_folder_takes_its_classes_and_splits(root, tmp_path):
    mini = PROFILES["mini"]
    recipe = recipe_for_folder(mini, root)
    assert recipe.data.dataset == "folder" and recipe.data.classes == ("cat", "owl", "red fox")
    assert recipe.data.train_split == recipe.data.val_split == "all"
    assert recipe.evaluation.batch_size == 1 and recipe.optimizer == mini.optimizer
    assert open_tree(recipe.data).ids("all")[0] == "one"
    (root / "splits").mkdir()
    (root / "splits/trainval.txt").write_text("one\n")
    again = recipe_for_folder(mini, root).data
    assert (again.train_split, again.val_split) == ("trainval", "trainval")
    (root / "splits/test.txt").write_text("two\n")
    again = recipe_for_folder(mini, root).data
    assert again.val_split == "test"
    assert split_file(again, "test") == root / "splits/test.txt"
    (root / "splits/trainval.txt").rename(root / "splits/mine.txt")
    with pytest.raises(InputError, match="no train.txt .*mine, test"):
        recipe_for_folder(mini, root)
    save_table(root, dict.fromkeys(ROWS, ""))
    (root / "splits/mine.txt").rename(root / "splits/train.txt")
    with pytest.raises(InputError, match="nothing to learn"):
        recipe_for_folder(mini, root)


def test_recipes_name_their_data_set(tmp_path):
    with pytest.raises(InputError, match="data.dataset is 'imagenet'"):
        load_recipe("mini", ["data.dataset=imagenet"])
    with pytest.raises(InputError, match="data.root is ''"):
        load_recipe("mini", ["data.dataset=folder"])
    for name, folder in (("coco", "COCO2014"), ("pets", "OxfordPets")):
        recipe = load_recipe("mini", [f"data.dataset={name}", "data.classes=[cat]"])
        with pytest.raises(InputError, match=f"{folder} is missing.*prepare_{name}.py"):
            open_tree(recipe.data)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_weights(mini_vit(), path)
    return path


@pytest.fixture
def short(backbone):
    """Options for two iterations of the whole objective, on crops of 48 pixels."""
    values = (
        f"backbone.weights={backbone}",
        "data.crop_size=48",
        "optimizer.iterations=2",
        "optimizer.batch_size=2",
        "optimizer.precision=fp32",
        "schedule.segmentation=0",
        "schedule.dense_energy=0",
        "schedule.final_cam=1",
    )
    return [option for value in values for option in ("--set", value)]


def run(capsys, *arguments):
    """Exit status and output of a command."""
    try:
        app(list(map(str, arguments)), standalone_mode=False)
        status = 0
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_training_on_a_folder_skips_what_is_bad_only_when_told(root, tmp_path, short, capsys):
    cut(root / "images/two.PNG", 30)
    command = ("train", "--data", root, "--folder", tmp_path / "run", *short)
    status, _, err = run(capsys, *command)
    assert status == 2 and "two.PNG" in err and "--skip-bad" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    status, out, _ = run(capsys, *command, "--skip-bad")
    assert status == 0 and "skipped 1 of 4" in out and "two.PNG" in out
    recipe = load_recipe("mini", file=tmp_path / "run/recipe.yaml")
    assert recipe.data.skip == ("two",) and recipe.data.classes == ("cat", "owl", "red fox")
    # What trained is what a folder without the bad image would have trained.
    (root / "images/two.PNG").unlink()
    save_table(root, {name: row for name, row in ROWS.items() if name != "two.PNG"})
    log = training.load_trained(tmp_path / "run", recipe).record["data_sha256"]
    assert log == FolderTree(root).fingerprint(["all"])


def test_evaluating_a_folder_needs_masks_and_scores_images_of_all_sizes(
    root, tmp_path, short, capsys
):
    status, _, _ = run(capsys, "train", "--data", root, "--folder", tmp_path / "run", *short)
    assert status == 0
    command = ("evaluate", "--checkpoint", tmp_path / "run")
    status, _, err = run(capsys, *command)
    assert status == 2 and "no pixel masks" in err
    noise(7, 56, 24).save(root / "images/three.webp")
    for path in (root / "images").iterdir():
        width, height = Image.open(path).size
        save_mask(root, path.stem, np.random.default_rng(0).integers(0, 4, (height, width)))
    status, out, err = run(capsys, *command)
    assert status == 0, err
    assert "dataset folder" in out and "images 4" in out
    cut(root / "masks/one.png", 40)
    status, out, _ = run(capsys, *command, "--skip-bad")
    assert status == 0 and "skipped 1 of 4" in out and "images 3" in out


def test_labels_without_data_are_refused(capsys, tmp_path):
    status, _, err = run(capsys, "train", "--labels", tmp_path / "labels.csv")
    assert status == 2 and "--data" in err
