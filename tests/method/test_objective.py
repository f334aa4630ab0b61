"""The whole objective: which term counts when, on which masks, and whom it moves."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from more_lib.method import objective as module
from more_lib.method.gcr import VARIANTS
from more_lib.method.localization import patch_affinity, spread
from more_lib.method.model import MoRe
from more_lib.method.objective import MINED, Objective
from more_lib.method.pseudo_labels import three_way_mask
from more_lib.recipes.constants import IMAGENET_MEAN, IMAGENET_STD
from more_lib.recipes.loading import changed, load_recipe
from more_lib.system.errors import InputError
from tests.method.helpers import nothing_waits_for_the_gpu, reached

BASE = {"classification", "aux_classification", "token_discrepancy"}
SETTINGS = (
    "loss.token_classification=0 schedule.patch_token_contrast=0 schedule.confident_relation=2 "
    "schedule.uncertain_relation=3 schedule.segmentation=4 schedule.dense_energy=5 "
    "schedule.final_cam=3"
).split() + [f"loss.{name}=0.1" for name in MINED]


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("mini", SETTINGS)


@pytest.fixture(scope="module")
def step(recipe):
    """A network, a batch and the network's output on it; the head weights are not small."""
    torch.manual_seed(0)
    model = MoRe.from_recipe(recipe, pretrained=False)
    for head in (model.classifier, model.aux_classifier):
        torch.nn.init.normal_(head.weight)
    images = torch.randn(2, 3, 96, 96).clamp(-1.5, 1.5)
    labels = torch.zeros(2, 10)
    labels[0, [1, 4]] = labels[1, 7] = 1
    return model, images, labels


def losses(recipe, step, iteration, box=None) -> dict[str, Tensor]:
    model, images, labels = step
    return Objective(recipe)(model, images, labels, model(images), iteration, box)


def test_an_energy_of_no_pixel_is_refused():
    with pytest.raises(InputError, match="energy.scale 0.01 leaves less than a pixel of data.crop"):
        Objective(load_recipe("mini", ["energy.scale=0.01"]))


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [
        (0, {"patch_token_contrast"}),
        (2, {"patch_token_contrast", "confident_relation"}),
        (4, set(MINED) - {"dense_energy"}),
        (5, set(MINED)),
    ],
)
def test_terms_set_in_at_their_iterations(recipe, step, iteration, expected):
    found = losses(recipe, step, iteration)
    assert set(found) == BASE | expected
    assert all(loss.isfinite() for loss in found.values())
    energy = Objective(recipe).energy  # the recipe's, with the lattice's calibration
    assert energy.weight == pytest.approx(recipe.energy.weight / 1.7)
    for name in ("sigma_rgb", "sigma_xy", "scale"):
        assert getattr(energy, name) == getattr(recipe.energy, name)


def test_a_weight_of_zero_leaves_a_term_out(recipe, step):
    without = changed(recipe, ["loss.patch_token_contrast=0", "loss.aux_classification=0"])
    found = losses(without, step, 5)
    assert set(found) == BASE - {"aux_classification"} | set(MINED) - {"patch_token_contrast"}


def test_no_cam_is_drawn_for_a_recipe_that_mines_nothing(recipe, step, monkeypatch):
    monkeypatch.setattr(module, "multiscale_cam", lambda *_: pytest.fail("nothing needs a CAM"))
    bare = changed(recipe, [f"loss.{name}=0" for name in MINED])
    assert set(losses(bare, step, 10)) == BASE


@pytest.mark.parametrize("iteration", [2, 3])
def test_masks_come_from_the_auxiliary_cam_first_and_from_the_final_one_later(
    recipe, step, monkeypatch, iteration
):
    """With the thresholds that belong to each (method: a switch at half of the training)."""
    model, images, labels = step
    seen = {}

    def spy(tokens, features, mask, *rest):
        seen["confident"] = mask
        return tokens.sum()

    monkeypatch.setattr(module, "confident_relation_loss", spy)
    losses(recipe, step, iteration)
    masks = recipe.masks
    cam, aux_cam = module.multiscale_cam(model, images, masks.scales)
    maps, thresholds = (cam, masks.final) if iteration >= 3 else (aux_cam, masks.confident)
    small = torch.nn.functional.interpolate(maps, (12, 12), mode="bilinear")
    expected = three_way_mask(small, labels, *thresholds)
    assert (seen["confident"] != expected).float().mean() < 0.01
    assert len(expected.unique()) > 2


def test_the_decoders_labels_come_from_cam_or_lam_or_both(recipe, step, monkeypatch):
    maps = []

    def spy(par, images, given, *rest):
        maps.append(given)
        return torch.zeros(len(images), 96, 96, dtype=torch.int64)

    monkeypatch.setattr(module, "refine_cam", spy)
    for choice in ("cam", "lam", "both"):
        losses(changed(recipe, [f"masks.decoder_map={choice}"]), step, 4)
    losses(changed(recipe, ["masks.decoder_map=both", "masks.spread=0.05"]), step, 4)
    model, images, labels = step
    cam, _ = module.multiscale_cam(model, images, recipe.masks.scales, labels=labels)
    torch.testing.assert_close(maps[0], cam, rtol=1e-3, atol=1e-3)
    assert maps[1].shape == cam.shape and not torch.allclose(maps[1], maps[0], atol=1e-2)
    assert 0 <= maps[1].min() and maps[1].max() <= 1 and not maps[1].requires_grad
    torch.testing.assert_close(maps[2], (maps[0] + maps[1]) / 2)
    features = model(images).features
    patches = F.interpolate(maps[2], features.shape[-2:], mode="bilinear")
    gathered = spread(patches, patch_affinity(features, 0.05))
    wanted = module.min_max(F.interpolate(gathered, (96, 96), mode="bilinear"))
    torch.testing.assert_close(maps[3], wanted, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(maps[3], maps[2], atol=1e-2)


def test_the_picture_of_the_refinement_is_exact_or_cut_to_bytes(recipe, step, monkeypatch):
    given = []

    def spy(par, pictures, *rest):
        given.append(pictures)
        return torch.zeros(len(pictures), 96, 96, dtype=torch.int64)

    monkeypatch.setattr(module, "refine_cam", spy)
    model, _, labels = step
    pictures = torch.full((2, 3, 96, 96), 100.9 / 255)
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    images = (pictures - mean) / std
    for choice in ("exact", "bytes"):
        objective = Objective(changed(recipe, [f"masks.picture={choice}"]))
        objective(model, images, labels, model(images), 4)
    exact, cut = given
    torch.testing.assert_close(exact, pictures)
    assert torch.equal(cut, torch.full_like(pictures, 100) / 255)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("classification", {"encoder", "classifier"}),
        ("aux_classification", {"encoder", "aux_classifier"}),
        ("patch_token_contrast", {"encoder"}),
        ("confident_relation", {"encoder", "graph"}),
        ("segmentation", {"encoder", "decoder"}),
        ("dense_energy", {"encoder", "decoder"}),
    ],
)
def test_each_term_moves_its_own_parts(recipe, step, name, parts):
    """The CAM that the masks come from is not trained by the terms that use them."""
    moved = reached(step[0], losses(recipe, step, 10)[name])
    assert {parameter.partition(".")[0] for parameter in moved} == parts


def test_every_term_is_float32_and_near_in_mixed_precision_and_survives_bare_images(recipe, step):
    every, found = changed(recipe, ["loss.token_classification=1"]), []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found.append(losses(every, step, 10))
    exact, rough = found
    assert set(rough) == BASE | set(MINED) | {"token_classification"}
    for name, loss in rough.items():
        assert loss.dtype == torch.float32, name
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.25, abs=0.05), name
    model, images, labels = step
    bare = losses(recipe, (model, images, torch.zeros_like(labels)), 10)  # without foreground
    for terms in (rough, bare):
        model.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        assert all(loss.isfinite() for loss in terms.values())
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.gpu
def test_no_term_waits_for_the_gpu(recipe, step):
    model, images, labels = step
    model, images = model.cuda(), images.cuda()
    objective = Objective(recipe).cuda()
    objective(model, images, labels, model(images), 10)  # warm
    with nothing_waits_for_the_gpu():
        objective(model, images, labels.pin_memory(), model(images), 10)
    model.cpu()


def test_paper_presets_are_reachable_from_the_recipe(step):
    """Every row in which paper and release differ, switched to the paper at once."""
    switches = (
        "graph.num_neighbors=72 graph.tails=patches graph.similarity=cosine "
        "graph.edge_weights=sum_of_products graph.update=plain "
        "masks.lam_similarity=cosine masks.decoder_map=lam loss.aux_classification=0 "
        "lir.confident=paper lir.form=cosine lir.token=centre lir.sampling=all"
    )
    paper = load_recipe("mini", [*SETTINGS, *switches.split()])
    torch.manual_seed(0)
    model = MoRe.from_recipe(paper, pretrained=False)
    assert replace(model.graph.switches, num_neighbors=0) == VARIANTS["paper"]
    found = losses(paper, (model, *step[1:]), 10)
    assert sum(found.values()).isfinite()


def test_padding_mask_and_the_extended_border_by_hand():
    box = torch.tensor([[1, 0, 3, 2], [0, 0, 4, 3]])
    first, second = module.padding_mask(box, (3, 4)).int()
    assert first.tolist() == [[1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]] and not second.any()
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    extended = module._extended(maps, torch.tensor([[1, 1, 3, 4]]))
    assert extended[0, 0].tolist() == [[5, 5, 6, 6], [5, 5, 6, 6], [9, 9, 10, 10], [13, 13, 14, 14]]


def test_a_box_as_large_as_the_image_changes_nothing(recipe, step):
    found = []
    for box in (None, torch.tensor([[0, 0, 96, 96]] * 2)):
        torch.manual_seed(0)
        found.append(losses(recipe, step, 10, box))
    for name, loss in found[0].items():
        torch.testing.assert_close(found[1][name], loss, msg=name)


def test_padding_is_ignored_closed_and_background(recipe, step, monkeypatch):
    """255 for decoder and contrast, no open gate for the energy, background for both relations."""
    model, images, labels = step
    box = torch.tensor([[16, 8, 80, 96], [0, 0, 48, 50]])
    padding = module.padding_mask(box, (96, 96))
    patches = padding[:, 4::8, 4::8]  # at the patches' centres
    seen = {}

    def spy(name, *given):
        seen[name] = given
        return given[0].sum()

    for name in MINED[:4]:
        monkeypatch.setattr(module, f"{name}_loss", partial(spy, name))
    objective = Objective(recipe)
    monkeypatch.setattr(objective.energy, "forward", lambda *given: seen.update(energy=given) or 0)
    objective(model, images, labels, model(images), 10, box)
    assert (seen["segmentation"][1][padding] == 255).all()
    assert (seen["segmentation"][1][~padding] != 255).any()
    assert (seen["patch_token_contrast"][1][patches] == 255).all()
    assert (seen["confident_relation"][2][patches] == 0).all()
    assert (seen["uncertain_relation"][2][patches] == 0).all()
    _, _, known, roi = seen["energy"]
    assert torch.equal(roi, ~padding) and (known[padding] != 255).all()
    assert torch.equal(known[~padding], seen["segmentation"][1][~padding])


def test_the_energy_moves_no_padding(recipe, step):
    """A box's gate: outside of it the logits get no gradient from the energy."""
    model, images, labels = step
    with torch.no_grad():
        output = model(images)
    logits = torch.zeros(2, 11, 96, 96, requires_grad=True)  # at the image's size: no blending
    box = torch.tensor([[0, 0, 96, 96], [0, 0, 48, 48]])
    objective = Objective(changed(recipe, ["energy.scale=0.25"]))
    output = output._replace(seg_logits=logits)
    objective(model, images, labels, output, 10, box)["dense_energy"].backward()
    assert logits.grad[0].abs().sum() > 0
    assert logits.grad[1, :, 56:, 56:].abs().max() == 0


def test_what_lies_on_padding_does_not_reach_the_decoders_labels(recipe, step, monkeypatch):
    model, images, labels = step
    box = torch.tensor([[0, 0, 64, 96], [0, 0, 96, 96]])
    padding = module.padding_mask(box, (96, 96))
    cam = torch.rand(2, 10, 96, 96)
    monkeypatch.setattr(module, "multiscale_cam", lambda *given: (cam, cam))
    targets = []
    monkeypatch.setattr(module, "segmentation_loss", lambda _, m: targets.append(m) or m.sum())
    with torch.no_grad():
        output = model(images)
        for noise in (0.0, 1.0):
            noisy = images + noise * torch.randn_like(images) * padding[:, None]
            Objective(recipe)(model, noisy, labels, output, 4, box)
    assert torch.equal(*targets) and (targets[0][~padding] != 255).any()
