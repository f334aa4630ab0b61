"""Switches: each changes its own row of paper against released code alone."""

import pytest

from more_lib.paper.switches import switches, trials
from more_lib.recipes.loading import changed, load_recipe, training_fingerprint
from more_lib.recipes.profiles import PROFILES
from tests.training.helpers import values_of


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["mini", "voc"])
def test_a_switch_changes_its_own_row_and_all_of_them_everything(profile):
    recipe = load_recipe(profile)
    before, rows = values_of(recipe), switches(recipe)
    changed_by = {
        name: {k for k, v in values_of(changed(recipe, row.overrides)).items() if v != before[k]}
        for name, row in rows.items()
    }
    single = {name: keys for name, keys in changed_by.items() if name != "all"}
    assert len(single) == 13 and all(single.values())
    mini = profile == "mini"  # which has the paper's side of these
    back = {"confident", "token_rate", "late_terms"} if mini else set()
    there = {name: keys for name, keys in single.items() if name not in back}
    assert changed_by["all"] == set().union(*there.values())
    # The row of the tails names the released K, which otherwise would follow the tails.
    alone = [keys - {"graph.num_neighbors"} for name, keys in single.items() if name != "neighbors"]
    assert sum(map(len, alone)) == len(set().union(*alone)) == len(alone)


@pytest.mark.slow
def test_k_is_half_of_the_patches_as_in_the_paper_and_the_first_trial_is_the_recipe():
    rows = switches(PROFILES["voc"])
    assert rows["neighbors"].overrides == ("graph.num_neighbors=392",)
    assert rows["neighbors"].released == "half of the classes: 10"
    assert rows["sampling"].released.endswith(" at random")
    assert "graph.num_neighbors=72" in switches(PROFILES["mini"])["neighbors"].overrides
    every = trials(PROFILES["voc"])["all"].graph
    assert (every.num_neighbors, every.tails, every.update) == (392, "patches", "plain")
    assert trials(PROFILES["voc"])["tails"].graph.num_neighbors == 10  # int(C / 2), as released
    assert trials(PROFILES["voc"])["all"].optimizer.late_terms == "absent"
    late = {name: switches(PROFILES[name])["late_terms"] for name in ("voc", "mini")}
    assert late["voc"].overrides == ("optimizer.late_terms=absent",)
    assert late["mini"].overrides == ("optimizer.late_terms=zero",)
    assert late["mini"][1:3] == late["voc"][2:0:-1] and late["voc"].paper == "left out"
    found = trials(recipe := load_recipe("mini"))
    assert found["release"] == recipe
    assert (found["token_rate"].optimizer.token_parameters, found["all"].optimizer) == (
        2,
        recipe.optimizer,
    )
    same = training_fingerprint(found["lam"])
    assert same == training_fingerprint(recipe)  # how LAM is drawn trains nothing anew
