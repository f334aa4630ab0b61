"""One batch shared by several processes: what a loss counts in it, and what it draws for it.

Each process of a distributed training has some of the batch's images, and the gradients of all are
averaged. A mean over images comes out as it would in one process. A mean over pixels, pairs or
patches does not, unless each process divides by what all of them count.

All processes must call these functions equally often and in the same order. Without several
processes of ``torch.distributed`` nothing is exchanged and no result differs by a bit.
"""

from collections.abc import Sequence

import torch
import torch.distributed
from torch import Tensor


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
    images lie one process's after the other's in the batch: the numbers are then those that one
    process draws for all images.
    """
    processes, rank = _processes_and_rank()
    return torch.rand((processes, *shape), generator=generator, device=device)[rank]


def _processes_and_rank() -> tuple[int, int]:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1, 0
    return distributed.get_world_size(), distributed.get_rank()
