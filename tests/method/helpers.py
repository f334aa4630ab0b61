"""What several tests of the method need: golden values, random inputs, renumbered classes.

Golden values are outputs of the released implementation, computed once in float32 on a CPU. Only
they are stored, in ``golden/``; their inputs are remade from seeds.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from more_lib.system.errors import InputError


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers of a seed in [0, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def renumbering(order: Sequence[int]) -> Tensor:
    """(256,) what a mask's numbers become when the classes are put in ``order``; 0 and 255 stay."""
    number = torch.arange(256)
    number[torch.tensor(order) + 1] = torch.arange(1, len(order) + 1)
    return number


def randomized(vit: nn.Module) -> nn.Module:
    """Redraw all weights: timm starts class tokens and layer scales so small that a test would
    not notice them missing."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in vit.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            centre = 0.0 if name.endswith("bias") else 1.0
            parameter.data = centre + 0.1 * noise
        elif name.endswith(("token", "pos_embed")):
            parameter.data = noise
        else:
            parameter.data = noise * parameter[0].numel() ** -0.5
    return vit.eval()


def reached(model: nn.Module, loss: Tensor) -> set[str]:
    """Names of the parameters that the loss gives a gradient that is not zero everywhere."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name for name, gradient in gradients.items() if gradient is not None and gradient.any()}


def refuses(message: str, call, *args, **kwargs) -> None:
    """The call raises an ``InputError`` of one line in which ``message``, a pattern, is found."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    line = str(caught.value)
    assert "\n" not in line and re.search(message, line), line


@contextmanager
def nothing_waits_for_the_gpu() -> Iterator[None]:
    """Let the block fail where the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of ``golden/<name>.npz``."""
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as archive:
        return dict(archive)


def assert_full_precision(call: Callable[[], Tensor]) -> None:
    """Mixed precision changes no bit of what the call gives, which is float32."""
    exact = call()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = call()
    assert mixed.dtype in (torch.float32, torch.int64) and torch.equal(mixed, exact)


def assert_golden(actual: Tensor, expected: np.ndarray) -> None:
    """Equal to 1e-4 of the largest value."""
    assert actual.shape == expected.shape
    error = np.abs(actual.detach().numpy() - expected).max() / np.abs(expected).max()
    assert error < 1e-4, f"off by {error:.1e}"


def images(seed: int, shape: tuple[int, int, int, int]) -> Tensor:
    """Normalised images (B, 3, H, W), as for ``forward_*`` and ``multiscale_cam_*``."""
    pixels = np.random.default_rng(seed).standard_normal(shape)
    return torch.from_numpy(pixels.astype(np.float32))


def released_weights(name: str, skipped: tuple[str, ...] = (), seed: int = 0) -> dict[str, Tensor]:
    """Weights under the released checkpoint's keys; ``golden/<name>.json`` lists their shapes.

    Every tensor is drawn from a stream of its own, so keys that start with one of ``skipped`` can
    be left out without changing the others.
    """
    shapes = json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())
    shapes = {key: shape for key, shape in shapes.items() if not key.startswith(skipped)}
    return drawn_weights(shapes, seed)


def drawn_weights(shapes: dict[str, list[int]], seed: int) -> dict[str, Tensor]:
    """Weights of these names and shapes, of golden files."""
    weights = {}
    for key, shape in shapes.items():
        stream = np.random.default_rng([seed, zlib.crc32(key.encode())])
        centre, spread = _centre_and_spread(key, shape)
        draw = stream.standard_normal(shape).astype(np.float32)
        weights[key] = torch.from_numpy((centre + spread * draw).astype(np.float32))
    return weights


def _centre_and_spread(key: str, shape: list[int]) -> tuple[float, float]:
    layer, _, kind = key.rpartition(".")
    if kind == "weight" and layer.endswith(("norm", "norm1", "norm2")):
        return 1, 0.1
    if kind == "bias":
        return 0, 0.02
    if layer.startswith("decoder"):
        return 0, float(np.prod(shape[1:])) ** -0.5
    if "classifier" in layer:
        return 0, 0.05
    return 0, 0.06 if layer.endswith("qkv") else 0.03


def tokens_and_features(
    seed: int, shape: tuple[int, int, int], grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Class tokens ``shape`` = (B, C, D) and patch features (B, D, h, w), as for ``losses_*``."""
    batch, _, width = shape
    generator = np.random.default_rng(seed)
    tokens = generator.standard_normal(shape).astype(np.float32)
    features = generator.standard_normal((batch, width, *grid)).astype(np.float32)
    return torch.from_numpy(tokens), torch.from_numpy(features) * 0.7


def golden_losses() -> tuple[dict[str, np.ndarray], tuple[Tensor, ...]]:
    """Golden losses, and the tokens, features, mask and labels that they were computed from."""
    expected = golden("losses_101")
    labels, mask = (torch.from_numpy(expected[name]) for name in ("labels", "mask"))
    shape = (*labels.shape, int(expected["D"]))
    tokens, features = tokens_and_features(int(expected["seed"]), shape, mask.shape[1:])
    assert torch.equal(tokens[..., :1], torch.from_numpy(expected["class_tokens_every1"]))
    return expected, (tokens, features, mask.long(), labels.float())


def cams_and_images(seed: int, shape: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """CAMs ``shape`` = (B, C, H, W) and images (B, 3, H, W), as for ``pseudo_labels_*``.

    Both are in [0, 1] and smooth like real ones, the images with some noise.
    """
    batch, classes, height, width = shape
    generator = np.random.default_rng(seed)
    coarse_maps = _uniform(generator, (batch, classes, height // 16, width // 16))
    coarse_images = _uniform(generator, (batch, 3, height // 8, width // 8))
    noise = _uniform(generator, (batch, 3, height, width))
    maps = F.interpolate(coarse_maps, (height, width), mode="bilinear")
    maps = maps - maps.amin((2, 3), keepdim=True)
    pictures = F.interpolate(coarse_images, (height, width), mode="bilinear") + 0.1 * noise
    return maps / (maps.amax((2, 3), keepdim=True) + 1e-5), pictures.clamp(0, 1)


def _uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(generator.random(shape).astype(np.float32))
