"""Golden values: outputs of the released implementation, and their inputs remade from seeds.

Only outputs are stored, in ``golden/``. They were computed once, in float32 on a CPU.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of ``golden/<name>.npz``."""
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as archive:
        return dict(archive)


def tokens_and_features(
    seed: int, shape: tuple[int, int, int], grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Class tokens ``shape`` = (B, C, D) and patch features (B, D, h, w), as for ``losses_*``."""
    batch, _, width = shape
    generator = np.random.default_rng(seed)
    tokens = generator.standard_normal(shape).astype(np.float32)
    features = generator.standard_normal((batch, width, *grid)).astype(np.float32)
    return torch.from_numpy(tokens), torch.from_numpy(features) * 0.7


def cams(seed: int, shape: tuple[int, int, int, int]) -> Tensor:
    """CAMs (B, C, H, W) in [0, 1], smooth like real ones, as for ``pseudo_labels_*``."""
    batch, classes, height, width = shape
    generator = np.random.default_rng(seed)
    coarse = generator.random((batch, classes, height // 16, width // 16)).astype(np.float32)
    maps = F.interpolate(torch.from_numpy(coarse), (height, width), mode="bilinear")
    maps = maps - maps.amin((2, 3), keepdim=True)
    return maps / (maps.amax((2, 3), keepdim=True) + 1e-5)
