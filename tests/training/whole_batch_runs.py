"""Trainings that several processes make together; torchrun starts this file for test_distributed.

In float64, where no rounding decides on which side of a threshold a CAM's value lies: one process
and several then differ by nothing but what they should not.
"""

import os
import sys
from pathlib import Path
from unittest import mock

import torch
import yaml
from torchvision.transforms import v2

from more_lib.data.transforms import training_transform
from more_lib.method import objective
from more_lib.recipes.loading import from_dict, load_recipe
from more_lib.recipes.schema import Recipe
from more_lib.system.processes import mean_over_batch, random_numbers
from more_lib.training import cache as training

TOTALS, COUNTS = (6.0, 1.0), (3, 0)  # of two processes


def double_transform(data, views=False):
    return v2.Compose([training_transform(data, views), in_double])


def in_double(seen):
    """An image, a pair of it and its box, or a dictionary of these and further views."""
    if isinstance(seen, tuple):
        return tuple(map(in_double, seen))
    if isinstance(seen, torch.Tensor):
        return seen.double() if seen.is_floating_point() else seen
    return {name: in_double(each) for name, each in seen.items()}


def train_in_float64(recipe: Recipe, folder: Path) -> training.Trained:
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(training, "training_transform", double_transform):
            return training.train(recipe, folder)
    finally:
        torch.set_default_dtype(torch.float32)


def main(folder: Path, rank: int) -> None:
    for file in sorted(folder.glob("*.yaml")):
        train_in_float64(from_dict(yaml.safe_load(file.read_text())), folder / file.stem)
    again = training.train(load_recipe("mini", file=folder / "paper.yaml"), folder / "paper", True)
    (folder / f"loaded_{rank}").write_text(str(again.loaded))
    torch.manual_seed(5)
    mean = mean_over_batch(torch.tensor(TOTALS[rank]), torch.tensor(COUNTS[rank]), 1)
    drawn = random_numbers((2, 3, 4), None, torch.device("cpu"))
    torch.save({"mean": mean, "drawn": drawn}, folder / f"parts_{rank}.pt")
    classification_loss = objective.classification_loss

    def broken(logits, labels):  # in the second process alone
        return classification_loss(logits, labels) * (float("nan") if rank else 1)

    objective.classification_loss = broken
    try:
        training.train(load_recipe("mini", file=folder / "release.yaml"), folder / "stopped")
    except RuntimeError as error:
        (folder / f"said_{rank}").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ["RANK"]))
