"""Which images each iteration sees: an order that can be entered anywhere and shared out.

The order, the augmentations and with them every batch depend on the recipe's seed alone: not on
where a resumed run enters, nor on how many processes share a batch and how many workers load it.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from more_lib.data.voc import VocImages
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError


def batches(
    dataset: VocImages, recipe: Recipe, rank: int = 0, processes: int = 1, start: int = 0
) -> DataLoader:
    """One process's batches of a training, from batch ``start`` on, to be iterated once.

    An epoch is a random permutation of the images and ends with its last whole global batch. Of
    each global batch, ``optimizer.batch_size`` images a process, process number ``rank`` takes its
    part: together the processes see what one process with the summed batch would. Every image is
    augmented by random numbers of its own, seeded from the recipe's seed and the image's number in
    the training; torch's global generators are as before after each. Items of ``dataset`` are
    dictionaries of tensors and text, which the batches stack.

    Raises ``InputError`` when the images do not fill one global batch.
    """
    settings, workers = recipe.optimizer, recipe.data.workers
    size = settings.batch_size * processes
    if len(dataset) < size:
        raise InputError(
            f"data.train_split {recipe.data.train_split!r} has {len(dataset)} images, fewer "
            f"than one batch of {size}; lower optimizer.batch_size"
        )
    part = slice(rank * settings.batch_size, (rank + 1) * settings.batch_size)
    numbers = range(start, settings.iterations * settings.accumulate)
    return DataLoader(
        _Numbered(dataset, recipe.seed),
        batch_sampler=_order(len(dataset), numbers, size, part, recipe.seed),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # of its own, or it would draw from the global one
    )


def _order(
    images: int, batches: range, size: int, part: slice, seed: int
) -> Iterator[list[tuple[int, int]]]:
    """``part`` of each global batch of ``size``: its images' numbers in the training, and indices.

    The permutations are those of a ``DataLoader`` that shuffles with a generator of that seed.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.empty((), dtype=torch.int64).random_(generator=generator)  # drawn for its workers
    per_epoch, epoch, order = images // size, -1, []
    for number in batches:
        while epoch < number // per_epoch:
            order, epoch = torch.randperm(images, generator=generator).tolist(), epoch + 1
        first = number % per_epoch * size
        yield list(enumerate(order[first : first + size], number * size))[part]


class _Numbered(Dataset):
    """Items by (number in the training, index), augmented as the seed and the number say."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> dict:
        number, index = key
        seed = np.random.SeedSequence([self.seed, number]).generate_state(1)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed[0]))  # the GPU's is left alone
            return self.dataset[index]
