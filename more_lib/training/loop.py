"""The training loop: image-level labels in, a trained network, checkpoints and a log out.

``fit`` is the loop, block by block; notebook 05 walks through it. It runs on a CPU, on one GPU, or
on many: ``accelerate launch -m more_lib train`` or ``torchrun --nproc-per-node gpu -m more_lib
train`` (without GPUs ``torchrun --nproc-per-node 2``: ``accelerate launch --cpu`` starts one
process and leaves more to MPI).
"""

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from more_lib.data.voc import VocImages
from more_lib.method.methods import method_of
from more_lib.method.model import MoRe
from more_lib.method.objective import Objective
from more_lib.recipes.schema import OptimizerRecipe, Recipe
from more_lib.system.errors import InputError
from more_lib.system.weights import save_weights
from more_lib.training.batches import batches
from more_lib.training.log import TrainingLog
from more_lib.training.resume import RunState


class DivergenceError(InputError, RuntimeError):
    """A loss is no longer finite: of this recipe on these images."""


def learning_rate_factor(step: int, optimizer: OptimizerRecipe) -> float:
    """Factor on the learning rate at iteration ``step`` (from 0): linear warm-up, then decay.

    The decay is as far at ``step`` as if there had been no warm-up. With ``lr_every`` the factor
    changes with each so many iterations alone.
    """
    step -= step % optimizer.lr_every
    if step < optimizer.warmup_iterations:
        return 1 - (1 - step / optimizer.warmup_iterations) * (1 - optimizer.warmup_ratio)
    if optimizer.decay == "cosine":
        left = (1 + math.cos(math.pi * step / optimizer.iterations)) / 2
        return optimizer.final_ratio + (1 - optimizer.final_ratio) * left
    return (1 - step / optimizer.iterations) ** optimizer.power


def start(accelerator: Accelerator, model: MoRe, recipe: Recipe, log: TrainingLog) -> RunState:
    """The state before the first iteration, on the accelerator's device."""
    settings = recipe.optimizer
    optimizer = AdamW(
        model.parameter_groups(settings),
        betas=settings.betas,
        fused=True,  # one pass over the weights: fewer kernels, and on a CPU several times as fast
    )
    model.train().to(memory_format=torch.channels_last)  # convolutions are faster so
    network, optimizer = accelerator.prepare(model, optimizer)
    schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, settings))
    return RunState(accelerator, model, network, optimizer, schedule, log)


def fit(run: RunState, dataset: VocImages, recipe: Recipe, folder: Path, origin: dict) -> None:
    """Run the iterations that are left; the network ends on the CPU, ready to evaluate.

    Checkpoints, which say that they come from ``origin``, go to ``folder``. Raises
    ``RuntimeError`` in every process when a loss is no longer finite in any.
    """
    settings, accelerator = recipe.optimizer, run.accelerator
    rank, processes = accelerator.process_index, accelerator.num_processes
    objective = method_of(recipe).objective(recipe).to(accelerator.device)
    loader = iter(batches(dataset, recipe, rank, processes, run.iteration * settings.accumulate))
    started = time.perf_counter() - run.seconds
    while run.iteration < settings.iterations:
        means: dict[str, Tensor] = {}
        for part in range(1, settings.accumulate + 1):
            # A batch: images and what they show, never where.
            batch = next(loader)

            # Forward and backward; processes average their gradients with the last part.
            last = part == settings.accumulate
            with contextlib.nullcontext() if last else accelerator.no_sync(run.network):
                losses = _losses(run, objective, batch)
                bad = _not_finite(accelerator, losses)
                accelerator.backward(losses["total"] / settings.accumulate)

            # Finite? Else every process stops, before the weights are spoilt.
            if any(bad()):
                _stop(run, losses, batch["id"], folder)
            for name, loss in losses.items():
                means[name] = means.get(name, 0) + loss.detach() / settings.accumulate

        # The step of AdamW, on what has a gradient; a term times 0 would give it one, of 0.
        if settings.late_terms == "zero":
            for parameter in run.model.parameters():
                if parameter.grad is None and parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)
        run.optimizer.step()
        run.optimizer.zero_grad()

        # The log, then the learning rate of the next iteration.
        run.log.write(run.iteration, run.schedule.get_last_lr()[0], means)
        run.schedule.step()
        run.iteration += 1
        run.seconds = time.perf_counter() - started

        # A checkpoint, from which the next iteration can be entered.
        every, left = settings.checkpoint_every, settings.iterations - run.iteration
        if every and left and run.iteration % every == 0:
            run.save(folder / "checkpoints", origin)
    run.model.to("cpu").eval()


def _losses(run: RunState, objective: Objective, batch: dict) -> dict[str, Tensor]:
    """Every term that counts in this iteration, and their weighted sum as "total"."""
    device = run.accelerator.device
    images = batch["image"].to(device, non_blocking=True, memory_format=torch.channels_last)
    further = {name: batch[name] for name in ("box", "views") if name in batch}
    further = {name: each.to(device, non_blocking=True) for name, each in further.items()}
    # One context for both: each would cast the weights anew.
    with run.accelerator.autocast():
        output = run.network(images)
        losses = objective(run.model, images, batch["labels"], output, run.iteration, **further)
    if not losses:
        raise InputError(f"no loss counts at iteration {run.iteration + 1}: see loss and schedule")
    total = sum(objective.weights[name] * loss for name, loss in losses.items())
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


def _stop(run: RunState, losses: dict[str, Tensor], ids: list[str], folder: Path) -> NoReturn:
    """End a run whose loss is no number: which term, when, on what; the weights are kept."""
    kept = folder / "stopped.safetensors"
    if run.accelerator.is_main_process:
        save_weights(run.model, kept)
    bad = {name: loss.item() for name, loss in losses.items() if not torch.isfinite(loss)}
    reports = [report for report in gather_object([(bad, ids if bad else [])]) if report[0]]
    bad = {name: value for values, _ in reports for name, value in values.items()}
    images = [name for _, names in reports for name in names]
    raise DivergenceError(
        f"losses {bad} at iteration {run.iteration + 1}; images: {', '.join(images)}; the weights "
        f"before that iteration are in {kept}; lower optimizer.lr, or look at these images"
    )
