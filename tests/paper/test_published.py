"""Published numbers, held to the values that the paper's text repeats."""

import pytest

from more_lib.paper.ablation import CONDITIONS
from more_lib.paper.published import TABLES, published
from more_lib.system.errors import InputError


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_there_and_rectangular(name):
    rows = published(name)
    assert rows and len({tuple(row) for row in rows}) == 1
    assert None not in rows[0]  # a cell without a column


def test_the_headline_numbers_agree_from_table_to_table():
    (more,) = [row for row in published("table2") if row["method"] == "MoRe"]
    ablation = {row["condition"]: row for row in published("table3")}
    assert (more["voc_val"], more["voc_test"], more["coco_val"]) == (76.4, 75.0, 47.4)
    assert ablation["MoRe"]["miou"] == more["voc_val"]
    assert {c.paper for c in CONDITIONS.values()} - {None} == {r["miou"] for r in ablation.values()}
    (cost,) = [row for row in published("table5") if row["method"] == "MoRe"]
    assert (cost["minutes"], cost["memory_gb"]) == (372, 12.1)


def test_the_released_log_parts_its_tokens_late_and_ends_below_the_paper():
    losses, scores = published("voc_log_losses"), published("voc_log_scores")
    assert losses[0]["token_discrepancy"] == 2.9957  # ln 20: all class tokens alike
    assert losses[-1]["token_discrepancy"] < 0.01
    assert [row["iteration"] for row in scores] == list(range(2000, 20001, 2000))
    last = scores[-1]
    assert (last["lam_miou"], last["decoder_miou"], last["cam_miou"]) == (73.36, 72.122, 75.007)


def test_an_unknown_table_is_refused():
    with pytest.raises(InputError, match="'table6' is unknown; there are: table1"):
        published("table6")
