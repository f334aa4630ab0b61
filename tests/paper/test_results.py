"""RESULTS.md is in step with what is recorded, and speaks of any run of mini."""

import copy
from pathlib import Path

import pytest

from more_lib.paper import results
from more_lib.paper.records import mini_run, study
from more_lib.paper.results import UNSEEDED, render
from more_lib.paper.studies import STUDIES

PAGE = Path(__file__).parents[2] / "notebooks" / "RESULTS.md"
SPREAD = {f"{score}_std": 0.0123 for score in ("miou", "precision", "recall", "confusion_ratio")}


@pytest.fixture
def record():
    """The committed record, with numbers of its own where a test reads them."""
    run = copy.deepcopy(mini_run()) | {"commit": "673899b0", "started": "2026-11-25T00:00:00"}
    run["device"] = {"type": "cpu", "name": "AMD EPYC", "count": 2}
    run["training_ahead"] = {"networks": 3, "seconds": 522}
    run["ablation"][0] |= {"miou": 0.256, "precision": 0.351, "recall": 0.523}
    run["ablation"][0] |= {"confusion_ratio": 5.85}
    for name, miou in (("paper-val", 0.5501), ("decoder-log", 0.4077)):
        run["protocols"][name] |= {"miou": miou, "scales": f"those of {name}"}
    run["notebooks"][6]["seconds"] = 108.0
    return run


def rows(page, title):
    """The cells of a section's tables, headers included."""
    section = page.split(f"## {title}\n\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [line[2:-2].split(" | ") for line in lines if not line.startswith("| ---")]


def test_the_page_is_in_step_with_the_record():
    """Write it with ``python -m more_lib report RUN --results``."""
    assert PAGE.read_text(encoding="utf-8") == render(mini_run())


def test_a_run_of_one_seed_whose_protocols_are_each_spelled_once(record):
    record["verdicts"][1] |= {"ours": "no | less"}
    record["ablation"][0] |= {"miou": 0.257, "confusion_ratio": None}
    page = render(record)
    intro = " ".join(page.partition("## ")[0].split())
    where = "EmojiVOC val, 400 images", "seed 0;", "2 CPU cores (AMD EPYC)", "`673899b`, 2026"
    assert all(part in intro for part in where)
    lam, cam, *_ = rows(page, "The ablation")[1:]
    assert lam == [lam[0], "LAM", "1", "25.7", "35.1", "52.3", "–", "41.6"]
    assert cam[1:3] == ["CAM", "1"] and cam[-1] == ""  # the paper's number is LAM's
    by_name = {row[0]: row[1:] for row in rows(page, "MoRe by protocol")}
    assert by_name["`paper-val`"] == ["LAM", "predicted", "those of paper-val", "dense", "55.01"]
    assert by_name["`decoder-log`"] == ["decoder", "none", "those of decoder-log", "none", "40.77"]
    link = "[06 Evaluation](06_evaluation.ipynb)"
    assert [link, "1.8"] in rows(page, "Minutes") and "trained 3 networks in 8.7" in page
    _, first, second, *_ = rows(page, "The paper's claims")
    assert first[-1] == "A; one seed: an indication" and "no \\" in second[2]
    where = record["verdicts"][0]["protocol"].partition("; ")[0]
    assert page.count(where) == 1 and f"- A: {where}" in page


def test_a_run_of_three_seeds_on_a_gpu_that_found_its_networks(record):
    record["ablation"] = [{**row, **SPREAD, "seeds": 3} for row in record["ablation"]]
    record |= {"device": {"type": "cuda", "name": "H100", "count": 1}, "training_ahead": {}}
    page = render(record)
    assert "seeds 0 to 2, mean ± SD" in page and "1 × H100" in page and "Before them" not in page
    scores = rows(page, "The ablation")[1][3:7]
    assert scores == ["25.6 ± 1.2", "35.1 ± 1.2", "52.3 ± 1.2", "5.85 ± 0.01"]


def test_studies_name_their_commit_and_share_their_protocol(record, monkeypatch):
    found = [study(name) for name in STUDIES]
    assert all(each["commit"] == UNSEEDED for each in found)
    assert len({(each["protocol"], each["training"]) for each in found}) == 1
    said = f"`{UNSEEDED}`, before the augmentation was seeded by image,"
    assert render(record).count(said) == len(STUDIES)
    monkeypatch.setattr(results, "recorded", lambda name: study(name) | {"commit": "abcdef0"})
    assert render(record).count("Trained at commit `abcdef0`\non cpu") == len(STUDIES)
