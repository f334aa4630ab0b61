"""Published numbers, held to the values that the paper's text repeats."""

import csv
from importlib import resources

import pytest

from more_lib.paper.ablation import CONDITIONS, MAIN
from more_lib.paper.published import TABLES, published
from more_lib.system.errors import InputError


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_there_and_rectangular(name):
    text = (resources.files("more_lib.paper.published") / f"{name}.csv").read_text("utf-8")
    assert len({len(line) for line in csv.reader(text.splitlines())}) == 1
    assert len(published(name)) == len(text.splitlines()) - 1


def test_the_headline_numbers_agree_from_table_to_table():
    more = published("table2").set_index("method").loc["MoRe"]
    assert more[["voc_val", "voc_test", "coco_val"]].tolist() == [76.4, 75.0, 47.4]
    ablation = published("table3").set_index("condition")["miou"]
    assert ablation["MoRe"] == more["voc_val"]
    assert {each.paper for each in CONDITIONS.values()} - {None} == set(ablation)
    main = [CONDITIONS[name].paper for name in MAIN]
    assert main == sorted(main) == [41.6, 72.1, 76.4]  # in the paper's order
    assert published("table5").set_index("method").loc["MoRe"].tolist() == [372, 12.1]


def test_rivals_numbers_agree_with_more_s_tables_and_name_their_protocol():
    numbers = published("rivals")
    columns = ["method", "data", "split", "number", "of", "protocol", "source"]
    assert list(numbers) == columns and not numbers.isna().any(axis=None)
    assert not numbers.duplicated(["method", "data", "split", "of", "protocol"]).any()
    headline = numbers[~numbers["source"].str.startswith(("released", "MoRe"))]
    scores = headline.set_index(["method", "data", "split"])["number"]
    for name, full in (("ToCo", "ToCo, ViT-B"), ("DuPL", "DuPL, ViT-B"), ("MCTformer+",) * 2):
        table = published("table2")
        (row,) = table[table["method"] == name].to_dict("records")
        printed = [row[column] for column in ("voc_val", "voc_test", "coco_val")]
        places = (("VOC 2012", "val"), ("VOC 2012", "test"), ("COCO 2014", "val"))
        assert [scores[full, *place] for place in places] == printed
        (row,) = published("table1").query("method == @name").to_dict("records")
        pseudo = numbers.query("method == @full and split == 'train'").set_index("of")["number"]
        known = {"seed": row["seed_miou"], "mask": row["mask_miou"]}
        assert pseudo.to_dict() == {kind: value for kind, value in known.items() if value == value}
    log = numbers[numbers["source"] == "released log"]
    assert (
        len(log) == 12 and log.groupby("method")["number"].idxmax().map(log["of"]).eq("CAM").all()
    )


def test_the_released_log_parts_its_tokens_late_and_ends_below_the_paper():
    losses, scores = published("voc_log_losses"), published("voc_log_scores")
    tokens = losses["token_discrepancy"]
    assert tokens.iloc[0] == 2.9957 and tokens.iloc[-1] < 0.01  # ln 20: all class tokens alike
    assert scores["iteration"].tolist() == list(range(2000, 20001, 2000))
    last = scores.iloc[-1][["lam_miou", "decoder_miou", "cam_miou"]]
    assert last.tolist() == [73.36, 72.122, 75.007]  # as printed, to the last digit


def test_an_unknown_table_is_refused():
    with pytest.raises(InputError, match="'table6' is unknown; there are: table1"):
        published("table6")
