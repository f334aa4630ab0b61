import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from more_lib.method.gaussian import _chunked, _fused, bilateral_features, gaussian_sum
from tests.method.helpers import drawn, refuses, uniform

PATHS = pytest.mark.parametrize("path", [gaussian_sum, _chunked, _fused])


def random_input(batch=2, pixels=30, features=5, channels=3, seed=0):
    """float64 features (B, N, F) and values (B, N, K) of both signs."""
    where = drawn(batch, pixels, features, seed=seed)
    return where, drawn(batch, pixels, channels, seed=seed + 100)


def colourful_pixels(side=32, sigma_rgb=15):
    """Features (1, N, 5) in float64 of an image of random patches: near and far colours."""
    patches = 255 * uniform(1, 3, side // 4, side // 4, dtype=torch.float64)
    image = patches.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return bilateral_features(image + 5 * drawn(*image.shape, seed=1), sigma_rgb, 50)


def brute_force(features, values):
    difference = features[:, :, None] - features[:, None, :]
    return torch.exp(-difference.square().sum(-1) / 2) @ values


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, torch.Tensor):
                self.numel = max(self.numel, each.numel())
        return result


@PATHS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 17, 2, 4), (2, 64, 5, 21), (1, 40, 12, 2)])
def test_sum_equals_brute_force(path, dtype, shape):
    features, values = random_input(*shape)
    result = path(features.to(dtype), values.to(dtype))
    assert result.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    expected = brute_force(features, values)
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)


@PATHS
def test_two_pixels_by_hand(path):
    features, values = torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[1.0], [10.0]]])
    near = math.exp(-2)
    expected = torch.tensor([[[1 + 10 * near], [10 + near]]])
    torch.testing.assert_close(path(features, values), expected)


@PATHS
def test_float32_is_precise_for_colours(path):
    features = colourful_pixels()
    values = uniform(1, features.shape[1], 5, seed=1)
    result = path(features.float(), values).double()
    torch.testing.assert_close(result, brute_force(features, values.double()), rtol=1e-4, atol=0)


@PATHS
def test_a_crowd_and_a_lone_pixel_are_equally_precise(path):
    """Sums of 1 and of 3000 side by side, of values that differ by twelve orders of magnitude."""
    features = torch.zeros(1, 3001, 2)
    features[0, -1] = 30
    values = torch.ones(1, 3001, 2)
    values[..., 1] = 1e-6
    values[0, -1, 1] = 1e6
    expected = torch.full((1, 3001, 2), 3000.0)
    expected[..., 1] = 3e-3
    expected[0, -1] = torch.tensor([1.0, 1e6])
    torch.testing.assert_close(path(features, values), expected, rtol=1e-5, atol=0)


def test_sharp_colours_are_precise_on_a_cpu():
    """For dense CRF's sigma of 3, exponents are differences of thousands."""
    features = colourful_pixels(sigma_rgb=3).float()
    ones = torch.ones(1, features.shape[1], 1)
    expected = brute_force(features.double(), ones.double())
    result = gaussian_sum(features, ones).double()
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=0)


@pytest.mark.gpu
def test_float32_is_precise_on_a_gpu():
    features = colourful_pixels()
    values = uniform(1, features.shape[1], 21, seed=1)
    result = gaussian_sum(features.float().cuda(), values.cuda())
    expected = brute_force(features, values.double())
    torch.testing.assert_close(result.cpu().double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("pairs", [1, 7, 30 * 2, 30 * 2 * 7, 30 * 30 * 2, 10**6])
def test_chunk_size_does_not_matter(pairs):
    features, values = random_input()
    torch.testing.assert_close(_chunked(features, values, pairs), _chunked(features, values))


@PATHS
def test_order_and_origin_do_not_matter_and_images_do_not_mix(path):
    features, values = random_input()
    expected = path(features, values)
    order = torch.randperm(features.shape[1], generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(path(features[:, order], values[:, order]), expected[:, order])
    torch.testing.assert_close(path(features + 1000, values), expected)
    single = [path(*image) for image in zip(features.split(1), values.split(1), strict=True)]
    torch.testing.assert_close(expected, torch.cat(single))


@PATHS
def test_no_tensor_holds_all_pairs_in_either_direction(path):
    pixels = 4096
    features, values = (x.float() for x in random_input(1, pixels, 5, 2))
    values.requires_grad_(path is gaussian_sum)
    with LargestTensor() as largest:
        result = path(features, values)
        if result.requires_grad:
            result.square().sum().backward()
    assert 2 * pixels <= largest.numel <= pixels**2 / 16


def test_gradients_of_first_and_second_order():
    features, values = random_input()
    values.requires_grad_()
    weights = drawn(*values.shape, seed=1)
    (gradient,), (expected,) = (
        torch.autograd.grad((path(features, values) * weights).sum(), values)
        for path in (gaussian_sum, brute_force)
    )
    torch.testing.assert_close(gradient, expected)
    features, values = random_input(2, 6, 3, 2)
    values.requires_grad_()

    def squared(v):
        return gaussian_sum(features, v).square()

    assert torch.autograd.gradcheck(squared, values)
    assert torch.autograd.gradgradcheck(squared, values)
    assert not gaussian_sum(features.requires_grad_(), values.detach()).requires_grad  # constants


def test_mixed_precision_computes_in_float32():
    features, values = (x.float() for x in random_input())
    values.requires_grad_()
    expected = gaussian_sum(features, values)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), values)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = gaussian_sum(features, values)
        (gradient,) = torch.autograd.grad(mixed.square().sum(), values)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    half = values.detach().bfloat16()
    torch.testing.assert_close(gaussian_sum(features, half), gaussian_sum(features, half.float()))


def test_bilateral_features_by_hand():
    image = torch.arange(18.0).view(1, 3, 2, 3)  # row 1, column 2 holds 5, 11, 17
    features = bilateral_features(image, sigma_rgb=2, sigma_xy=10)
    assert features.shape == (1, 6, 5)
    expected = [[0.0, 0.0, 0.0, 3.0, 6.0], [0.2, 0.1, 2.5, 5.5, 8.5]]
    torch.testing.assert_close(features[0, [0, 5]], torch.tensor(expected))


def test_bad_input_is_refused():
    features, values = random_input()
    for wrong in (values[0], values[:1], values[:, :7]):
        refuses("features .* values", gaussian_sum, features, wrong)
