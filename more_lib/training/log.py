"""What a training says of itself as it goes: ``log.jsonl``, the progress bar, TensorBoard."""

import json
import time
from contextlib import suppress
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError
from more_lib.system.files import atomic_file, readable_disk_errors
from more_lib.system.progress import progress_bar


class TrainingLog:
    """Means of the losses since the last line, over iterations and processes: the whole batch's.

    Each line of ``folder/log.jsonl`` holds iteration, lr, every loss and images per second; the
    first process writes it. ``start`` iterations were done before: later lines of an earlier
    attempt are dropped, so that none is there twice. ``tensorboard`` puts the same numbers into
    ``folder/tensorboard`` and raises ``InputError`` without that package.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        accelerator: Accelerator,
        start: int = 0,
        tensorboard: bool = False,
    ) -> None:
        settings, self.accelerator = recipe.optimizer, accelerator
        self.every, self.iterations = settings.log_every, settings.iterations
        self.images = settings.batch_size * settings.accumulate * accelerator.num_processes
        self.sums: dict[str, tuple[Tensor, int]] = {}
        self.folder = folder
        self.file = self.board = None
        if accelerator.is_main_process:
            if tensorboard:
                purge = start + 1 if start else None
                self.board = summary_writer()(folder / "tensorboard", purge_step=purge)
            self.file = _continued(folder / "log.jsonl", start)
        shown = accelerator.is_main_process
        self.bar = progress_bar(total=self.iterations, description="training", shown=shown)
        self.bar.update(start)
        self.since, self.steps = time.perf_counter(), 0

    def write(self, step: int, lr: float, losses: dict[str, Tensor]) -> None:
        """Take in iteration ``step`` (from 0); write a line when one is due."""
        for name, loss in losses.items():
            sum_, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (sum_ + loss, count + 1)
        self.bar.update()
        self.steps += 1
        if (step + 1) % self.every and step + 1 != self.iterations:
            return
        # A loss that sets in between two lines is averaged over the iterations it counted in.
        sums = torch.stack([sum_ for sum_, _ in self.sums.values()])
        sums = self.accelerator.reduce(sums, "mean").tolist()
        line = {"iteration": step + 1, "lr": lr}
        for (name, (_, count)), sum_ in zip(self.sums.items(), sums, strict=True):
            line[name] = round(sum_ / count, 6)
        speed = self.steps * self.images / (time.perf_counter() - self.since)
        line["images_per_second"] = round(speed, 1)
        if self.file:
            with readable_disk_errors(self.folder / "log.jsonl"):
                self.file.write(json.dumps(line) + "\n")
            self.bar.set_postfix(loss=f"{line['total']:.3f}", lr=f"{lr:.1e}")
        if self.board:
            for name in line.keys() - {"iteration"}:
                self.board.add_scalar(name, line[name], step + 1)
            self.board.flush()
        self.sums, self.since, self.steps = {}, time.perf_counter(), 0

    def state_dict(self) -> dict:
        """What the next line already holds."""
        return {name: (sum_.cpu(), count) for name, (sum_, count) in self.sums.items()}

    def load_state_dict(self, state: dict) -> None:
        device = self.accelerator.device
        self.sums = {name: (sum_.to(device), count) for name, (sum_, count) in state.items()}

    def close(self) -> None:
        for open_ in (self.bar, self.file, self.board):
            if open_ is not None:
                with readable_disk_errors(self.folder):
                    open_.close()


def _continued(path: Path, start: int):
    """The log, open for its next line, with no line after iteration ``start``."""
    kept = []
    if path.exists():
        for line in path.read_text(errors="replace").splitlines(keepends=True):
            with suppress(ValueError, KeyError, TypeError):  # cut short when the run was killed
                kept += [line] if json.loads(line)["iteration"] <= start else []
    with atomic_file(path) as temporary:
        temporary.write_text("".join(kept))
    with readable_disk_errors(path):
        return path.open("a", buffering=1)  # line by line


def summary_writer():
    """TensorBoard's class; ``InputError`` without that package."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        cure = "pip install tensorboard"
        raise InputError(f"--tensorboard needs the package tensorboard: {cure}") from error
    return SummaryWriter
