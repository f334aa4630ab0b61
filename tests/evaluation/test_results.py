"""Scores of the three images as rows, as text and as JSON."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from more_lib.evaluation.protocols import map_protocol
from more_lib.evaluation.results import Evaluation, Result, format_table, rows
from more_lib.evaluation.scoring import evaluate
from more_lib.system.errors import InputError
from tests.evaluation.helpers import set_split

BEFORE = '{"results": [], "image_map": 0.9, "num_images": 1}'  # token mAP was kept


def test_rows(model, recipe):
    frame = rows(evaluate(model, recipe))
    found = {(row["map"], row["labels"]): row for row in frame.to_dict("records")}
    precision, recall = (111 / 112 + 56 / 64 + 1) / 3, (111 / 119 + 1 + 15 / 16) / 3
    shares = dict(miou=0.9125, precision=round(precision, 4), recall=round(recall, 4))
    how = dict(dataset="voc", split="val", scales="1 + flip", threshold=0.5, crf="none", images=3)
    how |= dict(image_map=0.9167, token_map=0.6667)  # the same in every row
    row = dict(map="cam", labels="true", **how, **shares, confusion_ratio=0.07, note="")
    assert found["cam", "true"] == row
    predicted = found["cam", "predicted"]
    assert predicted["confusion_ratio"] == 0.96  # the cat's 23 / 24; the dog was never found
    assert predicted["note"] == (
        "images without a predicted class, all background: 1; "
        "classes without hits, not in the confusion ratio: 1"
    )
    assert np.isnan(found["decoder", "none"]["threshold"])
    # No mean is None.
    result = Result(map_protocol(recipe, "cam", "true"), np.array([[5, 1], [2, 0]]), ("cat",))
    (row,) = rows(Evaluation((result,), 1.0, None, 1)).to_dict("records")
    assert row["confusion_ratio"] is row["token_map"] is None and row["image_map"] == 1


def test_table(model, recipe):
    everything = rows(evaluate(model, recipe))
    head, *table = format_table(everything).splitlines()
    table, notes = table[:10], table[10:]
    shared = "dataset voc, split val, crf none, images 3, image mAP % 91.67, token mAP % 66.67"
    assert head == shared
    assert len({len(line) for line in table}) == 1  # aligned
    titles, _, _, cam, *_, decoder = (" ".join(line.split()) for line in table)
    assert titles == "map labels scales threshold mIoU % precision % recall % confusion ratio"
    assert cam == "cam true 1 + flip 0.50 91.25 95.54 95.68 0.07"
    assert decoder.startswith("decoder none 1 – ")
    noted = everything[everything["note"] != ""]
    assert notes == list(noted["map"] + ", labels " + noted["labels"] + ": " + noted["note"])


def test_table_of_one_row_and_of_none(model, recipe):
    one = format_table(rows(evaluate(model, recipe, maps=["cam"], labels=["true"])))
    head, _, line = one.splitlines()
    assert head.startswith("map cam, labels true, dataset voc") and "threshold 0.50" in head
    assert line.split() == ["91.25", "95.54", "95.68", "0.07"]
    assert format_table(rows(Evaluation((), 1.0, None, 0))) == "no results"


def test_thresholds_that_differ_look_different(recipe):
    cam = map_protocol(recipe, "cam", "true")
    each = [replace(cam, threshold=threshold) for threshold in (0.5, 0.45, 0.455, 0.4504)]
    results = [Result(protocol, np.eye(3, dtype=np.int64), ("cat", "dog")) for protocol in each]
    _, _, *lines = format_table(rows(Evaluation(tuple(results), 1.0, None, 1))).splitlines()
    assert [line.split()[0] for line in lines] == ["0.50", "0.45", "0.455", "0.4504"]


def test_networks_that_name_classes_unlike_have_it_in_their_own_rows(recipe):
    result = Result(map_protocol(recipe, "lam", "true"), np.eye(3, dtype=np.int64), ("cat", "dog"))
    each = [rows(Evaluation((result,), *maps, 1)) for maps in ((0.5, 0.0), (1.0, None))]
    table = pd.concat(each)
    table.insert(0, "network", ["one", "other"])
    head, titles, *lines = (" ".join(line.split()) for line in format_table(table).splitlines())
    assert "mAP" not in head and titles.startswith("network image mAP % token mAP % mIoU %")
    scores = "100.00 100.00 100.00 0.00"
    assert lines == [f"one 50.00 0.00 {scores}", f"other 100.00 – {scores}"]


def test_notes_that_all_rows_share_are_said_once(recipe):
    matrix, notes = np.eye(3, dtype=np.int64), ("all; one", "all; two", "all")
    results = [
        Result(map_protocol(recipe, kind, "true"), matrix, ("cat", "dog"), note)
        for kind, note in zip(("cam", "lam", "fused"), notes, strict=True)
    ]
    _, *lines = format_table(rows(Evaluation(tuple(results), 1.0, None, 1))).splitlines()
    said = ["in every row: all", "cam, labels true: one", "lam, labels true: two"]
    assert lines[-3:] == said
    alone = format_table(rows(Evaluation((results[2],), 1.0, None, 1)))
    assert alone.endswith("\nfused, labels true: all")


def test_classes_that_the_data_do_not_have_stay_so_in_json(recipe):
    matrix = np.array([[6, 0, 2], [1, 3, 4], [0, 0, 0]])
    result = Result(map_protocol(recipe, "cam", "true"), matrix, ("cat", "dog"), absent=("dog",))
    text = Evaluation((result,), float("nan"), None, 1).to_json()
    (again,) = Evaluation.from_json(text).results
    assert again.absent == ("dog",) and np.isnan(again.scores.iou[2])
    assert again.scores.miou == pytest.approx((6 / 9 + 3 / 8) / 2)
    assert json.loads(text)["results"][0]["scores"]["iou"][2] is None


def test_json_round_trip(model, recipe, root):
    set_split(root, "named", "missed")  # no dog, so its scores are nan
    evaluation = evaluate(model, recipe)
    text = evaluation.to_json()
    assert "NaN" not in text and "Infinity" not in text  # neither is in the standard
    saved = json.loads(text)["results"][2]
    assert saved["protocol"]["map"] == "cam" and saved["classes"] == ["cat", "dog"]
    assert saved["scores"]["iou"] == [pytest.approx(63 / 71), pytest.approx(56 / 64), None]
    again = Evaluation.from_json(text)
    assert again.to_json() == text
    assert again.num_images == 2 and again.image_map == evaluation.image_map
    assert again.token_map == evaluation.token_map == json.loads(text)["token_map"] == 1
    assert again.results[2].protocol == evaluation.results[2].protocol
    assert again.results[2].matrix.dtype == np.int64
    ious = (each.result("cam").scores.iou for each in (again, evaluation))
    np.testing.assert_array_equal(*ious)
    assert rows(again).equals(rows(evaluation))
    unknown = Evaluation((), float("nan"), None, 0).to_json()
    assert json.loads(unknown)["image_map"] is json.loads(unknown)["token_map"] is None
    again = Evaluation.from_json(unknown)
    assert np.isnan(again.image_map) and again.token_map is None
    assert Evaluation.from_json(Evaluation((), 1.0, 0.0, 0).to_json()).token_map == 0


@pytest.mark.parametrize("text", ["", "{}", "[1]", BEFORE, '{"results": [{}]}', '{"results": [3]}'])
def test_other_json(text):
    with pytest.raises(InputError, match="evaluate again"):
        Evaluation.from_json(text)
