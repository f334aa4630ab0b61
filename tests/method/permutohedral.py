"""The approximate Gaussian filter that the released code stands on, to measure the exact one by.

Written from the paper: Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the
Permutohedral Lattice", Eurographics 2010. Points of d dimensions live on the hyperplane of R^(d+1)
whose coordinates sum to 0; the lattice's vertices are its integer points with all coordinates
equal modulo d + 1, and that common remainder names a simplex's d + 1 vertices 0..d.
"""

import numpy as np


def permutohedral_filter(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """About sum_j exp(-|f_i - f_j|^2 / 2) v_j, up to a factor: splat, blur, slice.

    features: (N, d). values: (N, K). Returns (N, K). Only vertices of simplices that hold a point
    exist. The factor is a convention: the blur is (1/2, 1, 1/2) along each of the d + 1 axes, and
    slicing divides by 1 + 2^-d, what a vertex of a full lattice then has of its own value (all
    steps forth, or all back, lead home again).
    """
    dimensions = features.shape[1]
    vertices, weights = _simplices(_elevate(features))
    codes, steps = _encode(vertices)
    codes, slots = np.unique(codes, return_inverse=True)
    slots = slots.reshape(len(features), dimensions + 1)

    lattice = np.zeros((len(codes) + 1, values.shape[1]))  # the last row is the missing neighbour
    np.add.at(lattice, slots, weights[:, :, None] * values[:, None])
    for step in steps:
        neighbours = lattice[_find(codes, codes - step)] + lattice[_find(codes, codes + step)]
        lattice[:-1] += neighbours / 2
    return np.einsum("nv,nvk->nk", weights, lattice[slots]) / (1 + 2.0**-dimensions)


def _elevate(features: np.ndarray) -> np.ndarray:
    """(N, d + 1) on the hyperplane, at the scale where the three steps have variance 1 together."""
    d = features.shape[1]
    axis = np.arange(1, d + 1)
    basis = np.tri(d, d + 1) - np.eye(d, d + 1, 1) * axis[:, None]  # (1, .., 1, -i, 0, .., 0)
    basis /= np.sqrt(axis * (axis + 1))[:, None]
    return features @ basis * (d + 1) * np.sqrt(2 / 3)


def _simplices(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each point's d + 1 vertices (N, d + 1, d + 1) and its barycentric weights (N, d + 1)."""
    side = points.shape[1]
    base = np.rint(points / side).astype(np.int64)  # in units of d + 1 for now
    order = np.argsort(base - points / side, axis=1)
    rank = np.argsort(order, axis=1)  # 0 where the point lies furthest above its base
    # Rounding may leave the hyperplane: move the coordinates that were rounded the furthest.
    rank += base.sum(axis=1, keepdims=True)
    wrap = (rank < 0).astype(np.int64) - (rank >= side)
    base, rank = side * (base + wrap), rank + side * wrap

    above = np.empty_like(points)
    np.put_along_axis(above, rank, (points - base) / side, axis=1)  # descending
    weights = np.empty_like(points)
    weights[:, 1:] = (above[:, :-1] - above[:, 1:])[:, ::-1]
    weights[:, 0] = 1 - (above[:, 0] - above[:, -1])
    remainder = np.arange(side)[:, None]
    return base[:, None] + remainder - side * (rank[:, None] >= side - remainder), weights


def _encode(vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One integer a vertex, and what a step along each of the d + 1 axes adds to it."""
    side = vertices.shape[-1]
    spare = vertices[..., :-1] - vertices.min() + side  # the last coordinate follows from the sum
    place = (int(spare.max()) + side + 1) ** np.arange(side - 1)
    axes = np.eye(side, dtype=np.int64) * side - 1
    return spare @ place, axes[:, :-1] @ place


def _find(codes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where ``wanted`` stand in the sorted ``codes``; -1 for those that do not."""
    found = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
    return np.where(codes[found] == wanted, found, -1)
