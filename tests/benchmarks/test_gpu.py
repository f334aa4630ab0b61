"""The calls for a GPU keep what is done, whatever fails or takes too long."""

import json

import torch

from more_lib.method.model import MoRe
from more_lib.recipes.loading import load_recipe
from tests.benchmarks import gpu

SMALL = ["data.crop_size=32", "optimizer.batch_size=1", "backbone.decoder_width=8"]


def test_each_part_is_kept_and_a_failing_or_late_one_is_told(tmp_path, capsys):
    parts = gpu.Parts(tmp_path / "said.json", minutes=1)
    kept = []
    parts.run("first", lambda: {"loss": float("nan"), "size": torch.Size([2])})
    kept.append(json.loads(parts.file.read_text()))
    parts.run("broken", lambda: 1 / 0)
    parts.run("third", lambda: 3)
    parts.end = 0
    parts.run("late", lambda: 4)
    kept.append(json.loads(parts.file.read_text()))
    assert kept[0]["first"]["said"] == {"loss": "NaN", "size": [2]}
    assert kept[1]["broken"]["error"] == "ZeroDivisionError: division by zero"
    assert kept[1]["third"]["said"] == 3 and "no time" in kept[1]["late"]["left out"]
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == list(kept[1])
    assert [file.name for file in tmp_path.iterdir()] == ["said.json"]


def test_a_step_is_timed_in_any_precision_and_patches_are_taken_back(monkeypatch):
    recipe, build = load_recipe("mini", SMALL), MoRe.from_recipe
    seen = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block: seen.append(block))
    said = gpu.step(recipe, "tf32", True, 1)
    assert len(seen) == 6 and said["TFLOP/s"] > 0 and said["precision"] == "tf32"
    assert "tf32" not in gpu.step_cost.AUTOCAST and MoRe.from_recipe == build
