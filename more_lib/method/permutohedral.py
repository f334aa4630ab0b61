"""Approximate Gaussian sums on a permutohedral lattice, in time linear in the number of pixels.

Written from the paper: Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the
Permutohedral Lattice", Eurographics 2010. Points of F dimensions live on the hyperplane of R^(F+1)
whose coordinates sum to 0; the lattice's vertices are its integer points with all coordinates equal
modulo F + 1, and that common remainder tells the F + 1 vertices of a simplex apart.
"""

import torch
import torch.nn.functional as F
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
    with torch.no_grad():
        codes, weights, steps = _simplices(_elevated(features.double()))
        weights = weights.to(values.dtype).flatten(1)  # (F + 1, B * N)
        # A vertex is a bag of weighted points, in the order of its code.
        codes, order = codes.flatten().sort()
        codes, slots, counts = codes.unique_consecutive(return_inverse=True, return_counts=True)
        lattice = F.embedding_bag(
            order % weights.shape[1],
            values.flatten(0, 1),
            counts.cumsum(0) - counts,
            mode="sum",
            per_sample_weights=weights.flatten()[order],
        )
        for step in steps:
            above = torch.searchsorted(codes, codes + step).clamp_(max=len(codes) - 1)
            (below,) = (codes[above] == codes + step).nonzero(as_tuple=True)
            above = above[below]
            down, up = lattice[above] / 2, lattice[below] / 2
            lattice.index_add_(0, below, down)
            lattice.index_add_(0, above, up)
        # A point is a bag of weighted vertices.
        slots = torch.empty_like(order).scatter_(0, order, slots).view_as(weights)
        out = F.embedding_bag(
            slots.T.contiguous(), lattice, mode="sum", per_sample_weights=weights.T.contiguous()
        )
        return out.view_as(values) / (1 + 2.0 ** -features.shape[2])


def _elevated(features: Tensor) -> Tensor:
    """(F + 1, B, N) on the hyperplane, at the scale where the steps have variance 1 together."""
    d = features.shape[2]
    axis = torch.arange(1, d + 1, device=features.device, dtype=features.dtype)
    basis = torch.ones(d, d + 1, device=features.device, dtype=features.dtype).tril()
    basis -= torch.diag_embed(axis, 1)[:d]  # rows are 1, .., 1, -i, 0, .., 0
    points = features @ (basis / (axis * (axis + 1)).sqrt()[:, None])
    return (points * ((d + 1) * (2 / 3) ** 0.5)).permute(2, 0, 1).contiguous()


def _simplices(points: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Each point's F + 1 vertices as codes and barycentric weights, both (F + 1, B, N).

    A code is an integer of a vertex, another one in each image; a step along an axis adds the same
    number to all of them, which comes third.
    """
    side = len(points)
    base = (points / side).round()  # in units of F + 1
    above = points / side - base
    rank = base.sum(0).long().expand(points.shape).clone()
    # 0: the furthest above its base. Rounding may leave the hyperplane: what was rounded the
    # furthest moves a unit, and its rank wraps around.
    for i in range(side):
        for j in range(i):
            higher = above[i] > above[j]
            rank[j] += higher
            rank[i] += ~higher
    wrap = (rank < 0).long() - (rank >= side).long()
    base, above, rank = base.long() + wrap, above - wrap, rank + side * wrap

    above = torch.empty_like(above).scatter_(0, rank, above)  # descending
    weights = torch.cat([1 - (above[:1] - above[-1:]), (above[:-1] - above[1:]).flip(0)])

    # The vertex of remainder r adds r to the base, less F + 1 in the r coordinates of highest rank.
    # A code's digits are the coordinates; the last one follows from the others.
    low = side * (int(base.min()) - 2)
    radix = side * (int(base.max()) + 3) - low
    digits = [radix**power for power in range(side - 1)] + [0]
    place = torch.tensor(digits, device=points.device)[:, None, None]
    image = torch.arange(points.shape[1], device=points.device)[:, None]
    code = ((side * base - low) * place).sum(0) + image * radix ** (side - 1)
    by_rank = torch.empty_like(rank).scatter_(0, rank, place.expand_as(rank))
    codes = [code]
    for highest in by_rank[1:].flip(0):
        codes.append(codes[-1] + sum(digits) - side * highest)
    return torch.stack(codes), weights, [side * digit - sum(digits) for digit in digits]
