"""The authors' checkpoint through the command line: scored by protocols, and masks drawn by it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from more_lib.cli.commands import app
from more_lib.recipes.classes import VOC_CLASSES
from tests.evaluation.helpers import make_folder, make_tree
from tests.training.helpers import small_released_weights


@pytest.fixture
def checkpoint(tmp_path):
    """A narrow network under the released key names, of VOC's twenty classes, and an image."""
    torch.save(small_released_weights(len(VOC_CLASSES)), tmp_path / "more_voc.pth")
    Image.new("RGB", (64, 48), "green").save(tmp_path / "field.jpg")
    return tmp_path / "more_voc.pth"


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_it_is_scored_by_a_protocol_and_its_evaluation_is_kept(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("more_lib.evaluation.masks.crf_method", lambda device: "exact")
    tree, scores = make_tree(tmp_path / "tree"), tmp_path / "scores.json"
    command = ("evaluate", "--released", checkpoint, "--profile", "voc", "--set")
    command += (f"data.root={tree}", "--set", "data.workers=0", "--set", "evaluation.scales=[1.0]")
    command += ("--protocol", "lam-log")
    first = run(*command, "--json", scores)
    assert first.exit_code == 0, first.stderr
    assert "lam-log: voc val, LAM, true image labels" in first.stdout
    matrix = np.array(json.loads(scores.read_text())["lam-log"]["results"][0]["matrix"])
    assert matrix.shape == (21, 21) and matrix.sum() > 0
    (kept,) = (tmp_path / "more_data/released").glob("*/evaluation-*.json")
    written = kept.stat().st_mtime_ns
    assert run(*command).stdout == first.stdout
    assert kept.stat().st_mtime_ns == written  # found, not scored again


@pytest.mark.slow
def test_it_draws_masks(checkpoint, tmp_path):
    words = ("predict", tmp_path / "field.jpg", "--released", checkpoint, "--profile", "voc")
    done = run(*words, "--output", tmp_path / "out", "--set", "evaluation.scales=[1.0]")
    assert done.exit_code == 0, done.stderr
    assert Image.open(tmp_path / "out/masks/field.png").size == (64, 48)
    assert "mini" not in done.stdout


def test_other_classes_and_two_networks_are_refused_in_one_line(checkpoint, tmp_path):
    words = ("predict", tmp_path / "field.jpg", "--released", checkpoint)
    other = run(*words, "--profile", "coco", "--output", tmp_path / "out")
    assert "80 classes of profile coco" in other.stderr
    both = run("evaluate", "--released", checkpoint, "--checkpoint", tmp_path)
    assert "--checkpoint and --released" in both.stderr
    for result in (other, both):
        assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.stderr


def test_it_is_scored_on_a_folder_of_some_of_its_classes(checkpoint, tmp_path):
    cats = make_folder(tmp_path / "cats", "cat")
    command = ("evaluate", "--released", checkpoint, "--profile", "voc", "--data", cats)
    command += ("--set", "data.workers=0", "--set", "evaluation.scales=[1.0]")
    scored = run(*command, "--protocol", "lam-log", "--json", tmp_path / "scores.json")
    assert scored.exit_code == 0, scored.stderr
    saved = json.loads((tmp_path / "scores.json").read_text())["lam-log"]["results"][0]
    assert set(saved["absent"]) == set(VOC_CLASSES) - {"cat"}
    matrix, iou = np.array(saved["matrix"]), saved["scores"]["iou"]
    assert matrix.shape == (21, 21) and matrix.sum(1).nonzero()[0].tolist() == [0, 8]
    assert [number for number, value in enumerate(iou) if value is not None] == [0, 8]
