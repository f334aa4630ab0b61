"""The training loop: schedule, objective, accumulation, seeds, and what stops it."""

import shutil
from dataclasses import replace
from itertools import islice
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from more_lib.data import open_tree
from more_lib.data.transforms import training_transform
from more_lib.data.voc import VocImages, VocTree
from more_lib.method.model import MoRe
from more_lib.method.objective import Objective
from more_lib.recipes.loading import changed
from more_lib.recipes.profiles import PROFILES
from more_lib.system.errors import InputError
from more_lib.system.weights import load_weights
from more_lib.training import learning_rate_factor, load_trained, train
from more_lib.training.batches import batches
from more_lib.training.loop import DivergenceError
from tests.method.helpers import golden
from tests.training.helpers import assert_close_for_most, log_of, same_weights, small_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Three iterations of the mini profile; its last two terms set in at the last."""
    settings = """optimizer.iterations=3 optimizer.log_every=2 loss.dense_energy=0.05
        schedule.segmentation=2 schedule.dense_energy=2 schedule.final_cam=1"""
    return small_recipe(tmp_path_factory.mktemp("start"), *settings.split())


def test_learning_rate_is_the_released_schedule():
    optimizer, file = PROFILES["voc"].optimizer, golden("lr_schedule_voc")
    steps = np.arange(len(file["lr"])) * int(file["every"])
    rates = [optimizer.lr * learning_rate_factor(int(step), optimizer) for step in steps]
    np.testing.assert_allclose(rates, file["lr"], rtol=1e-9)
    without_warmup = replace(optimizer, warmup_iterations=0)
    assert learning_rate_factor(0, without_warmup) == 1.0


def test_cosine_decay_ends_at_its_floor_and_changes_with_each_epoch():
    """By hand: 8 iterations, 2 an epoch, the first epoch a warm-up from a tenth."""
    settings = "iterations=8 warmup_iterations=2 warmup_ratio=0.1 decay=cosine final_ratio=0.2"
    settings = [f"optimizer.{each}" for each in f"{settings} lr_every=1".split()]
    each = changed(PROFILES["mini"], settings).optimizer
    # 0.2 + 0.8 (1 + cos(pi t / 8)) / 2 from t = 2 on: 45, 90, 135 degrees at 2, 4, 6
    expected = {0: 0.1, 1: 0.55, 2: 0.6 + 0.2828427, 4: 0.6, 6: 0.6 - 0.2828427, 8: 0.2}
    for step, factor in expected.items():
        assert learning_rate_factor(step, each) == pytest.approx(factor, abs=1e-6)
    epoch = changed(PROFILES["mini"], [*settings, "optimizer.lr_every=2"]).optimizer
    factors = [learning_rate_factor(step, epoch) for step in range(9)]
    assert factors[1::2] == factors[:8:2] and len(set(factors)) == 5
    assert factors[4] == pytest.approx(0.6) and factors[0] == pytest.approx(0.1)


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    """What the recipe ends as, where nobody may ask for a mask."""
    forbidden = Mock(side_effect=AssertionError("training asked for a mask"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VocTree, "mask", forbidden)
        return train(recipe, tmp_path_factory.mktemp("trained") / "run")


def test_training_writes_a_log_a_record_and_weights_that_load(recipe, trained):
    files = ["log.jsonl", "model.safetensors", "recipe.yaml", "record.json"]
    assert sorted(file.name for file in trained.folder.iterdir()) == files
    first, last = trained.log()
    assert (first["iteration"], last["iteration"]) == (2, 3)
    terms = set(first) - {"iteration", "lr", "total", "images_per_second"}
    assert {"classification", "token_discrepancy", "confident_relation"} < terms
    weighted = sum(first[name] * getattr(recipe.loss, name) for name in terms)
    assert first["total"] == pytest.approx(weighted, rel=1e-4)
    assert "segmentation" not in first and "segmentation" in last
    assert same_weights(trained, load_trained(trained.folder, recipe))


@pytest.mark.slow
def test_class_tokens_learn_at_their_own_rate_and_the_backbone_moves(recipe, trained, tmp_path):
    torch.manual_seed(recipe.seed)
    before = MoRe.from_recipe(recipe).state_dict()
    faster = train(changed(recipe, ["optimizer.token_lr_factor=600.0"]), tmp_path / "run")
    moved, moved_faster = (
        {name: (run.model.state_dict()[name] - before[name]).abs().mean() for name in before}
        for run in (trained, faster)
    )
    assert moved["encoder.blocks.0.attn.qkv.weight"] > 0
    assert moved_faster["encoder.class_tokens"] > 10 * moved["encoder.class_tokens"] > 0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(recipe, trained, tmp_path):
    torch.randn(3)  # whatever ran before must not matter
    assert same_weights(train(recipe, tmp_path / "again"), trained)
    assert not same_weights(train(replace(recipe, seed=1), tmp_path / "other"), trained)


def test_a_loss_that_is_not_finite_names_itself_and_the_images(recipe, tmp_path):
    broken = changed(recipe, ["optimizer.lr=1e30", "optimizer.warmup_iterations=0"])
    told = r"nan.*at iteration \d; images: train_0000\d, .*lower optimizer.lr"
    with pytest.raises(DivergenceError, match=told):
        train(broken, tmp_path / "run")
    assert not (tmp_path / "run" / "record.json").exists()
    kept = MoRe.from_recipe(recipe, pretrained=False)
    load_weights(kept, tmp_path / "run" / "stopped.safetensors")


def test_a_training_without_a_loss_is_refused(recipe, tmp_path):
    weights = vars(recipe.loss).keys() - {"token_readout", "token_temperature"}
    nothing = changed(recipe, [f"loss.{name}=0" for name in weights])
    with pytest.raises(InputError, match="no loss counts at iteration 1: see loss"):
        train(nothing, tmp_path / "run")


@pytest.mark.slow
def test_late_terms_are_left_out_or_multiplied_by_0(recipe, tmp_path):
    """Literally: every term in every iteration, times 0 until it begins."""
    # No relation that draws at random, for the literal loop would draw more often.
    settings = "lir.sampling=all optimizer.weight_decay=0.1 schedule.segmentation=2"
    recipe = changed(recipe, [*settings.split(), "schedule.confident_relation=1"])
    torch.manual_seed(recipe.seed)
    model = MoRe.from_recipe(recipe).train().to(memory_format=torch.channels_last)
    never_late = {f"schedule.{n}=0" for n in ("segmentation", "dense_energy", "confident_relation")}
    objective = Objective(changed(recipe, never_late))
    optimizer = torch.optim.AdamW(model.parameter_groups(recipe.optimizer))
    rates = [group["lr"] for group in optimizer.param_groups]
    tree = open_tree(recipe.data)
    dataset = VocImages(tree, "train", training_transform(recipe.data))
    for iteration, batch in enumerate(islice(batches(dataset, recipe), 3)):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * learning_rate_factor(iteration, recipe.optimizer)
        images = batch["image"].to(memory_format=torch.channels_last)
        output = model(images)
        losses = objective(model, images, batch["labels"], output, iteration)
        total = 0
        for name, loss in losses.items():
            begun = iteration >= getattr(recipe.schedule, name, 0)
            total = total + float(begun) * getattr(recipe.loss, name) * loss
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    def furthest(run):
        ours, theirs = run.model.state_dict(), model.state_dict()
        return {name: (ours[name] - theirs[name]).abs().max().item() for name in ours}

    zero = train(changed(recipe, ["optimizer.late_terms=zero"]), tmp_path / "zero")
    absent = train(recipe, tmp_path / "absent")
    assert max(furthest(zero).values()) < 5e-6  # AdamW, fused there, rounds otherwise
    # Once its bias correction is spent, AdamW's first step is longer than a fresh state's, lr.
    assert furthest(absent)["decoder.0.weight"] > 0.1 * 10 * rates[0] * 2 / 20


@pytest.mark.slow
def test_accumulated_batches_are_one_larger_batch(recipe, tmp_path):
    # No term that chooses at random or divides by what it counts in the batch.
    counted = ("patch_token_contrast", "uncertain_relation", "segmentation")
    released = "lir.confident=release"  # the paper's takes the mean over the batch's pairs
    plain = changed(recipe, [released, *(f"loss.{name}=0" for name in counted)])
    larger = train(changed(plain, ["optimizer.batch_size=4"]), tmp_path / "larger")
    parts = train(changed(plain, ["optimizer.accumulate=2"]), tmp_path / "parts")
    for ours, theirs in zip(log_of(parts), log_of(larger), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=2e-5)
    assert_close_for_most(parts.model.state_dict(), larger.model.state_dict(), 1e-7)
    assert parts.record["iterations"] == 3


def test_padded_crops_train(recipe, tmp_path):
    padded = changed(recipe, ["data.crop=padded", "optimizer.iterations=1"])
    line = train(changed(padded, ["schedule.segmentation=0"]), tmp_path / "run").log()[-1]
    assert np.isfinite(line["total"]) and line["segmentation"] > 0


@pytest.mark.gpu
def test_fp16_trains_and_is_resumed_on_a_gpu(recipe, tmp_path):
    """The gradient scaler is restored as well; GPUs add up in no fixed order."""
    settings = "optimizer.precision=fp16 optimizer.iterations=20 optimizer.checkpoint_every=2"
    recipe = changed(recipe, settings.split())
    whole = train(recipe, tmp_path / "whole")
    assert np.isfinite(whole.log()[-1]["total"])
    folder = tmp_path / "run"
    shutil.copytree(whole.folder / "checkpoints", folder / "checkpoints")
    resumed = train(recipe, folder, resume=True)
    assert_close_for_most(resumed.model.state_dict(), whole.model.state_dict(), 1e-4)
