"""Dense CRF by pydensecrf2's permutohedral lattice, for CPUs (notebook 06).

Apart from ``crf``, and without torch, so that processes that do nothing else start in no time.
"""

import numpy as np


def lattice_mean_field(
    image: np.ndarray,
    probabilities: np.ndarray,
    iterations: int,
    gaussian_weight: float,
    gaussian_sigma: float,
    bilateral_weight: float,
    bilateral_sigma_xy: float,
    bilateral_sigma_rgb: float,
) -> np.ndarray:
    """What ``crf.dense_crf`` computes, with approximate sums over pixels.

    image: (H, W, 3) uint8. probabilities: (K, H, W) float32, above 0. The rest are the fields of
    ``crf.CrfParams``. Returns (K, H, W) float32.
    """
    from pydensecrf.densecrf import DenseCRF2D

    classes, height, width = probabilities.shape
    field = DenseCRF2D(width, height, classes)
    field.setUnaryEnergy(np.ascontiguousarray(-np.log(probabilities).reshape(classes, -1)))
    field.addPairwiseGaussian(sxy=gaussian_sigma, compat=gaussian_weight)
    field.addPairwiseBilateral(
        sxy=bilateral_sigma_xy,
        srgb=bilateral_sigma_rgb,
        rgbim=np.ascontiguousarray(image),
        compat=bilateral_weight,
    )
    return np.array(field.inference(iterations)).reshape(classes, height, width)
