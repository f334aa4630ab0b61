"""Studies: each switch changes its own row alone; rows are compared seed by seed."""

import pytest

from more_lib.paper import studies
from more_lib.paper.studies import STUDIES, backbones, compared, format_study, recorded, run_study
from more_lib.paper.switches import switches, trials
from more_lib.paper.trials import SCORES
from more_lib.recipes.loading import changed, load_recipe, training_fingerprint
from more_lib.recipes.profiles import PROFILES
from more_lib.system.errors import InputError
from tests.training.helpers import values_of


@pytest.mark.parametrize("profile", ["mini", "voc"])
def test_a_switch_changes_its_own_row_and_all_of_them_everything(profile):
    recipe = load_recipe(profile)
    before, rows = values_of(recipe), switches(recipe)
    changed_by = {
        name: {k for k, v in values_of(changed(recipe, row.overrides)).items() if v != before[k]}
        for name, row in rows.items()
    }
    single = {name: keys for name, keys in changed_by.items() if name != "all"}
    assert all(keys for keys in single.values())
    assert changed_by["all"] == set().union(*single.values())
    # The row of the tails names the released K, which otherwise would follow the tails.
    alone = [keys - {"graph.num_neighbors"} for name, keys in single.items() if name != "neighbors"]
    assert sum(map(len, alone)) == len(set().union(*alone)) == len(alone)


def test_k_is_half_of_the_patches_as_in_the_paper():
    assert "graph.num_neighbors=392" in switches(PROFILES["voc"])["neighbors"].overrides
    assert "graph.num_neighbors=72" in switches(PROFILES["mini"])["neighbors"].overrides
    every = trials(PROFILES["voc"])["all"].graph
    assert (every.num_neighbors, every.tails, every.update) == (392, "patches", "plain")
    assert trials(PROFILES["voc"])["tails"].graph.num_neighbors == 10  # int(C / 2), as released


def test_the_first_trial_is_the_recipe_itself():
    recipe = load_recipe("mini")
    assert trials(recipe)["release"] == recipe
    same = training_fingerprint(trials(recipe)["lam"])
    assert same == training_fingerprint(recipe)  # how LAM is drawn trains nothing anew


def test_backbones_are_cut_to_a_half_two_thirds_and_left_whole():
    found = backbones(PROFILES["voc"])
    assert list(found) == [
        f"{name}, {depth} blocks of 768" for depth in (6, 8, 12) for name in ("baseline", "more")
    ]
    assert found["more, 12 blocks of 768"] == PROFILES["voc"]  # no training of its own
    assert found["baseline, 6 blocks of 768"].backbone.depth == 6
    assert not found["baseline, 6 blocks of 768"].graph.use
    assert {recipe.backbone.depth for recipe in found.values()} == {0, 6, 8}


def test_a_shipped_backbone_is_also_set_beside_narrower_ones():
    recipe = load_recipe("mini")
    sizes = [name.split(", ")[1] for name in backbones(recipe) if name.startswith("more")]
    cut = ["3 blocks of 192", "4 blocks of 192", "6 blocks of 192"]
    assert sizes == [*cut, "6 blocks of 96", "6 blocks of 48"]
    narrow = backbones(recipe)["baseline, 6 blocks of 48"]
    assert (narrow.backbone.name, narrow.backbone.depth) == ("mini_w48", 0)
    assert not narrow.graph.use
    half = {
        name.split(" of ")[1] for name in backbones(changed(recipe, ["backbone.name=mini_w96"]))
    }
    assert half == {"96", "48"}  # none that is wider
    cut = changed(recipe, ["backbone.depth=4"])
    assert backbones(cut)["more, 4 blocks of 192"] == cut
    assert backbones(cut)["more, 4 blocks of 96"].backbone.depth == 4
    own = changed(recipe, ["backbone.weights=mine.safetensors"])  # nothing is pretrained like it
    assert [name for name in backbones(own) if "192" not in name] == []


def row(trial, seed, miou, ratio=1.0, kind="LAM"):
    scores = dict.fromkeys(SCORES, 0.5) | {"miou": miou, "confusion_ratio": ratio}
    return {"trial": trial, "seed": seed, "map": kind, **scores}


ROWS = [
    row("release", 0, 0.50, 2.0),
    row("release", 1, 0.40, 1.0),
    row("a", 0, 0.53, 1.5),
    row("a", 1, 0.44, 0.9),
    row("b", 0, 0.48, None),
    row("b", 0, 0.99, kind="CAM"),
]


SIZES = [
    ("baseline", "3 blocks", 0.1),
    ("more", "3 blocks", 0.3),
    ("baseline", "6 blocks", 0.4),
    ("more", "6 blocks", 0.5),
    ("more", "9 blocks", 0.5),
]


def test_gains_are_means_of_differences_within_a_seed_by_hand():
    base, a, b = compared(ROWS, "release")
    assert "miou_gain" not in base and base["seeds"] == 2
    assert a["miou_gain"] == pytest.approx(0.035)
    assert a["miou_gain_std"] == pytest.approx(0.005 * 2**0.5)
    assert a["confusion_ratio_gain"] == pytest.approx(-0.3)
    assert b["miou_gain"] == pytest.approx(-0.02) and "miou_gain_std" not in b
    assert b["confusion_ratio_gain"] is None


def test_a_seed_that_the_reference_lacks_gives_no_gain():
    rows = [row("release", 0, 0.5), row("a", 0, 0.6), row("a", 1, 0.6)]
    assert "miou_gain" not in compared(rows, "release")[1]


def test_trials_of_a_size_are_held_against_the_reference_of_that_size():
    rows = [row(f"{name}, {size}", 0, miou) for name, size, miou in SIZES]
    base_small, small, base_large, large, alone = compared(rows, "baseline")
    assert "miou_gain" not in base_small and "miou_gain" not in base_large
    assert small["miou_gain"] == pytest.approx(0.2)
    assert large["miou_gain"] == pytest.approx(0.1)
    assert "miou_gain" not in alone


def test_without_the_reference_there_are_no_gains():
    assert not any("miou_gain" in each for each in compared(ROWS, "elsewhere"))


def test_the_answer_as_text_names_protocol_hardware_and_every_trial():
    found = {
        "study": "variants",
        "protocol": "emoji val",
        "training": "420 iterations of 8",
        "hardware": ["cpu, 1 thread, fp32"],
        "rows": ROWS,
    }
    lines = format_study(found).splitlines()
    assert lines[1:3] == ["emoji val; 420 iterations of 8", "trained on: cpu, 1 thread, fp32"]
    assert lines[-3].startswith("release") and "45.0 ± 7.1" in lines[-3]
    assert "+3.5 ± 0.7" in lines[-2] and lines[-1].split()[-3:] == ["48.0", "–", "-2.0"]


def test_unknown_studies_are_refused():
    with pytest.raises(InputError, match="'variant' is unknown; there are: conditions, variants"):
        recorded("variant")


def test_a_record_is_shown_for_its_own_recipe_alone(monkeypatch):
    recipe = load_recipe("mini")
    found = {
        "study": "variants",
        "training_fingerprint": training_fingerprint(recipe),
        "rows": ROWS,
    }
    monkeypatch.setattr(studies, "recorded", lambda name: found)
    assert studies.recorded_for("variants", recipe) is found
    assert studies.recorded_for("variants", changed(recipe, ["lir.phi=1.0"]))["rows"] == []


def test_without_training_only_what_is_there_is_scored(monkeypatch):
    monkeypatch.setattr(studies, "is_trained", lambda recipe: False)
    with pytest.raises(InputError, match="study variants: none of its networks is trained"):
        run_study("variants", load_recipe("mini"), [0], train=False)


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_recorded_is_of_todays_recipe_and_trials(name):
    """A record that no longer belongs to the recipe would be shown as if it did."""
    found, recipe = recorded(name), load_recipe("mini")
    if not found["rows"]:
        assert set(found) == {"study", "rows"}
        return
    assert found["training_fingerprint"] == training_fingerprint(recipe)
    known = STUDIES[name].trials(recipe)
    assert {each["trial"] for each in found["rows"]} <= set(known)
    assert found["protocol"] and found["hardware"] and found["profile"] == "mini"
    assert len({(r["trial"], r["seed"], r["map"]) for r in found["rows"]}) == len(found["rows"])
