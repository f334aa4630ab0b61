"""Batches: the same images and augmentations wherever they are entered, shared out or loaded."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from more_lib.recipes.loading import changed
from more_lib.recipes.profiles import PROFILES
from more_lib.training.batches import batches


class Numbers(torch.utils.data.Dataset):
    """Ten items with a random number each, as an augmentation would draw it."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"index": index, "random": torch.rand(())}


def drawn(recipe, count, **where):
    """(index, random number) of each item of the first ``count`` batches."""
    return [
        list(zip(batch["index"].tolist(), batch["random"].tolist(), strict=True))
        for batch in islice(batches(Numbers(), recipe, **where), count)
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_can_be_entered_anywhere_and_shared_out(workers):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    recipe = changed(PROFILES["mini"], ["optimizer.iterations=8", f"data.workers={workers}"])
    two, four = (changed(recipe, [f"optimizer.batch_size={size}"]) for size in (2, 4))
    one_process = drawn(changed(four, ["data.workers=0"]), 5)
    for epoch in (one_process[:2], one_process[2:4]):
        assert len({index for batch in epoch for index, _ in batch}) == 8  # 10 less the remainder
    assert one_process[:2] != one_process[2:4]
    assert drawn(four, 3, start=2) == one_process[2:]
    parts = [drawn(two, 5, rank=rank, processes=2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == one_process
    numbers = [number for batch in one_process for _, number in batch]
    assert len(set(numbers)) == len(numbers)  # an image looks different in each epoch
    assert drawn(replace(four, seed=1), 5) != one_process
    assert torch.equal(torch.get_rng_state(), before)  # loading leaves the generator alone
