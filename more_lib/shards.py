"""One process or several: each takes every n-th item, and what they found is put together again."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed
from accelerate import PartialState

T = TypeVar("T")


def is_main_process() -> bool:
    """Whether this is the process that prints and writes: the first, or the only one."""
    return _state().is_main_process


class Shards:
    """This process among those that `accelerate launch` or `torchrun` started; alone without them.

    index, count: of this process, from 0, and of all. Every process must make its own at the same
    point, and call ``gather`` as often as the others do.
    """

    def __init__(self) -> None:
        state = _state()
        self.index, self.count = state.process_index, state.num_processes
        # A group of its own: NCCL would send over the GPUs, and gives up on a slower process.
        patience = timedelta(days=2)
        several = self.count > 1
        self._group = (
            torch.distributed.new_group(backend="gloo", timeout=patience) if several else None
        )

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.index == 0

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of ``items``."""
        return items[self.index :: self.count]

    def gather(self, part: T) -> list[T]:
        """The parts of all processes in order, on each of them, once the last has got here."""
        if self._group is None:
            return [part]
        parts = [part] * self.count
        torch.distributed.all_gather_object(parts, part, group=self._group)
        return parts


def _state() -> PartialState:
    return PartialState(cpu=not torch.accelerator.is_available())
