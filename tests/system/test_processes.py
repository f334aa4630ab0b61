"""Alone, a mean over the batch and its random numbers are the plain ones, to the last bit.

test_distributed has what several processes make of them.
"""

import pytest
import torch

from more_lib.system.processes import mean_over_batch, random_numbers


@pytest.mark.parametrize("extra", [0, 1, 1e-6])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_alone_it_is_the_plain_ratio_bit_for_bit(extra, dtype):
    generator = torch.Generator().manual_seed(0)
    for number in (1, 3, 784, 2_457_601):
        total = (100 * torch.rand((), generator=generator)).requires_grad_()
        count = torch.tensor(number, dtype=dtype)
        mean = mean_over_batch(total, count, extra)
        assert mean.dtype == torch.float32 and torch.equal(mean, total / (count + extra))
        (gradient,) = torch.autograd.grad(mean, total)
        assert torch.equal(gradient, 1 / (count + extra).float())
        assert count == number


@pytest.mark.parametrize("extra", [0, 1, 1e-6])
def test_nothing_counted_is_0_with_a_gradient_that_is_a_number(extra):
    values = torch.ones(3, requires_grad=True)
    mean = mean_over_batch((0 * values).sum(), torch.tensor(0), extra)
    mean.backward()
    assert mean == 0 and not values.grad.any()


def test_alone_the_random_numbers_are_torch_rands_bit_for_bit():
    drawn, plain = (torch.Generator().manual_seed(1) for _ in range(2))
    for shape in ((2, 3, 5), (4, 28, 28)):
        ours = random_numbers(shape, drawn, torch.device("cpu"))
        assert torch.equal(ours, torch.rand(shape, generator=plain))
