"""Verdicts follow from numbers: sign, spread of the seeds, and what was not run."""

import pandas as pd
import pytest

from more_lib.paper.claims import NOT_RUN, VERDICT_COLUMNS, verdict_counts, verdicts
from more_lib.paper.trials import SCORES


def row(condition, miou, kind="LAM", ratio=0.5, **others):
    scores = {"miou": miou, "confusion_ratio": ratio, "precision": 0.5, "recall": 0.5}
    return {"condition": condition, "map": kind, "seeds": 1, **scores, **others}


def found(*rows, dataset="emoji", protocols=None):
    return {
        "dataset": dataset,
        "split": "val",
        "map_protocol": "emoji val, LAM, true image labels, scales 1 + flip, no CRF",
        "ablation": pd.DataFrame(rows, columns=["condition", "map", "seeds", *SCORES, "miou_std"]),
        "protocols": protocols or {},
    }


def judged(claim, *arguments):
    table = verdicts(*arguments)
    (match,) = table[table["claim"].str.contains(claim)].to_dict("records")
    return match


def test_nothing_measured_is_not_run_here_throughout():
    table = verdicts(found(), {}, {})
    assert list(table) == list(VERDICT_COLUMNS) and set(table["verdict"]) == {NOT_RUN}
    assert set(map(type, table.to_numpy().flat)) == {str}
    assert verdict_counts(table) == verdict_counts(table.to_dict("records")) == "12 not run here"
    assert verdict_counts([{"verdict": "odd"}, {"verdict": "shown"}]) == "1 shown, 1 odd"
    assert verdict_counts([]) == ""


def test_with_one_seed_the_sign_decides_and_the_row_says_so():
    up = judged("LIR lifts", found(row("baseline", 0.2), row("lir", 0.21)), {}, {})
    assert up["verdict"] == "shown" and "one seed: an indication" in up["protocol"]
    assert up["ours"] == "baseline 20.0 → LIR 21.0"
    down = judged("LIR lifts", found(row("baseline", 0.2), row("lir", 0.2)), {}, {})
    assert down["verdict"] == "not shown"


@pytest.mark.parametrize(("spread", "verdict"), [(0.02, "shown"), (0.03, "not shown")])
def test_with_several_seeds_a_gain_must_exceed_both_deviations_together(spread, verdict):
    several = {"seeds": 3, "miou_std": spread}  # 0.03 against 0.02 * sqrt(2) and 0.03 * sqrt(2)
    rows = found(row("lir", 0.50, **several), row("more", 0.53, **several))
    assert judged("GCR lifts", rows, {}, {})["verdict"] == verdict
    assert "3 seeds" in judged("GCR lifts", rows, {}, {})["protocol"]


def test_false_activation_is_better_when_it_is_lower():
    rows = found(row("baseline", 0.2, ratio=5.0), row("more", 0.5, ratio=0.5))
    assert judged("less false", rows, {}, {})["verdict"] == "shown"
    rows = found(row("baseline", 0.2, ratio=0.4), row("more", 0.5, ratio=0.5))
    assert judged("less false", rows, {}, {})["verdict"] == "not shown"
    rows = found(row("baseline", 0.2, ratio=None), row("more", 0.5, ratio=0.5))
    assert judged("less false", rows, {}, {})["verdict"] == NOT_RUN


def test_artifacts_are_counted_against_hits():
    many, few = row("any", 0.2, ratio=5.0), row("any", 0.2, ratio=0.9)
    match = judged("mean nothing", found(), {}, {}, many)
    assert (match["verdict"], match["ours"]) == ("shown", "FP/TP plain 5.00")
    assert judged("mean nothing", found(), {}, {}, few)["verdict"] == "not shown"
    assert judged("mean nothing", found(row("baseline", 0.2)), {}, {})["verdict"] == NOT_RUN
    match = judged("contrast", found(row("baseline", 0.2, ratio=5.0)), {}, {}, few)
    assert (match["verdict"], match["ours"]) == ("shown", "FP/TP baseline 5.00")


def test_lam_is_held_against_cam_of_the_same_network():
    rows = found(row("more", 0.55), row("more", 0.50, "CAM"), row("baseline", 0.9, "CAM"))
    match = judged("as well as CAM", rows, {}, {})
    assert (match["verdict"], match["ours"]) == ("shown", "CAM 50.0 → LAM 55.0")


def test_the_decoder_is_judged_by_its_own_protocol():
    rows = found(row("baseline", 0.43, "decoder"), row("more", 0.40, "decoder"))
    match = judged("decoder gains", rows, {}, {})
    assert match["verdict"] == "not shown"
    assert match["protocol"].startswith("emoji val, decoder, no image labels, scale 1")


def test_tokens_are_judged_by_their_separation():
    better = judged("separate", found(), {}, {"baseline": 0.1, "more": 0.4})
    assert (better["verdict"], better["ours"]) == ("shown", "silhouette 0.10 → 0.40")
    assert better["protocol"] == "emoji val, tokens of the classes present, cosine distance"
    assert judged("separate", found(), {}, {"more": 0.4})["verdict"] == NOT_RUN


def test_the_papers_numbers_are_judged_on_the_papers_data_alone():
    here = {"paper-val": {"miou": 0.762, "split": "val", "protocol": "voc val"}}
    on_voc = judged("76.4 mIoU", found(dataset="voc", protocols=here), {}, {})
    assert (on_voc["verdict"], on_voc["ours"]) == ("shown", "76.2")
    assert on_voc["protocol"] == "voc val"  # its own
    here["paper-val"]["miou"] = 0.70
    on_voc = judged("76.4 mIoU", found(dataset="voc", protocols=here), {}, {})
    assert on_voc["verdict"] == "not shown"
    assert judged("76.4 mIoU", found(protocols=here), {}, {})["verdict"] == NOT_RUN


def test_the_cost_is_judged_on_a_gpu_and_a_whole_training_alone():
    cost = {"minutes": 100.0, "peak_memory_gb": 6.0, "iterations": 20_000, "device": "cuda (X)"}
    whole = judged("A training", found(), {"more": cost}, {})
    assert (whole["verdict"], whole["ours"]) == ("shown", "100 min, 6.0 GB")
    assert whole["protocol"] == "cuda (X)"
    limit = cost | {"minutes": 372.0, "peak_memory_gb": 12.1}  # as much is not more
    assert judged("A training", found(), {"more": limit}, {})["verdict"] == "shown"
    slow = {"more": cost | {"minutes": 400.0}}
    assert judged("A training", found(), slow, {})["verdict"] == "not shown"
    short = {"more": cost | {"iterations": 420}}
    assert judged("A training", found(), short, {})["verdict"] == NOT_RUN
