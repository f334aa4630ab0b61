"""The plain folder layout, the scan for damaged files, and training on one's own data."""

import os
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from more_lib.cli.commands import app
from more_lib.data import open_tree, split_file
from more_lib.data.folder import FolderTree, recipe_for_folder
from more_lib.data.transforms import evaluation_transform
from more_lib.data.voc import VocImages, VocMasks
from more_lib.recipes.classes import mask_ids
from more_lib.recipes.loading import load_recipe
from more_lib.recipes.profiles import PROFILES
from more_lib.training import cache as training
from tests.data.helpers import HEIGHT, ROWS, WIDTH, cut, noise, photos, refused, save_csv, save_mask


@pytest.fixture
def root(tmp_path):
    return photos(tmp_path / "my photographs")


def test_classes_are_sorted_and_other_files_are_no_images(root):
    (root / "images/._one.jpg").write_bytes(b"resource fork")
    (root / "images/notes.txt").write_text("no image either")
    tree = FolderTree(root)
    assert tree.classes == ("cat", "owl", "red fox")
    assert tree.ids("all") == ["one", "two", "three", "four"]  # as the table lists them
    labels = [tree.labels(name).tolist() for name in tree.ids("all")]
    assert labels == [[1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert tree.labels("one").dtype == np.float32


def test_chosen_classes_number_labels_and_masks(root):
    values = np.zeros((HEIGHT, WIDTH))
    values[:5], values[5:9], values[9] = 3, 1, 255
    save_mask(root / "masks/one.png", values)
    assert np.array_equal(FolderTree(root).mask("one"), values)
    tree = FolderTree(root, ("red fox", "cat"))
    assert tree.labels("three").tolist() == [0, 0] and tree.labels("one").tolist() == [1, 1]
    expected = values.copy()
    expected[:5], expected[5:9] = 1, 2
    assert np.array_equal(tree.mask("one"), expected) and tree.mask("one").dtype == np.uint8
    with refused("one.png holds 3: allowed are 0, 255"):
        FolderTree(root, ("cat",)).mask("one")


def test_classes_txt_sets_the_order_and_may_name_more(root):
    (root / "classes.txt").write_text("red fox\nbear\n\ncat\nowl\n")
    tree = FolderTree(root)
    assert tree.classes == ("red fox", "bear", "cat", "owl")
    assert tree.classes_shown() == ("red fox", "cat", "owl")
    assert tree.labels("one").tolist() == [1, 0, 1, 0]


def test_a_folders_ids_are_its_ids_whichever_classes_are_chosen_and_shown(root):
    (root / "classes.txt").write_text("bear\ncat\nowl\nred fox\n")
    values = np.zeros((HEIGHT, WIDTH))
    values[:5], values[5:9] = 4, 2
    save_mask(root / "masks/one.png", values)
    data = recipe_for_folder(PROFILES["mini"], root).data
    assert data.classes == ("cat", "owl", "red fox")
    assert data.numbering == open_tree(data).every_class == ("bear", "cat", "owl", "red fox")
    assert mask_ids(data) == (2, 3, 4)
    assert mask_ids(replace(data, classes=("red fox", "cat"))) == (4, 2)
    # Classes of a network that the folder lacks: in no image, without a value in masks.
    tree = FolderTree(root, ("dog", "red fox", "cat"))
    assert tree.labels("one").tolist() == [0, 1, 1]
    assert np.array_equal(tree.mask("one"), np.choose(values.astype(int), [0, 0, 3, 0, 2]))
    with refused("one.png holds 2: allowed are 0, 255"):
        FolderTree(root, ("dog", "red fox")).mask("one")


def test_images_may_lie_in_the_folder_and_a_spreadsheets_table_elsewhere(root, tmp_path):
    for path in (root / "images").iterdir():
        path.rename(root / path.name)
    (root / "images").rmdir()
    text = "image, classes\r\none, cat ; red fox;\r\ntwo,cat\r\n\r\nthree,owl\r\nfour,\r\n"
    (tmp_path / "table.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (root / "labels.csv").unlink()
    tree = FolderTree(root, labels=tmp_path / "table.csv")
    assert tree.classes == ("cat", "owl", "red fox") and tree.image("one").size == (WIDTH, HEIGHT)
    assert tree.labels("one").tolist() == [1, 0, 1]  # rows may leave endings out


def test_images_are_rgb_whatever_the_file_holds(root):
    Image.new("L", (WIDTH, HEIGHT), 77).save(root / "images/one.jpg")
    Image.new("RGBA", (WIDTH, HEIGHT), (9, 90, 200, 255)).save(root / "images/two.PNG")
    # Colours of a CMYK file are ink: full cyan without magenta and yellow leaves green and blue.
    Image.new("CMYK", (WIDTH, HEIGHT), (255, 0, 0, 0)).save(root / "images/four.jpeg")
    tree = FolderTree(root)
    pixels = {name: tree.image(name).getpixel((3, 3)) for name in ("one", "two", "four")}
    assert pixels["one"] == (77, 77, 77) and pixels["two"] == (9, 90, 200)
    np.testing.assert_allclose(pixels["four"], (0, 255, 255), atol=2)
    assert all(tree.image(name).mode == "RGB" for name in pixels)


@pytest.mark.parametrize(
    "table, complaint",
    [
        (ROWS | {"five.jpg": "cat"}, "not among the images: five.jpg"),
        (ROWS | {"two": "cat"}, r"named by more than one row: two.PNG \(line 3\), two \(line 6\)"),
        ({"one.jpg": "cat"}, "without a row .*: four.jpeg, three.webp, two.PNG"),
        (ROWS | {"one.jpg": ";".join(map(str, range(255)))}, "254"),
        (b"", "image,classes"),
        (b"one.jpg,cat\n", "begins with 'one.jpg,cat'.*image,classes"),
        (b"image;classes\none.jpg;cat\n", "begins with 'image;classes'"),
        (b"image,classes\none.jpg,cat,dog\n", "line 2 has 3 fields"),
        (b"image,classes\n\none.jpg\n", "line 3 has 1 fields"),
        (b"image,classes\n,cat\n", "line 2"),
        ("image,classes\none.jpg,pájaro\n".encode("latin-1"), "cannot be read .*UTF-8"),
        (b'image,classes\n"one.jpg' + b"x" * 200_000 + b"\n", "is no CSV"),
        (None, "is missing.*image,classes"),
    ],
)
def test_table_that_is_malformed_or_does_not_fit_the_images_is_named(root, table, complaint):
    if isinstance(table, dict):
        save_csv(root, table)
    elif table is None:
        (root / "labels.csv").unlink()
    else:
        (root / "labels.csv").write_bytes(table)
    with refused("labels.csv", complaint):
        FolderTree(root)


def test_unknown_classes_are_named_with_the_nearest_that_exists(root):
    (root / "classes.txt").write_text("cat\nowl\nred fox\n")
    save_csv(root, ROWS | {"two.PNG": "read fox"})
    with refused("labels.csv line 3 has the class 'read fox'.*mean red fox"):
        FolderTree(root)
    save_csv(root, ROWS)
    (root / "classes.txt").write_text("cat\nowl\ncat\nred fox\n")
    with refused("classes.txt: named more than once: cat"):
        FolderTree(root)
    (root / "classes.txt").unlink()
    (root / "classes.txt").symlink_to(root / "gone")
    with refused("classes.txt is missing: write a class name a line"):
        FolderTree(root)


def test_folders_without_images_or_with_two_of_one_id_are_named(root, tmp_path):
    (tmp_path / "empty").mkdir()
    noise(9).save(root / "images/one.png")
    for folder, complaint in (
        (tmp_path / "empty", "empty holds no image"),
        (tmp_path / "nowhere", "nowhere is missing"),
        (root, "one.png"),
    ):
        with refused(complaint):
            FolderTree(folder)


def test_split_lists_keep_their_order_and_must_fit(root):
    (root / "splits").mkdir()
    (root / "splits/train.txt").write_text("three\n\none.jpg\n")
    tree = FolderTree(root)
    assert tree.ids("train") == ["three", "one"] and tree.splits() == ["train"]
    with refused(r"val.txt is missing \(splits here: train\)"):
        tree.ids("val")
    for content, complaint in (
        ("one\nfive\n", "no image of this folder: five"),
        ("one\none.jpg\n", "more than once: one"),
        ("\n", "names no image"),
    ):
        (root / "splits/train.txt").write_text(content)
        with refused(complaint):
            tree.ids("train")


def forms(name):
    return [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]


@pytest.mark.parametrize("named", [0, 1])
@pytest.mark.parametrize("on_disk", [0, 1])
def test_names_of_files_have_one_form_whichever_the_disk_and_the_texts_have(root, named, on_disk):
    kept, other = forms("caf\u00e9"), forms("caf\u00e9.png")[1 - on_disk]
    (root / "images/one.jpg").rename(root / f"images/{kept[on_disk]}.jpg")
    save_mask(root / "masks" / other, np.full((HEIGHT, WIDTH), 2))
    rows = {name.replace("one", kept[named]): classes for name, classes in ROWS.items()}
    save_csv(
        root, {name: classes.replace("owl", kept[1 - named]) for name, classes in rows.items()}
    )
    (root / "classes.txt").write_text(f"red fox\n{kept[named]}\ncat\n", encoding="utf-16")
    (root / "splits").mkdir()
    (root / "splits/val.txt").write_text(f"{kept[named]}\ntwo\n", encoding="utf-16")
    (root / "splits/train.txt").write_text(f"three\n{kept[named]}.jpg\n", encoding="utf-8-sig")
    tree = FolderTree(root, classes=(kept[1], "cat"), skip=[kept[named]])
    assert tree.split_ids("train") == ["three", kept[0]] and tree.ids("val") == ["two"]
    assert tree.image(kept[0]).size == (WIDTH, HEIGHT) and (tree.mask(kept[0]) == 1).all()
    assert tree.classes == (kept[0], "cat") and tree.labels("three").tolist() == [1, 0]


def test_names_that_would_be_one_elsewhere_are_refused(root):
    for other in ("ONE.png", "One.jpg"):
        noise(9).save(root / "images" / other)
        with refused("one name before the ending, but for case; rename one: .*one.jpg"):
            FolderTree(root)
        (root / "images" / other).unlink()
    for name in forms("caf\u00e9.jpg"):
        noise(9).save(root / "images" / name)
    with refused("rename one: caf.*, caf"):
        FolderTree(root)


def test_a_name_is_a_files_before_it_is_one_without_its_ending(root):
    (root / "images/two.PNG").rename(root / "images/one.jpg.png")
    rows = {"one.jpg.png" if name == "two.PNG" else name: row for name, row in ROWS.items()}
    save_csv(root, rows)
    tree = FolderTree(root)
    assert tree.labels("one").tolist() == [1, 0, 1] and tree.labels("one.jpg").tolist() == [1, 0, 0]
    assert FolderTree(root, skip=["one.jpg"]).ids("all") == ["one", "three", "four"]
    for names in (("one", "one.jpg"), ("one.jpg", "one.jpg.png")):
        save_csv(root, dict(zip((*names, "three", "four"), rows.values(), strict=True)))
        with refused(r"labels.csv: may be either of two files; .*: one.jpg \(or one.jpg.png\)"):
            FolderTree(root)
    (root / "splits").mkdir()
    (root / "splits/train.txt").write_text("one.jpg\nthree\n")
    with refused(r"train.txt: may be either of two files"):
        tree.ids("train")
    (root / "splits/train.txt").write_text("one.jpg\nthree.webp\n")
    assert tree.ids("train") == ["one", "three"]


def test_names_that_no_text_can_hold_are_refused_in_printable_letters(root, tmp_path):
    photograph = (root / "images/one.jpg").read_bytes()
    for name, shown in ((b"caf\xe9.jpg", r"caf\\xe9.jpg"), (b"two\nlines.jpg", r"two\\nlines")):
        path = root / "images" / os.fsdecode(name)
        path.write_bytes(photograph)
        with refused("no UTF-8 or have control characters; rename: " + shown):
            FolderTree(root)
        path.unlink()
    with refused(r"the path .*caf\\xe9 is no UTF-8.*rename"):
        recipe_for_folder(PROFILES["mini"], root.rename(tmp_path / os.fsdecode(b"caf\xe9")))


def test_data_sets_serve_a_plain_folder_with_masks(root):
    tree = FolderTree(root)
    assert len(VocImages(tree, "all", evaluation_transform(16))) == 4
    masks = VocMasks(tree, "all", evaluation_transform(16))
    with refused("no pixel masks.*training and prediction do without"):
        masks[0]
    save_mask(root / "masks/one.png", np.full((HEIGHT, WIDTH), 2))
    assert masks[0]["labels"].tolist() == [1, 0, 1] and masks[0]["id"] == "one"
    assert masks[0]["image"].shape == (3, 16, 16) and masks[0]["mask"].shape == (HEIGHT, WIDTH)
    with refused("two.png is missing"):
        masks[1]


def test_skipped_images_are_left_out_and_the_fingerprint_covers_what_training_reads(root):
    before = FolderTree(root).fingerprint(["all"])
    save_mask(root / "masks/one.png", np.zeros((HEIGHT, WIDTH)))
    assert len(before) == 64
    assert FolderTree(root, skip=["elsewhere"]).fingerprint(["all"]) == before
    assert FolderTree(root, skip=["two", "four.jpeg"]).ids("all") == ["one", "three"]
    with refused("leaves no image of the split 'all'"):
        FolderTree(root, skip=["one", "two", "three", "four"]).ids("all")
    narrower = FolderTree(root, ("cat", "owl")), FolderTree(root, skip=["two"])
    changed = {before, *(tree.fingerprint(["all"]) for tree in narrower)}
    save_csv(root, ROWS | {"two.PNG": "owl"})
    changed.add(FolderTree(root).fingerprint(["all"]))
    save_csv(root, ROWS)
    noise(5).save(root / "images/one.jpg")
    changed.add(FolderTree(root).fingerprint(["all"]))
    assert len(changed) == 5


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
    with refused("no train.txt .*mine, test"):
        recipe_for_folder(mini, root)
    (root / "splits").rename(root / "kept")
    (root / "splits").write_text("one\n")
    with refused("splits has no train.txt"):
        recipe_for_folder(mini, root)
    (root / "splits").unlink()
    (root / "kept").rename(root / "splits")
    save_csv(root, dict.fromkeys(ROWS, ""))
    (root / "splits/mine.txt").rename(root / "splits/train.txt")
    with refused("nothing to learn"):
        recipe_for_folder(mini, root)


def test_recipes_name_their_data_set(tmp_path):
    with refused("data.dataset is 'imagenet'"):
        load_recipe("mini", ["data.dataset=imagenet"])
    with refused("data.root is ''"):
        load_recipe("mini", ["data.dataset=folder"])
    for name, folder in (("coco", "COCO2014"), ("pets", "OxfordPets")):
        recipe = load_recipe("mini", [f"data.dataset={name}", "data.classes=[cat]"])
        with refused(f"{folder} is missing.*prepare_{name}.py"):
            open_tree(recipe.data)


# Two iterations of the whole objective, on crops of 48 pixels.
SHORT = (
    "--set data.crop_size=48 --set optimizer.iterations=2 --set optimizer.batch_size=2 "
    "--set optimizer.precision=fp32 --set schedule.segmentation=0 --set schedule.dense_energy=0 "
    "--set schedule.final_cam=1"
).split()


def run(*arguments):
    """Exit status, output and errors of a command."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return result.exit_code, result.stdout, result.stderr


def test_training_on_a_folder_skips_what_is_bad_only_when_told(root, tmp_path):
    cut(root / "images/two.PNG", 30)
    command = ("train", "--data", root, "--folder", tmp_path / "run", *SHORT)
    status, _, err = run(*command)
    assert status == 2 and "two.PNG" in err and "--skip-bad" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    status, out, _ = run(*command, "--skip-bad")
    assert status == 0 and "skipped 1 of 4" in out and "two.PNG" in out
    recipe = load_recipe("mini", file=tmp_path / "run/recipe.yaml")
    assert recipe.data.skip == ("two",) and recipe.data.classes == ("cat", "owl", "red fox")
    # What trained is what a folder without the bad image would have trained.
    (root / "images/two.PNG").unlink()
    save_csv(root, {name: row for name, row in ROWS.items() if name != "two.PNG"})
    log = training.load_trained(tmp_path / "run", recipe).record["data_sha256"]
    assert log == FolderTree(root).fingerprint(["all"])


@pytest.mark.slow
def test_training_says_its_classes_and_refuses_a_slip_in_their_names(root, tmp_path):
    command = ("train", "--data", root, "--folder", tmp_path / "run", *SHORT)
    status, _, err = run(*command, "--set", "data.classes=[cat, read fox]")
    assert status == 2 and "'read fox'" in err and "did you mean red fox?" in err
    assert len(err.splitlines()) == 1 and not (tmp_path / "run").exists()
    status, out, err = run(*command, "--set", "data.classes=[red fox, cat]")
    assert status == 0 and "classes (images of 4): red fox 1, cat 2" in out, err
    recipe = load_recipe("mini", file=tmp_path / "run/recipe.yaml")
    assert mask_ids(recipe.data) == (3, 1)


@pytest.mark.slow
def test_evaluating_a_folder_needs_masks_and_scores_images_of_all_sizes(root, tmp_path):
    assert run("train", "--data", root, "--folder", tmp_path / "run", *SHORT)[0] == 0
    command = ("evaluate", "--checkpoint", tmp_path / "run")
    status, _, err = run(*command)
    assert status == 2 and "no pixel masks" in err
    noise(7, 56, 24).save(root / "images/three.webp")
    for path in (root / "images").iterdir():
        width, height = Image.open(path).size
        values = np.random.default_rng(0).integers(0, 4, (height, width))
        save_mask(root / f"masks/{path.stem}.png", values)
    status, out, err = run(*command)
    assert status == 0, err
    assert "dataset folder" in out and "images 4" in out
    cut(root / "masks/one.png", 40)
    status, out, _ = run(*command, "--skip-bad")
    assert status == 0 and "skipped 1 of 4" in out and "images 3" in out


def test_what_is_left_out_of_a_folder_is_said(root, capsys):
    (root / "images/phone.HEIC").write_bytes(b"\0" * 20)
    recipe_for_folder(PROFILES["mini"], root)
    said = capsys.readouterr().out
    assert "left out of" in said and "phone.HEIC" in said
    (root / "images/phone.HEIC").unlink()
    recipe_for_folder(PROFILES["mini"], root)
    assert capsys.readouterr().out == ""
