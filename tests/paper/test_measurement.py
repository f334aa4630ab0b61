"""What a run sets beside the paper's tables: every score of its own protocol, fit for JSON."""

import json
from dataclasses import replace

import pytest

from more_lib.evaluation.protocols import named_protocols
from more_lib.evaluation.scoring import evaluate_or_load, evaluate_protocols
from more_lib.paper import measurement
from more_lib.paper.ablation import condition
from more_lib.paper.claims import verdicts
from more_lib.paper.measurement import costs, measure
from more_lib.paper.tables import table1, table2, table3, table4, table5
from more_lib.training.cache import train_or_load
from tests.training.helpers import small_recipe

NAMES = ("baseline", "more")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A data folder for all tests of this module: networks are trained once."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(autouse=True)
def kept_data_folder(own_data_folder, kept, monkeypatch):
    monkeypatch.setenv("MORE_DATA", str(kept))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    return small_recipe(folder, "optimizer.iterations=2", "evaluation.scales=[1.0]")


@pytest.fixture(scope="module")
def found(recipe, kept):
    with pytest.MonkeyPatch.context() as patch:  # a module's fixture comes before a test's own
        patch.setenv("MORE_DATA", str(kept))
        patch.setattr(measurement, "can_refine", lambda: False)
        # Scores of one network are those of the first seed, whatever the recipe's.
        return measure(replace(recipe, seed=5), NAMES, (0,), train_split=True)


@pytest.mark.slow
def test_scores_are_the_evaluations_and_protocols_that_need_crf_are_left_out(found, recipe):
    assert list(found["protocols"]) == ["decoder-log", "lam-log", "cam-log"]
    assert list(found["pseudo_labels"]) == ["lam-train", "cam-train"]
    assert found["pseudo_labels"]["lam-train"]["split"] == "train"
    assert found["protocols"]["lam-log"]["split"] == "val"
    assert "no CRF" in found["protocols"]["lam-log"]["protocol"]
    for name in NAMES:
        evaluation = evaluate_or_load(train_or_load(condition(recipe, name)))
        result = evaluation.result("lam")
        row = found["ablation"].set_index(["condition", "map"]).loc[(name, "LAM")]
        assert row["miou"] == pytest.approx(result.scores.miou)
        assert row["token_map"] == pytest.approx(evaluation.token_map)
        for k, title in enumerate(("background", *recipe.data.classes)):
            ours = found["classes"][name][title]["iou"]
            assert ours is None or ours == pytest.approx(result.scores.iou[k])
    network = train_or_load(condition(recipe, "more"))
    (log,) = evaluate_protocols(network, list(named_protocols(["lam-log"], recipe).values()))
    miou = log.results[0].scores.miou
    assert found["protocols"]["lam-log"]["miou"] == pytest.approx(miou, abs=1e-4)
    token_map = found["protocols"]["lam-log"]["token_map"]
    assert token_map == pytest.approx(log.token_map, abs=1e-4)


@pytest.mark.slow
def test_tables_and_verdicts_can_be_made_of_it(found, recipe):
    spent = {name: costs(train_or_load(condition(recipe, name))) for name in NAMES}
    json.dumps(spent, allow_nan=False)
    assert spent["more"]["iterations"] == 2 and spent["more"]["parameters"] > 3e6
    assert all(len(table(found)) for table in (table1, table2, table3, table4))
    assert len(table5(spent)) == 8
    assert {"shown", "not shown"} & set(verdicts(found, spent, {})["verdict"])
    older = train_or_load(condition(recipe, "more"))
    del older.record["peak_memory_gb"]
    assert costs(older)["peak_memory_gb"] is None
