"""Recipes: what a profile holds, how it is changed, and every way to get that wrong."""

import json
import os
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

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
from more_lib.recipes.loading import _ADDED, placed, saved_recipe
from more_lib.recipes.schema import GraphRecipe, LirRecipe, LossRecipe, ScheduleRecipe
from more_lib.system.errors import InputError
from tests.recipes.helpers import flat, values_of

MINI = PROFILES["mini"]
CHANGES = {
    part: {key: json.dumps(value) for key, value in flat(values).items()}
    for part, values in yaml.safe_load(Path(__file__).with_name("changes.yaml").read_text()).items()
}
ALL_CHANGES = CHANGES["training"] | CHANGES["others"]


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
        (lambda: replace(MINI.optimizer, lr="fast"), "optimizer.lr is 'fast'"),
        (lambda: replace(MINI, data=3), "data is 3: it must be a section of: data.dataset, "),
        (lambda: from_dict(None), "the recipe is None: it must be sections"),
        (lambda: from_mini(loss=None), "loss is None: it must be a section"),
        (lambda: from_mini(loss={"extra": 1}), "'loss.extra' is unknown"),
        (lambda: from_mini(data={"dataset": "voc"}), "lacks data.classes: give a value"),
    ],
)
def test_however_a_recipe_is_built_it_is_checked(build, said):
    with pytest.raises(InputError) as error:
        build()
    assert said in str(error.value) and "\n" not in str(error.value)


def from_mini(**sections):
    return from_dict(to_dict(MINI) | sections)


def test_recipes_are_equal_and_hash_by_their_values():
    other = replace(MINI, seed=1)
    assert {MINI, from_dict(to_dict(MINI)), other} == {MINI, other}
    assert GraphRecipe() == PROFILES["voc"].graph
    assert LirRecipe(fill_up="corner") == PROFILES["voc"].lir


@pytest.mark.parametrize("profile", PROFILES)
def test_round_trip_through_dictionaries_yaml_and_json(profile):
    recipe, values = PROFILES[profile], to_dict(PROFILES[profile])
    assert load_recipe(profile) == from_dict(values) == recipe
    assert from_dict(yaml.safe_load(yaml.safe_dump(values))) == recipe
    assert from_dict(json.loads(json.dumps(values))) == recipe


def test_recipes_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        MINI.seed = 1
    to_dict(MINI)["optimizer"]["lr"] = 5.0
    assert MINI.optimizer.lr == 2e-4


@pytest.mark.slow
@pytest.mark.parametrize("key, text", ALL_CHANGES.items())
def test_an_override_changes_its_key_and_no_other(key, text):
    before, after = values_of(MINI), values_of(load_recipe("mini", [f"{key}={text}"]))
    assert {name for name in before if after[name] != before[name]} == {key}
    assert type(after[key]) is type(before[key])


def test_the_changes_above_cover_every_key():
    assert values_of(MINI).keys() - {"profile"} == ALL_CHANGES.keys()


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
        ("data.skip=[2007_000032]", ("2007_000032",)),
        ("optimizer.lr=.5", 0.5),
        ("optimizer.lr=1.5E+0", 1.5),
    ],
)
def test_override_values_are_yaml(override, expected):
    value = values_of(load_recipe("mini", [override]))[override.partition("=")[0].strip()]
    assert value == expected and type(value) is type(expected)


PLACES = {
    "data.root=here": "data.root=/start/here",
    "data.labels='a b/#c: d.csv'": r'data.labels="/start/a\u0020b/#c:\u0020d.csv"',
    "backbone.weights=~/w": "backbone.weights=/home/me/w",
    "data={root: x}": "data.root=/start/x",
    "data.root=/": "data.root=/",
    "data.root='/a: b: c'": r'data.root="/a:\u0020b:\u0020c"',
    "data.root=é\u00a0猫": r'data.root="/start/é\u00a0猫"',
}


@pytest.mark.parametrize("override, handed", PLACES.items())
def test_a_path_means_the_same_in_every_folder(override, handed, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(os, "getcwd", lambda: "/start")
    recipe = load_recipe("mini", [override, "seed=3"])
    monkeypatch.setattr(os, "getcwd", lambda: "/elsewhere")
    assert from_dict(to_dict(recipe)) == recipe
    passed = placed(["seed=3", override], recipe)
    assert passed[-1] == handed and len(passed[-1].split()) == 1
    assert load_recipe("mini", passed) == recipe


def test_no_path_is_none():
    recipe = load_recipe("mini", ["data.root=", "backbone.weights="])
    assert (recipe.data.root, recipe.data.labels, recipe.backbone.weights) == ("", "", "")
    assert placed(["data.root=", "seed=1"], recipe) == ["data.root=", "seed=1"]


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


def test_replace_converts_as_well():
    optimizer = replace(MINI.optimizer, lr=1)
    assert optimizer == replace(optimizer, lr=1.0) and type(optimizer.lr) is float


def test_fingerprint_is_the_start_of_the_sha256_of_canonical_json():
    # printf '{"a":[1,0.5],"b":"x"}' | sha256sum
    assert fingerprint({"b": "x", "a": (1, 0.5)}) == "360f7f889504"
    assert fingerprint({"a": [1, 0.5], "b": "x"}) == "360f7f889504"
    assert fingerprint({"a": [0.5, 1], "b": "x"}) != "360f7f889504"
    with pytest.raises(ValueError):
        fingerprint(float("nan"))


def test_same_recipe_same_fingerprint_however_it_is_written():
    written = load_recipe("mini", ["optimizer.lr=0.0002", "loss.classification=1"])
    assert fingerprint(to_dict(written)) == fingerprint(to_dict(MINI))
    assert training_fingerprint(written) == training_fingerprint(MINI)
    assert training_fingerprint(written) != training_fingerprint(PROFILES["voc"])


@pytest.mark.parametrize("key, text", ALL_CHANGES.items())
def test_training_fingerprint_changes_with_what_decides_the_weights_alone(key, text):
    changed = load_recipe("mini", [f"{key}={text}"])
    same = training_fingerprint(changed) == training_fingerprint(MINI)
    assert same == (key in CHANGES["others"])
    assert fingerprint(to_dict(changed)) != fingerprint(to_dict(MINI))


def test_unknown_profile_lists_those_that_exist():
    there = (
        "(profiles: mini, mini-released, mini-plus, toco, dupl, mctformer, photos, pets, voc, "
        "coco, coco-log, toco-voc, toco-coco, dupl-voc, dupl-coco, mctformer-voc, mctformer-coco)"
    )
    assert f"'mimi' is unknown: did you mean mini? {there}" in complaint(profile="mimi")
    assert "did you mean" not in complaint(profile="imagenet")


@pytest.mark.parametrize(
    "override, said",
    [
        ("optimizer.itertions=3", "unknown: did you mean optimizer.iterations? (here are: opti"),
        ("optimiser.lr=3", "is unknown: did you mean optimizer? (here are: profile, seed, data, "),
        ("iterations=3", "is unknown: did you mean optimizer.iterations? (here are: profile, "),
        ("data.croop_size=3", "is unknown: did you mean data.crop_size? (here are: data.dataset, "),
        ("seeed=3", "is unknown: did you mean seed? (here are: profile, "),
        ("loss.zzz=1", "is unknown (here are: loss.classification, "),
        ("optimizer.lr=fast", "optimizer.lr is 'fast': it must be a finite number"),
        ("seed=010", "seed is '010': it must be a whole number"),  # YAML 1.1 takes it for 8
        ("optimizer.lr=1:30", "optimizer.lr is '1:30': it must be a finite number"),
        ("optimizer.iterations=1_0", "optimizer.iterations is '1_0': it must be a whole number"),
        ("masks.dilations=[1000000]", "masks.dilations[0] is 1000000: it must be less than or"),
        ("optimizer.lr=true", "optimizer.lr is True: it must be a finite number"),
        ("optimizer.lr=.nan", "optimizer.lr is nan: it must be a finite number"),
        ("optimizer.lr=1e999", "optimizer.lr is inf: it must be a finite number"),
        (f"optimizer.lr={10**400}", "it must be a finite number"),
        ("optimizer.iterations=true", "optimizer.iterations is True: it must be a whole number"),
        ("optimizer.iterations=1.5", "optimizer.iterations is 1.5: it must be a whole number"),
        ("optimizer.iterations='10'", "optimizer.iterations is '10': it must be a whole number"),
        ("seed=2012-05-11", "it must be a whole number"),
        ("seed=2012-99-99", "no valid YAML"),
        ("seed=!!bool x", "seed=!!bool x is no valid YAML"),
        ("seed=!!timestamp x", "seed=!!timestamp x is no valid YAML"),
        ("self=1", "'self' is unknown (here are: profile, seed, data, "),
        ("data.self=1", "'data.self' is unknown"),
        ("seed=", "seed is '': it must be a whole number"),
        ("data.train_split=2012", "data.train_split is 2012: it must be text"),
        ("backbone.name=no", "backbone.name is False: it must be text"),
        ("data.classes=cat", "data.classes is 'cat': it must be a list"),
        ("data.classes=[cat, 1]", "data.classes[1] is 1: it must be text"),
        ("data.crop_scale=[1]", "the recipe lacks data.crop_scale[1]: give a value"),
        (
            "data.crop_scale=[0.5, 2]",
            "crop is 'resized': it must be 'padded' where data.crop_scale",
        ),
        (
            "optimizer.decay=linear",
            "optimizer.decay is 'linear': it must be 'polynomial' or 'cosine'",
        ),
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
def test_unknown_keys_name_the_nearest_and_wrong_types_and_forms_the_key(override, said):
    assert said in complaint(override)


WRONG = """
seed=-1 seed=4294967296 data.dataset=cityscapes data.classes=[] data.classes=[cat,cat]
data.train_split= data.val_split= data.crop_size=0 data.crop_scale=[0,1]
data.crop_scale=[0.8,0.5] data.crop_scale=[0.5,17] data.color_jitter=[-1,0,0,0]
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
        (b"optimizer:\n  lrr: 1\n", "'optimizer.lrr' is unknown: did you mean optimizer.lr?"),
        (b"optimizer:\n  lr: slow\n", "optimizer.lr is 'slow'"),
        (b"optimizer.lr: 1\n", "'optimizer.lr' is unknown: write optimizer: with lr below it, ind"),
        (b"optimizer: 3\n", "optimizer is 3: it must be a section of: "),
        (b"profile: voc\n", "profile is 'voc', but 'mini' was asked for"),
        (b"1: 2\n", "'1' is unknown"),
        (b"- seed\n", "must hold sections"),
        (b"a: [\n", "no valid YAML"),
        (b"a: !!python/object:os.system {}\n", "no valid YAML"),
        (b"\xff\xfe\xfa\x00\x80", "mine.yaml is no valid YAML"),
        (None, "mine.yaml cannot be read: No such file"),
    ],
)
def test_bad_recipe_file_is_named(tmp_path, content, said):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    message = complaint(file=path)
    assert "mine.yaml" in message and said in message


def test_what_a_training_kept_is_what_it_was_trained_with(tmp_path):
    """Also before the released values of a field, which the profile has today, were known."""
    values = to_dict(PROFILES["coco"])
    for section, name in (key.split(".") for key in _ADDED):
        del values[section][name]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    kept = saved_recipe(tmp_path, ["seed=3"])
    assert load_recipe("coco", ["seed=3"], tmp_path / "recipe.yaml") == kept
    assert kept == replace(from_dict(values), seed=3)
    assert (kept.data.padding, kept.optimizer.late_terms) == ("masked", "absent")
    (tmp_path / "recipe.yaml").write_text("profile: voc\nseed: -1\n")
    with pytest.raises(InputError, match="recipe.yaml: seed is -1"):
        saved_recipe(tmp_path)


def test_the_precision_of_scores_came_later_and_trains_nothing_anew(tmp_path):
    """A network of before is scored as ever, in float32, and found under its fingerprint."""
    values = to_dict(PROFILES["mini"])
    assert values["evaluation"].pop("precision") == "auto"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    kept = saved_recipe(tmp_path, ["evaluation.precision=bf16"])
    assert saved_recipe(tmp_path).evaluation.precision == "auto"
    assert training_fingerprint(kept) == training_fingerprint(PROFILES["mini"])


def test_a_key_that_stands_twice_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    for text, key in (
        ("seed: 1\nseed: 2\n", "seed"),
        ("lir: {phi: 1, phi: 2}", "phi"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=f"mine.yaml is no valid YAML: '{key}' stands twice"):
            load_recipe("mini", file=file)


def test_what_grows_in_yaml_is_told_in_a_short_line(tmp_path):
    lists = [
        "&a [lol, lol, lol]",
        *(f"&{b} [{9 * f'*{a},'}]" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
    ]
    file = tmp_path / "mine.yaml"
    for text in (f"seed: [{', '.join(lists)}]", f"seed: {'9' * 4000}", f"seed: {'x' * 4000}"):
        file.write_text(text)
        with pytest.raises(InputError, match="seed is .*: it must") as error:
            load_recipe("mini", file=file)
        assert len(str(error.value)) < 1000


def test_a_file_that_is_no_recipe_is_not_read_to_its_end(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"")
    os.truncate(file, 2**40)
    for path in (file, "/dev/zero"):
        with pytest.raises(InputError, match=f"the recipe {path}"):
            load_recipe("mini", file=path)
    assert "~none-of-this-name/a cannot be read" in complaint(file="~none-of-this-name/a")


@pytest.mark.parametrize(
    ("decoder_map", "trains"), [("cam", False), ("aux_first", False), ("lam", True), ("both", True)]
)
def test_how_lam_is_drawn_trains_something_only_where_lam_teaches(decoder_map, trains):
    taught = f"masks.decoder_map={decoder_map}"
    recipe = load_recipe("mini", [taught])
    other = load_recipe("mini", [taught, "masks.lam_similarity=cosine"])
    assert (training_fingerprint(recipe) != training_fingerprint(other)) == trains
