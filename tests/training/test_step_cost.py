"""What a training step costs: parts that add up, and operations counted by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from more_lib.method.model import MoRe
from more_lib.recipes.loading import changed, load_recipe
from more_lib.recipes.profiles import PROFILES
from more_lib.training.step_cost import (
    PLAIN,
    StepCost,
    bench_step,
    format_step,
    forwards,
    least_bytes,
    operations,
)

SMALL = ["data.crop_size=32", "optimizer.batch_size=2", "backbone.decoder_width=8"]


def test_parts_add_up_and_every_term_takes_part():
    cost = bench_step(load_recipe("mini", SMALL), "fp32", repeats=1)
    named = "forward, multi-scale CAM, masks and losses, dense energy, backward, optimizer"
    parts = cost.milliseconds
    assert ", ".join(parts) == f"{PLAIN}, {named}, whole step" and min(parts.values()) >= 0
    ratio = forwards(cost)
    assert parts.keys() == cost.cpu_milliseconds.keys() == ratio.keys() and ratio[PLAIN] == 1
    assert ratio["whole step"] > ratio["forward"] > 0.5
    assert 0 < parts["forward"] + parts["backward"] + parts["optimizer"] < parts["whole step"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "encoded"), [("mini", 1), ("toco", 2 + 2 / 16), ("dupl", 4), ("mctformer", 1)]
)
def test_a_step_of_every_method_is_counted(profile, encoded):
    """ToCo sees another crop and here two local ones of a patch; DuPL's students a strong view."""
    own = "toco.local_size=8 toco.num_crops=2 dupl.strong_scale=1 dupl.least=10"
    cost = bench_step(load_recipe(profile, [*SMALL, *own.split()]), "fp32", repeats=1)
    without = {"mini": 1, "toco": 1, "dupl": 2, "mctformer": 0}
    assert cost.encoded == (encoded, without[profile])  # the mirror image's CAM, of each student
    assert cost.parameters > 2e6 and cost.milliseconds["whole step"] > 0
    assert "batches encoded" in format_step([cost])


@pytest.mark.slow
def test_operations_agree_with_a_counter():
    """Everything but the dense energy, whose pairs no counter of products sees: by hand."""
    recipe = load_recipe("voc", ["data.crop_size=64", "loss.dense_energy=0", "masks.scales=[1.0]"])
    model = MoRe.from_recipe(recipe, pretrained=False)
    images = torch.randn(recipe.optimizer.batch_size, 3, 64, 64)
    with FlopCounterMode(display=False) as counter:
        output = model(images)
        outputs = (output.class_logits, output.aux_logits, output.seg_logits, output.class_tokens)
        sum(each.square().sum() for each in outputs).backward()
        with torch.no_grad():
            model.cams(images)  # the mirror image's
    # The counter also sees the graph and the classifiers.
    counted = operations(model, recipe)
    assert counter.get_total_flops() == pytest.approx(counted, rel=0.03)
    pairs, each = 32**4, 2 * (5 + 21) + 1
    with_energy = changed(recipe, ["loss.dense_energy=0.05"])
    assert operations(model, with_energy) - counted == 4 * pairs * each


@pytest.mark.slow
def test_the_readme_has_the_voc_steps_numbers_on_paper():
    recipe = PROFILES["voc"]
    model = MoRe.from_recipe(recipe, pretrained=False)
    energy = operations(model, recipe) - operations(model, changed(recipe, ["loss.dense_energy=0"]))
    numbers = f"{operations(model, recipe) / 1e12:.1f} TFLOP, {energy / 1e12:.1f} of them"
    readme = " ".join((Path(__file__).parents[2] / "README.md").read_text().split())
    assert numbers in readme
    assert f"at least {least_bytes(model, recipe) / 1e9:.1f} GB" in readme


def test_least_bytes_by_hand():
    recipe = load_recipe("mini", SMALL)
    model = MoRe.from_recipe(recipe, pretrained=False)
    weights = 4 * sum(p.numel() for p in model.parameters())
    tokens = 16 + 4 + 10  # 4 x 4 patches, registers, classes
    kept = 2 * 4 * 16 * 192 * tokens * 6 * 2
    assert least_bytes(model, recipe) == weights * 11 + kept


def test_the_table_has_times_forwards_and_rates():
    times = {PLAIN: 20.0, "forward": 25.0, "backward": 75.0, "whole step": 100.0}
    busy = {part: 2 * time for part, time in times.items()} | {"whole step": 320.0}
    costs = [StepCost(p, "CPU", times, busy, 8.25, 2e12, 5e9) for p in ("fp32", "bf16")]
    lines = format_step(costs).splitlines()
    assert lines[0].startswith("one step on CPU") and lines[1].split() == ["fp32", "bf16"]
    assert lines[3].split() == ["forward", *["25.0", "ms,", "50.0", "of", "CPU,", "1.25"] * 2]
    assert "320.0 of CPU, 8.00" in lines[5]
    assert "8.2 GB" in lines[6] and "20.0 TFLOP/s" in lines[8] and "50.0 GB/s" in lines[9]
    assert forwards(replace(costs[0], device="a GPU"))["whole step"] == 5


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_voc_step_fits_its_aim(precision):
    cost = bench_step(PROFILES["voc"], precision)
    print(format_step([cost]))
    assert cost.memory_gb <= 12.1  # the released code's
