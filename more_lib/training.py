"""The training loop: image-level labels in, a checkpoint and a log out.

One screen shows the step (``_fit``). It runs on a CPU, one GPU, or many with ``accelerate launch``;
notebook 05 walks through it.
"""

import json
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import timm
import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from more_lib.checkpoints import load_weights, save_weights
from more_lib.data import open_tree
from more_lib.data.scan import require_readable
from more_lib.data.transforms import training_transform
from more_lib.data.voc import VocImages
from more_lib.errors import InputError
from more_lib.model import MoRe
from more_lib.objective import Objective
from more_lib.progress import progress_bar
from more_lib.recipes import Recipe, fingerprint, to_dict, training_fingerprint
from more_lib.sections import OptimizerRecipe
from more_lib.storage import atomic_file, data_folder, sha256
from more_lib.vit import backbone_identity


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


def train(recipe: Recipe, folder: str | Path) -> Trained:
    """Train the recipe from its pretrained backbone and keep the result in ``folder``.

    Writes ``recipe.yaml``, ``log.jsonl``, ``model.safetensors`` and, last, ``record.json``; a
    folder with a record is finished and is never overwritten. Masks are not opened. Raises
    ``InputError`` for unusable data, weights or hardware, and ``RuntimeError`` when a loss is no
    longer finite.
    """
    folder = Path(folder)
    if (folder / "record.json").exists():
        raise InputError(f"{folder} holds a finished training; name another folder")
    accelerator = _accelerator(_precision(recipe.optimizer.precision))
    set_seed(recipe.seed)
    tree = open_tree(recipe.data)
    require_readable(tree, recipe.data.train_split)
    dataset = VocImages(tree, recipe.data.train_split, training_transform(recipe.data))
    model = MoRe.from_recipe(recipe)
    if accelerator.is_main_process:
        with atomic_file(folder / "recipe.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(to_dict(recipe), sort_keys=False))
    accelerator.wait_for_everyone()
    seconds = _fit(accelerator, model, dataset, recipe, folder / "log.jsonl")
    record = _record(recipe, accelerator, seconds)
    if accelerator.is_main_process:
        save_weights(model, folder / "model.safetensors")
        record["weights_sha256"] = sha256(folder / "model.safetensors")
        with atomic_file(folder / "record.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")
    accelerator.wait_for_everyone()
    return Trained(model, recipe, folder, record, loaded=False)


def train_or_load(recipe: Recipe) -> Trained:
    """The trained network of this recipe: from the cache, or trained now and kept there.

    The cache key covers everything that decides the weights: the recipe (evaluation settings
    aside), the data and the backbone. Prints one line that says which of the two it did.
    """
    key = fingerprint([training_fingerprint(recipe), provenance(recipe)])
    folder = data_folder() / "trained" / f"{recipe.profile}-{key}"
    if (folder / "record.json").exists():
        trained = load_trained(folder, recipe)
    else:
        trained = train(recipe, folder)
    did = "loaded from the cache" if trained.loaded else "trained now"
    print(f"model {folder.name}: {did} ({recipe.optimizer.iterations} iterations)")
    return trained


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


def _fit(
    accelerator: Accelerator, model: MoRe, dataset: VocImages, recipe: Recipe, log_file: Path
) -> float:
    """Run every iteration; returns the seconds it took. ``model`` ends on the CPU, trained."""
    settings = recipe.optimizer
    optimizer = AdamW(
        model.parameter_groups(settings.lr, settings.head_lr_factor, settings.token_lr_factor),
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    model.train().to(memory_format=torch.channels_last)  # convolutions are faster so
    network, optimizer = accelerator.prepare(model, optimizer)
    loader = accelerator.prepare_data_loader(
        _loader(dataset, recipe, accelerator.num_processes), device_placement=False
    )
    schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, settings))
    objective = Objective(recipe).to(accelerator.device)
    log = _Log(log_file if accelerator.is_main_process else None, settings)
    started = time.perf_counter()
    for step, batch in zip(range(settings.iterations), _endless(loader), strict=False):
        images = batch["image"].to(
            accelerator.device, non_blocking=True, memory_format=torch.channels_last
        )
        output = network(images)
        with accelerator.autocast():
            losses = objective(model, images, batch["labels"], output, step)
        total = sum(getattr(recipe.loss, name) * loss for name, loss in losses.items())
        if not torch.isfinite(total):
            log.close()
            _stop(model, losses, step, batch["id"], log_file.parent)
        accelerator.backward(total)
        optimizer.step()
        optimizer.zero_grad()
        log.write(step, schedule.get_last_lr()[0], losses, total, accelerator.num_processes)
        schedule.step()
    log.close()
    model.to("cpu").eval()
    return time.perf_counter() - started


class _Log:
    """Means of the losses since the last line, to a JSONL file and the progress bar."""

    def __init__(self, path: Path | None, settings: OptimizerRecipe) -> None:
        self.settings, self.sums, self.since = settings, {}, time.perf_counter()
        self.file = path.open("w") if path else None
        self.bar = progress_bar(total=settings.iterations if path else 0, description="training")

    def write(
        self, step: int, lr: float, losses: dict[str, Tensor], total: Tensor, processes: int
    ) -> None:
        for name, loss in {**losses, "total": total}.items():
            total_so_far, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total_so_far + loss.detach(), count + 1)
        self.bar.update()
        every = self.settings.log_every
        if self.file is None or ((step + 1) % every and step + 1 != self.settings.iterations):
            return
        count = step % every + 1
        # A loss that sets in between two lines is averaged over the iterations it counted in.
        means = {name: round(float(sum_) / n, 6) for name, (sum_, n) in self.sums.items()}
        rate = count * self.settings.batch_size * processes / (time.perf_counter() - self.since)
        line = {"iteration": step + 1, "lr": lr, **means, "images_per_second": round(rate, 1)}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        self.bar.set_postfix(loss=f"{means['total']:.3f}", lr=f"{lr:.1e}")
        self.sums, self.since = {}, time.perf_counter()

    def close(self) -> None:
        self.bar.close()
        if self.file:
            self.file.close()


def _stop(
    model: MoRe, losses: dict[str, Tensor], step: int, ids: list[str], folder: Path
) -> NoReturn:
    """End a run whose loss is no number: which term, when, on what; the weights are kept."""
    kept = folder / "stopped.safetensors"
    save_weights(model, kept)
    bad = {name: loss.item() for name, loss in losses.items() if not torch.isfinite(loss)}
    raise RuntimeError(
        f"losses {bad} at iteration {step + 1}; images: {', '.join(ids)}; the weights before that "
        f"iteration are in {kept}"
    )


def _precision(wanted: str) -> str:
    """The precision to run in: what "auto" stands for on this hardware."""
    if wanted == "fp16" and not torch.cuda.is_available():
        raise InputError("optimizer.precision fp16 needs a CUDA GPU; use bf16 or fp32 here")
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


def _accelerator(precision: str) -> Accelerator:
    AcceleratorState._reset_state()  # else a second training could not choose another precision
    # A stage of training may leave a part of the network without a loss.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    mode = "no" if precision == "fp32" else precision
    return Accelerator(mixed_precision=mode, kwargs_handlers=[unused])


def _loader(dataset: VocImages, recipe: Recipe, processes: int) -> DataLoader:
    wanted = recipe.optimizer.batch_size * processes
    if len(dataset) < wanted:
        raise InputError(
            f"data.train_split {recipe.data.train_split!r} has {len(dataset)} images, fewer than "
            f"one batch of {wanted}; lower optimizer.batch_size"
        )
    return DataLoader(
        dataset,
        recipe.optimizer.batch_size,
        shuffle=True,
        num_workers=recipe.data.workers,
        persistent_workers=recipe.data.workers > 0,
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
        generator=torch.Generator().manual_seed(recipe.seed),
    )


def _endless(loader: DataLoader) -> Iterator[dict]:
    while True:
        yield from loader


def _record(recipe: Recipe, accelerator: Accelerator, seconds: float) -> dict:
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    images = recipe.optimizer.iterations * recipe.optimizer.batch_size * accelerator.num_processes
    return {
        "profile": recipe.profile,
        "training_fingerprint": training_fingerprint(recipe),
        **provenance(recipe),
        "seed": recipe.seed,
        "iterations": recipe.optimizer.iterations,
        "precision": accelerator.mixed_precision.replace("no", "fp32"),  # what "auto" came to
        "device": f"{device.type} ({name})",
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
        "images_per_second": round(images / seconds, 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
        },
    }
