"""A GPU computes what a CPU does. Each test's body takes the device, and runs on a CPU as well."""

import contextlib
import shutil
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from skimage.data import coffee
from torch.optim import AdamW

from more_lib.method.energy import DenseEnergyLoss
from more_lib.method.gaussian import bilateral_features, gaussian_sum
from more_lib.method.model import MoRe
from more_lib.method.objective import MINED, Objective
from more_lib.recipes.loading import load_recipe
from more_lib.training.loop import fit, start
from tests.training.helpers import assert_close_for_most
from tests.training.kernels import Calls

pytestmark = pytest.mark.slow
on_each_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
)
SETTINGS = """data.crop_size=64 data.workers=0 optimizer.batch_size=2 optimizer.iterations=2
    optimizer.warmup_iterations=0 optimizer.precision=fp32 optimizer.log_every=1
    backbone.decoder_width=16 lir.sampling=all lir.kernel_size=2 lir.phi=0.5"""
EVERY_TERM = [f"schedule.{name}=0" for name in (*MINED, "final_cam")]
RECIPE = load_recipe("mini", [*SETTINGS.split(), *EVERY_TERM])  # nothing in it is drawn


def network(**to) -> MoRe:
    """Mini's network, with class tokens and heads that tell classes apart."""
    torch.manual_seed(0)
    model = MoRe.from_recipe(RECIPE, pretrained=False).train()
    for weight in (model.classifier.weight, model.aux_classifier.weight):
        torch.nn.init.normal_(weight, std=0.5)
    with torch.no_grad():
        model.encoder.class_tokens += 0.05 * torch.randn_like(model.encoder.class_tokens)
    return model.to(**to)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two smooth images, and what they show."""
    generator = torch.Generator().manual_seed(1)
    coarse = 2 * torch.rand(2, 3, 8, 8, generator=generator) - 1
    labels = torch.zeros(2, 10)
    labels[0, [1, 4]] = labels[1, 7] = 1
    return F.interpolate(coarse, (64, 64), mode="bilinear"), labels


def step(model: MoRe, images: torch.Tensor, labels: torch.Tensor, autocast=None):
    """Output, losses and gradients of one step; the labels where they are given."""
    objective = Objective(RECIPE).to(images.device)
    model.zero_grad()
    with autocast or contextlib.nullcontext():
        output = model(images)
        losses = objective(model, images, labels, output, 1)
    total = sum(getattr(RECIPE.loss, name) * loss for name, loss in losses.items())
    total.backward()
    return output, losses, torch.cat([p.grad.flatten().float() for p in model.parameters()])


@on_each_device
def test_maps_losses_and_gradients_are_those_of_a_cpu_in_float64(device):
    images, labels = batch()
    expected = step(network(dtype=torch.float64), images.double(), labels)
    output, losses, gradient = step(network(device=device), images.to(device), labels)
    for name, values in output._asdict().items():
        ours, theirs = values.double().cpu(), getattr(expected[0], name)
        # A token's mean over its channels is 0 behind a fresh norm.
        assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max() + 1e-6, name
    assert losses.keys() == expected[1].keys() >= set(MINED)
    for name, loss in losses.items():
        theirs = expected[1][name].item()
        assert loss.item() == pytest.approx(theirs, rel=1e-3) and abs(theirs) > 1e-3, name
    assert F.cosine_similarity(gradient.cpu(), expected[2], 0) > 0.999


@on_each_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_stays_finite_and_near(device, dtype):
    images, labels = batch()
    model = network(device=device)
    _, exact, direction = step(model, images.to(device), labels)
    autocast = torch.autocast(device, dtype)
    _, losses, gradient = step(model, images.to(device), labels, autocast)
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.25, abs=0.05), name
    assert gradient.isfinite().all() and F.cosine_similarity(gradient, direction, 0) > 0.9


@on_each_device
def test_the_loop_takes_the_steps_of_plain_pytorch(device, tmp_path):
    """Two iterations, with the optimizer that the loop gives the device, on one batch."""
    images, labels = batch()
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=device == "cpu")
    run = start(accelerator, network(), RECIPE, Mock())
    items = [{"image": images[0], "labels": labels[0], "id": str(n)} for n in range(4)]
    fit(run, items, RECIPE, tmp_path, {})
    AcceleratorState._reset_state(True)

    model, settings = network(), RECIPE.optimizer
    groups = start(Mock(device=torch.device("cpu"), prepare=lambda *x: x), model, RECIPE, Mock())
    optimizer = AdamW([{**group, "fused": None} for group in groups.optimizer.param_groups])
    for factor in (1, 0.5**settings.power):
        for group, first in zip(optimizer.param_groups, groups.schedule.base_lrs, strict=True):
            group["lr"] = first * factor
        optimizer.zero_grad()
        step(model, images[[0, 0]], labels[[0, 0]])
        optimizer.step()
    assert_close_for_most(run.model.state_dict(), model.state_dict(), 1e-6)
    moved = network().state_dict()["classifier.weight"] - model.state_dict()["classifier.weight"]
    assert moved.abs().median() > 1e-4


@on_each_device
def test_fused_adamw_leaves_out_a_step_whose_scaled_gradient_is_infinite(device):
    weight = torch.nn.Parameter(torch.ones(3, device=device))
    optimizer, scaler = AdamW([weight], lr=0.1, fused=True), torch.amp.GradScaler(device)
    for slope, expected in ((torch.inf, 1.0), (2.0, 0.9)):
        optimizer.zero_grad()
        scaler.scale((slope * weight).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        torch.testing.assert_close(
            weight.detach().cpu(), torch.full((3,), expected), rtol=0, atol=2e-3
        )


@on_each_device
def test_the_energy_of_many_pixels_has_the_exact_gradient(device):
    """On a GPU exact, on a CPU of the lattice: 98 x 98 pixels are too many for it."""
    picture = torch.tensor(coffee()).permute(2, 0, 1)[None, :, 100:296, 150:346].float()
    generator = torch.Generator().manual_seed(0)
    logits = F.interpolate(
        2 * torch.randn(1, 4, 7, 7, generator=generator), (98, 98), mode="bilinear"
    )
    logits = logits.to(device).requires_grad_()
    unknown = torch.full((1, 196, 196), 255)
    energy = DenseEnergyLoss(1e-4, 15, 100, 0.5)
    energy(picture.to(device), logits, unknown.to(device)).backward()

    given = logits.detach().cpu().requires_grad_()
    large = F.interpolate(given, (196, 196), mode="bilinear").softmax(1)
    small = F.interpolate(large, scale_factor=0.5, mode="bilinear").flatten(2).mT
    features = bilateral_features(F.interpolate(picture, scale_factor=0.5), 15, 50)
    (-1e-4 * (small * gaussian_sum(features, small)).sum()).backward()
    error = (logits.grad.cpu() - given.grad).norm() / given.grad.norm()
    assert error < (0.2 if device == "cpu" else 1e-3)


def test_the_core_of_a_step_copies_nothing_when_labels_are_on_the_device(monkeypatch):
    """As a CUDA graph demands: on the meta device, where reading a value fails."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    images, labels = (given.to("meta") for given in batch())
    model, objective = network(device="meta"), Objective(RECIPE).to("meta")
    with Calls() as calls:
        losses = objective(model, images, labels, model(images), 1)
        sum(losses.values()).backward()
    assert calls.waits == [] and calls.copies == []


@pytest.mark.gpu
def test_the_core_of_a_step_replays_as_a_cuda_graph():
    images, labels = (given.cuda() for given in batch())
    model, objective = network(device="cuda"), Objective(RECIPE).cuda()

    def core() -> torch.Tensor:
        model.zero_grad(set_to_none=False)
        losses = objective(model, images, labels, model(images), 1)
        total = sum(losses.values())
        total.backward()
        return total

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            core()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = core()
    for _ in range(2):
        images.copy_(images.flip(-1) * 0.9)
        graph.replay()
        gradients, loss = [p.grad.clone() for p in model.parameters()], replayed.item()
        assert loss == pytest.approx(core().item(), rel=1e-4)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-2, atol=1e-4)


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
@on_each_device
def test_compiled_blocks_give_the_same_tokens_and_gradients(device):
    """Blocks alone are compiled, once for all, in place: names of the weights stay as they are."""
    images, found = batch()[0].to(device), []
    for compiled in (False, True):
        encoder = network(device=device).encoder
        torch._dynamo.utils.counters.clear()
        for block in encoder.blocks if compiled else ():
            block.compile()
        tokens = encoder(images).patch_tokens
        tokens[..., ::3].pow(3).sum().backward()  # which no norm holds constant
        found.append((tokens, encoder.blocks[0].attn.qkv.weight.grad))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
        assert encoder.state_dict().keys() == network().encoder.state_dict().keys()
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-3 * plain.abs().max().item())
