"""RESULTS.md is in step with what is recorded, and speaks of any run of mini."""

import copy
from pathlib import Path

import pytest

from more_lib.paper import results, rivals
from more_lib.paper.published import published
from more_lib.paper.records import mini_run, study
from more_lib.paper.results import UNSEEDED, render
from more_lib.paper.studies import STUDIES

PAGE = Path(__file__).parents[2] / "notebooks" / "RESULTS.md"
NAMED = {"image_map": 0.91, "token_map": None}
SPREAD = {f"{score}_std": 0.0123 for score in ("miou", "precision", "recall", "confusion_ratio")}


@pytest.fixture
def record():
    """The committed record, with numbers of its own where a test reads them."""
    run = copy.deepcopy(mini_run()) | {"commit": "673899b0", "started": "2026-11-25T00:00:00"}
    run["device"] = {"type": "cpu", "name": "AMD EPYC", "count": 2}
    run["training_ahead"] = {"networks": 3, "seconds": 522}
    run["ablation"][0] |= {"miou": 0.256, "precision": 0.351, "recall": 0.523}
    run["ablation"][0] |= {"confusion_ratio": 5.85, "image_map": 0.925, "token_map": 0.8}
    for name, miou in (("paper-val", 0.5501), ("decoder-log", 0.4077)):
        run["protocols"][name] |= {"miou": miou, "scales": f"those of {name}", **NAMED}
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
    assert lam == [lam[0], "LAM", "1", "92.5", "80.0", "25.7", "35.1", "52.3", "–", "41.6"]
    assert cam[1:3] == ["CAM", "1"] and cam[-1] == ""  # the paper's number is LAM's
    by_name = {row[0]: row[1:] for row in rows(page, "MoRe by protocol")}
    assert by_name["`paper-val`"] == [
        *("LAM", "predicted", "those of paper-val", "dense", "91.0", "–", "55.01")
    ]
    assert by_name["`decoder-log`"][-4:] == ["none", "91.0", "–", "40.77"]
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
    scores = rows(page, "The ablation")[1][5:9]
    assert scores == ["25.6 ± 1.2", "35.1 ± 1.2", "52.3 ± 1.2", "5.85 ± 0.01"]


def test_records_from_before_image_and_token_map_show_dashes(record):
    for row in (*record["ablation"], *record["protocols"].values()):
        row.pop("image_map", None), row.pop("token_map", None)
    page = render(record)
    header, *ablation = rows(page, "The ablation")
    assert header[3:5] == ["image mAP %", "token mAP %"]
    assert all(row[3:5] == ["–", "–"] for row in ablation)
    assert all(row[5:7] == ["–", "–"] for row in rows(page, "MoRe by protocol")[1:])


def test_studies_show_what_their_rows_have(record, monkeypatch):
    found = study("conditions")
    named = [each | {"image_map": 0.95, "token_map": 0.45} for each in found["rows"]]
    monkeypatch.setattr(results, "recorded", lambda name: study(name) | {"rows": named})
    monkeypatch.setattr(results, "trial_titles", lambda name, recipe: {"more": name})
    studied = [row for row in rows(render(record), "Over several seeds") if row[0] in STUDIES]
    assert studied and all(row[2].startswith("95.0") for row in studied)
    assert all(row[3].startswith("45.0") for row in studied)


@pytest.mark.slow
def test_studies_name_their_commit_and_share_their_protocol(record, monkeypatch):
    of_mini = [name for name in STUDIES if name != "photographs"]
    found = [study(name) for name in of_mini]
    (shared,) = {each["protocol"] for each in found if each["study"] != "plus"}
    assert study("plus")["protocol"] == f"{shared}, maps refined by PAR"
    page, older = render(record), [each for each in found if each["commit"] == UNSEEDED]
    for each in found:
        assert f"on cpu (x86_64), 1 thread, bf16, {each['training']}. Differences" in page
    said = f"`{UNSEEDED}`, before the augmentation was seeded by image,"
    assert page.count(said) == len(older) > 0
    monkeypatch.setattr(results, "recorded", lambda name: study(name) | {"commit": "abcdef0"})
    assert render(record).count("Trained at commit `abcdef0`\non cpu") == len(STUDIES)


def test_rivals_stand_beside_more_with_their_costs_and_what_was_published(record):
    found = study("methods")
    tables = rows(render(record), "Rivals")
    starts = [place for place, row in enumerate(tables) if row[0] == "method"]
    compared, costs, numbers = (
        tables[first:last] for first, last in zip(starts, [*starts[1:], None], strict=True)
    )
    assert compared[0] == list(rivals.comparison(found))
    assert {row[0] for row in compared[1:]} == {
        rivals.TITLES[row["trial"]] for row in found["rows"]
    }
    assert {row[0]: row[1] for row in costs[1:]} == {
        rivals.TITLES[name]: str(cost["cpu_minutes"]) for name, cost in found["costs"].items()
    }
    assert ["ToCo, ViT-B", "VOC 2012", "val", "71.1", "decoder"] == numbers[1][:5]
    assert len(numbers) == 1 + len(published("rivals"))
