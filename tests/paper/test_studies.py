"""Studies: rows are compared seed by seed; what is recorded is of today's recipe."""

import json
import re
from math import nan
from types import SimpleNamespace

import pytest

from more_lib.paper import studies
from more_lib.paper.photographs import anybodys
from more_lib.paper.studies import STUDIES, backbones, compared, format_study, recorded, run_study
from more_lib.recipes.loading import changed, load_recipe, training_fingerprint
from more_lib.recipes.profiles import PROFILES
from more_lib.runs.recording import record_metrics
from more_lib.system.errors import InputError
from tests.paper.helpers import row


@pytest.mark.slow
def test_backbones_are_cut_to_a_half_two_thirds_and_left_whole_shipped_ones_narrowed_too():
    found = backbones(PROFILES["voc"])
    assert list(found) == [
        f"{name}, {depth} blocks of 768" for depth in (6, 8, 12) for name in ("baseline", "more")
    ]
    assert found["more, 12 blocks of 768"] == PROFILES["voc"]  # no training of its own
    assert found["baseline, 6 blocks of 768"].backbone.depth == 6
    assert not found["baseline, 6 blocks of 768"].graph.use
    assert {recipe.backbone.depth for recipe in found.values()} == {0, 6, 8}
    recipe = load_recipe("mini")
    sizes = [name.split(", ")[1] for name in backbones(recipe) if name.startswith("more")]
    cut = ["3 blocks of 192", "4 blocks of 192", "6 blocks of 192"]
    assert sizes == [*cut, "6 blocks of 96", "6 blocks of 48"]
    narrow = backbones(recipe)["baseline, 6 blocks of 48"]
    assert (narrow.backbone.name, narrow.backbone.depth) == ("mini_w48", 0)
    assert not narrow.graph.use
    half = backbones(changed(recipe, ["backbone.name=mini_w96"]))
    assert {name.split(" of ")[1] for name in half} == {"96", "48"}  # none that is wider
    cut = changed(recipe, ["backbone.depth=4"])
    assert backbones(cut)["more, 4 blocks of 192"] == cut
    assert backbones(cut)["more, 4 blocks of 96"].backbone.depth == 4
    own = changed(recipe, ["backbone.weights=mine.safetensors"])  # nothing is pretrained like it
    assert [name for name in backbones(own) if "192" not in name] == []


def test_each_part_of_our_recipe_is_left_out_alone_and_the_one_without_training_added_alone():
    recipe = load_recipe("mini-plus")
    found = studies.parts(recipe)
    assert not any("," in name for name in found)  # which would have another reference
    assert found["mini-plus"] == recipe and found["mini"] == load_recipe("mini")
    alone = [found[f"without {part}"] for part in studies.PARTS]
    assert len({str(each) for each in [recipe, *alone]}) == len(studies.PARTS) + 1
    edges = "evaluation.refinement"
    assert found["without maps along edges"] == changed(recipe, [f"{edges}=none"])
    assert found["mini with maps along edges"] == load_recipe("mini", [f"{edges}=par"])
    trained = {training_fingerprint(each) for each in found.values()}
    assert len(trained) == len(found) - 2  # these two are other masks of networks that are there


ROWS = [
    row("release", 0.50, seed=0, confusion_ratio=2.0),
    row("release", 0.40, seed=1, confusion_ratio=1.0),
    row("a", 0.53, seed=0, confusion_ratio=1.5),
    row("a", 0.44, seed=1, confusion_ratio=0.9),
    row("b", 0.48, seed=0, confusion_ratio=None),
    row("b", 0.99, "CAM", seed=0),
]
SIZES = {"baseline, 3": [0.1], "more, 3": [0.3], "baseline, 6": [0.4], "more, 6": [0.5]}
SIZES["more, 9"] = [1]
GAPS = {  # reference, mIoU of each trial by seed, gains
    "a seed that it lacks": ("release", {"release": [0.5], "a": [0.6, 0.6]}, [nan] * 2),
    "each size has its own": ("baseline", SIZES, [nan, 0.2, nan, 0.1, nan]),
    "no reference": ("elsewhere", {"release": [0.5, 0.4], "a": [0.53], "b": [0.48]}, [nan] * 3),
    "no rows": ("release", {}, []),
}


def test_gains_are_means_of_differences_within_a_seed_by_hand():
    table = compared([*ROWS, ROWS[0]], "release").set_index("trial")  # one of them noted twice
    assert table["seeds"].tolist() == [2, 2, 1]
    gains = table["miou_gain"].tolist() + table["confusion_ratio_gain"].tolist()
    assert gains == pytest.approx([nan, 0.035, -0.02, nan, -0.3, nan], nan_ok=True)
    spread = table["miou_gain_std"].tolist()
    assert spread == pytest.approx([nan, 0.005 * 2**0.5, nan], nan_ok=True)


def test_what_has_no_gain_is_recorded_as_null(tmp_path):
    """A key that is there and empty: the report of two runs tells it from one that is missing."""
    record_metrics(tmp_path, "variants", compared(ROWS, "release"))
    text = (tmp_path / "metrics" / "variants.json").read_text(encoding="utf-8")
    reference, _, once = json.loads(text, parse_constant=pytest.fail)  # neither NaN nor Infinity
    empty = {name for name, value in reference.items() if value is None}
    gains = {f"{score}_gain{end}" for score in ("miou", "confusion_ratio") for end in ("", "_std")}
    assert empty == gains and set(once) == set(reference)
    assert once["miou_std"] is once["confusion_ratio"] is None and once["seeds"] == 1


@pytest.mark.parametrize("name", GAPS)
def test_where_the_reference_was_not_trained_there_is_no_gain(name):
    reference, scored, gains = GAPS[name]
    rows = [row(trial, miou, seed=s) for trial in scored for s, miou in enumerate(scored[trial])]
    found = compared(rows, reference)["miou_gain"].tolist()
    assert found == pytest.approx(gains, nan_ok=True)


def test_the_answer_as_text_names_protocol_hardware_and_every_trial():
    found = {"study": "variants", "protocol": "emoji val", "training": "420 iterations of 8"}
    found |= {"hardware": ["cpu, 1 thread, fp32"], "rows": ROWS}
    lines = format_study(found).splitlines()
    assert lines[1:3] == ["emoji val; 420 iterations of 8", "trained on: cpu, 1 thread, fp32"]
    assert lines[-3].startswith("release") and "45.0 ± 7.1" in lines[-3]
    assert "+3.5 ± 0.7" in lines[-2] and lines[-1].split()[-3:] == ["48.0", "–", "-2.0"]
    titles = "LAM seeds image mAP % token mAP % mIoU % confusion against release"
    assert " ".join(lines[3].split()) == titles
    assert lines[-1].split()[:4] == ["b", "1", "90.0", "80.0"]
    ends = [lines[3].index("mIoU %") + 6, lines[-1].index("48.0") + 4]
    assert ends[0] == ends[1]  # in columns


@pytest.mark.parametrize("name", STUDIES)
def test_rows_older_than_image_and_token_map_are_shown_with_dashes(name):
    found = recorded(name)
    older = [{k: v for k, v in each.items() if not k.endswith("_map")} for each in found["rows"]]
    lines = format_study(found | {"rows": older}).splitlines()
    trials = {each["trial"] for each in older}
    assert sum(bool(re.search(r"–\s{2,}–", line)) for line in lines) == len(trials)


def test_unknown_studies_are_refused():
    with pytest.raises(InputError, match="'variant' is unknown; there are: conditions, variants"):
        recorded("variant")
    assert studies.records.study("variant") is None


def test_without_training_only_what_is_there_is_scored(monkeypatch):
    monkeypatch.setattr(studies.trials, "is_trained", lambda recipe: False)
    with pytest.raises(InputError, match="study variants: none of its networks is trained"):
        run_study("variants", load_recipe("mini"), [0], train=False)
    asked, record = [], dict.fromkeys(("backbone_sha256", "device", "precision"), "x")
    study = STUDIES["methods"]._replace(
        rows=lambda *_: ROWS, beside=lambda _: asked.append(1) or {}
    )
    monkeypatch.setitem(STUDIES, "methods", study)
    trained = SimpleNamespace(record=record | {"threads": 1})
    monkeypatch.setattr(studies, "train_or_load", lambda recipe: trained)
    for seeds, times in (({1}, 0), ({0, 1}, 1)):  # what stands beside is of seed 0
        monkeypatch.setattr(studies.trials, "is_trained", lambda recipe, s=seeds: recipe.seed in s)
        run_study("methods", load_recipe("mini"), [1], train=False)
        assert len(asked) == times


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_recorded_is_of_todays_recipe_and_trials(name):
    """A record that no longer belongs to the recipe would be shown as if it did."""
    found = recorded(name)
    recipe = anybodys(load_recipe(found["profile"]))
    assert found["training_fingerprint"] == training_fingerprint(recipe)
    known = {*STUDIES[name].trials(recipe), "dupl, student 2"}
    assert {each["trial"] for each in found["rows"]} <= known
    assert found["protocol"] and found["hardware"]
    assert re.fullmatch("[0-9a-f]{7,40}", found["commit"])  # of code that anybody can check out
    assert len({(r["trial"], r["seed"], r["map"]) for r in found["rows"]}) == len(found["rows"])
