"""Exact Gaussian sums over all pairs of pixels, without ever storing the pairs (notebook 05).

The regularisation loss and dense CRF filter maps with a Gaussian of position and colour. They are
usually computed on a permutohedral lattice, which is fast and approximate; here the sum is exact,
its time grows with the square of the number of pixels and its memory only with that number.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from more_lib.system.precision import at_least_float32, no_autocast
from more_lib.system.shapes import check_shapes

EXACT_ON_CPU = 96 * 96
"""Pixels up to which a CPU is asked for exact sums, some seconds on one thread; then a lattice."""


def gaussian_sum(features: Tensor, values: Tensor) -> Tensor:
    """out_i = sum over j of exp(-|f_i - f_j|^2 / 2) v_j, j = i included (L_reg, notebook 05).

    features: (B, N, F), already divided by their standard deviations; constants, so no gradient
    reaches them. values: (B, N, K). Returns (B, N, K), in float32 at least, also under autocast;
    differentiable in ``values`` any number of times.

    Exact up to rounding: a relative 1e-6 or so in float32. Fused, as on a GPU, the exponents are
    float32 too and the error about 1e-7 times the largest squared distance of a feature from their
    mean: 2e-5 for colours over 15, 5e-4 for colours over 3.
    Raises ``InputError`` when the shapes do not fit.
    """
    check_shapes(features=(features, "B N F"), values=(values, "B N K"))
    values = at_least_float32(values)
    dtype = torch.promote_types(values.dtype, features.dtype)
    return _GaussianSum.apply(values.to(dtype), features.detach().to(dtype))


def bilateral_features(images: Tensor, sigma_rgb: float, sigma_xy: float) -> Tensor:
    """What two pixels are compared by: (x/sigma_xy, y/sigma_xy, rgb/sigma_rgb) (notebook 05).

    images: (B, 3, H, W) floats in 0..255, as ``sigma_rgb``; ``sigma_xy`` is in pixels.
    Returns (B, H*W, 5), row by row.
    """
    like = {"dtype": images.dtype, "device": images.device}
    y, x = torch.meshgrid(*(torch.arange(n, **like) for n in images.shape[-2:]), indexing="ij")
    position = torch.stack([x, y]).expand(len(images), -1, -1, -1) / sigma_xy
    return torch.cat([position, images / sigma_rgb], dim=1).flatten(2).transpose(1, 2)


class _GaussianSum(torch.autograd.Function):
    """The kernel is symmetric: the gradient of the sum is the same sum, of the gradient."""

    @staticmethod
    def forward(ctx, values: Tensor, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        fused = values.is_cuda and values.dtype == torch.float32
        with no_autocast(values):
            return (_fused if fused else _chunked)(features, values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        return _GaussianSum.apply(gradient, features), None


def _chunked(features: Tensor, values: Tensor, pairs: int = 2**20) -> Tensor:
    """The sum for a few rows of the kernel at a time, ``pairs`` entries or one row of each image.

    The exponent is a small difference of large numbers: those alone are float64, but on MPS.
    """
    exact = features.dtype if features.device.type == "mps" else torch.float64
    left, right = _exponent_factors(features.to(exact))
    right = right.transpose(1, 2)
    # Kernel values below e^-71 (in float32) do not show in any sum, but their products with the
    # values would be subnormal numbers, which slow it down fivefold.
    least = math.log(torch.finfo(values.dtype).tiny) + 16
    sums = []
    for block in left.split(max(1, pairs // right.shape[::2].numel()), dim=1):
        exponent = (block @ right).to(values.dtype)
        sums.append(torch.threshold_(exponent, least, -math.inf).exp_() @ values)
    return torch.cat(sums, dim=1)


def _fused(features: Tensor, values: Tensor) -> Tensor:
    """The sum by a fused attention kernel, which keeps the pairs in the processor's cache.

    Attention with the exponents as logits gives sum_j K_ij v_j / Z_i with Z_i = sum_j K_ij. One
    more key, of zeros, has the exponent 0 and so the kernel value 1 for every query; it carries a
    channel of its own, in which it is 1 and all others are 0. That channel comes out as
    1 / (Z_i + 1), the others as sum_j K_ij v_j / (Z_i + 1): their quotient is the sum. All terms
    are positive and Z_i >= 1, so nothing cancels, whatever the size of Z_i.
    """
    left, right = _exponent_factors(features)
    channels = values.shape[-1]
    width = 8 * math.ceil(max(left.shape[-1], channels + 1) / 8)  # the kernels want multiples
    query = F.pad(left, (0, width - left.shape[-1]))
    key = F.pad(right, (0, width - right.shape[-1], 0, 1))
    value = F.pad(values, (0, width - channels, 0, 1))
    value[:, -1, channels] = 1
    # Never the plain backend, which stores all pairs. In float32, FLASH is for the CPU only.
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION]):
        query, key, value = (x.unsqueeze(1) for x in (query, key, value))
        mean = F.scaled_dot_product_attention(query, key, value, scale=1.0).squeeze(1)
    return mean[..., :channels] / mean[..., channels : channels + 1]


def _exponent_factors(features: Tensor) -> tuple[Tensor, Tensor]:
    """Two (B, N, F + 2) whose products left_i . right_j are -|f_i - f_j|^2 / 2.

    Only differences count, so the mean goes first: the smaller the numbers, the less is rounded.
    """
    features = features - features.mean(dim=1, keepdim=True)
    half_square = features.square().sum(dim=2, keepdim=True) / 2
    one = torch.ones_like(half_square)
    left = torch.cat([features, -half_square, one], dim=2)
    return left, torch.cat([features, one, -half_square], dim=2)
