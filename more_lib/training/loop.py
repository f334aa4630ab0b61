"""The training loop: image-level labels in, a checkpoint and a log out.

``_fit`` shows the step. It runs on a CPU, on one GPU, or on many: ``accelerate launch -m more_lib
train`` or ``torchrun --nproc-per-node gpu -m more_lib train`` (without GPUs ``torchrun
--nproc-per-node 2``: ``accelerate launch --cpu`` starts one process and leaves more to MPI).
Notebook 05 walks through it.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from more_lib.data.transforms import denormalize
from more_lib.data.voc import VocImages
from more_lib.method.model import MoRe
from more_lib.method.objective import Objective
from more_lib.recipes.schema import OptimizerRecipe, Recipe
from more_lib.system.weights import save_weights
from more_lib.training.batches import Batches
from more_lib.training.log import TrainingLog
from more_lib.training.resume import RunState


def learning_rate_factor(step: int, optimizer: OptimizerRecipe) -> float:
    """Factor on the learning rate at iteration ``step`` (from 0): linear warm-up, then decay."""
    if step < optimizer.warmup_iterations:
        return 1 - (1 - step / optimizer.warmup_iterations) * (1 - optimizer.warmup_ratio)
    return (1 - step / optimizer.iterations) ** optimizer.power


def fit(
    accelerator: Accelerator,
    model: MoRe,
    dataset: VocImages,
    recipe: Recipe,
    folder: Path,
    log: TrainingLog,
    origin: dict,
    checkpoint: dict | None,
) -> float:
    """Run the iterations that are left; returns the seconds all took. ``model`` ends on the CPU."""
    settings = recipe.optimizer
    optimizer = AdamW(
        model.parameter_groups(settings.lr, settings.head_lr_factor, settings.token_lr_factor),
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    model.train().to(memory_format=torch.channels_last)  # convolutions are faster so
    network, optimizer = accelerator.prepare(model, optimizer)
    schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, settings))
    objective = Objective(recipe).to(accelerator.device)
    run = RunState(accelerator, model, optimizer, schedule, log, origin)
    begin, seconds_before = 0, 0.0
    if checkpoint:
        begin, seconds_before = checkpoint["iteration"], checkpoint["seconds"]
    batches = Batches(
        dataset,
        recipe,
        accelerator.process_index,
        accelerator.num_processes,
        begin * settings.accumulate,
        checkpoint["random"][accelerator.process_index]["ahead"] if checkpoint else None,
    )
    if checkpoint:
        run.restore(checkpoint)
    started = time.perf_counter() - seconds_before
    for step in range(begin, settings.iterations):
        means: dict[str, Tensor] = {}
        for part in range(1, settings.accumulate + 1):
            batch = next(batches)
            last = part == settings.accumulate
            with contextlib.nullcontext() if last else accelerator.no_sync(network):
                losses = _losses(accelerator, network, model, objective, batch, step)
                bad = _not_finite(accelerator, losses)
                accelerator.backward(losses["total"] / settings.accumulate)
            if any(bad()):
                _stop(accelerator, model, losses, step, batch["id"], folder)
            for name, loss in losses.items():
                means[name] = means.get(name, 0) + loss.detach() / settings.accumulate
        optimizer.step()
        optimizer.zero_grad()
        log.write(step, schedule.get_last_lr()[0], means)
        schedule.step()
        every = settings.checkpoint_every
        if every and (step + 1) % every == 0 and step + 1 < settings.iterations:
            seconds = time.perf_counter() - started
            run.save(folder / "checkpoints", step + 1, seconds, batches.random_state)
    model.to("cpu").eval()
    return time.perf_counter() - started


def _losses(
    accelerator: Accelerator,
    network: nn.Module,
    model: MoRe,
    objective: Objective,
    batch: dict,
    step: int,
) -> dict[str, Tensor]:
    """Every term that counts at ``step``, and their weighted sum as "total"."""
    device = accelerator.device
    images = batch["image"].to(device, non_blocking=True, memory_format=torch.channels_last)
    box = batch["box"].to(device, non_blocking=True) if "box" in batch else None
    output = network(images)
    with accelerator.autocast():
        losses = objective(model, images, batch["labels"], output, step, box, denormalize(images))
    weights = objective.recipe.loss
    total = sum(getattr(weights, name) * loss for name, loss in losses.items())
    return {**losses, "total": total}


def _not_finite(accelerator: Accelerator, losses: dict[str, Tensor]) -> Callable[[], list[float]]:
    """Of each loss, in how many processes it is not finite; all of them get the same answer.

    The answer is a function: calling it waits for these numbers alone, so that a GPU can be given
    the backward pass before anybody asks.
    """
    bad = ~torch.stack(list(losses.values())).detach().isfinite()
    bad = accelerator.reduce(bad.float(), "sum")
    if not bad.is_cuda:
        return bad.tolist
    copy, copied = bad.to("cpu", non_blocking=True), torch.cuda.Event()
    copied.record()

    def wait() -> list[float]:
        copied.synchronize()
        return copy.tolist()

    return wait


def _stop(
    accelerator: Accelerator,
    model: MoRe,
    losses: dict[str, Tensor],
    step: int,
    ids: list[str],
    folder: Path,
) -> NoReturn:
    """End a run whose loss is no number: which term, when, on what; the weights are kept."""
    kept = folder / "stopped.safetensors"
    if accelerator.is_main_process:
        save_weights(model, kept)
    bad = {name: loss.item() for name, loss in losses.items() if not torch.isfinite(loss)}
    reports = [report for report in gather_object([(bad, ids if bad else [])]) if report[0]]
    bad = {name: value for found, _ in reports for name, value in found.items()}
    images = [name for _, names in reports for name in names]
    raise RuntimeError(
        f"losses {bad} at iteration {step + 1}; images: {', '.join(images)}; the weights before "
        f"that iteration are in {kept}"
    )
