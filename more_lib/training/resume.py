"""Checkpoints to resume a training from, so that it ends as if nothing had interrupted it.

A checkpoint is a folder ``iteration_00002000`` with ``state.pt``, plain tensors, numbers and text
that are read without running code in them, and the file's digest, by which damage is found.
"""

import pickle
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from more_lib.method.model import MoRe
from more_lib.system.errors import InputError
from more_lib.system.files import atomic_folder, sha256
from more_lib.training.log import TrainingLog

KEPT = 2
"""Checkpoints of a training that are kept: the newest, and one for when that is damaged."""


@dataclass
class RunState:
    """All that a training changes as it goes, saved and restored together.

    ``model`` holds the weights; ``network`` is what is called, in several processes a wrapper that
    averages their gradients. ``iteration`` and ``seconds`` count what is done.
    """

    accelerator: Accelerator
    model: MoRe
    network: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    log: TrainingLog
    iteration: int = 0
    seconds: float = 0.0

    def save(self, folder: Path, origin: Mapping) -> None:
        """Write a checkpoint into ``folder`` and drop all but the last ``KEPT``.

        origin: what the training comes from, in nested dictionaries. Every process has to call it.
        """
        random = gather_object([_random_states(self.accelerator.device)])
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {name: getattr(self, name).state_dict() for name in _STATEFUL}
            state |= {"iteration": self.iteration, "seconds": self.seconds, "random": random}
            state |= {"origin": origin, "scaler": scaler.state_dict() if scaler else None}
            _write(folder / f"iteration_{self.iteration:08d}", state)
        self.accelerator.wait_for_everyone()

    def restore(self, checkpoint: Mapping) -> None:
        """Take over a checkpoint that ``newest_checkpoint`` returned."""
        self.iteration, self.seconds = checkpoint["iteration"], checkpoint["seconds"]
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(checkpoint[name])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(checkpoint["scaler"])
        random = checkpoint["random"][self.accelerator.process_index]
        torch.set_rng_state(random["cpu"])
        if "device" in random:
            torch.get_device_module(self.accelerator.device).set_rng_state(random["device"])


_STATEFUL = ("model", "optimizer", "schedule", "log")


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints of one training, oldest first; none where there is no such folder."""
    return sorted(Path(folder).glob("iteration_*"))


def newest_checkpoint(folder: str | Path, origin: Mapping) -> dict | None:
    """The newest checkpoint that is whole, on the CPU; None without any.

    Warns of each that is damaged, with its path. Raises ``InputError`` when the checkpoint comes
    from another training than ``origin`` describes: names each value that differs.
    """
    for path in reversed(checkpoints(folder)):
        try:
            if (path / "sha256").read_text() != sha256(path / "state.pt"):
                raise ValueError("its content is not what was written")
            state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(f"the checkpoint {path} is damaged ({reason}): skipped", stacklevel=2)
            continue
        theirs, ours = _flat(state["origin"]), _flat(origin)
        differing = [key for key in sorted(theirs | ours) if theirs.get(key) != ours.get(key)]
        if differing:
            unset = "the default"
            shown = "; ".join(
                f"{key} {theirs.get(key, unset)!s:.60} there, {ours.get(key, unset)!s:.60} here"
                for key in differing[:5]
            )
            raise InputError(
                f"{path} is a checkpoint of another training ({shown}): give what it was trained "
                "with, or another folder"
            )
        return state
    return None


def _write(path: Path, state: dict) -> None:
    leftover = [path, *path.parent.glob(".iteration_*")]  # a damaged one, and what a kill left
    for old in leftover:
        shutil.rmtree(old, ignore_errors=True)
    with atomic_folder(path) as temporary:
        torch.save(state, temporary / "state.pt")
        (temporary / "sha256").write_text(sha256(temporary / "state.pt"))
    for old in checkpoints(path.parent)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """Of torch's generators that the objective draws from on this device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states["device"] = torch.get_device_module(device).get_rng_state()
    return states


def _flat(values: Mapping, path: str = "") -> dict[str, object]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{path}{name}.") if inner else {f"{path}{name}": value}
    return flat
