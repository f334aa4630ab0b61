"""The ablation changes what a condition names and nothing else, and adds seeds up rightly."""

import dataclasses
from math import nan
from statistics import mean, stdev

import pytest

from more_lib.evaluation.protocols import MAP_NAMES
from more_lib.evaluation.scoring import evaluate_or_load
from more_lib.method.model import MoRe
from more_lib.method.objective import Objective
from more_lib.paper.ablation import CONDITIONS, condition, plain, run
from more_lib.paper.trials import MISSED, SCORES
from more_lib.recipes.loading import changed, load_recipe
from more_lib.recipes.profiles import PROFILES
from more_lib.system.errors import InputError
from more_lib.training.cache import train_or_load
from tests.training.helpers import small_recipe, values_of

MAPS = ("lam", "decoder")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    short = "optimizer.iterations=3 schedule.segmentation=1 schedule.final_cam=1"
    return small_recipe(tmp_path_factory.mktemp("start"), *short.split())


PARTS = {  # graph, confident relation, uncertain relation
    "baseline": (False, False, False),
    "lir": (False, True, True),
    "gcr": (True, False, False),
    "without_cre": (True, False, True),
    "without_ure": (True, True, False),
    "more": (True, True, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("profile", [p for p in PROFILES if PROFILES[p].method == "more"])
@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_has_the_parts_that_its_name_says_and_changes_nothing_else(profile, name):
    whole = load_recipe(profile)
    recipe = condition(whole, name)
    graph, confident, uncertain = PARTS[name]
    # The published COCO log has no uncertain relation to leave out.
    uncertain &= whole.loss.uncertain_relation > 0
    relations = recipe.loss.confident_relation > 0, recipe.loss.uncertain_relation > 0
    assert (recipe.graph.use, *relations) == (graph, confident, uncertain)
    keys = {override.partition("=")[0] for override in CONDITIONS[name].overrides}
    before, after = values_of(whole), values_of(recipe)
    assert {key for key in before if before[key] != after[key]} <= keys
    # Else no loss could make the baseline's equal tokens differ.
    assert name != "baseline" or recipe.loss.token_classification > 0


def test_more_is_the_recipe_plain_has_image_labels_alone_and_an_unknown_one_is_refused(start):
    with pytest.raises(InputError, match="'lor' is unknown; there are: baseline, lir"):
        run(start, ["lor"])  # before anything trains
    assert condition(start, "more") == start
    assert MoRe.from_recipe(condition(start, "baseline")).graph is None
    recipe = plain(changed(start, ["loss.dense_energy=0.05"]))
    assert not Objective(recipe).active(10**9)  # nothing that learns from masks, ever
    assert recipe.loss.token_classification > 0 and not recipe.graph.use


@pytest.mark.slow
def test_rows_hold_means_and_standard_deviations_of_separate_evaluations(start):
    names, seeds = ("baseline", "more"), (0, 1)
    table = run(start, names, seeds, MAPS)
    assert table[["condition", "title", "map", "seeds"]].to_numpy().tolist() == [
        [name, CONDITIONS[name].title, MAP_NAMES[kind], 2] for name in names for kind in MAPS
    ]
    cells = iter(table.to_dict("records"))
    for name in names:
        alone = [dataclasses.replace(condition(start, name), seed=seed) for seed in seeds]
        trained = [train_or_load(each) for each in alone]
        assert all(each.loaded for each in trained)
        for kind, labels in zip(MAPS, ("true", "none"), strict=True):
            found = [evaluate_or_load(each) for each in trained]
            row = next(cells)
            for score in (*SCORES, MISSED):
                values = [
                    getattr(each, score)
                    if score.endswith("_map")
                    else each.result(kind, labels).scores.summary()[score]
                    for each in found
                ]
                wanted = (mean(values), stdev(values)) if None not in values else (nan, nan)
                assert (row[score], row[f"{score}_std"]) == pytest.approx(wanted, nan_ok=True)

    single = run(start, ["more"], [1], MAPS)  # from the cache
    assert set(single["seeds"]) == {1} and set(SCORES) <= set(single)
    assert not [name for name in single if name.endswith("_std")]
