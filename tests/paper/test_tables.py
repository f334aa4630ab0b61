"""The paper's tables: what is printed stays printed, ours stands beside its own protocol."""

import pytest

from more_lib.evaluation.results import PER_CENT
from more_lib.paper.published import published
from more_lib.paper.tables import table1, table2, table3, table4, table5


def score(miou, protocol="a protocol", split="val"):
    return {"miou": miou, "protocol": protocol, "split": split}


def ablation_row(condition, miou, kind="LAM", **others):
    scores = {"miou": miou, "precision": 0.6, "recall": 0.7, "confusion_ratio": 0.5}
    return {"condition": condition, "map": kind, "seeds": 1, **scores, **others}


@pytest.fixture
def found():
    return {
        "profile": "mini",
        "dataset": "emoji",
        "backbone": "mini",
        "protocols": {"paper-val": score(0.55), "lam-log": score(0.56)},
        "pseudo_labels": {"lam-train": score(0.57, "seeds"), "lam-train-crf": score(0.58, "masks")},
        "ablation": [
            ablation_row("baseline", 0.2),
            ablation_row("baseline", 0.9, "CAM"),
            ablation_row("more", 0.5, miou_std=0.01, seeds=3),
        ],
        "classes": {
            "baseline": {"background": {"iou": 0.8, "confusion_ratio": 0.1}},
            "more": {
                "background": {"iou": 0.9, "confusion_ratio": 0.1},
                "bird": {"iou": 0.4, "confusion_ratio": 1.5},
                "cow": {"iou": 0.3, "confusion_ratio": None},
            },
        },
    }


def by(rows, key):
    return {row[key]: row for row in rows}


def test_table1_sets_ours_beside_the_papers_and_gives_no_difference_on_other_images(found):
    rows = by(table1(found), "method")
    assert len(rows) == len(published("table1"))
    lam = rows["MoRe-LAM"]
    assert (lam["paper_seed_miou"], lam["paper_mask_miou"]) == (0.77, 0.8)
    assert (lam["our_seed_miou"], lam["our_mask_miou"]) == (0.57, 0.58)
    assert (
        lam["difference_seed_miou"] is None
        and lam["protocol"] == "seeds; mask: background 1 - largest map, CRF"
    )
    assert rows["MoRe-CAM"]["our_seed_miou"] is None
    assert rows["MoRe-CAM"]["protocol"] == "not run here"
    assert rows["ToCo"]["our_seed_miou"] is None and rows["ToCo"]["protocol"] == ""


def test_differences_are_given_on_the_papers_own_images_alone(found):
    found["dataset"] = "voc"
    assert by(table2(found), "method")["MoRe, this run, paper-val"][
        "difference_miou"
    ] == pytest.approx(0.55 - 0.764)
    assert by(table2(found), "method")["MoRe, this run, lam-log"][
        "difference_miou"
    ] == pytest.approx(0.56 - 0.7336)
    lam = by(table1(found), "method")["MoRe-LAM"]
    assert lam["difference_seed_miou"] is None  # scored on val: Table 1 is of training images
    for row in found["pseudo_labels"].values():
        row["split"] = "train"
    lam = by(table1(found), "method")["MoRe-LAM"]
    assert lam["difference_mask_miou"] == pytest.approx(0.58 - 0.80)


def test_table2_has_the_logs_and_says_what_was_not_run(found):
    rows = by(table2(found), "method")
    assert rows["MoRe"]["voc_test_miou"] == 0.75 and rows["1Stage"]["coco_val_miou"] is None
    assert rows["released log, decoder"]["voc_val_miou"] == pytest.approx(0.72122)
    assert rows["released log, LAM"]["coco_val_miou"] == pytest.approx(0.45228)
    assert rows["MoRe, this run, paper-val"]["our_miou"] == 0.55
    assert rows["MoRe, this run, decoder-val"]["our_miou"] is None
    assert rows["MoRe, this run, decoder-val"]["protocol"] == "not run here"


def test_table3_gains_are_against_each_sides_own_baseline(found):
    rows = by(table3(found), "condition")
    more = rows["MoRe: LIR and GCR"]
    assert more["paper_gain_miou"] == pytest.approx(0.348)
    assert more["our_gain_miou"] == pytest.approx(0.3)
    assert (more["seeds"], more["our_deviation_of_miou"]) == (3, 0.01)
    assert more["released_log_miou"] == pytest.approx(0.7336)
    assert rows["without CRE"]["paper_miou"] == 0.65
    assert rows["without CRE"]["our_miou"] is rows["without CRE"]["our_gain_miou"] is None
    assert rows["GCR without LIR"]["paper_gain_miou"] is None
    assert rows["baseline: neither LIR nor GCR"]["our_miou"] == 0.2  # LAM's, not CAM's


def test_table4_joins_the_classes_of_both_and_the_average(found):
    rows = by(table4(found), "class")
    assert "background" not in rows and list(rows)[-1] == "average"
    assert rows["bird"]["paper_more_iou"] == pytest.approx(0.917)
    assert rows["bird"]["our_more_confusion"] == 1.5 and rows["bird"]["our_baseline_iou"] is None
    assert rows["cow"]["paper_toco_iou"] is None and rows["cow"]["our_more_confusion"] is None
    assert rows["boat"]["our_more_iou"] is None
    assert rows["average"]["our_more_iou"] == 0.5
    assert rows["average"]["paper_toco_confusion"] == 0.32


def test_table5_puts_our_costs_under_the_papers_with_their_hardware():
    cost = {
        "minutes": 4.5,
        "milliseconds_an_iteration": 640.0,
        "peak_memory_gb": 1.1,
        "device": "cpu (x86_64)",
        "threads": 1,
        "precision": "fp32",
        "iterations": 420,
        "processes": 1,
        "batch_size": 8,
        "parameters": 3_000_000,
    }
    *printed, ours = table5({"more": cost})
    assert len(printed) == 6 and printed[-1]["ms_an_iteration"] == 945.0
    assert ours["minutes"] == 4.5 and "threads: 1" in ours["where"] and "420" in ours["where"]


def test_shares_end_so_that_the_report_shows_them_in_per_cent(found):
    for rows in (table1(found), table2(found), table3(found)):
        for row in rows:
            for name, value in row.items():
                if isinstance(value, float) and name.rpartition("_")[2] in PER_CENT:
                    assert abs(value) <= 1
