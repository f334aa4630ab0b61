"""One batch shared by several processes: what a loss counts in it, and what it draws for it.

Each process of a distributed training has some of the batch's images, and the gradients of all are
averaged. A mean over images comes out as it would in one process. A mean over pixels, pairs or
patches does not, unless each process divides by what all of them count.

All processes must call these functions equally often and in the same order. Without several
processes of ``torch.distributed`` nothing is exchanged and no result differs by a bit.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from accelerate import PartialState
from torch import Tensor

from more_lib.system.devices import check_processes

T = TypeVar("T")


def mean_over_batch(total: Tensor, count: Tensor, extra: float = 0) -> Tensor:
    """This process's part of a mean over the whole batch: the processes' average is that mean.

    (sum of all totals) / (sum of all counts + ``extra``), and 0 where nothing is counted.

    total: scalar, sum of the values that this process counts, 0 if there are none. count: scalar,
    their number. Returns a scalar; on a GPU nobody waits for it.
    """
    processes, _ = _processes_and_rank()
    if processes > 1:
        count = count.detach().clone()
        torch.distributed.all_reduce(count)
    return processes * total / (count + extra).clamp(min=1)


def random_numbers(
    shape: Sequence[int], generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Uniform in [0, 1), (B, ...) for this process's B images: its part of the whole batch's.

    The processes' generators must be in the same state, as one seed for all puts them, and their
    images lie one process's after the other's in the batch: then one process draws the same.
    """
    processes, rank = _processes_and_rank()
    return torch.rand((processes, *shape), generator=generator, device=device)[rank]


def _processes_and_rank() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), torch.distributed.get_rank()
    return 1, 0


def is_main_process() -> bool:
    """Whether this is the process that prints and writes: the first, or the only one."""
    return _state().is_main_process


class Shards:
    """This process among those that `accelerate launch` or `torchrun` started; alone without them.

    index, count: of this process, from 0, and of all. Every process must make its own at the same
    point, and call ``gather`` as often as the others do. Raises as ``check_processes``.
    """

    def __init__(self) -> None:
        state = _state()
        self.index, self.count = state.process_index, state.num_processes
        self._group: Any = None
        if self.count > 1:
            # A group of its own: NCCL would send over the GPUs, and gives up on a slower process.
            self._group = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=2))

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
    check_processes()
    return PartialState(cpu=not torch.accelerator.is_available())
