"""Named protocols, and what a protocol must say."""

from dataclasses import replace

import numpy as np
import pytest

from more_lib.evaluation.protocols import (
    PROTOCOLS,
    Protocol,
    listing,
    named_protocol,
    named_protocols,
    table_protocols,
)
from more_lib.evaluation.results import Result
from more_lib.evaluation.scoring import score
from more_lib.recipes.loading import load_recipe
from more_lib.recipes.profiles import PROFILES
from more_lib.system.errors import InputError
from tests.evaluation.helpers import ColourModel, recipe_with


def test_paper_val_is_the_released_path():
    """Multi-scale LAM with predicted labels, background 1 - the largest, dense CRF."""
    assert named_protocol("paper-val", PROFILES["voc"]) == Protocol(
        dataset="voc", split="val", map="lam", labels="predicted", scales=(1.0, 0.5, 0.75, 1.5),
        flip=True, threshold=None, crf="released",
    )  # fmt: skip


def test_what_tells_the_published_numbers_apart():
    found = named_protocols(PROTOCOLS, PROFILES["voc"])
    assert len(set(found.values())) == len(PROTOCOLS)
    assert found["decoder-val"] == replace(found["paper-val"], map="decoder", labels="none")
    assert found["decoder-log"] == replace(
        found["decoder-val"], scales=(1.0,), flip=False, crf="none"
    )
    assert found["lam-log"] == replace(found["paper-val"], labels="true", threshold=0.5, crf="none")
    assert found["cam-log"] == replace(found["lam-log"], map="cam")
    assert found["lam-train"] == replace(found["lam-log"], split="train")
    assert found["lam-train-crf"] == replace(found["paper-val"], split="train", labels="true")
    for name, number in (("paper-val", "76.4"), ("decoder-val", "74.6"), ("lam-log", "73.4"),
                         ("decoder-log", "72.1"), ("lam-train", "77.0")):  # fmt: skip
        assert number in PROTOCOLS[name].published


def test_a_protocol_follows_the_recipe():
    changes = ["data.val_split=half", "data.train_split=mine", "evaluation.threshold=0.3"]
    recipe = load_recipe("mini", [*changes, "evaluation.scales=[0.5]"])
    found = named_protocols(("lam-log", "lam-train", "decoder-val"), recipe)
    assert [p.split for p in found.values()] == ["half", "mine", "half"]
    assert [p.threshold for p in found.values()] == [0.3, 0.3, None]
    assert {p.scales for p in found.values()} == {(0.5,)} and found["lam-log"].dataset == "emoji"
    assert named_protocol("lam-train", recipe, "other").split == "other"


def test_the_decoders_row_in_the_table_is_the_logs():
    recipe = PROFILES["voc"]
    assert table_protocols(recipe)[-1] == named_protocol("decoder-log", recipe)
    assert named_protocol("lam-log", recipe) in table_protocols(recipe)


def test_listing_has_a_line_of_each_and_its_number():
    text = listing(PROFILES["voc"])
    assert text.count("published: ") == len(PROTOCOLS) == text.count("voc ") - text.count("VOC voc")
    assert "LAM, predicted image labels, scales 1 0.5 0.75 1.5 + flip, background 1 - " in text


def test_protocol_on_one_line():
    protocol = Protocol(
        dataset="voc",
        split="val",
        map="fused",
        labels="predicted",
        scales=(1.0, 0.5),
        threshold=0.45,
    )
    assert protocol.describe() == (
        "voc val, LAM × CAM, predicted image labels, scales 1 0.5 + flip, threshold 0.45, no CRF"
    )
    plain = {"scales": (1.0,), "flip": False, "threshold": None, "crf": "mine"}
    decoder = replace(protocol, map="decoder", labels="none", **plain)
    assert decoder.describe() == (
        "voc val, decoder, no image labels, scales 1, no threshold, CRF mine"
    )
    assert Result(protocol, np.eye(3), ("a", "b")).name == "LAM × CAM, predicted labels"
    assert Result(decoder, np.eye(3), ("a", "b")).name == "decoder"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map": "seed"}, "map holds seed"),
        ({"labels": "none"}, "labels holds none"),
        ({"crf": "mine"}, "crf holds mine; choose from none, released"),
        ({"threshold": 0.4}, "threshold is 0.4 .*decoder and CRF take none"),
        ({"map": "decoder"}, "labels holds predicted; choose from none"),
        ({"map": "decoder", "labels": "none", "threshold": 0.4}, "threshold is 0.4"),
        ({"scales": ()}, "scales is empty"),
        ({"split": "x"}, "x.txt"),
    ],
)
def test_protocols_that_make_no_mask(root, changes, message):
    recipe = recipe_with(root)
    protocol = replace(named_protocol("paper-val", recipe), **changes)
    with pytest.raises(InputError, match=message):
        score(ColourModel(), recipe, [protocol])


def test_protocols_of_several_splits_and_none(root):
    recipe = recipe_with(root)
    protocols = named_protocols(("lam-log", "lam-train"), recipe).values()
    with pytest.raises(InputError, match="share a split, these have: train, val"):
        score(ColourModel(), recipe, list(protocols))
    with pytest.raises(InputError, match="share a split, these have: none"):
        score(ColourModel(), recipe, [])


def test_an_unknown_name():
    with pytest.raises(InputError, match="'paper' is unknown; choose from paper-val, decoder-val"):
        named_protocol("paper", PROFILES["voc"])
