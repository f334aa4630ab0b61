"""Predictions as files, whose faults all come first."""

import csv
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from more_lib.cli.commands import app
from more_lib.data.images import PALETTE
from more_lib.evaluation import writing
from more_lib.evaluation.predict import predict
from more_lib.evaluation.writing import Output, plan_predictions
from more_lib.figures.canvas import Picture
from more_lib.recipes.loading import load_recipe
from more_lib.system.errors import InputError
from tests.evaluation import helpers
from tests.evaluation.helpers import CAT, DOG, picture


@pytest.fixture(autouse=True)
def bare_overlays(monkeypatch):
    figure = Picture(figsize=(1, 1))
    monkeypatch.setattr(writing, "plot_prediction", lambda *_: figure)


@pytest.fixture
def write(photo_model, own_recipe):
    """Plans predictions and writes them; returns the rows."""

    def planned_and_written(inputs, folder, npz=False, force=False, **options):
        plan = plan_predictions(own_recipe, inputs, Output(folder, npz, force), **options)
        return writing.write_predictions(plan, photo_model)

    return planned_and_written


def table(file):
    return list(csv.DictReader(file.open()))


def test_files_and_what_is_said_of_them(write, own_recipe, photos, tmp_path, capsys):
    out = tmp_path / "out"
    write([photos], out, npz=True)
    kinds = {"masks": "png", "overlays": "png", "maps": "npz"}
    files = {f"{kind}/{n}.{kinds[kind]}" for kind in kinds for n in ("cat", "dog", "nothing")}
    written = {path.relative_to(out).as_posix() for path in out.rglob("*.*")}
    assert written == files | {"summary.csv", "classes.csv", ".predictions.jsonl"}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[1/3] cat.png, 32×32: cat ") and lines[0].endswith(" %)")
    assert lines[2] == "[3/3] nothing.bmp, 32×32: no class looked for (likeliest: cat 0.42)"
    assert lines[3].endswith(f"maps of 3 images, summary.csv and classes.csv: {out}")
    # Masks hold VOC's values and colours.
    with Image.open(out / "masks/dog.png") as mask:
        assert mask.mode == "P" and mask.size == (48, 24)
        assert set(np.unique(mask)) == {0, DOG}
        palette = np.array(mask.getpalette()).reshape(-1, 3)
    np.testing.assert_array_equal(palette[[0, CAT, DOG]], PALETTE[[0, CAT, DOG]])
    legend = "value,class,color 0,background,#000000 8,cat,#400000 12,dog,#400080"
    assert (out / "classes.csv").read_text().split() == legend.split()
    # A folder's are its own, also where only some of its classes are shown.
    data = replace(own_recipe.data, dataset="folder", root="x", numbering=("bird", "cat", "dog"))
    assert writing.mask_values(replace(own_recipe, data=data)).tolist() == [0, 2, 3]
    data = replace(data, numbering=())
    assert writing.mask_values(replace(own_recipe, data=data)).tolist() == [0, 1, 2]


def test_the_decoder_looks_for_every_class(write, photos, tmp_path, capsys):
    write([photos / "nothing.bmp"], tmp_path / "out", map="decoder")
    line = capsys.readouterr().out.splitlines()[0]
    assert line == "[1/1] nothing.bmp, 32×32: nothing exceeds the background"


def test_what_else_looks_like_an_image_is_said(write, photos, tmp_path, capsys):
    (photos / "phone.heic").touch()
    write([photos], tmp_path / "out")
    assert capsys.readouterr().out.startswith(f"left out of {photos}: 1, phone.heic; convert")


def test_maps_are_kept_as_half_precision_with_names(photo_model, own_recipe, photos, tmp_path):
    labels = {"dog": ("cat", "dog")}
    (prediction,) = predict(photo_model, own_recipe, [photos / "dog.jpg"], labels)
    writing.write_prediction(prediction, own_recipe, Output(tmp_path, npz=True))
    with np.load(tmp_path / "maps/dog.npz", allow_pickle=False) as kept:
        assert kept["classes"].tolist() == ["cat", "dog"] == kept["all_classes"].tolist()
        assert kept["maps"].dtype == np.float16 and kept["maps"].shape == (2, 24, 48)
        np.testing.assert_allclose(kept["maps"], prediction.maps, atol=1e-3)
        assert kept["size"].tolist() == [24, 48]
        np.testing.assert_array_equal(kept["probabilities"], prediction.probabilities)


def test_summary(write, photos, tmp_path):
    labels = photos / "labels.csv"
    labels.write_text("image,classes\ncat.png,cat; dog\ndog,dog\nnothing.bmp,\nnone.png,horse\n")
    (row, *_), written = write([photos], tmp_path, labels=labels), table(tmp_path / "summary.csv")
    with Image.open(tmp_path / "masks/cat.png") as mask:
        pixels = tuple(int((np.asarray(mask) == value).sum()) for value in (CAT, DOG))
    cat, dog = 1 / (1 + np.exp(-np.array([0.5, 40 / 255 - 0.5])))
    both = ("cat", "dog")
    said = dict(labels=both, probabilities=pytest.approx((cat, dog)), classes=both, pixels=pixels)
    assert row == dict(image="cat.png", width=32, height=32, **said)
    joined = ["cat;dog", f"{cat:.4f};{dog:.4f}", "cat;dog", "{};{}".format(*pixels)]
    assert list(written[0].items()) == list(zip(row, ["cat.png", "32", "32", *joined], strict=True))
    assert [row["classes"] for row in written] == ["cat;dog", "dog", ""]
    assert written[2]["labels"] == written[2]["pixels"] == ""


def test_nothing_is_overwritten_unless_forced(write, photo_model, photos, tmp_path):
    out = tmp_path / "out"
    write([photos / "cat.png"], out)
    before = (out / "masks/cat.png").read_bytes()
    photo_model.inputs.clear()
    with pytest.raises(InputError, match=r"holds 4 of the files .*masks/cat\.png, .*--force"):
        write([photos], out)
    assert not photo_model.inputs and not (out / "masks/dog.png").exists()  # nothing was computed
    picture(helpers.GREY, helpers.RED).save(photos / "cat.png")
    write([photos], out, force=True)
    assert (out / "masks/cat.png").read_bytes() != before and (out / "masks/dog.png").exists()
    write([photos / "dog.jpg"], tmp_path / "elsewhere")


def test_one_bad_image_does_not_lose_the_others(write, photo_model, photos, tmp_path, capsys):
    bad = photos / "cut.jpg", photos / "text.png"
    bad[0].write_bytes((photos / "dog.jpg").read_bytes()[:300])
    bad[1].write_text("no")
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"2 of 5 images: .*cut\.jpg.*text\.png.*--skip-bad"):
        write([photos], out)
    with pytest.raises(InputError, match="no image is left"):
        write(bad, out, skip_bad=True)
    assert not out.exists() and not photo_model.inputs
    rows = write([photos], out, skip_bad=True)
    assert [row["image"] for row in rows] == ["cat.png", "dog.jpg", "nothing.bmp"]
    assert [row["image"] for row in table(out / "skipped.csv")] == [str(path) for path in bad]
    assert capsys.readouterr().out.count("skipped: ") == 2
    write([photos / "cat.png"], out, skip_bad=True, force=True)
    assert not (out / "skipped.csv").exists()  # it would speak of another run


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("image,classes cat.png,cat", r"labels\.csv: no labels for dog\.jpg"),
        ("image,classes cat,cow dog, nothing,", r"labels\.csv: cat\.png has the class 'cow'"),
        ("image,classes cat.png,cat cat.png,dog", "more than one row: cat.png"),
        ("file,classes cat.png,cat", "image,classes"),
    ],
)
def test_labels_that_do_not_fit(own_recipe, photos, tmp_path, rows, message):
    (tmp_path / "labels.csv").write_text(rows.replace(" ", "\n"))
    with pytest.raises(InputError, match=message):
        plan_predictions(own_recipe, [photos], Output(tmp_path / "out"), tmp_path / "labels.csv")
    assert not (tmp_path / "out").exists()


def test_crf_that_cannot_be_computed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("more_lib.method.crf.find_spec", lambda name: None)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    picture(size=(400, 400)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="pydensecrf2"):
        plan_predictions(
            load_recipe("mini"), [tmp_path / "a.png"], Output(tmp_path / "b"), crf=True
        )


@pytest.fixture
def run(photo_model, own_recipe, monkeypatch):
    """The command, to which the colour model is what the profile mini trains."""
    monkeypatch.setattr("more_lib.recipes.loading.load_recipe", lambda *_: own_recipe)
    trained = SimpleNamespace(model=photo_model)
    monkeypatch.setattr("more_lib.training.train_or_load", lambda recipe: trained)
    return lambda *arguments: CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_command(run, photos, tmp_path):
    out = tmp_path / "out"
    result = run(photos / "cat.png", photos / "dog.jpg", "--output", out, "--npz", "--map", "cam")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("no --checkpoint: profile mini")
    assert (out / "maps/dog.npz").is_file() and str(out) in result.stdout
    rest = run(photos, "--output", out, "--npz", "--map", "cam", "--resume")
    assert rest.exit_code == 0 and "2 of 3 images are done already, 1 are left" in rest.stdout
    again = run(photos / "cat.png", "--output", out)
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1) and "--force" in again.stderr
    assert run(photos / "cat.png", "--output", out, "--force", "--crf").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("photos --map seed", "'seed' is unknown"),
        ("photos --labels no.csv", "no.csv is missing"),
        ("photos --output photos/cat.png", "cat.png"),
        ("photos --output photos --force", "photos is a folder of data (it holds cat.png)"),
        ("photos --checkpoint .", "recipe.yaml"),
    ],
)
def test_command_refuses_in_one_line(run, photos, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments.split())
    assert result.exit_code == 2 and told in result.stderr, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_checkpoint_brings_its_own_recipe_and_comes_after_the_checks(photos, tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text("profile: voc\nseed: 5\n")
    load_trained = Mock(side_effect=InputError("seen"))
    monkeypatch.setattr("more_lib.training.load_trained", load_trained)
    options = ["--checkpoint", tmp_path, "--set", "evaluation.threshold=0.3", "--output", tmp_path]
    for image, told in ((photos / "gone.png", "does not exist"), (photos / "cat.png", "seen")):
        result = CliRunner().invoke(app, ["predict", str(image), *map(str, options)])
        assert result.exit_code == 2 and told in result.stderr
    ((given, recipe),) = (call.args for call in load_trained.call_args_list)
    settings = (recipe.profile, recipe.seed, recipe.evaluation.threshold)
    assert given == tmp_path and settings == ("voc", 5, 0.3)
