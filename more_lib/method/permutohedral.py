"""Approximate Gaussian sums on a permutohedral lattice, in time linear in the number of pixels.

Written from the paper: Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the
Permutohedral Lattice", Eurographics 2010. Points of F dimensions live on the hyperplane of R^(F+1)
whose coordinates sum to 0; the lattice's vertices are its integer points with all coordinates equal
modulo F + 1, and that common remainder tells the F + 1 vertices of a simplex apart.
"""

import torch
from torch import Tensor

from more_lib.system.shapes import check_shapes


def lattice_sum(features: Tensor, values: Tensor) -> Tensor:
    """About sum over j of exp(-|f_i - f_j|^2 / 2) v_j, up to a factor: splat, blur, slice.

    features: (B, N, F), already divided by their standard deviations. values: (B, N, K) of the
    same dtype. Returns (B, N, K), without gradient.

    Only vertices of simplices that hold a point exist. The factor is a convention: the blur is
    (1/2, 1, 1/2) along each of the F + 1 axes, and slicing divides by 1 + 2^-F, what a vertex of a
    full lattice then has of its own value. Raises ``InputError`` when the shapes do not fit.
    """
    check_shapes(features=(features, "B N F"), values=(values, "B N K"))
    dimensions, channels = features.shape[2], values.shape[2]
    with torch.no_grad():
        vertices, weights = _simplices(_elevated(features.double()))
        codes, steps = _encoded(vertices)
        codes, slots = codes.flatten().unique(return_inverse=True)  # sorted
        weights = weights.to(values.dtype)
        # One more row, always 0, is the neighbour that does not exist.
        lattice = values.new_zeros(len(codes) + 1, channels)
        lattice.index_add_(0, slots, (weights[..., None] * values[:, :, None]).flatten(0, 2))
        for step in steps:
            neighbours = lattice[_found(codes, codes - step)] + lattice[_found(codes, codes + step)]
            lattice[:-1] += neighbours / 2
        slots = slots.view(weights.shape)
        out = torch.zeros_like(values)
        for vertex in range(dimensions + 1):
            out += weights[..., vertex, None] * lattice[slots[..., vertex]]
        return out / (1 + 2.0**-dimensions)


def _elevated(features: Tensor) -> Tensor:
    """(B, N, F + 1) on the hyperplane, at the scale where the steps have variance 1 together."""
    d = features.shape[2]
    axis = torch.arange(1, d + 1, device=features.device, dtype=features.dtype)
    basis = torch.ones(d, d + 1, device=features.device, dtype=features.dtype).tril()
    basis -= torch.diag_embed(axis, 1)[:d]  # rows are 1, .., 1, -i, 0, .., 0
    return features @ (basis / (axis * (axis + 1)).sqrt()[:, None]) * ((d + 1) * (2 / 3) ** 0.5)


def _simplices(points: Tensor) -> tuple[Tensor, Tensor]:
    """Each point's F + 1 vertices (B, N, F + 1, F + 1) and barycentric weights (B, N, F + 1)."""
    side = points.shape[2]
    base = (points / side).round().long()  # in units of F + 1 for now
    rank = (base - points / side).argsort(2).argsort(2)  # 0: the furthest above its base
    # Rounding may leave the hyperplane: move the coordinates that were rounded the furthest.
    rank += base.sum(2, keepdim=True)
    wrap = (rank < 0).long() - (rank >= side).long()
    base, rank = side * (base + wrap), rank + side * wrap

    above = torch.empty_like(points).scatter_(2, rank, (points - base) / side)  # descending
    first = 1 - (above[..., :1] - above[..., -1:])
    weights = torch.cat([first, (above[..., :-1] - above[..., 1:]).flip(2)], dim=2)
    remainder = torch.arange(side, device=points.device)[:, None]
    wraps = rank[:, :, None] >= side - remainder
    return base[:, :, None] + remainder - side * wraps, weights


def _encoded(vertices: Tensor) -> tuple[Tensor, list[int]]:
    """One integer a vertex, other ones for each image, and what a step along each axis adds."""
    side = vertices.shape[-1]
    spare = vertices[..., :-1] - vertices.min() + side  # the last coordinate follows from the sum
    radix = int(spare.max()) + side + 1
    place = [radix**power for power in range(side)]
    image = torch.arange(len(vertices), device=vertices.device)[:, None, None] * place[-1]
    codes = sum((spare[..., axis] * place[axis] for axis in range(side - 1)), image)
    steps = [side * place[axis] - sum(place[:-1]) for axis in range(side - 1)]
    return codes, [*steps, -sum(place[:-1])]


def _found(codes: Tensor, wanted: Tensor) -> Tensor:
    """Where ``wanted`` stand in the sorted ``codes``; the row behind the last where they do not."""
    found = torch.searchsorted(codes, wanted).clamp(max=len(codes) - 1)
    return torch.where(codes[found] == wanted, found, len(codes))
