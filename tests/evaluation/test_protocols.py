"""Named protocols, and what a protocol must say."""

from dataclasses import replace

import numpy as np
import pytest

from more_lib.evaluation.protocols import PROTOCOLS, Protocol, table_protocols
from more_lib.evaluation.results import Result
from more_lib.evaluation.scoring import score
from more_lib.recipes.loading import load_recipe
from more_lib.recipes.profiles import PROFILES
from more_lib.system.errors import InputError
from tests.evaluation.helpers import ColourModel, named, recipe_with

VOC = PROFILES["voc"]


def test_what_tells_the_published_numbers_apart():
    """The paper's own: multi-scale LAM, predicted labels, background 1 - the largest, dense CRF."""
    found = dict(zip(PROTOCOLS, named(VOC, *PROTOCOLS), strict=True))
    paper = Protocol(
        dataset="voc", split="val", map="lam", labels="predicted", scales=(1.0, 0.5, 0.75, 1.5),
        flip=True, threshold=None, crf="released",
    )  # fmt: skip
    decoder = replace(paper, map="decoder", labels="none")
    log = replace(paper, labels="true", threshold=0.5, crf="none")
    train, train_crf = replace(log, split="train"), replace(paper, split="train", labels="true")
    assert found == {
        "paper-val": paper,
        "decoder-val": decoder,
        "decoder-log": replace(decoder, scales=(1.0,), flip=False, crf="none"),
        "lam-log": log,
        "cam-log": replace(log, map="cam"),
        "lam-train": train,
        "lam-train-crf": train_crf,
        "cam-train": replace(train, map="cam"),
        "cam-train-crf": replace(train_crf, map="cam"),
    }
    assert len(set(found.values())) == len(PROTOCOLS)
    assert log in table_protocols(VOC) and table_protocols(VOC)[-1] == found["decoder-log"]
    numbers = "76.4 74.6 72.1 73.4 75.0 77.0 80.0 76.9 79.7".split()
    assert all(n in each.published for n, each in zip(numbers, PROTOCOLS.values(), strict=True))


def test_a_protocol_follows_the_recipe():
    changes = ["data.val_split=half", "data.train_split=mine", "evaluation.threshold=0.3"]
    recipe = load_recipe("mini", [*changes, "evaluation.scales=[0.5]"])
    found = named(recipe, "lam-log", "lam-train", "decoder-val")
    assert [p.split for p in found] == ["half", "mine", "half"]
    assert [p.threshold for p in found] == [0.3, 0.3, None]
    assert {p.scales for p in found} == {(0.5,)} and found[0].dataset == "emoji"
    assert named(recipe, "lam-train", split="other")[0].split == "other"


def test_protocol_on_one_line():
    (paper,) = named(VOC, "paper-val")
    fused = replace(paper, map="fused", scales=(1.0, 0.5), threshold=0.45, crf="none")
    decoder = replace(paper, map="decoder", labels="none", scales=(1.0,), flip=False, crf="mine")
    assert fused.describe() == (
        "voc val, LAM × CAM, predicted image labels, scales 1 0.5 + flip, threshold 0.45, no CRF"
    )
    assert decoder.describe() == (
        "voc val, decoder, no image labels, scales 1, no threshold, CRF mine"
    )
    names = [Result(protocol, np.eye(3), ("a", "b")).name for protocol in (fused, decoder)]
    assert names == ["LAM × CAM, predicted labels", "decoder"]


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
    (protocol,) = named(recipe, "paper-val")
    with pytest.raises(InputError, match=message):
        score(ColourModel(), recipe, [replace(protocol, **changes)])


def test_protocols_of_several_splits_and_none(root):
    recipe = recipe_with(root)
    for names, splits in ((("lam-log", "lam-train"), "train, val"), ((), "none")):
        with pytest.raises(InputError, match=f"share a split, these have: {splits}"):
            score(ColourModel(), recipe, named(recipe, *names))
