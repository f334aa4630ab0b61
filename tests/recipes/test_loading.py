"""Recipes: what a profile holds, how it is changed, and every way to get that wrong."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest
import yaml

from more_lib.recipes import (
    PROFILES,
    fingerprint,
    from_dict,
    load_recipe,
    to_dict,
    training_fingerprint,
)
from more_lib.recipes.schema import GraphRecipe, LirRecipe, LossRecipe, ScheduleRecipe
from more_lib.system.errors import InputError


def overrides(text: str) -> dict[str, str]:
    """The values of a recipe's YAML by their keys, as overrides give them."""
    values = yaml.safe_load(text)
    seed = {"seed": str(values.pop("seed"))} if "seed" in values else {}
    return seed | {
        f"{section}.{name}": json.dumps(value)
        for section, fields in values.items()
        for name, value in fields.items()
    }


# Another valid value for every key of the mini profile.
CHANGES = overrides("""
seed: 1
data: {dataset: voc, classes: [cat, dog], train_split: val, crop_size: 64, crop_scale: [0.6, 1],
  color_jitter: [0.4, 0.4, 0.2, 0.1], jitter_probability: 0.8, crop: padded}
backbone: {name: vit_tiny_patch16_224, weights: weights.safetensors, num_registers: 0,
  aux_layer: -2, decoder_width: 64, depth: 4}
graph: {use: false, num_neighbors: 72, tails: patches, similarity: cosine,
  edge_weights: sum_of_products, update: plain}
lir: {temperature: 0.1, confident: paper, kernel_size: 5, phi: 1.1, num_tokens: 16, form: cosine,
  token: centre, sampling: all}
masks: {scales: [1, 0.5], confident: [0.55, 0.2], uncertain: [0.65, 0.2], final: [0.65, 0.25],
  contrast: [0.65, 0.2], decoder: [0.65, 0.2], decoder_map: lam, dilations: [1, 2],
  refinements: 5}
energy: {weight: 1e-6, sigma_rgb: 10, sigma_xy: 50, scale: 0.125}
schedule: {patch_token_contrast: 5, confident_relation: 5, uncertain_relation: 5, segmentation: 5,
  dense_energy: 5, final_cam: 5}
loss: {classification: 2, aux_classification: 0, token_classification: 0, token_discrepancy: 0.5,
  token_temperature: 0.1, confident_relation: 0.7, uncertain_relation: 0.7, segmentation: 0.7,
  patch_token_contrast: 0.7, dense_energy: 0.7}
optimizer: {iterations: 10, batch_size: 16, lr: 1e-3, warmup_iterations: 0, head_lr_factor: 11,
  token_lr_factor: 3, betas: [0.9, 0.99], weight_decay: 0, warmup_ratio: 0.1, power: 1,
  precision: fp32, accumulate: 2}
""")
CHANGES_WITHOUT_TRAINING = overrides("""
masks: {lam_similarity: cosine}
data: {val_split: train, root: /data/EmojiVOC, labels: table.csv, skip: [train_00001], workers: 2}
optimizer: {log_every: 1, checkpoint_every: 5}
evaluation: {scales: [1, 0.5], threshold: 0.4, batch_size: 1}
""")


def value_of(recipe, key):
    for part in key.split("."):
        recipe = getattr(recipe, part)
    return recipe


def complaint(*overrides, profile="mini", file=None):
    with pytest.raises(InputError) as error:
        load_recipe(profile, overrides, file)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "build, said",
    [
        (lambda: LossRecipe(classification=-1), "loss.classification is -1: it must be greater"),
        (lambda: LossRecipe(clasification=1), "did you mean loss.classification?"),
        (lambda: GraphRecipe(tails="heads"), "graph.tails is 'heads': it must be 'tokens_and_"),
        (lambda: ScheduleRecipe(), "the recipe lacks schedule.patch_token_contrast"),
    ],
)
def test_a_section_built_alone_is_checked_as_well(build, said):
    with pytest.raises(InputError) as error:
        build()
    assert said in str(error.value) and "\n" not in str(error.value)


def test_recipes_are_equal_and_hash_by_their_values():
    mini, other = PROFILES["mini"], replace(PROFILES["mini"], seed=1)
    assert {mini, from_dict(to_dict(mini)), other} == {mini, other}
    assert GraphRecipe() == PROFILES["voc"].graph and LirRecipe() == PROFILES["voc"].lir


@pytest.mark.parametrize("profile", PROFILES)
def test_round_trip_through_dictionaries_yaml_and_json(profile):
    recipe, values = PROFILES[profile], to_dict(PROFILES[profile])
    assert from_dict(values) == recipe
    assert from_dict(yaml.safe_load(yaml.safe_dump(values))) == recipe
    assert from_dict(json.loads(json.dumps(values))) == recipe


def test_recipes_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        PROFILES["mini"].seed = 1
    to_dict(PROFILES["mini"])["optimizer"]["lr"] = 5.0
    assert PROFILES["mini"].optimizer.lr == 2e-4


@pytest.mark.parametrize("key, text", (CHANGES | CHANGES_WITHOUT_TRAINING).items())
def test_an_override_changes_its_key_and_no_other(key, text):
    mini = PROFILES["mini"]
    changed = load_recipe("mini", [f"{key}={text}"])
    assert value_of(changed, key) != value_of(mini, key)
    assert type(value_of(changed, key)) is type(value_of(mini, key))
    for other in (CHANGES | CHANGES_WITHOUT_TRAINING).keys() - {key}:
        assert value_of(changed, other) == value_of(mini, other)


def test_the_changes_above_cover_every_key():
    values = to_dict(PROFILES["mini"])
    sections = {name: part for name, part in values.items() if isinstance(part, dict)}
    keys = {f"{section}.{name}" for section, part in sections.items() for name in part}
    assert keys | {"seed"} == (CHANGES | CHANGES_WITHOUT_TRAINING).keys()


@pytest.mark.parametrize(
    "override, expected",
    [
        ("optimizer.lr=6e-5", 6e-5),  # YAML alone takes it for text
        ("optimizer.lr=6.0e-05", 6e-5),
        ("loss.classification=2", 2.0),
        ("optimizer.iterations = 7", 7),
        ("data.root=", ""),
        ("data.root=/a=b", "/a=b"),
        ("data.train_split='2012'", "2012"),
        ("evaluation.scales=[1, 5e-1]", (1.0, 0.5)),
        ("data.classes=[dog]", ("dog",)),
        ("seed=0x10", 16),
    ],
)
def test_override_values_are_yaml(override, expected):
    value = value_of(load_recipe("mini", [override]), override.partition("=")[0].strip())
    assert value == expected and type(value) is type(expected)


def test_file_then_overrides_the_last_word_wins(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 3\noptimizer:\n  lr: 1e-4\n  iterations: 50\n")
    recipe = load_recipe("voc", ["optimizer.iterations=60", "optimizer.iterations=70"], path)
    assert (recipe.seed, recipe.optimizer.lr, recipe.optimizer.iterations) == (3, 1e-4, 70)
    assert recipe.data == PROFILES["voc"].data
    path.write_text("")
    assert load_recipe("voc", file=path) == PROFILES["voc"]
    path.write_text(yaml.safe_dump(to_dict(recipe)))
    assert load_recipe("voc", file=str(path)) == recipe


def test_replace_checks_and_converts_as_well():
    optimizer = PROFILES["mini"].optimizer
    assert replace(optimizer, lr=1) == replace(optimizer, lr=1.0)
    assert type(replace(optimizer, lr=1).lr) is float
    with pytest.raises(InputError, match="optimizer.lr is 'fast'"):
        replace(optimizer, lr="fast")
    with pytest.raises(InputError, match="data is 3: it must be a section of: data.dataset, "):
        replace(PROFILES["mini"], data=3)


def test_fingerprint_is_the_start_of_the_sha256_of_canonical_json():
    # printf '{"a":[1,0.5],"b":"x"}' | sha256sum
    assert fingerprint({"b": "x", "a": (1, 0.5)}) == "360f7f889504"
    assert fingerprint({"a": [1, 0.5], "b": "x"}) == "360f7f889504"
    assert fingerprint({"a": [0.5, 1], "b": "x"}) != "360f7f889504"
    with pytest.raises(ValueError):
        fingerprint(float("nan"))


def test_same_recipe_same_fingerprint_however_it_is_written():
    written = load_recipe("mini", ["optimizer.lr=0.0002", "loss.classification=1"])
    assert fingerprint(to_dict(written)) == fingerprint(to_dict(PROFILES["mini"]))
    assert training_fingerprint(written) == training_fingerprint(PROFILES["mini"])
    assert training_fingerprint(written) != training_fingerprint(PROFILES["voc"])


@pytest.mark.parametrize("key, text", (CHANGES | CHANGES_WITHOUT_TRAINING).items())
def test_training_fingerprint_changes_with_what_decides_the_weights_alone(key, text):
    mini, changed = PROFILES["mini"], load_recipe("mini", [f"{key}={text}"])
    same = training_fingerprint(changed) == training_fingerprint(mini)
    assert same == (key in CHANGES_WITHOUT_TRAINING)
    assert fingerprint(to_dict(changed)) != fingerprint(to_dict(mini))


def test_unknown_profile_lists_those_that_exist():
    there = "(profiles: mini, pets, voc, coco, coco-log)"
    assert f"'mimi' is unknown: did you mean mini? {there}" in complaint(profile="mimi")
    assert "did you mean" not in complaint(profile="imagenet")


@pytest.mark.parametrize(
    "override, said",
    [
        ("optimizer.itertions=3", ": did you mean optimizer.iterations? (here are: optimizer."),
        ("optimiser.lr=3", ": did you mean optimizer? (here are: profile, seed, data, "),
        ("iterations=3", ": did you mean optimizer.iterations? (here are: profile, "),
        ("data.croop_size=3", ": did you mean data.crop_size? (here are: data.dataset, "),
        ("seeed=3", ": did you mean seed? (here are: profile, "),
        ("loss.zzz=1", " (here are: loss.classification, "),
    ],
)
def test_unknown_key_names_the_nearest(override, said):
    assert f"is unknown{said}" in complaint(override)


@pytest.mark.parametrize(
    "override, said",
    [
        ("optimizer.lr=fast", "optimizer.lr is 'fast': it must be a finite number"),
        ("optimizer.lr=true", "optimizer.lr is True: it must be a finite number"),
        ("optimizer.lr=.nan", "optimizer.lr is nan: it must be a finite number"),
        ("optimizer.lr=1e999", "optimizer.lr is inf: it must be a finite number"),
        (f"optimizer.lr={10**400}", "it must be a finite number"),
        ("optimizer.iterations=true", "optimizer.iterations is True: it must be a whole number"),
        ("optimizer.iterations=1.5", "optimizer.iterations is 1.5: it must be a whole number"),
        ("optimizer.iterations='10'", "optimizer.iterations is '10': it must be a whole number"),
        ("seed=2012-05-11", "it must be a whole number"),
        ("seed=2012-99-99", "no valid YAML"),
        ("seed=", "seed is '': it must be a whole number"),
        ("data.train_split=2012", "data.train_split is 2012: it must be text"),
        ("backbone.name=no", "backbone.name is False: it must be text"),
        ("data.classes=cat", "data.classes is 'cat': it must be a list"),
        ("data.classes=[cat, 1]", "data.classes[1] is 1: it must be text"),
        ("data.crop_scale=[1]", "the recipe lacks data.crop_scale[1]: give a value"),
        ("data.color_jitter=[0, 0, 0]", "the recipe lacks data.color_jitter[3]: give a value"),
        ("optimizer.betas=[0.9, yes]", "optimizer.betas[1] is True"),
        ("evaluation.scales=1.0", "evaluation.scales is 1.0: it must be a list"),
        ("optimizer=3", "optimizer is 3: it must be a section of: optimizer.iterations, "),
        ("optimizer.lr.x=3", "optimizer.lr is {'x': 3}: it must be a finite number"),
        ("evaluation.scales=[1", "evaluation.scales=[1 is no valid YAML"),
        ("optimizer.lr", "'optimizer.lr' must read key=value"),
        ("=3", "must read key=value"),
        ("profile=voc", "profile is 'voc', but 'mini' was asked for"),
    ],
)
def test_wrong_types_and_forms_name_the_key(override, said):
    assert said in complaint(override)


WRONG = """
seed=-1 seed=4294967296 data.dataset=cityscapes data.classes=[] data.classes=[cat,cat]
data.train_split= data.val_split= data.crop_size=0 data.crop_scale=[0,1]
data.crop_scale=[0.8,0.5] data.crop_scale=[0.5,1.1] data.color_jitter=[-1,0,0,0]
data.color_jitter=[0,0,0,0.6] data.jitter_probability=1.1 data.workers=-1
data.crop=centre backbone.name= backbone.num_registers=-1 backbone.decoder_width=0
loss.classification=-1 loss.token_discrepancy=-0.1 loss.token_temperature=0
optimizer.iterations=0 optimizer.batch_size=0 optimizer.lr=0 optimizer.head_lr_factor=-1
optimizer.betas=[0.9,1] optimizer.weight_decay=-1 optimizer.warmup_iterations=-1
optimizer.warmup_ratio=2 optimizer.power=-1 optimizer.precision=fp8
optimizer.log_every=0 optimizer.accumulate=0 optimizer.checkpoint_every=-1
evaluation.scales=[] evaluation.scales=[1,0] evaluation.threshold=1.5
evaluation.batch_size=0
"""


@pytest.mark.parametrize("override", WRONG.split())
def test_values_out_of_range_name_the_key_and_the_rule(override):
    key = override.partition("=")[0]
    message = complaint(override)
    assert message.startswith(key) and " is " in message and ": it must " in message


@pytest.mark.parametrize(
    "content, said",
    [
        ("optimizer:\n  lrr: 1\n", "'optimizer.lrr' is unknown: did you mean optimizer.lr?"),
        ("optimizer:\n  lr: slow\n", "optimizer.lr is 'slow'"),
        ("optimizer: 3\n", "optimizer is 3: it must be a section of: "),
        ("profile: voc\n", "profile is 'voc', but 'mini' was asked for"),
        ("1: 2\n", "'1' is unknown"),
        ("- seed\n", "must hold sections"),
        ("a: [\n", "no valid YAML"),
        ("a: !!python/object:os.system {}\n", "no valid YAML"),
    ],
)
def test_bad_recipe_file_is_named(tmp_path, content, said):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    message = complaint(file=path)
    assert "mine.yaml" in message and said in message


def test_unreadable_recipe_file_is_named(tmp_path):
    assert "missing.yaml cannot be read: No such file" in complaint(file=tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa\x00\x80")
    assert "binary.yaml is no valid YAML" in complaint(file=tmp_path / "binary.yaml")


def test_from_dict_wants_every_key_and_no_other():
    values = to_dict(PROFILES["mini"])
    del values["optimizer"]["lr"], values["data"]["workers"]
    with pytest.raises(InputError, match="lacks data.workers: give a value"):
        from_dict(values)
    values = to_dict(PROFILES["mini"])
    values["loss"]["extra"] = 1
    with pytest.raises(InputError, match="'loss.extra' is unknown"):
        from_dict(values)
    with pytest.raises(InputError, match="loss is None: it must be a section"):
        from_dict(to_dict(PROFILES["mini"]) | {"loss": None})
    with pytest.raises(InputError, match="the recipe is None: it must be sections"):
        from_dict(None)
