"""What one training step costs, part by part, beside what it must cost on paper.

Synthetic images and random weights: time and memory depend on sizes alone. The released code took
945 ms and 12.1 GB for a step of four 448-pixel images on one RTX 3090. Each round also times one
forward of the plain ViT on the same batch: how many of these a step costs is much the same on a
busy machine, where seconds are not. How often the encoder sees the batch, with and without a
gradient, is counted.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isnan, nan
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from more_lib.method.backbones import build_backbone
from more_lib.method.methods import method_of
from more_lib.method.model import MoRe
from more_lib.method.objective import Objective
from more_lib.method.vit import ClassTokenViT
from more_lib.recipes.schema import Recipe
from more_lib.system.devices import peak_memory

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16}
PLAIN, CAM, ENERGY = "plain ViT, forward", "multi-scale CAM", "dense energy"
ENOUGH = 60  # seconds of rounds, of which there are two at least; the first one warms up
LABELS_PER_IMAGE = 1.555  # VOC's, which decides how many maps are refined


@dataclass(frozen=True)
class StepCost:
    """One step of a recipe in one precision.

    milliseconds: by part, medians over rounds, ``PLAIN`` and "whole step" among them.
    cpu_milliseconds: what the process was busy for, all threads together. memory_gb: peak, on a
    GPU of tensors alone, else of the whole process. operations, bytes: ``operations`` and
    ``least_bytes`` of the recipe, nan for another method than MoRe. encoded: how many times the
    batch's patches went through an encoder with a gradient, and without one. parameters: trained.
    """

    precision: str
    device: str
    milliseconds: dict[str, float]
    cpu_milliseconds: dict[str, float]
    memory_gb: float | None
    operations: float
    bytes: float
    encoded: tuple[float, float] = (nan, nan)
    parameters: int = 0


def bench_step(recipe: Recipe, precision: str, repeats: int = 5) -> StepCost:
    """Time the last iteration of a recipe, in which every term counts, on random images.

    precision: "fp32" or "bf16". repeats: rounds at most; no other begins after ``ENOUGH`` seconds.
    Runs on the GPU where there is one; on a CPU, ViT-B at 448 pixels takes minutes. Any method.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    method, plain = method_of(recipe), _plain_vit(recipe).to(device)
    model = method.network.from_recipe(recipe, pretrained=False).train().to(device)
    model.to(memory_format=torch.channels_last)  # as in training
    if isinstance(model, MoRe):
        plain.blocks = model.encoder.blocks  # the weights lie in memory once
    optimizer = AdamW(model.parameter_groups(recipe.optimizer), fused=True)
    size, side, C = recipe.optimizer.batch_size, recipe.data.crop_size, len(recipe.data.classes)
    images = torch.randn(size, 3, side, side).clamp(-1.8, 2.1).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = (torch.rand(size, C) < LABELS_PER_IMAGE / C).float()
    labels[:, 0] = 1  # every image shows something
    objective, batch = method.objective(recipe).to(device), [images, labels]
    if objective.views:
        batch.append(torch.stack([images.flip(2), images.flip(3)], dim=1))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    given, rounds = ((plain, model), optimizer, objective, batch, AUTOCAST[precision]), []
    started = time.perf_counter()
    with _encoded(images, model.patch_size) as encoded:
        while len(rounds) < 2 or (
            len(rounds) <= repeats and time.perf_counter() - started < ENOUGH
        ):
            rounds.append(_one_step(*given))
    known = isinstance(model, MoRe) and type(objective) is Objective
    wall, cpu = (
        {
            part: 1000 * statistics.median(each[part][clock] for each in rounds[1:])
            for part in rounds[0]
        }
        for clock in (0, 1)
    )
    return StepCost(
        precision,
        torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        wall,
        cpu,
        peak_memory(device),
        operations(model, recipe) if known else nan,
        least_bytes(model, recipe) if known else nan,
        (encoded[True] / len(rounds), encoded[False] / len(rounds)),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
    )


@contextmanager
def _encoded(images: Tensor, side: int) -> Iterator[Counter]:
    """Counts, with a gradient (True) and without, how many such batches enter any encoder."""
    counted, embed = Counter(), ClassTokenViT.embed

    def counting(encoder: ClassTokenViT, seen: Tensor) -> Any:
        patches = len(seen) * (seen.shape[-2] // side) * (seen.shape[-1] // side)
        whole = len(images) * (images.shape[-2] // side) * (images.shape[-1] // side)
        counted[torch.is_grad_enabled()] += patches / whole
        return embed(encoder, seen)

    with patch.object(ClassTokenViT, "embed", counting):
        yield counted


def _plain_vit(recipe: Recipe) -> nn.Module:
    plain = build_backbone(recipe.backbone.name).eval()
    plain.set_input_size(img_size=recipe.data.crop_size)
    return plain


def plain_forward(recipe: Recipe, repeats: int = 5) -> float:
    """CPU seconds, the median, that a CPU takes for the plain ViT on a batch of random images."""
    plain, side = _plain_vit(recipe), recipe.data.crop_size
    images, times = torch.randn(recipe.optimizer.batch_size, 3, side, side), []
    with torch.no_grad():
        plain(images)
        for _ in range(repeats):
            started = time.process_time()
            plain(images)
            times.append(time.process_time() - started)
    return statistics.median(times)


def operations(model: MoRe, recipe: Recipe) -> float:
    """Multiplications and additions of a step's matrix products, refinement left out.

    A token of width D costs 24 D^2 a block and 4 D for each token it attends to; backward twice the
    forward pass; of the CAM's scales, scale 1 needs the mirror image alone. The dense energy costs
    2 (F + K) and an exponential for each pair of pixels, F = 5 features and K classes.
    """
    side, images = recipe.data.crop_size, recipe.optimizer.batch_size
    D, blocks = model.encoder.embed_dim, len(model.encoder.blocks)
    extra = model.encoder.num_registers + model.encoder.num_classes

    def forward(pixels: int) -> float:
        patches = (pixels // model.patch_size) ** 2
        tokens = patches + extra
        embedding = 2 * patches * 3 * model.patch_size**2 * D
        return embedding + blocks * tokens * (24 * D**2 + 4 * tokens * D)

    decoder = sum(2 * w.weight.numel() for w in model.decoder if isinstance(w, nn.Conv2d))
    once = forward(side) + decoder * (side // model.patch_size) ** 2
    views = sum((1 if s == 1 else 2) * forward(int(s * side)) for s in recipe.masks.scales)
    pairs = float(int(side * recipe.energy.scale) ** 4) * (recipe.loss.dense_energy > 0)
    energy = pairs * (2 * (5 + model.encoder.num_classes + 1) + 1)
    return images * (3 * once + views + energy)


def least_bytes(model: MoRe, recipe: Recipe) -> float:
    """What a step has to move, in float32: weights and what backward needs, no more.

    Weights are read once a pass, forward, backward and for each of the CAM's scales; AdamW reads
    weight, gradient and two moments and writes three of them. Of a token, a block leaves 16 D
    numbers for backward, written once and read once.
    """
    weights = 4 * sum(p.numel() for p in model.parameters())
    patches = (recipe.data.crop_size // model.patch_size) ** 2
    tokens = patches + model.encoder.num_registers + model.encoder.num_classes
    kept = 4 * 16 * model.encoder.embed_dim * tokens * len(model.encoder.blocks)
    passes = 2 + len(recipe.masks.scales)
    return weights * (passes + 1 + 7) + 2 * kept * recipe.optimizer.batch_size


def forwards(cost: StepCost) -> dict[str, float]:
    """Each part in forwards of the plain ViT: by CPU time, on a GPU by the clock."""
    times = cost.cpu_milliseconds if cost.device == "CPU" else cost.milliseconds
    return {part: time / times[PLAIN] for part, time in times.items()}


def format_step(costs: list[StepCost]) -> str:
    """A column for each precision: parts in time and forwards, memory, and the rates reached."""
    columns = {}
    for cost in costs:
        whole, ratio = cost.milliseconds["whole step"], forwards(cost)
        teraflop, gigabytes = cost.operations / 1e12, cost.bytes / 1e9
        columns[cost.precision] = {
            **{
                part: f"{wall:.1f} ms, {cost.cpu_milliseconds[part]:.1f} of CPU, {ratio[part]:.2f}"
                for part, wall in cost.milliseconds.items()
            },
            "peak memory": f"{cost.memory_gb or 0:.1f} GB",
            "batches encoded, with and without gradient": "{:.2f}, {:.2f}".format(*cost.encoded),
        }
        if not isnan(teraflop):
            columns[cost.precision] |= {
                f"operations: {teraflop:.2f} TFLOP": f"{1000 * teraflop / whole:.1f} TFLOP/s",
                f"bytes at least: {gigabytes:.2f} GB": f"{1000 * gigabytes / whole:.1f} GB/s",
            }
    head = f"one step on {costs[0].device}; the last number counts forwards of the plain ViT"
    return f"{head}\n{pd.DataFrame(columns).to_string(col_space=18)}"


def _one_step(
    models: tuple[nn.Module, Any],
    optimizer: AdamW,
    objective: Objective,
    batch: list[Tensor],
    dtype: torch.dtype | None,
) -> dict[str, np.ndarray]:
    """Seconds, by the clock and of the CPU, of each part of the last iteration.

    models: the plain ViT and a method's. batch: images, labels, perhaps views. The step runs once,
    as in training; what the network takes for the CAM, and the energy, are measured inside of it.
    """
    (plain, model), recipe, (images, labels, *views) = models, objective.recipe, batch
    parts = ("forward", CAM, "masks and losses", ENERGY, "backward", "optimizer")
    took = {part: np.zeros(2) for part in (PLAIN, *parts, "losses")}
    wait = torch.cuda.synchronize if images.is_cuda else lambda: None
    autocast = torch.autocast(images.device.type, dtype, enabled=dtype is not None)

    def timed(part: str, function: Callable) -> Callable:
        def run(*given: object):
            wait()
            started = np.array((time.perf_counter(), time.process_time()))
            result = function(*given)
            wait()
            took[part] += np.array((time.perf_counter(), time.process_time())) - started
            return result

        return run

    optimizer.zero_grad()
    timed(PLAIN, torch.no_grad()(autocast(plain)))(images)
    output = timed("forward", autocast(model))(images)
    further = {"views": views[0]} if views else {}
    last = partial(objective, iteration=recipe.optimizer.iterations - 1, **further)
    with (
        patch.object(objective.energy, "forward", timed(ENERGY, objective.energy.forward)),
        patch.object(MoRe, "cams", timed(CAM, MoRe.cams)),
    ):
        losses = timed("losses", autocast(last))(model, images, labels, output)
    total = sum(objective.weights[name] * loss for name, loss in losses.items())
    timed("backward", total.backward)()
    timed("optimizer", optimizer.step)()
    took["masks and losses"] = took.pop("losses") - took[CAM] - took[ENERGY]
    return took | {"whole step": sum(took[part] for part in parts)}
