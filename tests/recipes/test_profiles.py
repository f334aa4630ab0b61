"""The profiles: the released values, and the fingerprints that stored networks go by."""

import json
from importlib import resources

import pytest

from more_lib.method.methods import method_of
from more_lib.method.objective import MINED, Objective
from more_lib.paper import records
from more_lib.recipes import (
    PROFILES,
    changed,
    load_recipe,
    profiles,
    to_dict,
    training_fingerprint,
    training_values,
)
from more_lib.recipes.classes import COCO_CLASSES, EMOJI_CLASSES, PET_BREEDS, VOC_CLASSES
from more_lib.recipes.loading import fingerprint

ENDS = [0.7 if name in "aeroplane bicycle bird boat chair train".split() else 0.55
        for name in VOC_CLASSES]  # fmt: skip
ENDS = str(ENDS).replace(" ", "")
AS_RELEASED = """data.crop=padded data.crop_size=448 data.crop_scale=[0.5,2.0] data.grey=0.2
data.color_jitter=[0.4,0.4,0.2,0.1] data.jitter_probability=0.8 data.blur=1
backbone.name=vit_base_patch16_224.orig_in21k_ft_in1k backbone.freeze_position=true
masks.scales=[1.0,0.5,1.5] masks.contrast=[0.7,0.25] masks.decoder=[0.7,0.25] masks.decoder_map=cam
loss.classification=1 loss.aux_classification=1 loss.patch_token_contrast=0.2
schedule.segmentation=2_001 optimizer.iterations=20_000 optimizer.batch_size=4 optimizer.lr=6e-5
optimizer.weight_decay=0.01 optimizer.head_lr_factor=10 optimizer.warmup_iterations=1_500
optimizer.power=0.9 optimizer.decay=polynomial optimizer.token_parameters=1"""
ON_COCO = """data.padding=mirrored data.blur=1 optimizer.iterations=80_000 optimizer.batch_size=8
masks.decoder_map=aux_first schedule.segmentation=8_001 schedule.patch_token_contrast=12_001
schedule.final_cam=12_001 evaluation.threshold=0.45"""
RELEASED = {
    "voc": """
data.train_split=train_aug data.val_split=val data.crop_size=448 data.crop_scale=[0.32,1.0]
data.color_jitter=[0.4,0.4,0.2,0.1] data.jitter_probability=0.5
backbone.name=vit_base_patch16_224.orig_in21k_ft_in1k backbone.num_registers=4
backbone.aux_layer=-3 backbone.decoder_width=512
optimizer.iterations=20_000 optimizer.batch_size=4 optimizer.lr=6e-5 optimizer.head_lr_factor=10
optimizer.weight_decay=0.01 optimizer.betas=[0.9,0.999] optimizer.power=0.9
optimizer.warmup_iterations=1_500 optimizer.warmup_ratio=1e-6
loss.classification=1 loss.aux_classification=1 loss.token_discrepancy=1
loss.token_classification=0 loss.token_temperature=0.07
optimizer.token_parameters=2 optimizer.late_terms=zero lir.fill_up=corner masks.picture=bytes
schedule.segmentation=2_001 schedule.dense_energy=2_001 schedule.final_cam=10_001
schedule.patch_token_contrast=0 schedule.confident_relation=0 schedule.uncertain_relation=0
evaluation.scales=[1.0,0.5,0.75,1.5] evaluation.threshold=0.5
""",
    "coco": """
data.train_split=train data.val_split=val data.crop=padded data.crop_size=448
data.crop_scale=[0.32,1.0] data.color_jitter=[0.4,0.4,0.2,0.1] data.jitter_probability=0.8
data.padding=picture
loss.confident_relation=0.1 loss.uncertain_relation=0.01 loss.segmentation=0.12
lir.temperature=0.1 optimizer.iterations=80_000 optimizer.batch_size=2 schedule.final_cam=50_001
masks.scales=[1.0,0.5,0.75,1.25,1.5] masks.decoder=[0.65,0.25]
masks.uncertain=[0.65,0.25] masks.contrast=[0.65,0.25] masks.confident=[0.5,0.25]
masks.final=[0.6,0.35] evaluation.scales=[1.0,0.5,0.75,1.25,1.5] evaluation.threshold=0.45
""",
    "toco-voc": f"""{AS_RELEASED} data.views=released data.padding=mirrored
toco.class_token_contrast=0.5 toco.temperature=0.5 toco.momentum=0.9 toco.region=[0.7,0.25]
toco.num_crops=8 toco.local_size=96 toco.head=[2048,256,1024] toco.aligned=false toco.repulsion=true
loss.segmentation=0.1 loss.dense_energy=0.05 schedule.dense_energy=2_001""",
    "toco-coco": f"""{ON_COCO} toco.temperature=1 toco.region=[0.65,0.25]
masks.contrast=[0.65,0.25] masks.decoder=[0.65,0.25] schedule.dense_energy=8_001""",
    "dupl-voc": f"""{AS_RELEASED} data.padding=masked dupl.start=0.7 dupl.end={ENDS}
dupl.fall_from=2_000 dupl.fall=18_000 dupl.filter_from=8_000 dupl.least=1_000 dupl.floor=0.1
dupl.gap=1 dupl.posterior=0.95 dupl.discrepancy=0.1 dupl.consistency=0.05 dupl.confidence=0.9
dupl.strong_scale=0.75 loss.segmentation=0.2 loss.dense_energy=0""",
    "dupl-coco": f"""{ON_COCO} dupl.start=0.65 dupl.end=[0.55] dupl.discrepancy=0.05
dupl.discrepancy_from=8_001 dupl.fall_from=12_000 dupl.filter_from=32_000 loss.dense_energy=0""",
    "mctformer-voc": """
backbone.name=deit_small_patch16_224.fb_in1k backbone.drop_path=0.1 backbone.token_start=identical
data.crop=resized data.crop_size=448 data.crop_scale=[0.08,1.0] data.strong=randaugment
data.jitter_probability=0 data.grey=0 data.blur=0 mctformer.layer_contrast=1
mctformer.contrast_blocks=12 mctformer.decay=0.996 mctformer.map_blocks=12
optimizer.iterations=14_850 optimizer.batch_size=32 optimizer.decay=cosine
optimizer.weight_decay=0.05 optimizer.decayed=matrices optimizer.head_lr_factor=1
optimizer.token_lr_factor=1 optimizer.precision=fp16
loss.classification=1 loss.token_classification=1 evaluation.scales=[1.0,0.75,1.25]""",
    "mctformer-coco": "optimizer.batch_size=64 mctformer.map_blocks=3",
}
STAGES = {  # a term counts while iteration > start, counted from 0
    8_000: set(),
    8_001: {"patch_token_contrast"},
    12_001: {"patch_token_contrast", "confident_relation", "uncertain_relation"},
    16_001: set(MINED),
}


def test_every_file_is_a_profile_under_its_own_name():
    names = [file.stem for file in resources.files(profiles).glob("*.yaml")]
    assert {name: recipe.profile for name, recipe in PROFILES.items()} == {n: n for n in names}


@pytest.mark.parametrize("profile", RELEASED)
def test_the_released_values_change_nothing(profile):
    assert load_recipe(profile, RELEASED[profile].split()) == PROFILES[profile]


def test_classes_are_the_data_sets():
    assert {name: recipe.data.classes for name, recipe in PROFILES.items()} == {
        "mini": EMOJI_CLASSES,
        "mini-released": EMOJI_CLASSES,
        "mini-plus": EMOJI_CLASSES,
        "toco": EMOJI_CLASSES,
        "dupl": EMOJI_CLASSES,
        "mctformer": EMOJI_CLASSES,
        "photos": PET_BREEDS,
        "pets": PET_BREEDS,
        "voc": VOC_CLASSES,
        "coco": COCO_CLASSES,
        "coco-log": COCO_CLASSES,
        "toco-voc": VOC_CLASSES,
        "toco-coco": COCO_CLASSES,
        "dupl-voc": VOC_CLASSES,
        "dupl-coco": COCO_CLASSES,
        "mctformer-voc": VOC_CLASSES,
        "mctformer-coco": COCO_CLASSES,
    }


def test_cocos_objective_grows_in_four_stages():
    objective = Objective(PROFILES["coco"])
    assert {step: objective.active(step) for step in STAGES} == STAGES


@pytest.mark.parametrize("profile", ["toco-coco", "dupl-coco"])
def test_rivals_objectives_on_coco_grow_in_three_stages(profile):
    recipe = PROFILES[profile]
    objective = method_of(recipe).objective(recipe)
    decoded = {name for name in ("segmentation", "dense_energy") if vars(recipe.loss)[name]}
    contrasts = {"patch_token_contrast"}
    contrasts |= {"class_token_contrast"} if recipe.method == "toco" else set()
    stages = {8_000: set(), 8_001: decoded, 12_000: decoded, 12_001: decoded | contrasts}
    assert {step: objective.active(step) for step in stages} == stages
    taught = [objective.decoder_cam(("final", "aux"), step) for step in stages]
    assert taught == ["aux", "aux", "aux", "final"]
    assert objective.weights["segmentation"] == {"toco": 0.1, "dupl": 0.2}[recipe.method]


def test_mctformers_epochs_and_rates_are_those_of_its_batches():
    for profile, images, batch in (("mctformer-voc", 10_582, 32), ("mctformer-coco", 82_081, 64)):
        settings = PROFILES[profile].optimizer
        epoch = images // batch
        assert settings.lr_every == epoch and settings.iterations == 45 * epoch
        assert settings.warmup_iterations == 5 * epoch
        assert settings.lr == pytest.approx(5e-4 * batch / 512)
        assert settings.lr * settings.warmup_ratio == pytest.approx(1e-6)
        assert settings.lr * settings.final_ratio == pytest.approx(1e-5)


def test_coco_log_differs_from_the_script_in_three_values():
    script, log = (to_dict(PROFILES[name]) for name in ("coco", "coco-log"))
    assert log["loss"] == script["loss"] | {"confident_relation": 0.05, "uncertain_relation": 0.0}
    assert log["optimizer"] == script["optimizer"] | {"batch_size": 4}
    rest = script.keys() - {"profile", "loss", "optimizer"}
    assert all(log[name] == script[name] for name in rest)


def test_pets_profile_fits_its_patches_and_never_takes_the_final_cam():
    recipe = PROFILES["pets"]
    assert len(recipe.data.classes) == 37 and recipe.data.crop_size % 16 == 0
    assert recipe.schedule.final_cam == recipe.optimizer.iterations


@pytest.mark.parametrize("profile", ["toco", "dupl", "mctformer"])
def test_rivals_share_all_of_minis_values_but_their_own(profile):
    mini, rival = PROFILES["mini"], PROFILES[profile]
    assert rival.method == profile and not rival.graph.use
    for name in ("seed", "data", "masks", "energy", "evaluation"):
        assert getattr(mini, name) == getattr(rival, name)
    ours, theirs = vars(mini.optimizer), vars(rival.optimizer)
    rates = {"lr", "head_lr_factor"}
    assert {name for name in ours if ours[name] != theirs[name]} <= rates
    sections = {"toco", "dupl", "mctformer"} - {profile}
    assert not sections & training_values(rival).keys() and profile in training_values(rival)
    unread = [f"{name}.{key}" for name, key in (("toco", "num_crops=1"), ("dupl", "least=1"))]
    others = [override for override in unread if not override.startswith(profile)]
    assert training_fingerprint(changed(rival, others)) == training_fingerprint(rival)


def test_stored_networks_and_records_keep_their_fingerprints():
    """Those from before what ``loading`` lists as added."""
    former = training_values(PROFILES["mini-released"]) | {"profile": "mini"}  # its name then
    assert fingerprint(former) == "1d19287642a0"
    assert training_fingerprint(PROFILES["pets"]) == "7eb696cc68d8"
    files = resources.files(records).glob("*.json")
    studies = [json.loads(file.read_text()) for file in files]
    studies = [study for study in studies if "training_fingerprint" in study]
    assert studies
    for study in studies:
        assert study["training_fingerprint"] == training_fingerprint(PROFILES[study["profile"]])


def test_photos_profile_fits_its_patches_and_keeps_the_auxiliary_cam():
    recipe = PROFILES["photos"]
    assert recipe.data.crop_size % 14 == 0 and recipe.optimizer.iterations <= 400
    assert recipe.schedule.final_cam == recipe.optimizer.iterations
    assert recipe.lir.confident == "paper"  # whatever the length of a backbone's patches
    starts = [getattr(recipe.schedule, name) for name in MINED]
    assert max(starts) < recipe.optimizer.iterations  # every term is trained
