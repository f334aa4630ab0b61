"""The training loop: schedule, objective, log, cache, and what stops it."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch

from more_lib.data.prepare import emoji
from more_lib.method.backbones import mini_vit
from more_lib.method.model import MoRe
from more_lib.recipes.loading import changed, load_recipe
from more_lib.recipes.profiles import PROFILES
from more_lib.system.errors import InputError
from more_lib.system.weights import load_weights, save_weights
from more_lib.training.cache import load_trained, provenance, train, train_or_load
from more_lib.training.loop import learning_rate_factor
from tests.method.helpers import golden


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A small EmojiVOC tree and a random backbone file, shared by the tests of this module."""
    folder = tmp_path_factory.mktemp("start")
    tree = emoji.prepare(folder / "tree", train=8, val=2)
    torch.manual_seed(0)
    save_weights(mini_vit(), folder / "backbone.safetensors")
    return tree, folder / "backbone.safetensors"


@pytest.fixture
def recipe(start):
    """Three iterations of the mini profile, on the small tree."""
    tree, weights = start
    return load_recipe(
        "mini",
        [
            f"data.root={tree}",
            f"backbone.weights={weights}",
            "optimizer.iterations=3",
            "optimizer.batch_size=2",
            "optimizer.log_every=2",
            "optimizer.precision=fp32",
            "schedule.segmentation=2",
            "schedule.dense_energy=2",
            "schedule.final_cam=1",
        ],
    )


def with_optimizer(recipe, **changes):
    return dataclasses.replace(recipe, optimizer=dataclasses.replace(recipe.optimizer, **changes))


def test_learning_rate_is_the_released_schedule():
    optimizer, file = PROFILES["voc"].optimizer, golden("lr_schedule_voc")
    steps = np.arange(len(file["lr"])) * int(file["every"])
    rates = [optimizer.lr * learning_rate_factor(int(step), optimizer) for step in steps]
    np.testing.assert_allclose(rates, file["lr"], rtol=1e-9)


def test_learning_rate_without_warmup_starts_at_its_peak():
    optimizer = dataclasses.replace(PROFILES["voc"].optimizer, warmup_iterations=0)
    assert learning_rate_factor(0, optimizer) == 1.0


def test_training_writes_a_log_a_record_and_weights_that_load(recipe, tmp_path):
    trained = train(recipe, tmp_path / "run")
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [
        "log.jsonl",
        "model.safetensors",
        "recipe.yaml",
        "record.json",
    ]
    assert [line["iteration"] for line in trained.log()] == [2, 3]
    first = trained.log()[0]
    terms = set(first) - {"iteration", "lr", "total", "images_per_second"}
    assert {"classification", "token_discrepancy", "confident_relation"} < terms
    weighted = sum(first[name] * getattr(recipe.loss, name) for name in terms)
    assert first["total"] == pytest.approx(weighted, rel=1e-4)
    assert "segmentation" not in first and "segmentation" in trained.log()[-1]
    again = load_trained(tmp_path / "run", recipe)
    for ours, theirs in zip(
        trained.model.state_dict().values(), again.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_every_part_with_a_loss_moves(recipe, tmp_path):
    torch.manual_seed(recipe.seed)
    before = load_recipe_model(recipe)
    after = train(recipe, tmp_path / "run").model.state_dict()
    for name in ("encoder.class_tokens", "encoder.blocks.0.attn.qkv.weight"):
        assert not torch.equal(before[name], after[name]), name


def test_class_tokens_learn_at_their_own_rate(recipe, tmp_path):
    moved = {}
    for factor in (1.0, 30.0):
        torch.manual_seed(recipe.seed)
        before = load_recipe_model(recipe)["encoder.class_tokens"]
        trained = train(with_optimizer(recipe, token_lr_factor=factor), tmp_path / str(factor))
        moved[factor] = (trained.model.state_dict()["encoder.class_tokens"] - before).abs().mean()
    assert moved[30.0] > 10 * moved[1.0] > 0


def load_recipe_model(recipe):
    return {key: value.clone() for key, value in MoRe.from_recipe(recipe).state_dict().items()}


def test_the_same_seed_gives_the_same_weights(recipe, tmp_path):
    one = train(recipe, tmp_path / "one").model.state_dict()
    torch.randn(3)  # whatever ran before must not matter
    two = train(recipe, tmp_path / "two").model.state_dict()
    other = train(dataclasses.replace(recipe, seed=1), tmp_path / "three").model.state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_training_opens_no_mask(recipe, start, tmp_path, monkeypatch):
    from more_lib.data.voc import VocTree

    def forbidden(self, image_id):
        raise AssertionError("training asked for a mask")

    monkeypatch.setattr(VocTree, "mask", forbidden)
    train(recipe, tmp_path / "run")


def test_train_or_load_trains_once_and_says_so(recipe, capsys):
    first = train_or_load(recipe)
    again = train_or_load(recipe)
    said = capsys.readouterr().out.splitlines()
    assert (first.loaded, again.loaded) == (False, True)
    assert "trained now" in said[0] and "loaded from the cache" in said[1]
    assert first.folder == again.folder


def test_the_cache_key_follows_recipe_data_and_backbone(recipe, start, tmp_path):
    first = train_or_load(recipe).folder
    scored_otherwise = dataclasses.replace(
        recipe, evaluation=dataclasses.replace(recipe.evaluation, threshold=0.3)
    )
    assert train_or_load(scored_otherwise).folder == first
    assert train_or_load(with_optimizer(recipe, lr=1e-3)).folder != first
    save_weights(mini_vit(), tmp_path / "other.safetensors")
    other = dataclasses.replace(
        recipe,
        backbone=dataclasses.replace(recipe.backbone, weights=str(tmp_path / "other.safetensors")),
    )
    assert provenance(other)["data_sha256"] == provenance(recipe)["data_sha256"]
    assert train_or_load(other).folder != first


def test_a_loss_that_is_not_finite_names_itself_and_the_images(recipe, tmp_path):
    broken = with_optimizer(recipe, lr=1e30, warmup_iterations=0)
    with pytest.raises(RuntimeError, match=r"nan.*at iteration \d; images: train_0000\d, "):
        train(broken, tmp_path / "run")
    assert not (tmp_path / "run" / "record.json").exists()
    kept = MoRe.from_recipe(recipe, pretrained=False)
    load_weights(kept, tmp_path / "run" / "stopped.safetensors")


def test_bad_requests_are_refused_in_one_line(recipe, tmp_path):
    with pytest.raises(InputError, match="8 images, fewer than one batch of 9"):
        train(with_optimizer(recipe, batch_size=9), tmp_path / "a")
    missing = dataclasses.replace(
        recipe, backbone=dataclasses.replace(recipe.backbone, weights=str(tmp_path / "no.file"))
    )
    with pytest.raises(InputError, match="no.file"):
        train(missing, tmp_path / "b")
    with pytest.raises(InputError, match="holds no finished training"):
        load_trained(tmp_path / "nowhere", recipe)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can run fp16")
def test_fp16_without_a_gpu_is_refused(recipe, tmp_path):
    with pytest.raises(InputError, match="fp16 needs a CUDA GPU"):
        train(with_optimizer(recipe, precision="fp16"), tmp_path / "run")


def test_a_finished_training_is_never_overwritten(recipe, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "record.json").write_text(json.dumps({"training_fingerprint": "somebody else's"}))
    with pytest.raises(InputError, match="finished training"):
        train(recipe, folder)
    with pytest.raises(InputError, match="trained by another recipe"):
        load_trained(folder, recipe)
    assert "somebody" in (folder / "record.json").read_text()


def test_bf16_trains_in_the_same_process_as_fp32(recipe, tmp_path):
    train(recipe, tmp_path / "fp32")
    record = train(with_optimizer(recipe, precision="bf16"), tmp_path / "bf16").record
    assert record["precision"] == "bf16"


def test_auto_precision_is_bf16_where_the_hardware_multiplies_it(recipe, tmp_path, monkeypatch):
    record = train(with_optimizer(recipe, precision="auto", iterations=1), tmp_path / "run").record
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    assert record["precision"] == ("bf16" if native else "fp32")


def plain(recipe):
    """No term that chooses at random or divides by what it counts in the batch."""
    counted = ("patch_token_contrast", "uncertain_relation", "segmentation")
    return changed(recipe, [f"loss.{name}=0" for name in counted])


def test_accumulated_batches_are_one_larger_batch(recipe, tmp_path):
    two = plain(recipe)
    larger = train(with_optimizer(two, batch_size=4), tmp_path / "larger")
    parts = train(with_optimizer(two, accumulate=2), tmp_path / "parts")
    for ours, theirs in zip(parts.log(), larger.log(), strict=True):
        del ours["images_per_second"], theirs["images_per_second"]
        assert ours == pytest.approx(theirs, rel=1e-4, abs=2e-5)
    ours, theirs = parts.model.state_dict(), larger.model.state_dict()
    for name in ours:
        # As few as have a gradient of nothing but rounding may differ: AdamW takes its sign.
        assert (ours[name] - theirs[name]).abs().median() < 1e-7, name
    assert parts.record["iterations"] == 3


def test_padded_crops_train(recipe, tmp_path):
    padded = changed(recipe, ["data.crop=padded", "optimizer.iterations=1"])
    line = train(changed(padded, ["schedule.segmentation=0"]), tmp_path / "run").log()[-1]
    assert np.isfinite(line["total"]) and line["segmentation"] > 0


def test_the_record_names_time_and_memory(recipe, tmp_path):
    record = train(with_optimizer(recipe, iterations=1), tmp_path / "run").record
    assert record["seconds"] > 0 and 0.1 < record["peak_memory_gb"] < 64


def test_tensorboard_gets_the_lines_of_the_log(recipe, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trained = train(with_optimizer(recipe, log_every=1), tmp_path / "run", tensorboard=True)
    board = accumulator.EventAccumulator(str(trained.folder / "tensorboard"))
    board.Reload()
    for name in trained.log()[-1].keys() - {"iteration"}:
        expected = {
            line["iteration"]: pytest.approx(line[name], rel=1e-6)
            for line in trained.log()
            if name in line
        }
        assert {event.step: event.value for event in board.Scalars(name)} == expected


def test_tensorboard_without_its_package_is_refused(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        train(recipe, tmp_path / "run", tensorboard=True)


@pytest.mark.gpu
def test_fp16_trains_without_a_loss_that_is_no_number(recipe, tmp_path):
    trained = train(with_optimizer(recipe, precision="fp16", iterations=20), tmp_path / "run")
    assert np.isfinite(trained.log()[-1]["total"])


@pytest.mark.gpu
def test_resumed_on_a_gpu(recipe, tmp_path, monkeypatch):
    """fp16, so that the gradient scaler is restored as well; GPUs add up in no fixed order."""
    recipe = with_optimizer(recipe, precision="fp16", iterations=6, checkpoint_every=2)
    whole = train(recipe, tmp_path / "whole")
    folder = tmp_path / "run"
    shutil.copytree(whole.folder / "checkpoints", folder / "checkpoints")
    resumed = train(recipe, folder, resume=True)
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    for name in ours:
        assert (ours[name] - theirs[name]).abs().median() < 1e-4, name
