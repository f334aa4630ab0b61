"""The training loop: image-level labels in, a checkpoint and a log out.

``_fit`` shows the step. It runs on a CPU, on one GPU, or on many: ``accelerate launch -m more_lib
train`` or ``torchrun --nproc-per-node gpu -m more_lib train`` (without GPUs ``torchrun
--nproc-per-node 2``: ``accelerate launch --cpu`` starts one process and leaves more to MPI).
Notebook 05 walks through it.
"""

import contextlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import timm
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from more_lib.batches import Batches
from more_lib.data import open_tree
from more_lib.data.scan import require_readable
from more_lib.data.transforms import denormalize, training_transform
from more_lib.data.voc import VocImages
from more_lib.errors import InputError
from more_lib.hardware import peak_memory, precision_of, say, start_accelerator
from more_lib.model import MoRe
from more_lib.objective import Objective
from more_lib.recipes import Recipe, fingerprint, to_dict, training_fingerprint, training_values
from more_lib.resume import RunState, checkpoints, newest_checkpoint
from more_lib.sections import OptimizerRecipe
from more_lib.storage import atomic_file, data_folder, sha256
from more_lib.training_log import TrainingLog
from more_lib.vit import backbone_identity
from more_lib.weight_files import load_weights, save_weights


@dataclass(frozen=True)
class Trained:
    """A trained network with the folder that holds it.

    ``record`` is the content of ``record.json``: the recipe, hashes, time and hardware of the
    training. ``loaded`` tells a checkpoint that was already there from one trained just now.
    """

    model: MoRe
    recipe: Recipe
    folder: Path
    record: dict
    loaded: bool

    def log(self) -> list[dict]:
        """The training log: iteration, lr, every loss, images per second; one dict a line."""
        return [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]


def learning_rate_factor(step: int, optimizer: OptimizerRecipe) -> float:
    """Factor on the learning rate at iteration ``step`` (from 0): linear warm-up, then decay."""
    if step < optimizer.warmup_iterations:
        return 1 - (1 - step / optimizer.warmup_iterations) * (1 - optimizer.warmup_ratio)
    return (1 - step / optimizer.iterations) ** optimizer.power


def train(
    recipe: Recipe, folder: str | Path, resume: bool = False, tensorboard: bool = False
) -> Trained:
    """Train the recipe from its pretrained backbone and keep the result in ``folder``.

    Writes ``recipe.yaml``, ``log.jsonl``, ``model.safetensors`` and, last, ``record.json``; a
    folder with a record is finished and is never overwritten. In between, every
    ``optimizer.checkpoint_every`` iterations, ``checkpoints`` gets one; after an interruption
    ``resume`` goes on from the newest that is whole, and on a CPU ends with bitwise the weights of
    an uninterrupted run. It returns a training that is finished already. ``tensorboard`` writes the
    log's numbers for TensorBoard as well. Masks are not opened.

    Several processes, started by ``torchrun`` or ``accelerate launch``, each take
    ``optimizer.batch_size`` images of a batch and average their gradients: losses, log and weights
    are those of one process with the summed batch, rounding aside (``Objective`` says how).

    Raises ``InputError`` for unusable data, weights or hardware, for a folder with checkpoints
    where ``resume`` was not asked for, or of another training where it was, and ``RuntimeError`` in
    every process when a loss is no longer finite in any.
    """
    folder = Path(folder)
    if (folder / "record.json").exists():
        if resume:
            return load_trained(folder, recipe)
        raise InputError(f"{folder} holds a finished training; name another folder")
    if not resume and checkpoints(folder / "checkpoints"):
        raise InputError(
            f"{folder} holds an unfinished training; go on with --resume (resume=True), or name "
            "another folder"
        )
    accelerator = start_accelerator(recipe.optimizer.precision)
    set_seed(recipe.seed)
    with accelerator.main_process_first():  # which makes or downloads what is missing
        tree = open_tree(recipe.data)
        require_readable(tree, recipe.data.train_split)
        dataset = VocImages(tree, recipe.data.train_split, training_transform(recipe.data))
        model = MoRe.from_recipe(recipe)
    origin = {
        **training_values(recipe),
        **provenance(recipe),
        "precision": precision_of(accelerator),
        "processes": accelerator.num_processes,
    }
    checkpoint = _checkpoint(folder, origin) if resume else None
    if accelerator.is_main_process:
        with atomic_file(folder / "recipe.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(to_dict(recipe), sort_keys=False))
    accelerator.wait_for_everyone()
    begin = checkpoint["iteration"] if checkpoint else 0
    log = TrainingLog(folder, recipe, accelerator, begin, tensorboard)
    with contextlib.closing(log):
        seconds = _fit(accelerator, model, dataset, recipe, folder, log, origin, checkpoint)
    record = _record(recipe, accelerator, seconds)
    if accelerator.is_main_process:
        save_weights(model, folder / "model.safetensors")
        record["weights_sha256"] = sha256(folder / "model.safetensors")
        with atomic_file(folder / "record.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")
    accelerator.wait_for_everyone()
    return Trained(model, recipe, folder, record, loaded=False)


def train_or_load(recipe: Recipe, resume: bool = False, tensorboard: bool = False) -> Trained:
    """The trained network of this recipe: from the cache, or trained now and kept there.

    The cache key covers everything that decides the weights: the recipe (evaluation settings
    aside), the data and the backbone. A training that was interrupted is resumed, asked for or
    not. Prints one line that says whether the network was trained or loaded.
    """
    folder = cached_folder(recipe)
    if (folder / "record.json").exists():
        trained = load_trained(folder, recipe)
    else:
        interrupted = bool(checkpoints(folder / "checkpoints"))
        trained = train(recipe, folder, resume or interrupted, tensorboard)
    did = "loaded from the cache" if trained.loaded else "trained now"
    say(f"model {folder.name}: {did} ({recipe.optimizer.iterations} iterations)")
    return trained


def cached_folder(recipe: Recipe) -> Path:
    """Where ``train_or_load`` keeps this recipe's network, whether or not it is there yet."""
    key = fingerprint([training_fingerprint(recipe), provenance(recipe)])
    return data_folder() / "trained" / f"{recipe.profile}-{key}"


def load_trained(folder: str | Path, recipe: Recipe) -> Trained:
    """A finished training's network, ready to evaluate under ``recipe``.

    Raises ``InputError`` when the folder is not finished or was trained by another recipe.
    """
    folder = Path(folder)
    try:
        record = json.loads((folder / "record.json").read_text())
        trained_as = record["training_fingerprint"]
    except (OSError, ValueError, KeyError):
        raise InputError(
            f"{folder} holds no finished training; give a folder that `train` has written"
        ) from None
    if trained_as != training_fingerprint(recipe):
        raise InputError(
            f"{folder} was trained by another recipe; give its own with "
            f"--recipe {folder / 'recipe.yaml'}"
        )
    model = MoRe.from_recipe(recipe, pretrained=False)
    load_weights(model, folder / "model.safetensors")
    return Trained(model, recipe, folder, record, loaded=True)


def provenance(recipe: Recipe) -> dict[str, str]:
    """Hashes of what a training starts from: the data set and the pretrained backbone."""
    splits = (recipe.data.train_split,)
    return {
        "data_sha256": open_tree(recipe.data).fingerprint(splits),
        "backbone_sha256": backbone_identity(recipe.backbone.name, recipe.backbone.weights),
    }


def _checkpoint(folder: Path, origin: dict) -> dict | None:
    """What ``folder`` can be resumed from; says from where."""
    checkpoint = newest_checkpoint(folder / "checkpoints", origin)
    if checkpoint is None:
        say(f"{folder} has no checkpoint: the training starts from the beginning")
    else:
        say(f"{folder} resumes after iteration {checkpoint['iteration']}")
    return checkpoint


def _fit(
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


def _record(recipe: Recipe, accelerator: Accelerator, seconds: float) -> dict:
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    settings, processes = recipe.optimizer, accelerator.num_processes
    images = settings.iterations * settings.accumulate * settings.batch_size * processes
    return {
        "profile": recipe.profile,
        "training_fingerprint": training_fingerprint(recipe),
        **provenance(recipe),
        "seed": recipe.seed,
        "iterations": recipe.optimizer.iterations,
        "precision": precision_of(accelerator),
        "device": f"{device.type} ({name})",
        "processes": processes,
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
        "images_per_second": round(images / seconds, 1),
        "peak_memory_gb": peak_memory(device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
        },
    }
