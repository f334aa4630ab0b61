"""The profiles: the released values, and the fingerprints that stored networks go by."""

import json
from pathlib import Path

import pytest

import more_lib
from more_lib.method.objective import MINED, Objective
from more_lib.recipes import PROFILES, load_recipe, to_dict, training_fingerprint
from more_lib.recipes.classes import VOC_CLASSES

RECORDS = Path(more_lib.__file__).parent / "paper" / "records"


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_load_under_their_own_name(profile):
    assert load_recipe(profile) == PROFILES[profile]
    assert PROFILES[profile].profile == profile


def test_voc_profile_holds_the_released_values():
    recipe = PROFILES["voc"]
    data, optimizer, loss = recipe.data, recipe.optimizer, recipe.loss
    assert data.classes == VOC_CLASSES and data.train_split == "train_aug"
    assert (data.crop_size, data.crop_scale) == (448, (0.32, 1.0))
    assert (data.color_jitter, data.jitter_probability) == ((0.4, 0.4, 0.2, 0.1), 0.5)
    assert recipe.backbone.name == "vit_base_patch16_224.orig_in21k_ft_in1k"
    assert (recipe.backbone.num_registers, recipe.backbone.aux_layer) == (4, -3)
    assert recipe.backbone.decoder_width == 512
    assert (optimizer.iterations, optimizer.batch_size, optimizer.lr) == (20_000, 4, 6e-5)
    assert (optimizer.head_lr_factor, optimizer.weight_decay) == (10, 0.01)
    assert (optimizer.betas, optimizer.power) == ((0.9, 0.999), 0.9)
    assert (optimizer.warmup_iterations, optimizer.warmup_ratio) == (1_500, 1e-6)
    assert (loss.classification, loss.aux_classification, loss.token_discrepancy) == (1, 1, 1)
    assert (loss.token_classification, loss.token_temperature) == (0, 0.07)
    assert recipe.evaluation.scales == (1.0, 0.5, 0.75, 1.5)
    assert recipe.evaluation.threshold == 0.5


def test_coco_profile_is_the_released_script():
    recipe = PROFILES["coco"]
    data, loss, masks = recipe.data, recipe.loss, recipe.masks
    assert len(data.classes) == 80 and (data.train_split, data.val_split) == ("train", "val")
    assert (data.crop, data.crop_size, data.crop_scale) == ("padded", 448, (0.32, 1.0))
    assert data.jitter_probability == 0.8
    weights = (loss.confident_relation, loss.uncertain_relation, loss.segmentation)
    assert weights == (0.1, 0.01, 0.12) and recipe.lir.temperature == 0.1
    assert (recipe.optimizer.iterations, recipe.optimizer.batch_size) == (80_000, 2)
    assert masks.scales == recipe.evaluation.scales == (1.0, 0.5, 0.75, 1.25, 1.5)
    assert masks.decoder == (0.65, 0.25) and masks.final == (0.6, 0.35)
    assert recipe.evaluation.threshold == 0.45
    stages = {name: Objective(recipe).active(step) for name, step in STAGES.items()}
    assert stages == {
        "classes": set(),
        "patches": {"patch_token_contrast"},
        "relations": {"patch_token_contrast", "confident_relation", "uncertain_relation"},
        "all": set(MINED),
    }
    assert recipe.schedule.final_cam == 50_000


STAGES = {"classes": 7_999, "patches": 8_000, "relations": 12_000, "all": 16_000}


def test_coco_log_differs_from_the_script_in_three_values():
    script, log = (to_dict(PROFILES[name]) for name in ("coco", "coco-log"))
    assert log["loss"] == script["loss"] | {"confident_relation": 0.05, "uncertain_relation": 0.0}
    assert log["optimizer"] == script["optimizer"] | {"batch_size": 4}
    rest = script.keys() - {"profile", "loss", "optimizer"}
    assert all(log[name] == script[name] for name in rest)


def test_pets_profile_is_of_breeds_and_fits_its_patches():
    recipe = PROFILES["pets"]
    assert len(recipe.data.classes) == 37 and recipe.data.crop_size % 16 == 0
    assert recipe.schedule.final_cam == recipe.optimizer.iterations


def test_stored_networks_and_records_keep_their_fingerprints():
    """The mini profile's and VOC's, from before ``data.crop`` and ``optimizer.accumulate``."""
    assert training_fingerprint(PROFILES["mini"]) == "1d19287642a0"
    assert training_fingerprint(PROFILES["voc"]) == "e310f4422389"
    records = map(json.loads, (file.read_text() for file in RECORDS.glob("*.json")))
    studies = [record for record in records if "training_fingerprint" in record]
    assert studies
    for study in studies:
        assert study["training_fingerprint"] == training_fingerprint(PROFILES[study["profile"]])
