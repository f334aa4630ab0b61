"""Prediction on files of all kinds, by a model whose maps are the images' colours."""

import csv
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageOps
from torch import nn
from typer.testing import CliRunner

from more_lib.cli.commands import app
from more_lib.data.images import PALETTE, find_images, read_image, unreadable
from more_lib.data.transforms import denormalize, evaluation_transform
from more_lib.evaluation import writing as prediction_files
from more_lib.evaluation.overlays import plot_masks, plot_prediction
from more_lib.evaluation.predict import Prediction, predict, seen_size
from more_lib.evaluation.writing import mask_values, predict_files, write_prediction
from more_lib.method.crf import dense_crf, with_background
from more_lib.method.localization import fuse, multiscale_maps
from more_lib.method.model import MoReOutput
from more_lib.method.pseudo_labels import foreground_mask
from more_lib.recipes.loading import load_recipe
from more_lib.system.errors import InputError
from more_lib.training import cache as training

CLASSES = ("cat", "dog")
CAT, DOG = 8, 12  # VOC's ids
RED, GREEN, GREY = (255, 0, 0), (0, 255, 0), (40, 40, 40)
SIDE = 32


class ColourModel(nn.Module):
    """Red is cat and green is dog, in every map; a colour beyond one half names its class."""

    patch_size = 4

    def __init__(self):
        super().__init__()
        self.tokens = nn.Parameter(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
        self.sizes = []

    def forward(self, images):
        self.sizes.append(tuple(images.shape[2:]))
        colours = F.avg_pool2d(denormalize(images), self.patch_size)
        cam = colours[:, :2]
        return MoReOutput(
            class_logits=cam.amax((2, 3)) - 0.5,
            aux_logits=cam.amax((2, 3)) - 0.5,
            seg_logits=torch.cat([torch.full_like(cam[:, :1], 0.4), cam], 1),
            features=colours,
            class_tokens=self.tokens.expand(len(images), -1, -1),
            attention_scores=cam,
            cam=cam,
            aux_cam=cam,
        )


@pytest.fixture
def model():
    return ColourModel()


@pytest.fixture
def recipe():
    evaluation = ["evaluation.scales=[1.0]", "evaluation.threshold=0.5"]
    return load_recipe("mini", ["data.classes=[cat,dog]", f"data.crop_size={SIDE}", *evaluation])


def picture(left=RED, right=GREY, size=(SIDE, SIDE)):
    """An RGB image of two halves."""
    image = Image.new("RGB", size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


@pytest.fixture
def photos(tmp_path):
    """A cat on the left, a dog on the right, and nothing."""
    folder = tmp_path / "photos"
    folder.mkdir()
    picture().save(folder / "cat.png")
    picture(GREY, GREEN, (48, 24)).save(folder / "dog.jpg", quality=95)
    picture(GREY, GREY).save(folder / "nothing.bmp")
    return folder


@pytest.fixture
def trained(model, recipe, monkeypatch):
    """`predict_files` without a checkpoint gets the colour model, its recipe and bare overlays."""
    monkeypatch.setattr(prediction_files, "plot_prediction", lambda *_: Figure(figsize=(1, 1)))
    monkeypatch.setattr(prediction_files, "load_recipe", lambda profile, overrides: recipe)
    monkeypatch.setattr(training, "train_or_load", lambda recipe: SimpleNamespace(model=model))
    return model


def one(model, recipe, path, *args, **kwargs):
    (prediction,) = predict(model, recipe, [path], *args, **kwargs)
    return prediction


def test_predicted_labels_by_default(model, recipe, photos):
    cat, dog, nothing = predict(model, recipe, find_images([photos]))
    assert [p.id for p in (cat, dog, nothing)] == ["cat", "dog", "nothing"]
    assert [p.labels for p in (cat, dog, nothing)] == [("cat",), ("dog",), ()]
    assert (cat.mask[:, :14] == 1).all() and (cat.mask[:, 18:] == 0).all()
    assert (dog.mask[:, :22] == 0).all() and (dog.mask[:, 26:] == 2).all()
    assert not nothing.mask.any() and nothing.maps.shape == (0, SIDE, SIDE)
    assert cat.mask.dtype == np.uint8 and dog.mask.shape == (24, 48)
    assert cat.maps.dtype == np.float32 and 0 <= cat.maps.min() and cat.maps.max() <= 1
    assert cat.probabilities == pytest.approx(1 / (1 + np.exp(-np.array([0.5, 40 / 255 - 0.5]))))


def test_given_labels_replace_the_predicted(model, recipe, photos):
    cat = photos / "cat.png"
    assert one(model, recipe, cat, {"cat.png": {"dog"}}).labels == ("dog",)
    assert one(model, recipe, cat, {"cat": ["dog", "cat"]}).labels == CLASSES  # recipe's order
    empty = one(model, recipe, cat, {"cat.png": []})
    assert empty.labels == () and not empty.mask.any()
    with pytest.raises(InputError, match=r"no labels for cat\.png"):
        one(model, recipe, cat, {"dog.jpg": ["dog"]})
    with pytest.raises(InputError, match=r"cat\.png has the class 'cow', .* it knows cat, dog"):
        one(model, recipe, cat, {"cat.png": ["cat", "cow"]})


@pytest.mark.parametrize("kind", ["lam", "cam", "fused"])
def test_same_mask_as_the_evaluation_makes(model, recipe, photos, kind):
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, scales=(1.0, 0.5)))
    image = Image.open(photos / "dog.jpg")
    maps = multiscale_maps(model, evaluation_transform(None)(image)[None], (1.0, 0.5))
    map = fuse(maps.lam, maps.cam) if kind == "fused" else getattr(maps, kind)
    wanted = foreground_mask(map, torch.tensor([[1, 1]]), recipe.evaluation.threshold)[0]
    labels = {"dog": CLASSES}
    found = one(model, recipe, photos / "dog.jpg", labels, map=kind)
    assert len(wanted.unique()) > 1
    np.testing.assert_array_equal(found.mask, wanted)
    np.testing.assert_allclose(found.maps, map[0])


def test_threshold_is_the_recipes(model, recipe, photos):
    areas = []
    for threshold in (0.2, 0.8):
        changed = replace(recipe, evaluation=replace(recipe.evaluation, threshold=threshold))
        areas.append((one(model, changed, photos / "cat.png").mask > 0).sum())
    assert areas[0] > areas[1] > 0


def test_decoder_takes_no_labels_and_given_ones_narrow_it(model, recipe, photos):
    found = one(model, recipe, photos / "cat.png", map="decoder")
    assert found.labels == ("cat",) and set(np.unique(found.mask)) == {0, 1}
    assert found.maps.shape == (1, 8, 8)
    background, cat, dog = np.exp([0.4, 1.0, 0.0])
    assert found.maps[0, 0, 0] == pytest.approx(cat / (background + cat + dog), abs=1e-5)
    narrowed = one(model, recipe, photos / "cat.png", {"cat": ["dog"]}, map="decoder")
    assert narrowed.labels == ("dog",) and not narrowed.mask.any()


def test_crf_refines_in_the_size_the_network_saw(model, recipe, photos, tmp_path):
    image = picture(GREY, GREY)
    ImageDraw.Draw(image).ellipse((5, 6, 24, 27), fill=RED)  # a map has patches of 4 pixels
    image.save(tmp_path / "cat.png")
    disc = np.asarray(image)[..., 0] == 255
    plain, refined = (one(model, recipe, tmp_path / "cat.png", crf=crf) for crf in (False, True))
    scores = dense_crf(np.array(image), with_background(torch.from_numpy(plain.maps)))
    np.testing.assert_array_equal(refined.mask, scores.argmax(0))
    assert (plain.mask != disc).sum() > 10 > (refined.mask != disc).sum()
    decoded = one(model, recipe, tmp_path / "cat.png", map="decoder", crf=True)
    assert (decoded.mask != disc).sum() < 10
    assert not one(model, recipe, photos / "nothing.bmp", crf=True).mask.any()


def test_crf_of_a_reduced_photograph_fills_its_own_size(model, recipe, tmp_path):
    picture(size=(300, 100)).save(tmp_path / "wide.png")
    found = one(model, recipe, tmp_path / "wide.png", crf=True)
    assert found.mask.shape == (100, 300) and 0.4 < (found.mask == 1).mean() < 0.6


def test_large_photographs_are_reduced_for_the_network_alone(model, recipe, tmp_path):
    picture(size=(600, 300)).save(tmp_path / "large.png")
    found = one(model, recipe, tmp_path / "large.png")
    assert found.image.size == (600, 300) and found.mask.shape == (300, 600)
    assert model.sizes[0] == (24, 48) and found.maps.shape == (1, 24, 48)
    assert 0.45 < (found.mask == 1).mean() < 0.55


def test_sizes_of_voc_and_coco_stay():
    voc = load_recipe("voc")
    assert seen_size((500, 375), voc) == (500, 375)
    assert seen_size((640, 640), voc) == (640, 640)
    assert seen_size((4000, 3000), voc) == (672, 504)
    assert seen_size((4000, 1), voc) == (672, 1)


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (90, 2), (7, 5)])
def test_tiny_and_narrow_images(model, recipe, tmp_path, size):
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, scales=(0.4, 1.0)))
    picture(size=size).save(tmp_path / "tiny.png")
    assert one(model, recipe, tmp_path / "tiny.png").mask.shape == size[::-1]


def test_images_are_read_one_at_a_time(model, recipe, photos):
    predictions = predict(model, recipe, [photos / "cat.png", photos / "missing.png"])
    assert next(predictions).id == "cat"
    with pytest.raises(InputError, match=r"missing\.png is missing"):
        next(predictions)


def test_unknown_map_is_refused_at_once(model, recipe, photos):
    with pytest.raises(InputError, match="'seed' is unknown; choose from lam, cam, fused, decod"):
        predict(model, recipe, [photos / "cat.png"], map="seed")


MODES = {
    "grey.png": lambda image: image.convert("L"),
    "palette.png": lambda image: image.quantize(4),
    "palette.gif": lambda image: image.quantize(4),
    "grey_alpha.png": lambda image: image.convert("LA"),
    "opaque.png": lambda image: image.convert("RGBA"),
    "cmyk.jpg": lambda image: image.convert("CMYK"),
    "cmyk.tif": lambda image: image.convert("CMYK"),
    "bilevel.png": lambda image: image.convert("1", dither=Image.Dither.NONE),
    "photo.webp": lambda image: image,
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(tmp_path, name):
    white = picture((255, 255, 255), (0, 0, 0))
    MODES[name](white).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.mode == "RGB" and image.size == (SIDE, SIDE)
    np.testing.assert_allclose(np.asarray(image), np.asarray(white), atol=8)
    assert unreadable([tmp_path / name]) == {}


def test_transparency_is_laid_on_white(tmp_path):
    image = picture().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    image.save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getcolors() == [(SIDE * SIDE, (255, 255, 255))]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_cameras_orientation_turns_image_and_mask_alike(model, recipe, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture(size=(40, 24))
    stored.save(tmp_path / "turned.png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "turned.png")).convert("RGB")
    upright.save(tmp_path / "upright.png", exif=Image.Exif())
    turned, straight = (one(model, recipe, tmp_path / f"{n}.png") for n in ("turned", "upright"))
    assert turned.mask.shape == (upright.height, upright.width)
    assert turned.image.tobytes() == upright.tobytes()
    np.testing.assert_array_equal(turned.mask, straight.mask)


def test_what_cannot_be_read_is_named_with_its_reason(photos):
    whole = (photos / "dog.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "text.png").write_text("not an image")
    (photos / "empty.jpg").touch()
    Image.new("I;16", (8, 8)).save(photos / "deep.png")
    bad = unreadable(find_images([photos]))
    assert [path.name for path in bad] == ["cut.jpg", "deep.png", "empty.jpg", "text.png"]
    reasons = {path.name: reason for path, reason in bad.items()}
    assert "runcated" in reasons["cut.jpg"] and "not an image" in reasons["text.png"]
    assert "8 bits" in reasons["deep.png"]


def test_find_images(photos, tmp_path):
    (photos / "notes.txt").touch()
    (photos / "._cat.png").touch()
    (photos / "deeper.png").mkdir()
    names = [path.name for path in find_images([photos])]
    assert names == ["cat.png", "dog.jpg", "nothing.bmp"]
    twice = find_images([photos / "dog.jpg", photos, tmp_path / "photos" / ".." / "photos"])
    assert [path.name for path in twice] == ["dog.jpg", "cat.png", "nothing.bmp"]
    (photos / "Cat.jpg").touch()
    with pytest.raises(InputError, match=r"Cat\.jpg and .*cat\.png would both become"):
        find_images([photos])


def test_nothing_to_find(tmp_path):
    with pytest.raises(InputError, match="holds no image"):
        find_images([tmp_path])
    with pytest.raises(InputError, match=r"gone\.jpg does not exist"):
        find_images([tmp_path / "gone.jpg"])
    with pytest.raises(InputError, match="no images given"):
        find_images([])


def test_files(trained, photos, tmp_path, capsys):
    out = tmp_path / "out"
    predict_files([photos], out, npz=True)
    files = {path.relative_to(out).as_posix() for path in out.rglob("*.*")}
    assert files == {"summary.csv", "classes.csv"} | {
        f"{kind}/{name}.{ending}"
        for kind, ending in (("masks", "png"), ("overlays", "png"), ("maps", "npz"))
        for name in ("cat", "dog", "nothing")
    }
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("no --checkpoint: profile mini")
    assert lines[1].startswith("[1/3] cat.png, 32×32: cat ") and lines[1].endswith(" %)")
    assert lines[3] == "[3/3] nothing.bmp, 32×32: no class looked for (likeliest: cat 0.42)"
    assert lines[4].endswith(f"of 3 images, summary.csv and classes.csv: {out}")


def test_masks_hold_vocs_values_and_colours(trained, photos, tmp_path):
    predict_files([photos], tmp_path)
    with Image.open(tmp_path / "masks/dog.png") as mask:
        assert mask.mode == "P" and mask.size == (48, 24)
        values = np.asarray(mask)
        palette = np.array(mask.getpalette()).reshape(-1, 3)
    assert set(np.unique(values)) == {0, DOG}
    np.testing.assert_array_equal(palette[[0, CAT, DOG]], PALETTE[[0, CAT, DOG]])
    assert list(csv.reader((tmp_path / "classes.csv").open())) == [
        ["value", "class", "color"],
        ["0", "background", "#000000"],
        ["8", "cat", "#400000"],
        ["12", "dog", "#400080"],
    ]


def test_values_of_other_data_run_from_1(recipe):
    own = replace(recipe, data=replace(recipe.data, dataset="folder", root="x"))
    assert mask_values(recipe) == [CAT, DOG] and mask_values(own) == [1, 2]


def test_maps_are_kept_as_half_precision_with_their_names(model, recipe, photos, tmp_path):
    prediction = one(model, recipe, photos / "dog.jpg", {"dog": CLASSES})
    write_prediction(prediction, tmp_path, recipe, npz=True)
    with np.load(tmp_path / "maps/dog.npz", allow_pickle=False) as kept:
        assert kept["classes"].tolist() == list(CLASSES) == kept["all_classes"].tolist()
        assert kept["maps"].dtype == np.float16 and kept["maps"].shape == (2, 24, 48)
        np.testing.assert_allclose(kept["maps"], prediction.maps, atol=1e-3)
        assert kept["size"].tolist() == [24, 48]
        np.testing.assert_array_equal(kept["probabilities"], prediction.probabilities)


def test_summary(trained, photos, tmp_path):
    returned = predict_files([photos], tmp_path)
    rows = list(csv.DictReader((tmp_path / "summary.csv").open()))
    assert [{k: str(v) for k, v in row.items()} for row in returned] == rows
    assert list(rows[0]) == "image width height labels probabilities classes pixels".split()
    assert [row["image"] for row in rows] == ["cat.png", "dog.jpg", "nothing.bmp"]
    assert [row["classes"] for row in rows] == ["cat", "dog", ""]
    with Image.open(tmp_path / "masks/cat.png") as mask:
        assert int(rows[0]["pixels"]) == (np.asarray(mask) == CAT).sum()


def test_nothing_is_overwritten_unless_forced(trained, photos, tmp_path):
    out = tmp_path / "out"
    predict_files([photos / "cat.png"], out)
    before = (out / "masks/cat.png").read_bytes()
    trained.sizes.clear()
    with pytest.raises(InputError, match=r"holds 4 of the files .*masks/cat\.png, .*--force"):
        predict_files([photos], out)
    assert not trained.sizes and not (out / "masks/dog.png").exists()  # nothing was computed
    picture(GREY, RED).save(photos / "cat.png")
    predict_files([photos], out, force=True)
    assert (out / "masks/cat.png").read_bytes() != before and (out / "masks/dog.png").exists()
    predict_files([photos / "dog.jpg"], tmp_path / "elsewhere")


def test_one_bad_image_does_not_lose_the_others(trained, photos, tmp_path, capsys):
    (photos / "cut.jpg").write_bytes((photos / "dog.jpg").read_bytes()[:300])
    (photos / "text.png").write_text("no")
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"2 of 5 images: .*cut\.jpg.*text\.png.*--skip-bad"):
        predict_files([photos], out)
    assert not out.exists() and not trained.sizes
    rows = predict_files([photos], out, skip_bad=True)
    assert [row["image"] for row in rows] == ["cat.png", "dog.jpg", "nothing.bmp"]
    skipped = list(csv.DictReader((out / "skipped.csv").open()))
    assert [row["image"] for row in skipped] == [str(photos / n) for n in ("cut.jpg", "text.png")]
    assert capsys.readouterr().out.count("skipped: ") == 2
    (photos / "cut.jpg").unlink(), (photos / "text.png").unlink()
    predict_files([photos], out, skip_bad=True, force=True)
    assert not (out / "skipped.csv").exists()  # it would speak of another run


def test_no_image_left(trained, photos, tmp_path):
    (photos / "cut.jpg").touch()
    with pytest.raises(InputError, match="no image is left"):
        predict_files([photos / "cut.jpg"], tmp_path, skip_bad=True)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,classes\ncat.png,cat\n", r"labels\.csv: no labels for dog\.jpg"),
        ("image,classes\ncat.png,cow\n", r"labels\.csv: cat\.png has the class 'cow'"),
        ("image,classes\ncat.png,cat\ncat.png,dog\n", "more than one row: cat.png"),
        ("file,classes\ncat.png,cat\n", "image,classes"),
    ],
)
def test_labels_that_do_not_fit(trained, photos, tmp_path, table, message):
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        predict_files([photos], tmp_path / "out", labels=tmp_path / "labels.csv")
    assert not trained.sizes and not (tmp_path / "out").exists()


def test_labels_file(trained, photos, tmp_path):
    table = "image,classes\ncat.png,cat; dog\ndog,dog\nnothing.bmp,\nnot_here.png,horse\n"
    (tmp_path / "labels.csv").write_text(table)
    rows = predict_files([photos], tmp_path / "out", labels=tmp_path / "labels.csv")
    assert [row["labels"] for row in rows] == ["cat;dog", "dog", ""]


def test_crf_that_cannot_be_computed_is_refused_before_the_model(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("more_lib.method.crf.find_spec", lambda name: None)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(
        training, "train_or_load", lambda recipe: pytest.fail("the model was loaded")
    )
    wide = load_recipe("mini")
    monkeypatch.setattr(prediction_files, "load_recipe", lambda profile, overrides: wide)
    picture(size=(400, 400)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="pydensecrf2"):
        predict_files([tmp_path / "a.png"], tmp_path / "out", crf=True)


def prediction_of(mask, labels):
    image = Image.new("RGB", mask.shape[::-1], GREY)
    maps = np.linspace(0, 1, len(labels) * 16, dtype=np.float32).reshape(-1, 4, 4)
    return Prediction("an image", image, labels, np.array([0.9, 0.2]), mask, maps)


@pytest.mark.parametrize("labels", [(), ("dog",), CLASSES])
def test_overlay_names_every_class_and_outlines_its_mask(labels):
    mask = np.zeros((20, 30), np.uint8)
    mask[:, :10] = 2
    figure = plot_prediction(prediction_of(mask, labels), CLASSES)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    named = {"cat": "cat 0.90", "dog": "dog 0.20"}
    assert titles == (["image", *(named[n] for n in labels)] if labels else ["no class looked for"])
    lines = [len(ax.collections) for ax in figure.axes if ax.get_title() in named.values()]
    assert lines == [2 * (name == "dog") for name in labels]
    assert figure.png().startswith(b"\x89PNG")


def test_overlay_of_a_large_photograph_is_small():
    mask = np.ones((1500, 2000), np.uint8)
    prediction = replace(prediction_of(mask, ("cat",)), id="x" * 200)
    figure = plot_prediction(prediction, CLASSES)
    assert figure.axes[0].images[0].get_array().shape[:2] == (480, 640)
    assert len(figure.get_suptitle()) == int(7 * figure.get_figwidth())


def test_plot_masks():
    mask = np.ones((12, 8), np.uint8)
    figure = plot_masks([prediction_of(mask, ("cat",))] * 2, CLASSES)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cat"]
    with pytest.raises(InputError, match="nothing to draw"):
        plot_masks([], CLASSES)


def run(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_command(trained, photos, tmp_path):
    out = tmp_path / "out"
    result = run(photos / "cat.png", photos / "dog.jpg", "--output", out, "--npz", "--map", "cam")
    assert result.exit_code == 0, result.stderr
    assert (out / "maps/dog.npz").is_file() and str(out) in result.stdout
    again = run(photos / "cat.png", "--output", out)
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1) and "--force" in again.stderr
    assert run(photos / "cat.png", "--output", out, "--force", "--crf").exit_code == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--map", "seed"], "'seed' is unknown"),
        (["--labels", "no.csv"], "no.csv is missing"),
        (["--output", "photos/cat.png"], "cat.png"),
    ],
)
def test_command_with_bad_options(trained, photos, tmp_path, monkeypatch, options, named):
    monkeypatch.chdir(tmp_path)
    result = run("photos", *options)
    assert result.exit_code == 2 and named in result.stderr, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_command_wants_images_and_a_checkpoint_that_is_there(photos, tmp_path):
    assert run().exit_code == 2
    assert run(photos, "--checkpoint", tmp_path / "gone").exit_code == 2
    (tmp_path / "empty").mkdir()
    result = run(photos, "--checkpoint", tmp_path / "empty")
    assert result.exit_code == 2 and "recipe.yaml" in result.stderr


def test_checkpoint_brings_its_own_recipe(model, photos, tmp_path, monkeypatch):
    folder, seen = tmp_path / "trial", []
    folder.mkdir()
    (folder / "recipe.yaml").write_text("profile: voc\nseed: 5\n")

    def load_trained(given, recipe):
        seen.append((given, recipe.profile, recipe.seed, recipe.evaluation.threshold))
        raise InputError("seen")

    monkeypatch.setattr(training, "load_trained", load_trained)
    with pytest.raises(InputError, match="seen"):
        predict_files(
            [photos / "cat.png"],
            tmp_path / "out",
            checkpoint=folder,
            overrides=["evaluation.threshold=0.3"],
        )
    assert seen == [(folder, "voc", 5, 0.3)]
