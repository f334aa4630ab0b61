"""A training step keeps a GPU busy: few kernels, and the host waits for the losses alone."""

import contextlib

import pytest
import torch

from more_lib.method import gaussian, vit
from more_lib.method.energy import DenseEnergyLoss
from more_lib.method.model import MoRe
from more_lib.method.pseudo_labels import PixelAdaptiveRefinement
from tests.training.kernels import Calls, calls_of_a_step

# As counted: 1,786 in float32; bf16 adds casts of what a linear layer takes. A GPU's default AdamW
# would add 25, a CPU's 1,490; the refinement by single neighbours 827.
KERNELS = {"fp32": 1_900, "bf16": 2_300}


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The ways that a GPU goes, on a CPU or on the meta device."""
    monkeypatch.setattr(gaussian, "_chunked", gaussian._fused)
    monkeypatch.setattr(DenseEnergyLoss, "method", staticmethod(lambda *_: "exact"))
    by_dilation = PixelAdaptiveRefinement._by_dilation
    monkeypatch.setattr(PixelAdaptiveRefinement, "_one_by_one", by_dilation)
    monkeypatch.setattr(vit, "attention_for_training", lambda _: contextlib.nullcontext())


@pytest.mark.slow
@pytest.mark.parametrize("precision", KERNELS)
def test_a_step_of_the_released_recipe_starts_few_kernels(as_on_a_gpu, tmp_path, precision):
    kernels = calls_of_a_step(tmp_path, precision, "cpu").kernels
    print(precision, kernels.total(), kernels.most_common(15))
    for name in ("_fused_adamw_.default", "topk.default", "addmm.default", "gelu_backward.default"):
        assert kernels[name] > 0, name  # the step is a whole one
    assert 1_000 < kernels.total() <= KERNELS[precision]


@pytest.mark.slow
def test_the_host_waits_for_the_losses_alone(as_on_a_gpu, tmp_path, monkeypatch):
    """Whether they are finite; and, when a line of the log is due, for their means.

    On the meta device, which has no values: whatever else reads some fails.
    """
    read, move, listed = [], MoRe.to, torch.Tensor.tolist

    def tolist(values: torch.Tensor) -> list:
        if values.is_cpu:
            return listed(values)
        read.append(tuple(values.shape))
        return [0.0] * values.numel()

    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(MoRe, "to", lambda *a, **k: a[0] if "cpu" in a else move(*a, **k))
    calls = calls_of_a_step(tmp_path, "fp32", "meta")
    assert read == [(9,)] * 4  # eight terms and their sum: three iterations, and a line
    assert calls.waits == []
    # The batch, and which classes an image has, for CAM and for its refinement; nobody waits.
    images, labels, present = (2, 3, 112, 112), (2, 20), (2, 2)
    assert sorted(calls.copies) == sorted([images, labels, *[present] * 4])


def test_what_makes_the_host_wait_is_noticed():
    values, chosen = torch.zeros(4, device="meta"), torch.tensor([0, 2])
    with Calls() as calls:
        values[chosen.to("meta", non_blocking=True)].add_(1)
        values.new_full((), 2.0)
    assert calls.waits == [] and calls.copies == [(2,)]
    with Calls() as calls:
        values.new_tensor([1.0, 2.0])
        values.copy_(torch.ones(4))
        torch.ones(3).to("meta")
    assert [name.split(".")[0] for name in calls.waits] == ["lift_fresh", "copy_", "_to_copy"]
    for reads in (lambda v: v.sum().item(), lambda v: v.cpu(), lambda v: v[v > 0], bool):
        with pytest.raises((RuntimeError, NotImplementedError)):
            reads(values[:1])
    with Calls() as calls:  # a step's views and allocations start no kernel
        torch.empty(6).view(2, 3).mT[0].detach()
    assert calls.kernels.total() == 0
