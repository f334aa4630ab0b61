"""Which images each iteration sees: an order that can be entered anywhere and shared out.

The order, and with it every batch, depends on the recipe's seed alone: not on where a resumed run
enters it, and not on how many processes share it.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from more_lib.data.voc import VocImages
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError


class Batches:
    """One process's batches of a training, from batch ``start`` on; iterate or call ``next``.

    An epoch is a random permutation of the images and ends with its last whole global batch. Of
    each global batch, ``optimizer.batch_size`` images a process, process number r takes the r-th
    part: together the processes see what one process with the summed batch would.

    Augmentation is random in one of two ways. A single process that loads its images itself
    (``data.workers`` 0) takes torch's global generator, in the order of the images: its state goes
    into checkpoints. Otherwise every image is augmented by a generator seeded from the recipe's
    seed and the image's number in the training, so that no worker's or process's history matters.

    Args:
        dataset: items are dictionaries of tensors and text, which the batches stack.
        rank, processes: which part of each global batch.
        random_state: of torch's CPU generator, to load the first batch with, where that is one
            that lay ready when a checkpoint was made.

    ``random_state`` is the generator's state before the batch that lies ready was loaded. Raises
    ``InputError`` when the images do not fill one global batch.
    """

    def __init__(
        self,
        dataset: VocImages,
        recipe: Recipe,
        rank: int = 0,
        processes: int = 1,
        start: int = 0,
        random_state: Tensor | None = None,
    ) -> None:
        settings = recipe.optimizer
        size = settings.batch_size * processes
        if len(dataset) < size:
            raise InputError(
                f"data.train_split {recipe.data.train_split!r} has {len(dataset)} images, fewer "
                f"than one batch of {size}; lower optimizer.batch_size"
            )
        workers = recipe.data.workers
        seed = recipe.seed if workers or processes > 1 else None
        loader = DataLoader(
            _Numbered(dataset, seed),
            batch_sampler=_order(
                len(dataset),
                range(start, settings.iterations * settings.accumulate),
                size,
                slice(rank * settings.batch_size, (rank + 1) * settings.batch_size),
                recipe.seed,
            ),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # of its own, or it would draw from the global one
        )
        if random_state is not None:
            torch.set_rng_state(random_state)
        self.random_state = torch.get_rng_state()
        self._loaded = iter(loader)
        self._ready = next(self._loaded, None)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict:
        batch, self.random_state = self._ready, torch.get_rng_state()
        if batch is None:
            raise StopIteration
        self._ready = next(self._loaded, None)
        return batch


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
    """Items by (number in the training, index), augmented as ``seed`` and number say if given."""

    def __init__(self, dataset: Dataset, seed: int | None) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> dict:
        number, index = key
        if self.seed is None:
            return self.dataset[index]
        seed = np.random.SeedSequence([self.seed, number]).generate_state(1)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed[0]))  # the GPU's is left alone
            return self.dataset[index]
