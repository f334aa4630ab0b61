"""Verdicts follow from numbers: sign, spread of the seeds, and what was not run."""

import pandas as pd

from more_lib.paper.claims import NOT_RUN, VERDICT_COLUMNS, verdict_counts, verdicts
from more_lib.paper.trials import MISSED, SCORES
from tests.paper.helpers import row


def found(*rows, dataset="emoji", protocols=None):
    return {
        "dataset": dataset,
        "split": "val",
        "map_protocol": "emoji val, LAM, true image labels, scales 1 + flip, no CRF",
        "ablation": pd.DataFrame(
            rows, columns=["condition", "map", "seeds", *SCORES, MISSED, "miou_std"]
        ),
        "protocols": protocols or {},
    }


def judged(claim, *rows, costs=None, tokens=None, plain=None, methods=None, **given):
    """Verdict, this run's numbers and protocol of a claim."""
    table = verdicts(found(*rows, **given), costs or {}, tokens or {}, plain, methods)
    (match,) = table[table["claim"].str.contains(claim, regex=False)].to_dict("records")
    return match["verdict"], match["ours"], match["protocol"]


def test_nothing_measured_is_not_run_here_throughout():
    table = verdicts(found(), {}, {})
    assert list(table) == list(VERDICT_COLUMNS) and set(table["verdict"]) == {NOT_RUN}
    assert set(map(type, table.to_numpy().flat)) == {str}
    assert verdict_counts(table) == verdict_counts(table.to_dict("records")) == "19 not run here"
    assert verdict_counts([{"verdict": "odd"}, {"verdict": "shown"}]) == "1 shown, 1 odd"
    assert verdict_counts([]) == ""


def test_the_sign_decides_for_one_seed_and_of_several_a_gain_beyond_both_deviations():
    verdict, ours, protocol = judged("LIR lifts", row("baseline", 0.2), row("lir", 0.21))
    assert (verdict, ours) == ("shown", "baseline 20.0 → LIR 21.0; token mAP 80.0")
    assert "one seed: an indication" in protocol
    assert judged("LIR lifts", row("baseline", 0.2), row("lir", 0.2))[0] == "not shown"

    # What the table's digits do not show is no difference, of percentages or of anything else.
    for after, wanted in ((0.209, "not shown"), (0.21, "shown")):
        assert judged("LIR lifts", row("baseline", 0.2), row("lir", after))[0] == wanted
    for after, wanted in ((0.559, "not shown"), (0.56, "shown")):
        tokens = {"baseline": 0.55, "more": after}
        assert judged("separate better by class", tokens=tokens)[0] == wanted
    ratios = row("baseline", 0.2), row("more", 0.2, confusion_ratio=0.491)
    assert judged("less false", *ratios)[0] == "not shown"

    # 0.03 against 0.02 * sqrt(2) and 0.03 * sqrt(2)
    for spread, wanted in ((0.02, "shown"), (0.03, "not shown")):
        pair = [row(*each, seeds=3, miou_std=spread) for each in (("lir", 0.50), ("more", 0.53))]
        verdict, _, protocol = judged("GCR lifts", *pair)
        assert verdict == wanted and "3 seeds" in protocol
    fewer = row("lir", 0.50), row("more", 0.53, seeds=3, miou_std=0.01)
    assert "one seed: an indication" in judged("GCR lifts", *fewer)[2]


def test_false_activation_is_better_when_it_is_lower_and_artifacts_count_against_hits():
    for before, verdict in ((5.0, "shown"), (0.4, "not shown"), (None, NOT_RUN)):
        pair = row("baseline", 0.2, confusion_ratio=before), row("more", 0.5)
        assert judged("less false", *pair)[0] == verdict
    for missed, verdict in ((1, "shown"), (2, "not shown")):  # the mean leaves these out
        pair = (row("baseline", 0.2, confusion_ratio=5.0, classes_without_hits=1),
                row("more", 0.5, classes_without_hits=missed))  # fmt: skip
        assert judged("less false", *pair)[0] == verdict
    assert "; classes without a hit 1 → 2; token mAP" in judged("less false", *pair)[1]
    # A few classes that are missed make any mean of ratios large: precision says what is wrong.
    many, few = (row("baseline", 0.2, confusion_ratio=5.0, precision=p) for p in (0.2, 0.6))
    shown = "shown", "mean precision of plain 20.0; token mAP 80.0"
    assert judged("mean nothing", plain=many)[:2] == shown
    assert judged("mean nothing", plain=few)[0] == "not shown"
    assert judged("mean nothing", few)[0] == NOT_RUN
    _, ours, _ = judged("contrast", many, plain=few)
    assert ours == "mean precision of baseline 20.0; token mAP 80.0"
    known, unknown = row("baseline", 0.2, token_map=0.91), row("lir", 0.5, token_map=None)
    for pair, text in (
        ((known, row("lir", 0.5, token_map=0.88)), "91.0 → 88.0"),
        ((known, unknown), "91.0"),
        ((row("baseline", 0.2, token_map=None), unknown), "–"),
    ):
        assert judged("LIR lifts", *pair)[1] == f"baseline 20.0 → LIR 50.0; token mAP {text}"


def test_lam_is_held_against_cam_the_decoder_by_its_protocol_tokens_by_their_separation():
    rows = row("more", 0.55), row("more", 0.50, "CAM"), row("baseline", 0.9, "CAM")
    wanted = "shown", "CAM 50.0 → LAM 55.0; token mAP 80.0"
    assert judged("as well as CAM", *rows)[:2] == wanted
    for lam, verdict in ((0.492, "shown"), (0.489, "not shown")):  # at most a point below
        pair = row("more", lam, miou_std=0.2), row("more", 0.5, "CAM", miou_std=0.2)
        assert judged("as well as CAM", *pair)[0] == verdict
    pair = row("baseline", 0.43, "decoder"), row("more", 0.40, "decoder")
    verdict, ours, protocol = judged("decoder gains", *pair)
    assert (verdict, ours) == ("not shown", "baseline 43.0 → MoRe 40.0")
    assert protocol.startswith("emoji val, decoder, no image labels, scale 1")
    better = judged("separate better by class", tokens={"baseline": 0.1, "more": 0.4})
    protocol = "emoji val, tokens of the classes present, cosine distance; one seed: an indication"
    assert better == ("shown", "silhouette 0.10 → 0.40", protocol)
    assert judged("separate better by class", tokens={"more": 0.4})[0] == NOT_RUN


def test_rivals_are_judged_within_their_record_seed_by_spread_and_not_by_this_run():
    pairs = ((0.40, 0.41), (0.50, 0.51))  # of two seeds: a step of 0.10, deviations of 0.007
    rows = [
        row(trial, miou, kind, seed=seed, confusion_ratio=ratio)
        for trial, kind, place, ratio in (("toco", "CAM", 0, 0.8), ("more", "LAM", 1, 0.5))
        for seed, miou in enumerate(pairs[place])
    ]
    tokens = {name: {"separation": [value, 1, 9, 3]} for name, value in
              (("mctformer", 0.6), ("more", 0.5))}  # fmt: skip
    record = {"rows": rows, "tokens": tokens, "protocol": "emoji val, threshold 0.5"}
    seed = judged("than ToCo's", row("more", 0.1), methods=record)  # 0.1 is this run's
    ours = "ToCo's CAM 40.5 ± 0.7 → MoRe's LAM 50.5 ± 0.7; token mAP 80.0 ± 0.0"
    assert seed == ("shown", ours, "emoji val, threshold 0.5; 2 seeds")
    wanted = "shown", "FP/TP ToCo's CAM 0.80 ± 0.00 → MoRe's LAM 0.50 ± 0.00"
    fewer = judged("fewer false activations than ToCo", methods=record)
    assert fewer[0] == wanted[0] and fewer[1].startswith(wanted[1])
    verdict, ours, protocol = judged("separate better than MCTformer+'s", methods=record)
    assert (verdict, ours) == ("not shown", "silhouette MCTformer+ 0.60 → MoRe 0.50")
    assert protocol.startswith("emoji val, tokens of the classes present in its first 100")
    assert protocol.endswith("; one seed: an indication")
    for absent in ("seed is better than MCTformer+'s", "fewer false activations than DuPL"):
        assert judged(absent, methods=record)[0] == NOT_RUN
    assert judged("than ToCo's")[::2] == (NOT_RUN, "study methods")


def test_the_papers_numbers_are_judged_on_the_papers_data_alone():
    here = {"paper-val": {"miou": 0.762, "split": "val", "protocol": "voc val"}}  # its own
    on_voc = judged("76.4 mIoU", dataset="voc", protocols=here)
    assert on_voc == ("shown", "76.2", "voc val")
    on_coco = judged("47.4 mIoU", dataset="voc", protocols=here)
    assert on_coco == (NOT_RUN, NOT_RUN, "paper-val on COCO 2014")
    assert judged("47.4 mIoU", dataset="coco", protocols=here)[0] == "shown"
    assert judged("76.4 mIoU", protocols=here)[0] == NOT_RUN
    here["paper-val"]["miou"] = 0.70
    assert judged("76.4 mIoU", dataset="voc", protocols=here)[0] == "not shown"


def test_the_cost_is_judged_on_a_gpu_and_a_whole_training_alone():
    cost = {"minutes": 100.0, "peak_memory_gb": 6.0, "device": "cuda (X)"}
    cost |= {"iterations": 20_000, "batch_size": 4}
    shown = "shown", "100 min, 6.0 GB", "cuda (X)"
    assert judged("A training", costs={"more": cost}, dataset="voc") == shown
    assert judged("A training", costs={"more": cost}, dataset="folder")[0] == NOT_RUN
    for change, verdict in (
        ({"minutes": 372.0, "peak_memory_gb": 12.1}, "shown"),  # as much is not more
        ({"minutes": 400.0}, "not shown"),
        ({"iterations": 420}, NOT_RUN),
        ({"batch_size": 1}, NOT_RUN),
    ):
        assert judged("A training", costs={"more": cost | change}, dataset="voc")[0] == verdict
