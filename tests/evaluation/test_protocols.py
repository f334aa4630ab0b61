"""Named protocols, and the masks that protocols make of images whose colours are the maps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from more_lib.data.transforms import evaluation_transform
from more_lib.data.voc import VocMasks, VocTree
from more_lib.evaluation.masks import SplitImages, crf_method, evaluation_mode, segment
from more_lib.evaluation.metrics import confusion_matrix
from more_lib.evaluation.protocols import (
    PROTOCOLS,
    Protocol,
    listing,
    named_protocol,
    named_protocols,
    table_protocols,
)
from more_lib.evaluation.scoring import score
from more_lib.method.crf import dense_crf, with_background
from more_lib.method.localization import multiscale_decoder, multiscale_maps
from more_lib.recipes.loading import load_recipe
from more_lib.recipes.profiles import PROFILES
from more_lib.system.errors import InputError
from tests.evaluation.helpers import CAT, ColourModel, make_tree, recipe_with, save, set_split

SCALES = ("evaluation.scales=[1.0, 0.5, 2.0]",)


@pytest.fixture
def root(tmp_path):
    return make_tree(tmp_path / "tree")


@pytest.fixture(autouse=True)
def no_lattice(monkeypatch):
    monkeypatch.setattr("more_lib.evaluation.masks.crf_method", lambda device: "exact")


def masks_of(recipe, protocols, labels=True, model=None):
    """The prediction of every protocol for all of val, stacked: (P, N, H, W)."""
    model = model or ColourModel()
    tree = VocTree(recipe.data.root, recipe.data.classes)
    images = SplitImages(tree, tree.ids("val"), labels=labels, masks=False)
    with evaluation_mode(model, None) as place:
        batches = list(segment(model, recipe, protocols, images, place))
    assert [name for batch in batches for name in batch.ids] == tree.ids("val")
    assert all(batch.masks is None for batch in batches)
    return torch.cat([torch.stack(batch.predictions) for batch in batches], dim=1)


def all_at_once(root):
    items = list(VocMasks(VocTree(root, ("cat", "dog")), "val", evaluation_transform(None)))
    return tuple(torch.stack([item[key] for item in items]) for key in ("image", "labels", "mask"))


def pixels(root, name):
    return torch.from_numpy(np.array(Image.open(root / f"JPEGImages/{name}.jpg")))


def test_paper_val_is_the_released_path():
    """Multi-scale LAM with predicted labels, background 1 - the largest, dense CRF."""
    assert named_protocol("paper-val", PROFILES["voc"]) == Protocol(
        dataset="voc",
        split="val",
        map="lam",
        labels="predicted",
        scales=(1.0, 0.5, 0.75, 1.5),
        flip=True,
        threshold=None,
        crf="released",
    )


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


@pytest.mark.parametrize("kind", ["cam", "lam", "fused", "attention"])
@pytest.mark.parametrize("flip", [True, False])
def test_without_threshold_the_background_scores_one_minus_the_largest(root, kind, flip):
    recipe = recipe_with(root, *SCALES)
    (protocol,) = table_protocols(recipe, [kind], ["true"])
    protocol = replace(protocol, flip=flip)
    found = masks_of(recipe, [replace(protocol, threshold=t) for t in (0.5, None)])
    assert torch.equal(found[0], found[1]) and found.any()


def test_views_that_a_protocol_leaves_out(root):
    recipe = recipe_with(root)
    (protocol,) = table_protocols(recipe, ["lam"], ["true"])
    plain = replace(protocol, flip=False)
    images, _, _ = all_at_once(root)
    model = ColourModel().eval()
    with torch.no_grad():
        lam = multiscale_maps(model, images, (1.0,), flip=False).lam
    found = masks_of(recipe, [plain])
    assert torch.equal(found[0][0], torch.where(lam[0, 0] > 0.5, 1, 0))
    for protocols, seen in (
        ([plain], [2, 2]),
        ([protocol], [2, 4]),
        ([plain, protocol], [2, 2, 4]),
    ):
        counting = ColourModel().eval()
        masks_of(recipe, protocols, model=counting)
        assert [size[0] for size in counting.inputs][: len(seen)] == seen


def test_crf_refines_what_the_maps_say(root):
    recipe = recipe_with(root, *SCALES)
    images, truth, target = all_at_once(root)
    model = ColourModel().eval()
    with torch.no_grad():
        output = model(images)
        maps = multiscale_maps(model, images, recipe.evaluation.scales)
    predicted = (output.class_logits > 0).float()
    cases = {
        ("lam", "true"): (maps.lam, truth),
        ("lam", "predicted"): (maps.lam, predicted),
        ("cam", "true"): (maps.cam, truth),
    }
    base = named_protocol("paper-val", recipe)
    protocols = [replace(base, map=kind, labels=labels) for kind, labels in cases]
    found = masks_of(recipe, protocols)
    for masks, (values, labels) in zip(found, cases.values(), strict=True):
        scores = with_background(values * labels[:, :, None, None])
        for index, name in enumerate(("named", "mistaken", "missed")):
            present = [0, *(1 + labels[index].nonzero()[:, 0]).tolist()]
            belief = dense_crf(pixels(root, name), scores[index, present], method="exact")
            assert torch.equal(masks[index], torch.tensor(present)[belief.argmax(0)])
    without = masks_of(recipe, [replace(protocol, crf="none") for protocol in protocols])
    assert not torch.equal(found, without)
    assert not found[1][2].any()  # no class predicted: all background
    result = score(model, recipe, [protocols[1]]).results[0]
    assert result.matrix.tolist() == confusion_matrix(found[1], target, 3).tolist()
    assert result.note == (
        "images without a predicted class, all background: 1; CRF by exact sums (3 images)"
    )


def test_decoder_over_scales_and_with_crf(root):
    recipe = recipe_with(root, *SCALES)
    images, _, _ = all_at_once(root)
    model = ColourModel().eval()
    with torch.no_grad():
        mean = multiscale_decoder(model, images, recipe.evaluation.scales)
        single = multiscale_decoder(model, images, (1.0,), flip=False)
    both = named_protocol("decoder-val", recipe)
    log = named_protocol("decoder-log", recipe)
    protocols = [replace(both, crf="none"), both, log, replace(log, crf="released")]
    found = masks_of(recipe, protocols, labels=False)
    assert torch.equal(found[0], mean.argmax(1))
    assert torch.equal(found[2], single.argmax(1))
    for masks, probabilities in ((found[1], mean), (found[3], single)):
        belief = dense_crf(pixels(root, "named"), probabilities[0], method="exact")
        assert torch.equal(masks[0], belief.argmax(0))


def test_protocols_of_one_pass_do_not_disturb_each_other(root):
    recipe = recipe_with(root, *SCALES)
    protocols = [*table_protocols(recipe), *named_protocols(PROTOCOLS, recipe).values()]
    together = masks_of(recipe, protocols)
    for protocol, masks in zip(protocols, together, strict=True):
        assert torch.equal(masks_of(recipe, [protocol])[0], masks)


def test_images_that_differ_in_size_with_crf(root):
    wide, mask = np.zeros((6, 14, 3), np.uint8), np.zeros((6, 14), np.uint8)
    wide[:, :7, 0], mask[:, :7] = 255, CAT
    save(root, "wide", wide, mask, "cat")
    set_split(root, "wide", "named")
    recipe = recipe_with(root, "evaluation.batch_size=1")
    protocol = replace(named_protocol("paper-val", recipe), map="cam")
    found = score(ColourModel(), recipe, [protocol])
    assert found.results[0].matrix.sum() == 6 * 14 + 64 - 1


@pytest.mark.gpu
def test_gpu_gives_the_same(root):
    recipe = recipe_with(root, *SCALES)
    protocols = list(named_protocols(("paper-val", "decoder-val", "lam-log"), recipe).values())
    here = score(ColourModel(), recipe, protocols)
    there = score(ColourModel(), recipe, protocols, device="cuda")
    assert there.to_json() == here.to_json()


@pytest.mark.skipif(crf_method(torch.device("cpu")) != "lattice", reason="needs pydensecrf2")
def test_the_lattice_in_its_own_processes(root, monkeypatch):
    monkeypatch.undo()
    recipe = recipe_with(root)
    result = score(ColourModel(), recipe, [named_protocol("paper-val", recipe)]).results[0]
    assert result.note.endswith("CRF by pydensecrf2's lattice (3 images)")


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


@pytest.mark.parametrize(("red", "taken"), [(130, True), (125, False)])
def test_a_class_is_predicted_from_probability_one_half_on(root, red, taken):
    """Of 255 these are logits of 0.01 and -0.01; CAM, stretched, is 1 on the left either way."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4, 0] = red
    save(root, "half", image, np.zeros((8, 8), np.uint8), "cat")
    set_split(root, "half")
    recipe = recipe_with(root)
    (mask,) = masks_of(recipe, table_protocols(recipe, ["cam"], ["predicted"]))[0]
    assert mask[:, :4].eq(1 if taken else 0).all() and not mask[:, 4:].any()
