"""Named protocols, and what a protocol must say."""

from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from more_lib.evaluation.predict import own_protocol
from more_lib.evaluation.protocols import (
    PROTOCOLS,
    Protocol,
    listing,
    network_of,
    table_protocols,
)
from more_lib.evaluation.results import Result
from more_lib.evaluation.scoring import score
from more_lib.recipes.loading import load_recipe
from more_lib.recipes.profiles import PROFILES
from more_lib.system.errors import InputError
from tests.evaluation.helpers import ColourModel, named, recipe_with

VOC = PROFILES["voc"]
DRAWN = [name for name, each in PROTOCOLS.items() if each.map not in ("aux_cam", "seed")]


def test_what_tells_the_published_numbers_apart():
    """The paper's own: multi-scale LAM, predicted labels, background 1 - the largest, dense CRF."""
    found = dict(zip(DRAWN, named(VOC, *DRAWN), strict=True))
    own = Protocol(
        dataset="voc", split="val", map="lam", labels="predicted", scales=(1.0, 0.5, 0.75, 1.5),
        flip=True, threshold=None, crf="released",
    )  # fmt: skip
    decoder = replace(own, map="decoder", labels="none")
    log = replace(own, labels="true", threshold=0.5, crf="none")
    one = {"scales": (1.0,), "flip": False}
    seven = (1.0, 0.5, 0.75, 1.25, 1.5, 1.75, 2.0)
    train, train_crf = replace(log, split="train"), replace(own, split="train", labels="true")
    assert found == {
        "paper-val": replace(own, scales=seven, size=448),
        "decoder-val": replace(decoder, scales=(1.0, 1.25, 1.5), size=448),
        "decoder-val-toco": replace(decoder, scales=(1.0, 1.25, 1.5), size=448, crf="toco"),
        "decoder-log": replace(decoder, **one, crf="none", size=448),
        "lam-log": replace(log, **one, size=448),
        "cam-log": replace(log, map="cam", size=448),
        "cam-one": replace(log, map="cam", **one, size=448),
        "paper-val-native": own,
        "decoder-val-native": decoder,
        "decoder-val-toco-native": replace(decoder, crf="toco"),
        "decoder-log-native": replace(decoder, **one, crf="none"),
        "lam-log-native": log,
        "cam-log-native": replace(log, map="cam"),
        "cam-one-native": replace(log, map="cam", **one),
        "lam-train": train,
        "lam-train-crf": train_crf,
        "cam-train": replace(train, map="cam"),
        "cam-train-crf": replace(train_crf, map="cam"),
    }
    assert len(set(found.values())) == len(DRAWN)
    assert log in table_protocols(VOC) and table_protocols(VOC)[-1] == found["decoder-log-native"]
    numbers = "76.4 74.6 71.1 72.1 73.4 75.0 72.3 77.0 80.0 76.9 79.7".split() + 7 * ["none; "]
    assert all(n in PROTOCOLS[name].published for n, name in zip(numbers, DRAWN, strict=True))


def test_protocols_of_maps_that_a_method_does_not_draw_are_refused_before_anything_is_trained():
    seeds, crops = (PROFILES[name] for name in ("mctformer", "toco"))
    (found,) = named(seeds, "seed-train")
    assert (found.map, found.scales, found.split) == ("seed", (1.0, 0.75, 1.25), "train")
    assert named(crops, "aux-cam-one")[0].map == "aux_cam" and "seed-train" not in listing(crops)
    message = "'paper-val' scores LAM, which method 'toco' does not draw; it draws decoder, CAM"
    with pytest.raises(InputError, match=message):
        named(crops, "decoder-val", "paper-val")


def test_a_square_is_the_recipes_crop_and_scales_that_are_no_scripts_are_the_recipes():
    mini = PROFILES["mini"]
    found = dict(zip(DRAWN, named(mini, *DRAWN), strict=True))
    square = {name for name in DRAWN if name.split("-")[-1] in ("val", "log", "one", "toco")}
    assert {name for name, each in found.items() if each.size} == square
    assert all(found[name].size == mini.data.crop_size for name in square)
    assert found["cam-log"].scales == mini.evaluation.scales == (1.0, 1.5)


def test_the_key_of_a_protocol_without_a_square_is_what_it_was():
    paper, own = named(VOC, "paper-val", "paper-val-native")
    later = {"precision": "fp32", "refinement": "none", "student": 1}
    assert paper.key | later == asdict(paper)
    assert own.key | {"size": 0} | later == asdict(own)
    assert paper.key["size"] == 448 and not own.key.keys() & {"size", *later}


def test_scores_of_another_precision_have_another_key_and_say_so():
    """What "auto" is must not depend on the machine, or nobody could compare scores."""
    for wanted, precision in (("auto", "fp32"), ("fp32", "fp32"), ("bf16", "bf16")):
        recipe = load_recipe("mini", [f"evaluation.precision={wanted}"])
        everything = [*named(recipe, *DRAWN), *table_protocols(recipe)]
        assert {each.precision for each in everything} == {precision}
    exact, half = named(PROFILES["mini"], "lam-log-native"), named(recipe, "lam-log-native")
    assert half[0].key == exact[0].key | {"precision": "bf16"}
    assert half[0].describe() == exact[0].describe().replace("flip,", "flip in bf16,")
    assert half[0].place == "val in bf16" and exact[0].place == "val"


def test_a_recipe_refines_its_own_maps_and_those_of_no_published_number():
    recipe = load_recipe("mini", ["evaluation.refinement=par"])
    assert {each.refinement for each in named(recipe, *DRAWN)} == {"none"}
    plain, refined = table_protocols(PROFILES["mini"]), table_protocols(recipe)
    assert all(r.key == p.key | {"refinement": "par"} for p, r in zip(plain, refined, strict=True))
    for before, after in zip(plain, refined, strict=True):  # attention, CAM ...: each says it
        assert after.describe().replace(", refined by PAR", "", 1) == before.describe()
        assert after.describe() != before.describe()


def test_the_student_that_a_recipe_names_is_in_every_protocol_key_and_pass():
    first, second = (
        [
            *named(recipe, "decoder-val-toco", "cam-one"),
            *table_protocols(recipe, ["cam", "decoder"]),
        ]
        for recipe in (load_recipe("dupl"), load_recipe("dupl", ["evaluation.student=2"]))
    )
    for one, two in zip(first, second, strict=True):
        assert two.key == one.key | {"student": 2} and two.place == f"{one.place} by student 2"
        assert two.describe().replace(" of student 2", "", 1) == one.describe()
        assert "student" not in one.describe() + one.place


def test_each_student_is_scored_and_a_second_one_of_a_single_network_is_refused():
    one, two, (own,) = ColourModel(), ColourModel(), named(load_recipe("dupl"), "cam-one")
    both, second = SimpleNamespace(students=[one, two]), replace(own, student=2)
    assert network_of(both, [own]) is one and network_of(both, [second]) is two
    assert network_of(one, [own]) is one
    with pytest.raises(InputError, match="evaluation.student is 2, this network has no students"):
        network_of(one, [second])
    mini = load_recipe("mini", ["evaluation.student=2"])  # before there is any network
    for asked in (partial(named, mini, "cam-log"), partial(own_protocol, mini, "", False)):
        with pytest.raises(InputError, match="student is 2, and method 'more' has no second"):
            asked()


def test_a_protocol_follows_the_recipe():
    changes = ["data.val_split=half", "data.train_split=mine", "evaluation.threshold=0.3"]
    recipe = load_recipe("mini", [*changes, "evaluation.scales=[0.5]"])
    found = named(recipe, "lam-log-native", "lam-train", "decoder-val-native")
    assert [p.split for p in found] == ["half", "mine", "half"]
    assert [p.threshold for p in found] == [0.3, 0.3, None]
    assert {p.scales for p in found} == {(0.5,)} and found[0].dataset == "emoji"
    assert named(recipe, "lam-train", split="other")[0].split == "other"


def test_protocol_on_one_line():
    (paper,) = named(VOC, "paper-val-native")
    fused = replace(paper, map="fused", scales=(1.0, 0.5), threshold=0.45, crf="none")
    decoder = replace(paper, map="decoder", labels="none", scales=(1.0,), flip=False, crf="mine")
    assert fused.describe() == (
        "voc val, LAM × CAM, predicted image labels, scales 1 0.5 + flip, threshold 0.45, no CRF"
    )
    assert decoder.describe() == (
        "voc val, decoder, no image labels, scales 1, no threshold, CRF mine"
    )
    square = replace(paper, scales=(1.0,), flip=False, size=448)
    assert square.describe() == (
        "voc val, LAM, predicted image labels, the decoder's where none is, scales 1 of 448×448, "
        "background 1 - largest map, CRF released"
    )
    assert (
        replace(square, map="decoder", flip=True)
        .describe()
        .endswith(
            "scales 1 + flip of 448×448, largest of logits + flip's, no threshold, CRF released"
        )
    )
    names = [Result(protocol, np.eye(3), ("a", "b")).name for protocol in (fused, decoder)]
    assert names == ["LAM × CAM, predicted labels", "decoder"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map": "seeds"}, "map holds seeds"),
        ({"labels": "none"}, "labels holds none"),
        ({"crf": "mine"}, "crf holds mine; choose from none, released"),
        ({"refinement": "edges"}, "refinement holds edges; choose from none, par"),
        ({"refinement": "par", "size": 8}, "refinement holds par; choose from none"),
        ({"threshold": 0.4}, "threshold is 0.4 .*decoder and CRF take none"),
        ({"map": "decoder"}, "labels holds predicted; choose from none"),
        ({"map": "decoder", "labels": "none", "threshold": 0.4}, "threshold is 0.4"),
        ({"scales": ()}, "scales is empty"),
        (
            {"map": "fused", "size": 8},
            "map holds fused; choose from lam, cam, aux_cam, seed, decoder",
        ),
        ({"scales": (0.4,), "size": 8}, "scale 0.4 makes the images 3x3, less than one patch of 4"),
        ({"split": "x"}, "x.txt"),
    ],
)
def test_protocols_that_make_no_mask(root, changes, message):
    recipe = recipe_with(root)
    (protocol,) = named(recipe, "paper-val-native")
    with pytest.raises(InputError, match=message):
        score(ColourModel(), recipe, [replace(protocol, **changes)])


def test_protocols_of_several_splits_and_sizes_and_none(root):
    recipe = recipe_with(root, "data.crop_size=8")
    for names, these in (
        (("lam-log-native", "lam-train"), "train, val"),
        (("lam-log-native", "lam-log"), "val, val at 8×8"),
        ((), "none"),
    ):
        with pytest.raises(
            InputError, match=f"share split, size and precision, these have: {these}"
        ):
            score(ColourModel(), recipe, named(recipe, *names))


def test_protocols_of_two_precisions_share_no_pass(root):
    recipe = recipe_with(root)
    (exact,) = named(recipe, "lam-log-native")
    with pytest.raises(InputError, match="these have: val, val in bf16"):
        score(ColourModel(), recipe, [exact, replace(exact, precision="bf16")])
