"""Trials: what is missing is trained side by side, seeds are put together rightly."""

import json
from math import nan
from unittest.mock import ANY

import pandas as pd
import pytest
import torch

from more_lib.paper import trials
from more_lib.paper.trials import over_seeds, train_side_by_side, with_seeds, with_spread
from more_lib.recipes.loading import changed
from more_lib.training.cache import cached_folder, train_or_load
from tests.evaluation.helpers import make_tree, recipe_with, trained_on
from tests.paper.helpers import row
from tests.training.helpers import small_recipe


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    return small_recipe(folder, "optimizer.iterations=2", "graph.use=false")


def test_seeds_of_a_trial_and_map_are_put_together_by_hand():
    rows = [row("a", 0.2), row("a", 0.9, "CAM"), row("b", 0.3), row("a", 0.4)]
    table = over_seeds(rows)
    first = table[["trial", "map", "seeds", "precision_std"]].to_numpy().tolist()
    assert first == [["a", "LAM", 2, 0], ["a", "CAM", 1, ANY], ["b", "LAM", 1, ANY]]
    assert table["miou"].tolist() == pytest.approx([0.3, 0.9, 0.3])
    assert table["miou_std"].tolist() == pytest.approx([0.02**0.5, nan, nan], nan_ok=True)
    assert not [name for name in over_seeds(rows[:3]) if name.endswith("_std")]  # one seed each
    assert over_seeds([]).empty
    table = over_seeds([row("a", 0.2), row("a", 0.4, precision=None)])  # one without a value
    assert table[["precision", "precision_std"]].isna().all(axis=None)
    assert table["miou"][0] == pytest.approx(0.3)


def test_means_are_written_with_their_deviation_in_the_unit_of_their_score():
    given = {"miou": 0.314, "miou_std": 0.006, "recall": None, "confusion_ratio": 0.5}
    given |= {"confusion_ratio_std": nan, "miou_gain": 0.01, "confusion_ratio_gain": -0.2}
    for each in (given, pd.Series(given)):
        texts = [with_spread(each, score) for score in given]
        assert texts[::2] == ["31.4 ± 0.6", "–", "–", "-0.20"] and texts[3] == "0.50"
        assert texts[5] == "+1.0"
        with pytest.raises(KeyError):  # a score that is not there is no score without a value
            with_spread(each, "precision")


def test_image_and_token_map_come_with_every_row_as_json_has_them(tmp_path):
    """Counted by hand in ``tests/evaluation/test_scoring.py``."""
    root, found = make_tree(tmp_path / "tree"), []
    for name, changes in (("named", ()), ("unnamed", ["loss.token_classification=0"])):
        (tmp_path / name).mkdir()
        for _ in ("scored", "kept"):
            trained = trained_on(recipe_with(root, *changes), tmp_path / name)
            found += trials.score_trained(name, trained, ("lam", "cam"))
    found = json.loads(json.dumps(found, allow_nan=False))
    assert [each["map"] for each in found] == ["LAM", "CAM"] * 4
    assert [each["image_map"] for each in found] == pytest.approx([11 / 12] * 8)
    tokens = [each["token_map"] for each in found]
    assert tokens == [pytest.approx(2 / 3)] * 4 + [None] * 4
    lam = over_seeds(found).set_index("map").loc["LAM"]
    assert [with_spread(each, "token_map") for _, each in lam.iterrows()] == ["66.7 ± 0.0", "–"]


def test_rows_of_older_records_show_a_dash():
    older = [{k: v for k, v in row("a", 0.2).items() if not k.endswith("_map")} for _ in "ab"]
    (table,) = over_seeds(older).to_dict("records")
    assert [with_spread(table, score) for score in trials.SCORES[-2:]] == ["–", "–"]
    assert with_spread(table, "miou") == "20.0 ± 0.0"


def test_every_recipe_comes_with_the_first_seed_before_any_with_the_next(start):
    other = changed(start, ["optimizer.iterations=3"])
    found = [(each.seed, each.optimizer.iterations) for each in with_seeds([start, other], (4, 7))]
    assert found == [(4, 2), (4, 3), (7, 2), (7, 3)]


@pytest.mark.slow
def test_side_by_side_trains_what_is_missing_and_no_more(start, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    wanted = with_seeds([start], (0, 1))
    assert train_side_by_side([*wanted, start]) == 2  # the same training is trained once
    for recipe in wanted:
        folder = cached_folder(recipe)
        assert (folder / "record.json").exists() and list(folder.glob("evaluation-*.json"))
        assert train_or_load(recipe).record["threads"] == 1
    assert train_side_by_side(wanted) == 0
    assert train_side_by_side([*wanted, *with_seeds([start], [2])]) == 0  # one takes all threads

    rows = trials.score_each({"it": start}, (0, 1), ("lam", "decoder"))
    assert rows[["trial", "seed", "map"]].to_numpy().tolist() == [
        ["it", seed, kind] for seed in (0, 1) for kind in ("LAM", "decoder")
    ]


def test_side_by_side_leaves_accelerators_and_single_threads_alone(start, monkeypatch):
    monkeypatch.setattr(trials, "ProcessPoolExecutor", None)
    both = with_seeds([start], (5, 6))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert train_side_by_side(both) == 0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert train_side_by_side(both) == 0
