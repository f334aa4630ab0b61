"""The study of methods: the rivals follow the recipe, students are told apart, records draw."""

import json

import numpy as np
import pytest

from more_lib.paper import rivals
from more_lib.paper.studies import format_study, run_study
from more_lib.recipes import PROFILES, changed, load_recipe
from tests.paper.helpers import row
from tests.training.helpers import small_recipe


def test_rivals_are_set_to_what_the_recipe_sets_and_stay_themselves_otherwise():
    plain = rivals.trials(load_recipe("mini"))
    assert list(plain) == ["baseline", "more", "toco", "dupl", "mctformer"]
    assert {name: plain[name] for name in rivals.RIVALS} == {n: PROFILES[n] for n in rivals.RIVALS}
    given = ["optimizer.iterations=7", "data.root=/my data/EmojiVOC", "data.val_split=dev"]
    own = rivals.trials(changed(load_recipe("mini"), given))
    for name in rivals.RIVALS:
        assert own[name] == changed(PROFILES[name], given)
    assert not own["baseline"].graph.use and own["more"] == changed(PROFILES["mini"], given)


ROWS = [
    row("more", 0.50, seed=0),
    row("more", 0.40, seed=1),
    row("more", 0.45, "CAM", seed=0),
    row("more", 0.44, "CAM", seed=1),
    row("more", 0.30, "decoder", seed=0),
    row("more", 0.30, "decoder", seed=1),
    row("toco", 0.53, "CAM", seed=0),
    row("toco", 0.45, "CAM", seed=1),
    row("toco", 0.60, "auxiliary CAM", seed=0),
    row("toco", 0.20, "auxiliary CAM", seed=1),
    row("toco", 0.20, "decoder", seed=0),
    row("toco", 0.24, "decoder", seed=1),
    row("mctformer", 0.10, "seed", seed=0),
    row("mctformer", 0.10, "CAM", seed=0),  # as good: the first is taken
    row("mctformer", 0.10, "CAM", seed=1),
    row("mctformer", 0.10, "seed", seed=1),
]


def test_the_best_map_is_best_on_average_and_differences_are_paired():
    table = rivals.comparison({"rows": ROWS}).set_index("method")
    assert table["best map"].to_dict() == {"MoRe": "LAM", "ToCo": "CAM", "MCTformer+": "seed"}
    assert table.loc["ToCo", "mIoU %"] == "49.0 ± 5.7"
    assert table.loc["ToCo", "against MoRe"] == "+4.0 ± 1.4"
    assert table.loc["ToCo", "decoder against MoRe"] == "-8.0 ± 2.8"
    assert table.loc["MoRe", "against MoRe"] == table.loc["MCTformer+", "decoder mIoU %"] == "–"


def test_a_recorded_map_is_the_map_at_a_coarser_grid_and_a_mask_the_mask():
    values = np.linspace(0, 255, 96 * 96).reshape(96, 96)
    coarse = rivals._unpacked(rivals._packed(values))
    assert coarse.shape == (48, 48) and abs(coarse - values[::2, ::2]).max() < 3
    mask = (values // 60).astype(np.uint8)
    assert np.array_equal(rivals._unpacked(rivals._packed(mask, whole=True)), mask)


COSTS = {"cpu_minutes": 2.5, "memory_gb": 1.5, "parameters": 3_000_000, "forwards": 6.0}
COSTS["encoded"] = [2.5, 1.0]


def test_costs_are_the_trainings_and_the_steps():
    small = "data.crop_size=32 optimizer.batch_size=2 backbone.decoder_width=8".split()
    cost = rivals._step(load_recipe("mctformer", small))
    assert cost.keys() == COSTS.keys() - {"cpu_minutes"} and cost["encoded"] == [1, 0]
    table = rivals.cost_table({"costs": {"toco": COSTS}})
    assert table.loc[0].tolist() == ["ToCo", 2.5, 1.5, 3.0, 6.0, 2.5, 1.0]


@pytest.mark.slow
def test_the_study_trains_scores_and_records_what_its_figures_draw(tmp_path, monkeypatch):
    monkeypatch.setattr(rivals, "PICTURES", 2)
    monkeypatch.setattr(rivals, "_costs", lambda trained, recipe: COSTS)
    recipe = small_recipe(tmp_path)
    short = """optimizer.iterations=2 optimizer.batch_size=2 optimizer.warmup_iterations=0
    schedule.segmentation=1 dupl.filter_from=1 dupl.least=10 toco.num_crops=2
    toco.head=[16,8,32] data.val_split=train evaluation.scales=[1]"""
    found = run_study("methods", changed(recipe, short.split()), [0])
    found = json.loads(json.dumps(found))
    drawn = {(each["trial"], each["map"]) for each in found["rows"]}
    assert {
        ("dupl, student 2", "decoder"),
        ("mctformer", "seed"),
        ("toco", "auxiliary CAM"),
    } < drawn
    first, second = (
        [each["miou"] for each in found["rows"] if each["trial"] == name]
        for name in ("dupl", "dupl, student 2")
    )
    assert first != second  # the heads of students differ from the start
    pictures = rivals.shown(found)
    assert len(pictures.ids) == len(pictures.masks["dupl"]) == len(pictures.classes) == 2
    assert pictures.maps["mctformer"].keys() == {"attention", "cam", "root", "seed"}
    assert 0.9 < max(values.max() for values in pictures.maps["more"]["lam"]) <= 1
    tokens = rivals.token_maps(found)
    assert tokens.keys() == {"baseline", "mctformer", "more"}
    assert tokens["more"].points.shape == (tokens["more"].separation.tokens, 2)
    text = format_study(found)
    assert "DuPL, second student" in text and "batches encoded" in text
