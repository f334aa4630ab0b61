"""Masks that protocols make of images whose colours are the maps."""

import weakref
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from more_lib.data.voc import VocTree
from more_lib.evaluation.masks import SplitImages, crf_method, evaluation_mode, segment
from more_lib.evaluation.metrics import average_precision, confusion_matrix
from more_lib.evaluation.protocols import table_protocols
from more_lib.evaluation.scoring import evaluate, score
from more_lib.method import localization
from more_lib.method.crf import CRF_PARAMS, dense_crf, with_background
from more_lib.method.localization import fuse, multiscale_maps, views_of
from more_lib.method.pseudo_labels import PixelAdaptiveRefinement, foreground_mask
from more_lib.system.errors import InputError
from tests.evaluation import helpers
from tests.evaluation.helpers import CAT, ColourModel, all_at_once, named, recipe_with, set_split

SCALES = ("evaluation.scales=[1.0, 0.5, 2.0]",)


def masks_of(recipe, protocols, labels=True, model=None):
    """The prediction of every protocol for all of val, stacked: (P, N, H, W)."""
    model = model or ColourModel()
    tree = VocTree(recipe.data.root, recipe.data.classes)
    images = SplitImages(tree, tree.ids("val"), labels=labels, masks=False)
    with evaluation_mode(model, None) as place:
        batches = list(segment(model, recipe, protocols, images, place))
    assert [name for batch in batches for name in batch.ids] == tree.ids("val")
    assert all(batch.masks is None for batch in batches)
    return torch.cat([batch.predictions for batch in batches], dim=1)


def wanted(root, protocol):
    """What a protocol makes of val, all images at once: (N, H, W)."""
    images, labels, _ = all_at_once(root)
    maps = multiscale_maps(ColourModel().eval(), images, protocol.scales, flip=protocol.flip)
    if protocol.labels != "true":
        labels = (maps.class_logits > 0).float()
    if protocol.map == "decoder":
        labels, scores = torch.ones_like(labels), maps.decoder
    else:
        maps = maps._asdict() | {"fused": fuse(maps.lam, maps.cam)}
        scores = with_background(maps[protocol.map] * labels[:, :, None, None])
        if protocol.threshold is not None:
            return foreground_mask(maps[protocol.map], labels, protocol.threshold)
    if protocol.crf == "none":
        return scores.argmax(1)
    masks = []
    for name, each, row in zip(helpers.PATCHES, scores, labels, strict=True):
        present = [0, *(1 + row.nonzero()[:, 0]).tolist()]
        pixels = np.array(Image.open(root / f"JPEGImages/{name}.jpg"))
        belief = dense_crf(pixels, each[present], CRF_PARAMS[protocol.crf], method="exact")
        masks.append(torch.tensor(present)[belief.argmax(0)])
    return torch.stack(masks)


@pytest.mark.slow
@pytest.mark.parametrize("scales", ["[1.0]", "[1.0, 0.5, 2.0]"])
def test_one_pass_makes_of_every_protocol_what_it_is_alone(root, scales):
    recipe = recipe_with(root, f"evaluation.scales={scales}")
    names = [f"{n}-native" for n in ("paper-val", "decoder-val", "decoder-log", "lam-log")]
    paper, both, log, lam = protocols = named(recipe, *names)
    true = replace(paper, labels="true")
    protocols += [true, replace(true, map="cam"), replace(both, crf="none")]
    protocols += [replace(log, crf="released"), replace(log, crf="toco"), replace(lam, flip=False)]
    protocols += [replace(lam, scales=(0.5,)), *table_protocols(recipe)]
    found = masks_of(recipe, protocols)
    evaluation = score(ColourModel(), recipe, list(dict.fromkeys(protocols)))
    matrices = {result.protocol: result.matrix.tolist() for result in evaluation.results}
    images, truth, target = all_at_once(root)
    for protocol, masks in zip(protocols, found, strict=True):
        assert torch.equal(masks, wanted(root, protocol)), protocol.describe()
        assert matrices[protocol] == confusion_matrix(masks, target, 3).tolist()
    logits = multiscale_maps(ColourModel().eval(), images, (1.0,)).class_logits
    assert evaluation.image_map == pytest.approx(average_precision(logits, truth).mean())
    assert torch.equal(masks_of(recipe, [both, log], labels=False), found[1:3])
    assert not found[0][2].any()  # no class predicted: all background
    assert not torch.equal(found[4], wanted(root, replace(true, crf="none")))
    assert evaluation.results[0].note == (
        "images without a predicted class, all background: 1; CRF by exact sums (3 images)"
    )


@pytest.mark.parametrize("kind", ["cam", "lam", "fused", "attention"])
@pytest.mark.parametrize("flip", [True, False])
def test_without_threshold_the_background_scores_one_minus_the_largest(root, kind, flip):
    recipe = recipe_with(root, *SCALES)
    (protocol,) = table_protocols(recipe, [kind], ["true"])
    found = masks_of(recipe, [replace(protocol, flip=flip, threshold=t) for t in (0.5, None)])
    assert torch.equal(found[0], found[1]) and found.any()


@pytest.mark.parametrize("kind", ["cam", "fused", "decoder"])
def test_maps_follow_the_edges_of_the_image_before_masks_are_made(root, kind):
    """Each map is refined, a product's factors too, at the level that the threshold is made for."""
    recipe = recipe_with(root, "masks.dilations=[1, 2]", "evaluation.refinement=par")
    (refined,) = table_protocols(recipe, [kind], ["true"])
    plain = replace(refined, refinement="none")
    images, labels, _ = all_at_once(root)
    maps = multiscale_maps(ColourModel().eval(), images, plain.scales, flip=plain.flip)
    par = PixelAdaptiveRefinement((1, 2), recipe.masks.refinements)
    drawn = {name: par(images, getattr(maps, name)) / 1.01**10 for name in ("cam", "lam")}
    if kind == "decoder":
        expected = par(images, maps.decoder).argmax(1)
    else:
        scores = fuse(drawn["lam"], drawn["cam"]) if kind == "fused" else drawn["cam"]
        expected = foreground_mask(scores, labels, plain.threshold)
    before, after = masks_of(recipe, [plain, refined])  # in one pass, neither for the other
    assert torch.equal(after, expected)
    assert torch.equal(before, wanted(root, plain))
    results = score(ColourModel(), recipe, [plain, refined]).results
    assert "refined by PAR" in results[1].note and "PAR" not in results[0].note


def test_every_view_is_run_once(root):
    recipe = recipe_with(root)
    (both,) = table_protocols(recipe, ["lam"], ["true"])
    plain, half = replace(both, flip=False), replace(both, scales=(0.5,))
    # The first batch of two images and its mirror image; scale 1 is always run, for the logits.
    cases = [([plain], [2]), ([both], [4]), ([plain, both], [4])]
    cases += [([half], [4, 2]), ([half, both], [4, 4])]
    for protocols, seen in cases:
        model = ColourModel()
        masks_of(recipe, protocols, model=model)
        assert [size[0] for size in model.inputs[: len(model.inputs) // 2]] == seen


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_lam_is_drawn_with_the_recipes_similarity(model, root, monkeypatch, similarity):
    spy = Mock(wraps=views_of)
    monkeypatch.setattr("more_lib.evaluation.masks.views_of", spy)
    evaluate(model, recipe_with(root, f"masks.lam_similarity={similarity}"), maps=["lam"])
    assert {call.args[3] for call in spy.call_args_list} == {similarity}


class Multiplying(ColourModel):
    """The same maps, of what a product leaves of the colours; notes the products' precisions."""

    def forward(self, images, with_decoder=True):
        output, eye = super().forward(images), torch.eye(3)
        features = (output.features.permute(0, 2, 3, 1) @ eye).permute(0, 3, 1, 2)
        self.products = [*getattr(self, "products", []), features.dtype]
        return output._replace(features=features, cam=features[:, :2])


@pytest.mark.parametrize("name", ["lam-log", "lam-log-native", "paper-val"])
@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_the_network_alone_runs_in_the_recipes_precision(root, monkeypatch, name, precision):
    """LAM is drawn of its features in float32, also where a matrix product is at work."""
    recipe = recipe_with(root, f"evaluation.precision={precision}", "data.crop_size=8")
    drawn, lam = [], localization.lam

    def drawing(*given):
        drawn.append(lam(*given))
        return drawn[-1]

    monkeypatch.setattr(localization, "lam", drawing)
    (protocol,), model = named(recipe, name), Multiplying()
    scored = score(model, recipe, [protocol])
    assert {*model.products} == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert drawn and {maps.dtype for maps in drawn} == {torch.float32}
    assert scored.results[0].protocol.precision == precision.replace("auto", "fp32")
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("name", ["cam-log-native", "decoder-log-native", "paper-val-native"])
def test_sizes_that_differ_and_that_the_patch_does_not_divide(root, model, name):
    helpers.save_wide(root, channel=0, value=CAT, label="cat")
    set_split(root, "wide", "named")
    recipe = recipe_with(root, "evaluation.batch_size=1")
    (protocol,) = named(recipe, name)
    protocol = replace(protocol, map=protocol.map.replace("lam", "cam"))
    (result,) = score(model, recipe, [protocol]).results
    assert model.inputs[0][1:] == (3, 8, 16)  # 6x14 to the nearest multiples of 4
    assert result.matrix.sum() == 6 * 14 + 64 - 1
    if name != "paper-val-native":  # whose CRF is none to be computed by hand
        assert result.matrix.tolist() == [[42 + 31, 8, 0], [0, 42 + 24, 0], [0, 0, 0]]
    with pytest.raises(InputError, match=r"wide is 6x14 and named is 8x8.*evaluation.batch_size=1"):
        score(model, recipe_with(root), [protocol])  # in one batch


def test_an_image_smaller_than_a_scale_leaves_a_patch_of_is_enlarged(root, model):
    image, mask = np.full((5, 7, 3), (255, 0, 0), np.uint8), np.full((5, 7), CAT, np.uint8)
    helpers.save(root, "tiny", image, mask, "cat")
    set_split(root, "tiny")
    recipe = recipe_with(root, "evaluation.scales=[1.0, 0.5]")
    assert evaluate(model, recipe).result("decoder", "none").matrix[1].tolist() == [0, 35, 0]
    assert model.inputs == [(2, 3, 8, 8), (2, 3, 4, 4)]


def test_model_is_left_as_it_was(model, recipe):
    model.train()
    model.frozen.eval()
    evaluate(model, recipe, device="cpu")
    assert model.training and not model.frozen.training
    assert next(model.parameters()).requires_grad and next(model.parameters()).device.type == "cpu"
    model.patch_size = 3  # the model itself refuses such images
    with pytest.raises(AssertionError):
        evaluate(model, recipe)
    assert model.training and not model.frozen.training


@pytest.mark.gpu
def test_gpu_gives_the_same_and_gives_the_model_back(root, model):
    recipe = recipe_with(root, *SCALES)
    protocols = helpers.protocols_of(recipe)
    here = score(model, recipe, protocols)
    assert score(model, recipe, protocols, device="cuda").to_json() == here.to_json()
    assert next(model.parameters()).device.type == "cpu"


@pytest.mark.skipif(crf_method(torch.device("cpu")) != "lattice", reason="needs pydensecrf2")
def test_the_lattice_in_its_own_processes(root, monkeypatch):
    monkeypatch.undo()
    recipe = recipe_with(root)
    result = score(ColourModel(), recipe, named(recipe, "paper-val")).results[0]
    assert result.note.endswith("CRF by pydensecrf2's lattice (3 images)")


@pytest.mark.parametrize(("red", "taken"), [(130, True), (125, False)])
def test_a_class_is_predicted_from_probability_one_half_on(root, red, taken):
    """Of 255 these are logits of 0.01 and -0.01; CAM, stretched, is 1 on the left either way."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4, 0] = red
    helpers.save(root, "half", image, np.zeros((8, 8), np.uint8), "cat")
    set_split(root, "half")
    recipe = recipe_with(root)
    (mask,) = masks_of(recipe, table_protocols(recipe, ["cam"], ["predicted"]))[0]
    assert mask[:, :4].eq(1 if taken else 0).all() and not mask[:, 4:].any()


def alive(references):
    return sum(reference() is not None for reference in references)


@pytest.mark.parametrize("crf", [False, True])
def test_maps_and_masks_do_not_pile_up(root, model, monkeypatch, crf):
    """Of twelve images as many are under way at the end as at the beginning."""
    helpers.many(root, 12)
    given, maps, read, masks = [], [], [], []
    model.register_forward_pre_hook(lambda *_: maps.append(alive(given)))
    model.register_forward_hook(
        lambda _, images, output: given.extend(map(weakref.ref, (*images, *output)))
    )
    plain = VocTree.mask

    def watched(tree, image_id):
        masks.append(alive(read))
        read.append(weakref.ref(mask := plain(tree, image_id)))
        return mask

    monkeypatch.setattr(VocTree, "mask", watched)
    # Which opens as many masks at once as it has threads, and keeps none.
    monkeypatch.setattr("more_lib.evaluation.scoring.contradictions", lambda *_: "")
    monkeypatch.setattr("more_lib.evaluation.scoring.read_both", lambda *_: [])
    recipe = recipe_with(root, "evaluation.batch_size=1")
    score(model, recipe, helpers.protocols_of(recipe) if crf else table_protocols(recipe))
    half = len(maps) // 2
    assert max(maps[half:]) <= max(maps[:half])
    assert max(masks) <= 5
