"""Trained networks in their folders: trained there, resumed, or found from an earlier time.

``train`` needs a recipe and a folder; ``train_or_load`` chooses the folder itself, by all that
decides the weights.
"""

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from platform import machine, python_version

import torch
import yaml
from accelerate.utils import set_seed
from timm import __version__ as timm_version

from more_lib.data import open_tree
from more_lib.data.table import training_classes
from more_lib.data.transforms import training_transform
from more_lib.data.voc import VocImages
from more_lib.method.energy import DenseEnergyLoss
from more_lib.method.methods import method_of
from more_lib.method.model import MoRe
from more_lib.method.released import load_released
from more_lib.method.weight_files import backbone_identity
from more_lib.recipes.loading import (
    fingerprint,
    from_dict,
    to_dict,
    training_fingerprint,
    training_values,
)
from more_lib.recipes.schema import Recipe
from more_lib.system.devices import peak_memory, precision_of, say, start_accelerator
from more_lib.system.errors import InputError
from more_lib.system.files import absolute, atomic_file, data_folder, sha256, write_json
from more_lib.system.locks import exclusive
from more_lib.system.processes import Shards, cpu_seconds
from more_lib.system.weights import load_weights, save_weights
from more_lib.training.batches import batches
from more_lib.training.log import TrainingLog, summary_writer
from more_lib.training.loop import fit, start
from more_lib.training.notices import notices
from more_lib.training.resume import RunState, checkpoints, newest_checkpoint

TRAINING_VERSION = 6
"""Part of the key of every kept network and of checkpoints: raise it when the same recipe and data
give other weights."""

_WRITTEN = ("log.jsonl", "checkpoints", "model.safetensors", "stopped.safetensors", "record.json")


@dataclass(frozen=True)
class Trained:
    """A trained network with the folder that holds it.

    ``record`` is the content of ``record.json``: the recipe, hashes, time and hardware of the
    training. ``loaded`` tells a network that was already there from one trained just now.
    """

    model: MoRe
    recipe: Recipe
    folder: Path
    record: dict
    loaded: bool

    def log(self) -> list[dict]:
        """The training log: iteration, lr, every loss, images per second; one dict a line."""
        return [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]


def train(
    recipe: Recipe, folder: str | Path, resume: bool | None = False, tensorboard: bool = False
) -> Trained:
    """Train the recipe from its pretrained backbone and keep the result in ``folder``.

    Writes ``recipe.yaml``, ``log.jsonl``, ``model.safetensors`` and, last, ``record.json``; a
    folder with a record is finished and is never overwritten. In between, every
    ``optimizer.checkpoint_every`` iterations, ``checkpoints`` gets one; after an interruption
    ``resume`` goes on from the newest that is whole, and on a CPU ends with bitwise the weights of
    an uninterrupted run; it returns a training of these data that is finished. With None it does so
    where it can. ``tensorboard`` logs for TensorBoard as well. Masks are not opened.

    One process at a time trains in a folder: another waits, and then finds what the first left.

    Several processes, started by ``torchrun`` or ``accelerate launch``, each take
    ``optimizer.batch_size`` images of a batch and average their gradients: losses, log and weights
    are those of one process with the summed batch, rounding aside (``Objective`` says how).

    Raises ``InputError`` for unusable data, weights or hardware, for a folder with checkpoints
    where ``resume`` was not asked for, or of another training where it was, for one with other
    files under the names above, and ``RuntimeError`` in every process when a loss is no longer
    finite in any.
    """
    folder, shards = Path(folder), Shards()
    if shards.gather(_is_finished(folder, recipe, resume))[0]:
        if tensorboard:
            say("no log for TensorBoard: the training is done already")
        return load_trained(folder, recipe)
    with exclusive(folder / ".training.lock", f"trains {folder.name}", shards):
        if shards.gather(_is_finished(folder, recipe, resume))[0]:  # by the one that was waited for
            return load_trained(folder, recipe)
        _train(recipe, folder, resume, tensorboard)
        # Read from the file: accelerate leaves autocast around the forward of the one it trained.
        return replace(load_trained(folder, recipe), loaded=False)


def _train(recipe: Recipe, folder: Path, resume: bool | None, tensorboard: bool) -> None:
    if resume is False and checkpoints(folder / "checkpoints"):
        raise InputError(
            f"{folder} holds an unfinished training; go on with --resume (resume=True), or name "
            "another folder"
        )
    if tensorboard:
        summary_writer()  # refuses, before anything is written, to do without
    accelerator = start_accelerator(recipe.optimizer.precision)
    set_seed(recipe.seed)
    with accelerator.main_process_first():  # which makes or downloads what is missing
        tree = open_tree(recipe.data)
        tree.require_readable(recipe.data.train_split)
        say(training_classes(tree, recipe.data))
        for unexpected in notices(recipe):
            say(f"note: {unexpected}")
        method = method_of(recipe)
        transform = training_transform(recipe.data, method.objective.views)
        dataset = VocImages(tree, recipe.data.train_split, transform)
        model = method.network.from_recipe(recipe)
    batches(dataset, recipe, processes=accelerator.num_processes)  # refuses too few images
    hardware = {"precision": precision_of(accelerator), "processes": accelerator.num_processes}
    sources = {**provenance(recipe), "training_version": TRAINING_VERSION, **hardware}
    origin = training_values(recipe) | sources
    checkpoint = _checkpoint(folder, origin, asked=bool(resume)) if resume is not False else None
    _require_own(folder, recipe)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        with atomic_file(folder / "recipe.yaml") as temporary:
            temporary.write_bytes(_written(to_dict(recipe)))
    accelerator.wait_for_everyone()
    begin = checkpoint["iteration"] if checkpoint else 0
    log = TrainingLog(folder, recipe, accelerator, begin, tensorboard)
    with contextlib.closing(log):
        run = start(accelerator, model, recipe, log)
        if checkpoint:
            run.restore(checkpoint)
        if _energy_method(recipe, accelerator.device) == "lattice":
            say("dense energy: by a lattice, as exact sums of so many pixels take a CPU long")
        busy = cpu_seconds()
        fit(run, dataset, recipe, folder, origin)
    busy = round(cpu_seconds() - busy, 1)  # of this process alone, and since it was resumed
    record = _record(recipe, run, sources) | {"cpu_seconds": busy}
    if accelerator.is_main_process:
        for kept in folder.glob(f"evaluation-{12 * '[0-9a-f]'}.json*"):
            kept.unlink()  # of a network that was here before
        save_weights(model, folder / "model.safetensors")
        record["weights_sha256"] = sha256(folder / "model.safetensors")
        write_json(record, folder / "record.json")
    accelerator.wait_for_everyone()


def train_or_load(recipe: Recipe, resume: bool = False, tensorboard: bool = False) -> Trained:
    """The trained network of this recipe: from the cache, or trained now and kept there.

    The cache key covers everything that decides the weights: the recipe (evaluation settings
    aside), the data, the backbone and ``TRAINING_VERSION``. A training that was interrupted is
    resumed, asked for or not. Prints one line that says whether it was trained or loaded.
    """
    folder = cached_folder(recipe)
    trained = train(recipe, folder, resume or None, tensorboard)
    did = "loaded from the cache" if trained.loaded else "trained now"
    say(f"model {folder.name}: {did} ({recipe.optimizer.iterations} iterations)")
    return trained


def cached_folder(recipe: Recipe) -> Path:
    """Where ``train_or_load`` keeps this recipe's network, whether or not it is there yet."""
    key = fingerprint([training_fingerprint(recipe), provenance(recipe), TRAINING_VERSION])
    return data_folder() / "trained" / f"{recipe.profile}-{key}"


def load_trained(folder: str | Path, recipe: Recipe) -> Trained:
    """A finished training's network, ready to evaluate under ``recipe``.

    Raises ``InputError`` when the folder is not finished, was trained by another recipe, or holds
    other weights than those that were trained.
    """
    folder = Path(folder)
    weights = folder / "model.safetensors"
    try:
        record = json.loads((folder / "record.json").read_text())
        trained_as = record["training_fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            f"{folder} holds no finished training, as record.json is missing or damaged; give a "
            "folder that `train` has written"
        ) from None
    if trained_as != training_fingerprint(recipe):
        raise InputError(
            f"{folder} was trained by another recipe, {folder / 'recipe.yaml'}: leave out what "
            "changes the training (--profile, --recipe, --set), or train into another folder"
        )
    model = method_of(recipe).network.from_recipe(recipe, pretrained=False)
    load_weights(model, weights)
    if record.get("weights_sha256") not in (None, sha256(weights)):  # evaluations belong to them
        raise InputError(f"{weights} is not what was trained: restore it, or train anew")
    return Trained(model, recipe, folder, record, loaded=True)


def released_network(file: str | Path, recipe: Recipe) -> Trained:
    """The authors' checkpoint as a trained network, ready to evaluate under ``recipe``.

    file: a checkpoint of the released code, as ``load_released`` takes it. recipe: of the profile
    whose classes it was trained on, voc or coco.

    Its folder is in the cache, named by the file's digest, and is made when an evaluation is kept
    there; it has no log. Raises ``InputError`` for a file that cannot be read, or of other classes.
    """
    file, classes = absolute(file), len(recipe.data.classes)
    try:
        model = load_released(file, classes)
    except InputError as error:
        raise InputError(
            f"{error} (read for the {classes} classes of profile {recipe.profile})"
        ) from error
    digest = sha256(file)
    record = {"weights_sha256": digest, "released": file.name}
    return Trained(model, recipe, data_folder() / "released" / digest[:12], record, loaded=True)


def provenance(recipe: Recipe) -> dict[str, str]:
    """Hashes of what a training starts from: the data set and the pretrained backbone."""
    return {
        "data_sha256": open_tree(recipe.data).fingerprint((recipe.data.train_split,)),
        "backbone_sha256": backbone_identity(recipe.backbone.name, recipe.backbone.weights),
    }


def _is_finished(folder: Path, recipe: Recipe, resume: bool | None) -> bool:
    finished = (folder / "record.json").exists()
    if finished and resume is False:
        raise InputError(f"{folder} holds a finished training; name another folder")
    if finished and resume:
        then = load_trained(folder, recipe).record
        for name, now in provenance(recipe).items():
            if then.get(name, now) != now:
                raise InputError(f"{folder} was trained with another {name}: name another folder")
        say(f"{folder} is finished: nothing was trained")
    return finished


def _require_own(folder: Path, recipe: Recipe) -> None:
    """Raise ``InputError`` where a file of another than this training would be replaced."""
    file = folder / "recipe.yaml"
    taken = [name for name in _WRITTEN if (folder / name).exists()]
    if file.exists():
        try:
            values = yaml.safe_load(file.read_bytes())
            same = training_fingerprint(from_dict(values)) == training_fingerprint(recipe)
            taken = [] if same and file.read_bytes() == _written(values) else [file.name]
        except (OSError, ValueError, TypeError, yaml.YAMLError):
            taken = [file.name]
    if taken:
        raise InputError(
            f"{folder / taken[0]} is not of this training and would be replaced: move it, or name "
            "another folder"
        )


def _written(recipe: dict) -> bytes:
    """A recipe as this module writes it."""
    return yaml.safe_dump(recipe, sort_keys=False).encode()


def _checkpoint(folder: Path, origin: dict, asked: bool) -> dict | None:
    """What ``folder`` can be resumed from; says from where, and if there is none that was asked."""
    checkpoint = newest_checkpoint(folder / "checkpoints", origin)
    if checkpoint is None and asked:
        say(f"{folder} has no checkpoint: the training starts from the beginning")
    if checkpoint:
        say(f"{folder} resumes after iteration {checkpoint['iteration']}")
    return checkpoint


def _energy_method(recipe: Recipe, device: torch.device) -> str | None:
    """How the dense energy is summed; None where it does not count."""
    side = int(recipe.data.crop_size * recipe.energy.scale)
    return DenseEnergyLoss.method(side, side, device) if recipe.loss.dense_energy else None


def _record(recipe: Recipe, run: RunState, sources: dict) -> dict:
    device, settings = run.accelerator.device, recipe.optimizer
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine()
    batches = settings.iterations * settings.accumulate * run.accelerator.num_processes
    return {
        "profile": recipe.profile,
        "training_fingerprint": training_fingerprint(recipe),
        **sources,
        "seed": recipe.seed,
        "iterations": settings.iterations,
        "dense_energy": _energy_method(recipe, device),
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "seconds": round(run.seconds, 1),
        "images_per_second": round(batches * settings.batch_size / run.seconds, 1),
        "peak_memory_gb": peak_memory(device),
        "versions": {"python": python_version(), "torch": torch.__version__, "timm": timm_version},
    }
