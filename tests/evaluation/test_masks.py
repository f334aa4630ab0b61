"""Masks that protocols make of images whose colours are the maps."""

import weakref
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
    named_protocol,
    named_protocols,
    table_protocols,
)
from more_lib.evaluation.scoring import evaluate, score
from more_lib.method.crf import dense_crf, with_background
from more_lib.method.localization import maps_of_views, multiscale_maps
from more_lib.system.errors import InputError
from tests.evaluation.helpers import (
    CAT,
    ColourModel,
    many,
    protocols_of,
    recipe_with,
    save,
    save_wide,
    set_split,
)

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


def all_at_once(root):
    items = list(VocMasks(VocTree(root, ("cat", "dog")), "val", evaluation_transform(None)))
    return tuple(torch.stack([item[key] for item in items]) for key in ("image", "labels", "mask"))


def pixels(root, name):
    return torch.from_numpy(np.array(Image.open(root / f"JPEGImages/{name}.jpg")))


@pytest.mark.parametrize("kind", ["cam", "lam", "fused", "attention"])
@pytest.mark.parametrize("flip", [True, False])
def test_without_threshold_the_background_scores_one_minus_the_largest(root, kind, flip):
    recipe = recipe_with(root, *SCALES)
    (protocol,) = table_protocols(recipe, [kind], ["true"])
    protocol = replace(protocol, flip=flip)
    found = masks_of(recipe, [replace(protocol, threshold=t) for t in (0.5, None)])
    assert torch.equal(found[0], found[1]) and found.any()


def test_every_view_is_run_once(root):
    recipe = recipe_with(root)
    (protocol,) = table_protocols(recipe, ["lam"], ["true"])
    plain, half = replace(protocol, flip=False), replace(protocol, scales=(0.5,))
    images, _, _ = all_at_once(root)
    with torch.no_grad():
        lam = multiscale_maps(ColourModel().eval(), images, (1.0,), flip=False).lam
    assert torch.equal(masks_of(recipe, [plain])[0][0], torch.where(lam[0, 0] > 0.5, 1, 0))
    # The first batch of two images and its mirror image; scale 1 is always run, for the logits.
    cases = {
        2: [plain],
        4: [protocol],
        (4, 0): [plain, protocol],
        (4, 2): [half],
        (4, 4): [half, protocol],
    }
    for seen, protocols in cases.items():
        model = ColourModel()
        masks_of(recipe, protocols, model=model)
        sizes = [size[0] for size in model.inputs[: len(model.inputs) // 2]]
        assert sizes == [n for n in np.atleast_1d(seen) if n]


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
        mean = multiscale_maps(model, images, recipe.evaluation.scales).decoder
        single = multiscale_maps(model, images, (1.0,), flip=False).decoder
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


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_lam_is_drawn_with_the_recipes_similarity(model, root, monkeypatch, similarity):
    given = []

    def spy(model, images, groups, similarity):
        given.append(similarity)
        return maps_of_views(model, images, groups, similarity)

    monkeypatch.setattr("more_lib.evaluation.masks.maps_of_views", spy)
    evaluate(model, recipe_with(root, f"masks.lam_similarity={similarity}"), maps=["lam"])
    assert set(given) == {similarity}


@pytest.mark.parametrize("name", ["cam-log", "decoder-log", "paper-val"])
def test_sizes_that_differ_and_that_the_patch_does_not_divide(root, model, name):
    save_wide(root, channel=0, value=CAT, label="cat")
    set_split(root, "wide", "named")
    recipe = recipe_with(root, "evaluation.batch_size=1")
    protocol = replace(named_protocol(name, recipe))
    crf = protocol.crf != "none"
    protocol = replace(protocol, map="cam" if crf else protocol.map)
    (result,) = score(model, recipe, [protocol]).results
    assert model.inputs[0][1:] == (3, 8, 16)  # 6x14 to the nearest multiples of 4
    if crf:
        assert result.matrix.sum() == 6 * 14 + 64 - 1
    else:
        assert result.matrix.tolist() == [[42 + 31, 8, 0], [0, 42 + 24, 0], [0, 0, 0]]


def test_several_sizes_in_one_batch(model, recipe, root):
    save_wide(root, channel=0, value=CAT, label="cat")
    set_split(root, "named", "wide")
    with pytest.raises(InputError, match=r"named is 8x8 and wide is 6x14.*evaluation.batch_size=1"):
        evaluate(model, recipe)


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
    protocols = list(named_protocols(("paper-val", "decoder-val", "lam-log"), recipe).values())
    here = score(model, recipe, protocols)
    assert score(model, recipe, protocols, device="cuda").to_json() == here.to_json()
    assert next(model.parameters()).device.type == "cpu"


@pytest.mark.skipif(crf_method(torch.device("cpu")) != "lattice", reason="needs pydensecrf2")
def test_the_lattice_in_its_own_processes(root, monkeypatch):
    monkeypatch.undo()
    recipe = recipe_with(root)
    result = score(ColourModel(), recipe, [named_protocol("paper-val", recipe)]).results[0]
    assert result.note.endswith("CRF by pydensecrf2's lattice (3 images)")


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


class Watching(ColourModel):
    """Counts how much of what it gave out is still there."""

    def __init__(self):
        super().__init__()
        self.given, self.alive = [], []

    def forward(self, images):
        self.alive.append(sum(there() is not None for there in self.given))
        output = super().forward(images)
        self.given += [weakref.ref(values) for values in (images, *output)]
        return output


@pytest.mark.parametrize("crf", [False, True])
def test_maps_and_masks_do_not_pile_up(root, monkeypatch, crf):
    """Of twelve images as many are under way at the end as at the beginning."""
    many(root, 12)
    masks, alive = [], []
    read = VocTree.mask

    def watched(tree, image_id):
        alive.append(sum(there() is not None for there in masks))
        mask = read(tree, image_id)
        masks.append(weakref.ref(mask))
        return mask

    monkeypatch.setattr(VocTree, "mask", watched)
    recipe, model = recipe_with(root, "evaluation.batch_size=1"), Watching()
    protocols = protocols_of(recipe) if crf else table_protocols(recipe)
    score(model, recipe, protocols)
    calls = len(model.inputs) // 12
    assert max(model.alive[6 * calls :]) <= max(model.alive[: 6 * calls])
    assert max(alive) <= 5
