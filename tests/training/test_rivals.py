"""The rivals through the one trainer: trained, resumed, found again, evaluated."""

import shutil

import numpy as np
import pytest

from more_lib.data import open_tree
from more_lib.evaluation.protocols import named_protocols
from more_lib.evaluation.scoring import evaluate_or_load, evaluate_protocols
from more_lib.evaluation.voc_server import export_voc
from more_lib.evaluation.writing import Output, plan_predictions, write_predictions
from more_lib.method.methods import method_of
from more_lib.recipes import changed, load_recipe
from more_lib.recipes.classes import VOC_CLASSES
from more_lib.system.errors import InputError
from more_lib.training import train
from more_lib.training.cache import load_trained
from tests.training.helpers import same_weights, small_recipe

SHORT = """optimizer.iterations=4 optimizer.warmup_iterations=0 optimizer.checkpoint_every=2
optimizer.log_every=1 schedule.segmentation=1 dupl.filter_from=2 dupl.least=10
toco.head=[16,8,32] toco.num_crops=3""".split()

CAMS = {"cam", "aux_cam", "decoder"}
DRAWN = {"toco": CAMS, "dupl": CAMS, "mctformer": {"attention", "cam", "root", "seed"}}
PUBLISHED = {
    "toco": "decoder-val aux-cam-one",
    "dupl": "decoder-log cam-one",
    "mctformer": "cam-log",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    recipe = small_recipe(tmp_path_factory.mktemp("rivals"))
    keep = "optimizer.batch_size=2 optimizer.precision=fp32 loss.dense_energy=0".split()
    data = [f"data.root={recipe.data.root}", f"backbone.weights={recipe.backbone.weights}"]
    return [*data, *keep, *SHORT]


# What makes a profile of hours one of a second.
TINY = """data.dataset=voc data.train_split=train data.crop_size=48 data.workers=0
backbone.name=mini backbone.decoder_width=8 masks.dilations=[1,2] masks.refinements=2
optimizer.iterations=2 optimizer.batch_size=2 optimizer.lr_every=1 optimizer.precision=fp32
schedule.patch_token_contrast=1 schedule.segmentation=1 schedule.dense_energy=1
schedule.final_cam=2 dupl.filter_from=1 dupl.discrepancy_from=1 toco.local_size=16
toco.head=[16,8,32] toco.num_crops=3 optimizer.log_every=1""".split()
FULL = {
    "toco": {"class_token_contrast", "patch_token_contrast", "segmentation", "dense_energy"},
    "dupl": {"discrepancy", "patch_token_contrast", "segmentation", "consistency"},
    "mctformer": {"layer_contrast", "token_classification"},
}


@pytest.mark.slow
@pytest.mark.parametrize("profile", [f"{name}-{data}" for name in FULL for data in ("voc", "coco")])
def test_full_profiles_train_at_tiny_size(profile, place, tmp_path):
    start = [*place[:2], f"data.classes={list(VOC_CLASSES)}"]
    run = train(load_recipe(profile, [*start, *TINY]), tmp_path / "run")
    assert all(np.isfinite(line["total"]) for line in run.log())
    first, last = run.log()
    assert first.keys() < last.keys() or profile.startswith("mctformer")
    assert FULL[profile.partition("-")[0]] <= last.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_rivals_train_in_mixed_precision(name, place, tmp_path):
    short = "optimizer.iterations=2 optimizer.checkpoint_every=0 dupl.filter_from=1".split()
    exact, rounded = (
        train(load_recipe(name, [*place, *short, f"optimizer.precision={each}"]), tmp_path / each)
        for each in ("fp32", "bf16")
    )
    assert rounded.record["precision"] == "bf16"
    for ours, theirs in zip(rounded.log(), exact.log(), strict=True):
        assert ours.keys() == theirs.keys() and ours != theirs
        for term in ours.keys() - {"iteration", "lr", "images_per_second"}:
            assert ours[term] == pytest.approx(theirs[term], rel=0.03, abs=0.03), term


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "otherwise"),
    [
        ("toco", "toco.aligned=false"),
        ("dupl", "dupl.least=11"),
        ("mctformer", "mctformer.decay=0.9"),
    ],
)
def test_a_rival_trains_and_is_resumed_to_the_same_weights(name, otherwise, place, tmp_path):
    recipe = load_recipe(name, place)
    whole = train(recipe, tmp_path / "whole")
    assert all(np.isfinite(line["total"]) for line in whole.log())
    folder = tmp_path / "run"
    shutil.copytree(whole.folder / "checkpoints", folder / "checkpoints")
    shutil.copy(whole.folder / "recipe.yaml", folder)
    assert same_weights(train(recipe, folder, resume=True), whole)
    again = load_trained(whole.folder, recipe)
    assert type(again.model) is type(whole.model) and same_weights(again, whole)
    with pytest.raises(InputError, match="was trained by another recipe"):
        load_trained(whole.folder, changed(recipe, [otherwise]))
    results = evaluate_or_load(whole).results
    assert {result.protocol.map for result in results} == DRAWN[name]
    assert all(result.matrix.sum() > 0 for result in results)


@pytest.mark.parametrize("name", ["toco", "dupl"])
def test_what_a_rivals_network_cannot_learn_is_said_before_it_trains(name):
    recipe = load_recipe("mini", [f"method={name}"])
    said = f"token_classification is 1.0, but {name} has one token .* --profile {name}"
    with pytest.raises(InputError, match=said):
        method_of(recipe).objective(recipe)


@pytest.mark.parametrize("key", ["masks.contrast", "masks.decoder"])
def test_dupls_thresholds_may_not_fall_below_the_low_ones(key):
    recipe = load_recipe("dupl", [f"{key}=[0.7,0.6]", "dupl.end=[0.55]"])
    with pytest.raises(InputError, match=f"down to 0.55, below the low threshold 0.6 of {key}"):
        method_of(recipe).objective(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_rival_is_scored_by_protocols_predicts_and_is_exported(name, place, tmp_path):
    recipe = load_recipe(name, place)
    trained = train(recipe, tmp_path / "net")
    wanted = named_protocols(PUBLISHED[name].split(), recipe)
    for protocol, found in zip(
        wanted.values(), evaluate_protocols(trained, list(wanted.values())), strict=True
    ):
        assert found.results[0].protocol == protocol and found.results[0].matrix.sum() > 0
        assert export_voc(trained, protocol, tmp_path / f"{protocol.map}.tgz") == 4
    folder = open_tree(recipe.data).root / "JPEGImages"
    pictures = sorted(folder.iterdir())[:2]
    plan = plan_predictions(recipe, pictures, Output(tmp_path / "masks"))
    assert plan.protocol.map == {"mctformer": "seed"}.get(name, "decoder")
    rows = write_predictions(plan, trained.model)
    assert len(rows) == 2 and len(list((tmp_path / "masks/masks").iterdir())) == 2
    with pytest.raises(InputError, match="map 'lam' is unknown; choose from"):
        plan_predictions(recipe, pictures, Output(tmp_path / "other"), map="lam")
