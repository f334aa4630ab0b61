"""The lattice of the library against one written out in NumPy, image by image."""

import numpy as np
import pytest
import torch

from more_lib.method.permutohedral import lattice_sum
from tests.method.helpers import refuses
from tests.method.permutohedral import permutohedral_filter


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_it_is_the_lattice_of_the_paper_for_each_image(dimensions):
    generator = torch.Generator().manual_seed(dimensions)
    size = {"generator": generator, "dtype": torch.float64}
    features, values = 3 * torch.randn(3, 400, dimensions, **size), torch.rand(3, 400, 2, **size)
    features[1] -= 50  # each image has a lattice of its own, wherever it lies
    wanted = [
        permutohedral_filter(f.numpy(), v.numpy()) for f, v in zip(features, values, strict=True)
    ]
    np.testing.assert_allclose(lattice_sum(features, values).numpy(), wanted, rtol=1e-9)
    single = lattice_sum(features.float(), values.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), wanted, rtol=2e-4)


def test_images_do_not_see_each_other():
    features, values = torch.zeros(2, 7, 5), torch.ones(2, 7, 1)
    values[1] = 0
    filtered = lattice_sum(features, values)
    assert (filtered[0] > 0).all() and not filtered[1].any()


def test_shapes_that_do_not_fit_are_refused():
    refuses(
        r"must be \(B, N, F\), \(B, N, K\)", lattice_sum, torch.ones(1, 4, 5), torch.ones(1, 3, 2)
    )
