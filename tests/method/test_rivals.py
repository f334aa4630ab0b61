"""The rivals as the trainer and the evaluation see them: what learns from what, when, and maps."""

from functools import cache

import pytest
import torch
from torch import Tensor

from more_lib.method import dupl, rival_objectives, rivals
from more_lib.method import objective as objective_module
from more_lib.method.localization import multiscale_cam, views_of
from more_lib.method.losses import patch_token_contrast_loss, segmentation_loss
from more_lib.method.mctformer import layer_contrast_loss
from more_lib.method.methods import METHODS, method_of
from more_lib.method.model import MoReOutput
from more_lib.method.pseudo_labels import refine_cam, three_way_mask
from more_lib.recipes import PROFILES, changed, schema
from tests.method.helpers import drawn, reached, refuses

RIVALS = ("toco", "dupl", "mctformer")
LABELS = torch.zeros(2, len(PROFILES["mini"].data.classes))
LABELS[0, 2] = LABELS[1, 0] = LABELS[1, 4] = 1
QUICK = "backbone.name=mini_w48 data.crop_size=48 masks.dilations=[1,2] masks.refinements=2"
OWN = {
    "toco": "toco.local_size=16 toco.head=[16,8,32] toco.num_crops=3 schedule.segmentation=5 "
    "schedule.dense_energy=5",
    "dupl": "dupl.filter_from=8 dupl.least=20 schedule.segmentation=5 dupl.end=[0.55]",
    "mctformer": "mctformer.contrast_blocks=2",
}
TERMS = {  # by iteration
    "toco": {
        0: "classification aux_classification patch_token_contrast class_token_contrast",
        5: "classification aux_classification patch_token_contrast class_token_contrast "
        "segmentation dense_energy",
    },
    "dupl": {
        0: "classification aux_classification patch_token_contrast discrepancy",
        5: "classification aux_classification patch_token_contrast discrepancy segmentation",
        8: "classification aux_classification patch_token_contrast discrepancy segmentation "
        "consistency",
    },
    "mctformer": {0: "classification token_classification layer_contrast"},
}


@cache
def recipe_of(name: str, more: str = "") -> schema.Recipe:
    return changed(PROFILES[name], [*QUICK.split(), *OWN[name].split(), *more.split()])


def build(name: str, more: str = ""):
    """A rival's network on a random backbone while training, and its objective."""
    recipe, method = recipe_of(name, more), METHODS[name]
    torch.manual_seed(0)
    return method.network.from_recipe(recipe, pretrained=False).train(), method.objective(recipe)


def pictures(seed: int = 0, count: int = 2, side: int = 48) -> Tensor:
    return drawn(count, 3, side, side, seed=seed, dtype=torch.float32)


def losses_of(name: str, iteration: int, more: str = "", **options):
    model, objective = build(name, more)
    images, further = pictures(), dict(options)
    if objective.views:
        further["views"] = torch.stack((pictures(1), pictures(2)), dim=1)
    return model, objective, objective(model, images, LABELS, model(images), iteration, **further)


def test_each_name_has_its_method_and_its_section():
    assert tuple(METHODS) == schema.METHODS
    for name in RIVALS:
        assert method_of(PROFILES[name]) is METHODS[name] and hasattr(PROFILES[name], name)


@pytest.mark.parametrize(("name", "iteration"), [(n, t) for n in RIVALS for t in TERMS[n]])
def test_terms_set_in_when_the_recipe_says_and_each_has_a_weight(name, iteration):
    _, objective, losses = losses_of(name, iteration)
    assert sorted(losses) == sorted(TERMS[name][iteration].split())
    for term, loss in losses.items():
        assert loss.ndim == 0 and loss.isfinite() and objective.weights[term] > 0, term
    weights = {
        "class_token_contrast": 0.5,
        "patch_token_contrast": 3,
        "discrepancy": 0.1,
        "consistency": 0.05,
        "layer_contrast": 1,
        "segmentation": {"toco": 0.1, "dupl": 0.2}.get(name),
    }
    for term in losses.keys() & weights.keys():
        assert objective.weights[term] == weights[term]


@pytest.mark.parametrize("name", RIVALS)
def test_every_parameter_has_one_place_in_the_optimizer_and_learns_in_the_end(name):
    model, objective, losses = losses_of(name, max(TERMS[name]))
    if name == "dupl":  # students that are alike feel no discrepancy, and no pixel is dropped here
        losses["segmentation"] = losses["segmentation"] + losses.pop("consistency")
    groups = model.parameter_groups(recipe_of(name).optimizer)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert sorted(grouped) == sorted(map(id, trained.values()))
    names = reached(model, sum(objective.weights[term] * loss for term, loss in losses.items()))
    # Empty: no registers. A key's bias moves no softmax; MCTformer+ applies no final norm.
    silent = {n for n, p in trained.items() if p.numel() == 0}
    silent |= {n for n in trained if name == "mctformer" and ".norm." in n and "blocks" not in n}
    assert trained.keys() - names <= silent
    assert not any(n.startswith("teacher") for n in names)


@pytest.mark.parametrize("contrast", [0, 5])
def test_tocos_teacher_moves_a_tenth_towards_the_head_and_only_the_head_has_one(contrast):
    """Each time, whether the contrast has begun or not."""
    model, objective = build("toco", f"schedule.patch_token_contrast={contrast}")
    teacher = [p.clone() for p in model.teacher.parameters()]
    assert all(map(torch.equal, teacher, model.head.parameters()))
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter += 1
    views = torch.stack((pictures(1), pictures(2)), dim=1)
    objective(model, pictures(), LABELS, model(pictures()), 0, views=views)
    for old, new in zip(teacher, model.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)


def test_tocos_targets_are_the_teachers():
    losses, views = [], torch.stack((pictures(1), pictures(2)), dim=1)
    for sign in (1, -1):
        model, objective = build("toco", "toco.momentum=1")
        model.teacher.last_layer.weight.mul_(sign)
        torch.manual_seed(1)
        given = (model, pictures(), LABELS, model(pictures()), 0)
        losses.append(objective(*given, views=views)["class_token_contrast"].item())
    assert losses[0] != pytest.approx(losses[1], rel=1e-2)


def test_tocos_contrast_reaches_encoder_and_head_alone():
    model, _, losses = losses_of("toco", 0)
    names = reached(model, losses["class_token_contrast"])
    assert {name.split(".")[0] for name in names} == {"encoder", "head"}
    assert "encoder.class_tokens" in names and "head.last_layer.weight" in names


def test_dupls_terms_are_the_sums_of_both_students_and_labels_are_crossed():
    """The first iterations, written out; students are made unlike, or nothing would be crossed."""
    recipe = recipe_of("dupl", "masks.scales=[1.0]")
    model, objective = build("dupl", "masks.scales=[1.0]")
    with torch.no_grad():
        model.students[1].encoder.blocks[0].attn.qkv.weight.mul_(3)
    images = pictures()
    outputs = model(images)
    losses = objective(model, images, LABELS, outputs, 5)
    shown, contrast, labels = (
        (images * objective.normal[1] + objective.normal[0]).clamp(0, 1),
        0,
        [],
    )
    for student, output in zip(model.students, outputs, strict=True):
        cam, aux_cam = multiscale_cam(student, images, [1.0])
        small = torch.nn.functional.interpolate(aux_cam, (6, 6), mode="bilinear")
        mask = three_way_mask(small, LABELS, 0.7, 0.25)
        contrast += patch_token_contrast_loss(output.features, mask)
        labels.append(refine_cam(objective.refinement, shown, cam, LABELS, 0.7, 0.25))
    assert not torch.equal(*labels)
    first, second = (output.seg_logits for output in outputs)
    crossed = segmentation_loss(first, labels[1]) + segmentation_loss(second, labels[0])
    torch.testing.assert_close(losses["patch_token_contrast"], contrast, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["segmentation"], crossed, rtol=1e-4, atol=1e-5)
    assert recipe.method == "dupl"


def test_dupls_thresholds_fall_by_class_once_the_decoder_learns():
    ends = [0.5 + 0.01 * c for c in range(LABELS.shape[1])]
    _, objective = build("dupl", f"dupl.end={ends}".replace(" ", "") + " dupl.fall=10")
    assert objective.thresholds(4, LABELS).tolist() == pytest.approx([0.7, 0.7])
    assert objective.thresholds(15, LABELS).tolist() == pytest.approx([0.52, 0.54])
    middle = objective.thresholds(5 + 4, LABELS)
    assert (middle < 0.7).all() and (middle > torch.tensor([0.52, 0.54])).all()
    refuses("dupl.end has 2 values; give 1, or", build, "dupl", "dupl.end=[0.5,0.6]")


def test_dupls_threshold_and_discrepancy_begin_when_the_recipe_says():
    ends = "dupl.end=[0.5] dupl.fall=11 dupl.fall_from=7"
    _, objective = build("dupl", ends)
    assert objective.thresholds(7, LABELS).tolist() == pytest.approx([0.7, 0.7])
    assert objective.thresholds(12, LABELS).tolist() == pytest.approx([0.6, 0.6])  # half way
    for first, begun in ((1, False), (0, True)):
        _, _, losses = losses_of("dupl", 0, f"dupl.discrepancy_from={first}")
        assert ("discrepancy" in losses) == begun


@pytest.mark.parametrize("name", ["toco", "dupl"])
def test_decoders_learn_from_the_auxiliary_cam_until_the_final_one_is_trusted(name, monkeypatch):
    """And no CAM is drawn while only image labels teach."""
    late = "schedule.patch_token_contrast=5 schedule.final_cam=6 schedule.dense_energy=9"
    settings = f"masks.decoder_map=aux_first {late} masks.scales=[1.0]"
    model, objective = build(name, settings)
    taught, maps = [], {"cam": [], "aux_cam": []}
    refine = objective_module.refine_cam

    def watched(par, shown, cam, *rest):
        taught.append(cam)
        return refine(par, shown, cam, *rest)

    monkeypatch.setattr(objective_module, "refine_cam", watched)
    images, further = pictures(), {}
    if objective.views:
        further["views"] = torch.stack((pictures(1), pictures(2)), dim=1)
    for student in getattr(model, "students", [model]):
        drawn_maps = multiscale_cam(student, images, [1.0])
        for kind, drawn_map in zip(maps, drawn_maps, strict=True):
            maps[kind].append(drawn_map)
    present = LABELS[:, :, None, None]
    early = objective(model, images, LABELS, model(images), 4, **further)
    assert early.keys() - {"discrepancy"} == {"classification", "aux_classification"}
    for step, kind in ((5, "aux_cam"), (6, "cam")):
        taught.clear()
        losses = objective(model, images, LABELS, model(images), step, **further)
        assert {"segmentation", "patch_token_contrast"} <= losses.keys()
        assert ("class_token_contrast" in losses) == (name == "toco")
        for ours, expected in zip(taught, maps[kind], strict=True):
            torch.testing.assert_close(ours * present, expected * present, rtol=1e-3, atol=1e-4)


def test_tocos_projection_is_part_of_its_forward_while_it_trains():
    model, images = build("toco")[0], pictures()
    output = model(images)
    torch.testing.assert_close(output.token_logits, model.head(output.class_tokens[:, 0]))
    assert model.eval()(images).token_logits.shape == (2, 1)


def test_mctformers_positions_are_repeated_where_the_crop_is_a_multiple_of_the_pretrained():
    def position(side: int):
        torch.manual_seed(0)
        recipe = changed(recipe_of("mctformer"), [f"data.crop_size={side}"])
        return rivals.MCTformerPlus.from_recipe(recipe, False).encoder

    plain, doubled = position(96), position(192)
    assert plain.grid_size == position(48).grid_size == position(144).grid_size == (12, 12)
    assert doubled.grid_size == (24, 24) and doubled.patch_position.requires_grad
    before, after = plain.patch_position[0], doubled.patch_position[0].unflatten(0, (24, 24))
    assert torch.equal(after[1::2, ::2].flatten(0, 1), before)


def test_dupls_strong_view_is_smaller_mirrored_and_whole_patches(monkeypatch):
    model, objective = build("dupl")
    monkeypatch.setattr(dupl, "strong_view", lambda images, draws: images)
    shown = torch.linspace(0, 1, 40).expand(2, 3, 64, 40)
    strong = objective._strong(shown, model.patch_size) * objective.normal[1] + objective.normal[0]
    assert strong.shape == (2, 3, 48, 32)  # 0.75 * 40 = 30 is 3.75 patches of 8
    assert (strong.diff(dim=3) < 0).all() and strong[..., 0].min() > 0.95


def test_tokens_of_the_last_blocks_alone_are_contrasted():
    model, objective = build("mctformer")
    output = model(pictures())
    losses = objective(model, pictures(), LABELS, output, 0)
    last, every = (layer_contrast_loss(output.tokens[-n:], LABELS) for n in (2, 6))
    assert losses["layer_contrast"] == last != every


def test_padding_teaches_dupl_nothing(monkeypatch):
    patches = []

    def contrast(features, mask):
        patches.append(mask)
        return patch_token_contrast_loss(features, mask)

    monkeypatch.setattr(rival_objectives, "patch_token_contrast_loss", contrast)
    box = torch.tensor([[0, 0, 24, 48], [0, 0, 48, 48]])
    model, objective = build("dupl")
    images = pictures()
    images[0, :, :, 24:] = 0
    pairs = list(zip(model.students, model(images), strict=True))
    shown = (images, images.clamp(0, 1))
    assert objective._own_terms(pairs, shown, LABELS, box, 4)[1] == []
    _, labels = objective._own_terms(pairs, shown, LABELS, box, 5)
    for mask in labels:
        assert (mask[0, :, 24:] == 255).all() and (mask[0, :, :24] != 255).any()
    assert len(patches) == 4  # of each student at each iteration
    for mask in patches:
        assert (mask[0, :, 3:] == 255).all() and (mask[0, :, :3] != 255).any()
    assert objective(model, images, LABELS, model(images), 5, box)["segmentation"].isfinite()


@pytest.mark.parametrize("name", RIVALS)
def test_evaluation_draws_the_maps_that_a_network_has_and_refuses_the_others(name):
    model, images, classes = build(name)[0].eval(), pictures(), LABELS.shape[1]
    output = model(images, with_decoder=False)
    assert isinstance(output, MoReOutput | rivals.MCTMaps)
    assert output.class_logits.shape == (2, classes)
    group = ((1.0, 0.5), True)
    views = views_of(model, images, [group], kinds=model.kinds)
    for kind in model.kinds:
        maps = views.merged(group, kind)
        assert maps.shape == (2, classes + (kind == "decoder"), 48, 48)
        assert maps.min() >= 0 and maps.max() <= 1 + 1e-6
    complaint = f"this network draws no lam; choose among {model.kinds[0]}"
    refuses(complaint, views_of, model, images, [group], "dot", ["lam"])


def test_dupls_first_student_stands_for_both_and_neither_draws_what_has_no_classes():
    model, images = build("dupl")[0].eval(), pictures()
    assert torch.equal(model(images).cam, model.students[0](images).cam)
    for network in (model, *model.students):
        refuses("this network draws no lam", views_of, network, images, [((1.0,), True)])


def test_seeds_are_attention_times_patch_cam_spread_by_affinity():
    model, images = build("mctformer")[0].eval(), pictures()
    seen, output = super(rivals.MCTformerPlus, model).forward(images), model(images)
    fused = (seen.class_attention.mean(0) * seen.patch_cam.relu()).sqrt()
    spread = (seen.affinity @ fused.flatten(2).mT).mT.view_as(fused)
    torch.testing.assert_close(output.seed, spread)
    assert torch.equal(output.root, fused) and torch.equal(output.cam, seen.patch_cam)
    assert torch.equal(output.class_logits, (seen.class_logits + seen.patch_logits) / 2)


@pytest.mark.parametrize("name", RIVALS)
def test_networks_of_any_rival_refuse_crops_that_no_patch_fills(name):
    recipe = changed(recipe_of(name), ["data.crop_size=50"])
    refuses("data.crop_size is 50", METHODS[name].network.from_recipe, recipe, False)
