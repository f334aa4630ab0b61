"""Checkpoints to resume a training from, so that it ends as if nothing had interrupted it.

A checkpoint is a folder ``iteration_00002000`` with ``state.pt``, plain tensors, numbers and text
that are read without running code in them, and the file's digest, by which damage is found.
"""

import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from more_lib.method.model import MoRe
from more_lib.system.errors import InputError
from more_lib.system.files import atomic_folder, remove_folder, sha256
from more_lib.training.log import TrainingLog

KEPT = 2  # checkpoints of a training: the newest, and one for when that is damaged
_STATEFUL = ("model", "optimizer", "schedule", "log")
_KEYS = {*_STATEFUL, "iteration", "seconds", "random", "scaler", "origin"}


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

    def save(self, folder: Path, origin: dict) -> None:
        """Write a checkpoint into ``folder`` and drop all but the last ``KEPT``.

        origin: what the training comes from, in nested dictionaries. Every process has to call it.
        """
        random, device = {"cpu": torch.get_rng_state()}, self.accelerator.device
        if device.type != "cpu":
            random["device"] = torch.get_device_module(device).get_rng_state()
        every = gather_object([random])
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {name: getattr(self, name).state_dict() for name in _STATEFUL}
            state |= {"iteration": self.iteration, "seconds": self.seconds, "random": every}
            state |= {"origin": origin, "scaler": scaler.state_dict() if scaler else None}
            path = folder / f"iteration_{self.iteration:08d}"
            remove_folder(path)  # damaged
            with atomic_folder(path) as temporary:
                _save(state, temporary / "state.pt")
                (temporary / "sha256").write_text(sha256(temporary / "state.pt"))
            for old in checkpoints(folder)[:-KEPT]:
                remove_folder(old)
        self.accelerator.wait_for_everyone()

    def restore(self, checkpoint: dict) -> None:
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


def _save(state: dict, path: Path) -> None:
    try:
        with path.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # a full disk, of which torch says in the end something else
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints of one training, oldest first; none where there is no such folder."""
    return sorted(Path(folder).glob("iteration_*"))


def newest_checkpoint(folder: str | Path, origin: dict) -> dict | None:
    """The newest checkpoint that is whole, on the CPU; None without any.

    Warns of each that is damaged, with its path. Raises ``InputError`` when the checkpoint comes
    from another training than ``origin`` describes: names each value that differs.
    """
    for path in reversed(checkpoints(folder)):
        try:
            if (path / "sha256").read_text() != sha256(path / "state.pt"):
                raise ValueError("its content is not what was written")
            state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or _KEYS - state.keys():
                raise ValueError("it holds no training's state")
        except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(f"the checkpoint {path} is damaged ({reason}): skipped", stacklevel=2)
            continue
        origins = (state["origin"], origin)
        theirs, ours = (pd.json_normalize(each).to_dict("records")[0] for each in origins)
        keys, unset = sorted(theirs | ours), "the default"
        pairs = ((key, theirs.get(key, unset), ours.get(key, unset)) for key in keys)
        differing = [f"{key} {a!s:.60} there, {b!s:.60} here" for key, a, b in pairs if a != b]
        if differing:
            raise InputError(
                f"{path} is a checkpoint of another training ({'; '.join(differing[:5])}): give "
                "what it was trained with, or another folder"
            )
        return state
    return None
