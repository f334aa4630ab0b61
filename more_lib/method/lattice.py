"""Dense CRF by pydensecrf2's permutohedral lattice, for CPUs (notebook 06).

Apart from ``crf``, and without torch, so that processes that do nothing else start in no time.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def lattice_mean_field(
    image: np.ndarray, probabilities: np.ndarray, params: Mapping[str, Any]
) -> np.ndarray:
    """What ``crf.dense_crf`` computes, with approximate sums over pixels.

    image: (H, W, 3) uint8. probabilities: (K, H, W) float32, above 0. params: the fields of
    ``crf.CrfParams`` by name. Returns (K, H, W) float32.
    """
    from pydensecrf.densecrf import DenseCRF2D

    classes, height, width = probabilities.shape
    field = DenseCRF2D(width, height, classes)
    field.setUnaryEnergy(np.ascontiguousarray(-np.log(probabilities).reshape(classes, -1)))
    field.addPairwiseGaussian(sxy=params["gaussian_sigma"], compat=params["gaussian_weight"])
    field.addPairwiseBilateral(
        sxy=params["bilateral_sigma_xy"],
        srgb=params["bilateral_sigma_rgb"],
        rgbim=np.ascontiguousarray(image),
        compat=params["bilateral_weight"],
    )
    return np.array(field.inference(params["iterations"])).reshape(classes, height, width)
