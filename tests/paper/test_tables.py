"""The paper's tables: what is printed stays printed, ours stands beside its own protocol."""

import pandas as pd
import pytest

from more_lib.evaluation.results import PER_CENT
from more_lib.paper.frames import readable
from more_lib.paper.published import published
from more_lib.paper.tables import table1, table2, table3, table4, table5
from tests.paper.helpers import row


def score(miou, protocol="a protocol", split="val", token_map=None):
    named = {"image_map": 0.9, "token_map": token_map}
    return {"miou": miou, "protocol": protocol, "split": split, **named}


@pytest.fixture
def found():
    ablation = [row("baseline", 0.2, token_map=0.7), row("baseline", 0.9, "CAM")]
    ablation += [row("more", 0.5, precision=0.6, recall=0.7, miou_std=0.01, seeds=3)]
    background = {"background": {"iou": 0.8, "confusion_ratio": 0.1}}
    bird, cow = {"iou": 0.4, "confusion_ratio": 1.5}, {"iou": 0.3, "confusion_ratio": None}
    return {
        "profile": "mini",
        "dataset": "emoji",
        "backbone": "mini",
        "protocols": {"paper-val": score(0.55, token_map=0.6), "lam-log": score(0.56)},
        "pseudo_labels": {"lam-train": score(0.57, "seeds"), "lam-train-crf": score(0.58, "masks")},
        "ablation": pd.DataFrame(ablation),
        "classes": {"baseline": background, "more": {**background, "bird": bird, "cow": cow}},
    }


def missing(row, *columns):
    return row[list(columns)].isna().all()


def test_table1_sets_ours_beside_the_papers_and_gives_no_difference_on_other_images(found):
    rows = table1(found).set_index("method")
    assert len(rows) == len(published("table1"))
    lam, cam, toco = (rows.loc[name] for name in ("MoRe-LAM", "MoRe-CAM", "ToCo"))
    assert lam[["paper_seed_miou", "paper_mask_miou"]].tolist() == [0.77, 0.8]
    assert lam[["our_seed_miou", "our_mask_miou"]].tolist() == [0.57, 0.58]
    assert lam["protocol"] == "seeds; mask: background 1 - largest map, CRF"
    assert missing(lam, "difference_seed_miou", "difference_mask_miou")
    assert missing(cam, "our_seed_miou") and cam["protocol"] == "not run here"
    assert missing(toco, "our_seed_miou") and toco["protocol"] == ""


def test_differences_are_given_on_the_papers_own_images_alone(found):
    found["dataset"] = "voc"
    ours = table2(found).set_index("method")["difference_miou"]
    assert ours["MoRe, this run, paper-val"] == pytest.approx(0.55 - 0.764)
    assert ours["MoRe, this run, lam-log"] == pytest.approx(0.56 - 0.7336)
    lam = table1(found).set_index("method").loc["MoRe-LAM"]
    assert missing(lam, "difference_seed_miou")  # scored on val: Table 1 is of training images
    for each in found["pseudo_labels"].values():
        each["split"] = "train"
    lam = table1(found).set_index("method").loc["MoRe-LAM"]
    assert lam["difference_mask_miou"] == pytest.approx(0.58 - 0.80)


def test_table2_has_the_logs_and_says_what_was_not_run(found):
    rows = table2(found).set_index("method")
    assert rows.loc["MoRe", "voc_test_miou"] == 0.75
    assert missing(rows.loc["1Stage"], "coco_val_miou")
    assert rows.loc["released log, decoder", "voc_val_miou"] == 0.72122
    assert rows.loc["released log, LAM", "coco_val_miou"] == 0.45228
    assert rows.loc["MoRe, this run, paper-val", "our_miou"] == 0.55
    other = rows.loc["MoRe, this run, decoder-val"]
    assert missing(other, "our_miou") and other["protocol"] == "not run here"


def test_table3_gains_are_against_each_sides_own_baseline(found):
    table = table3(found)
    rows = table.set_index("condition")
    more = rows.loc["MoRe: LIR and GCR"]
    gains = more[["paper_gain_miou", "our_gain_miou", "released_log_miou"]].tolist()
    assert gains == [pytest.approx(0.348), pytest.approx(0.3), 0.7336]
    assert (more["seeds"], more["our_deviation_of_miou"]) == (3, 0.01)
    assert rows.loc["without CRE", "paper_miou"] == 0.65
    assert missing(rows.loc["without CRE"], "our_miou", "our_gain_miou", "seeds")
    assert missing(rows.loc["GCR without LIR"], "paper_gain_miou")
    assert rows.loc["baseline: neither LIR nor GCR", "our_miou"] == 0.2  # LAM's, not CAM's
    assert type(table.to_dict("records")[0]["seeds"]) is int  # beside missing ones


def test_table4_joins_the_classes_of_both_and_the_average(found):
    rows = table4(found).set_index("class")
    assert "background" not in rows.index and rows.index[-1] == "average"
    assert rows.loc["bird", ["paper_more_iou", "our_more_confusion"]].tolist() == [0.917, 1.5]
    assert missing(rows.loc["bird"], "our_baseline_iou")
    assert missing(rows.loc["cow"], "paper_toco_iou", "our_more_confusion")
    assert missing(rows.loc["boat"], "our_more_iou")
    average = rows.loc["average", ["our_more_iou", "our_baseline_iou", "paper_toco_confusion"]]
    assert average.tolist() == [0.5, 0.2, 0.32]


NAMING = ["our_image_map", "our_token_map"]


def test_beside_what_is_ours_stands_how_well_classes_are_named(found):
    for table, name, empty in (
        (table1, "MoRe-LAM", "ToCo"),
        (table2, "MoRe, this run, lam-log", "MoRe"),
    ):
        rows = table(found).set_index("method")[NAMING]
        assert rows.loc[name, NAMING[0]] == 0.9 and missing(rows.loc[name], NAMING[1])
        assert missing(rows.loc[empty], *NAMING)
    assert table2(found).set_index("method").loc["MoRe, this run, paper-val", NAMING[1]] == 0.6
    rows = table3(found).set_index("condition")[NAMING]
    assert rows.loc["baseline: neither LIR nor GCR"].tolist() == [0.9, 0.7]
    assert missing(rows.loc["without CRE"], *NAMING)
    *notes, note = table4(found)["note"]
    baseline, more = note.split("; ")
    assert baseline == "our baseline: image mAP % 90.0, token mAP % 70.0"
    assert more == "our more, of 3 seeds: image mAP % 90.0, token mAP % 80.0"
    assert pd.isna(notes).all()


def test_what_was_measured_before_shows_dashes(found):
    columns = ["image_map", "token_map"]
    found["ablation"] = found["ablation"].drop(columns=columns)
    for each in (*found["protocols"].values(), *found["pseudo_labels"].values()):
        for name in columns:
            del each[name]
    for table in (table1(found), table2(found), table3(found)):
        assert table[NAMING].isna().all(axis=None)
        assert "our image mAP: – · our token mAP: –" in repr(readable(table))
    assert "our more, of 3 seeds: image mAP % –, token mAP % –" in repr(readable(table4(found)))


def test_table5_puts_our_costs_under_the_papers_with_their_hardware():
    cost = {"minutes": 4.5, "milliseconds_an_iteration": 640.0, "peak_memory_gb": None}
    cost |= {"device": "cpu (x86_64)", "threads": 1, "precision": "fp32", "iterations": 420}
    cost |= {"processes": 1, "batch_size": 8, "parameters": 3_000_000}
    *printed, ours = table5({"more": cost}).to_dict("records")
    assert len(printed) == 6 and printed[-1]["ms_an_iteration"] == 945.0
    assert type(printed[0]["minutes"]) is type(ours["parameters"]) is int
    assert ours["minutes"] == 4.5 and ours["memory_gb"] is None
    assert ours["where"] == "cpu (x86_64), threads: 1, fp32: 420 iterations of 8"


def test_shares_end_so_that_the_report_shows_them_in_per_cent(found):
    for table in (table1(found), table2(found), table3(found)):
        shares = [name for name in table if name.rpartition("_")[2] in PER_CENT]
        assert shares and (table[shares].abs().max() <= 1).any()
        assert not (table[shares].abs() > 1).any(axis=None)
