"""Graph Category Representation (GCR): class-patch attention read as a directed graph.

Class tokens are heads, patches are tails; every head gathers from the few tails that suit it best
(paper Eq. 1-5, notebook 03). The released code departs from the paper in four places, each a switch
of its own in ``GraphRecipe``; ``VARIANTS`` holds both presets:

tails: candidates for a head's neighbours, "patches" (paper), or "tokens_and_patches", the class
    tokens together with patches that get no gradient (released).
similarity: what ranks the tails, "cosine" (paper's text) or "scaled_dot", over sqrt(D).
edge_weights: "sum_of_products" t . tanh(h + e) (Eq. 4) or "product_of_sums", the sum of t's
    channels times the sum of tanh's (released).
update: "plain" as Eq. 5, or "residual": what was gathered counts a tenth, is added to the class
    tokens inside both maps, and a LayerNorm follows (released).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from more_lib.recipes.schema import GraphRecipe
from more_lib.system.errors import InputError
from more_lib.system.precision import at_least_float32, no_autocast
from more_lib.system.shapes import check_shapes

PAPER_NEIGHBORS = 392  # half of the 28 x 28 patches of a 448-pixel crop

VARIANTS = {
    "release": GraphRecipe(),
    "paper": GraphRecipe(
        tails="patches", similarity="cosine", edge_weights="sum_of_products", update="plain"
    ),
}


class Graph(NamedTuple):
    """The edges of one pass: K tails for each of C heads (notebook 03).

    Under "tokens_and_patches" the first C candidates for a tail are the class tokens.
    """

    neighbors: Tensor  # (B, C, K) int64, index among the candidate tails, best first
    closeness: Tensor  # (B, C, K), softmax of the similarity, sums to 1 over K (r, Eq. 2)
    weights: Tensor  # (B, C, K), with which the tails are gathered, sum to 1 over K (S, Eq. 4)


class GraphCategoryRepresentation(nn.Module):
    """Class tokens after gathering from their neighbours in the graph (Eq. 1-5, notebook 03).

    dim: width D of the tokens. num_neighbors: K, at most as many as there are tails; None takes the
    variant's own: int(C / 2) as released, 392 as in the paper. variant: "release", "paper", or a
    ``GraphRecipe`` of your own.

    Raises ``InputError`` for an unknown variant and for K below 1.
    """

    def __init__(
        self, dim: int, num_neighbors: int | None = None, variant: str | GraphRecipe = "release"
    ) -> None:
        super().__init__()
        if num_neighbors is not None and num_neighbors < 1:
            raise InputError(f"num_neighbors is {num_neighbors}; give at least 1, or None")
        if isinstance(variant, str) and variant not in VARIANTS:
            raise InputError(f"variant {variant!r} is unknown; choose {' or '.join(VARIANTS)}")
        self.switches = VARIANTS[variant] if isinstance(variant, str) else variant
        self.num_neighbors = num_neighbors or self.switches.num_neighbors
        self.head = nn.Linear(dim, dim)  # W_h
        self.tail = nn.Linear(dim, dim)  # W_t
        self.sum_map = nn.Linear(dim, dim)  # w1
        self.product_map = nn.Linear(dim, dim)  # w2
        self.norm = nn.LayerNorm(dim) if self.switches.update == "residual" else nn.Identity()

    def forward(self, class_tokens: Tensor, patch_tokens: Tensor) -> Tensor:
        """class_tokens (B, C, D), patch_tokens (B, N, D); returns Q (B, C, D), in float32 at least.

        Raises ``InputError`` when the shapes do not fit.
        """
        tokens, patches = self._checked(class_tokens, patch_tokens)
        with no_autocast(tokens):
            heads, gathered, _ = self._gather(tokens, patches)
            summed, product = heads + gathered, heads * gathered
            if self.switches.update == "residual":
                summed, product = 0.1 * summed + tokens, 0.1 * product + tokens
            updated = F.leaky_relu(self.sum_map(summed)) + F.leaky_relu(self.product_map(product))
            return self.norm(updated)

    @torch.no_grad()
    def graph(self, class_tokens: Tensor, patch_tokens: Tensor) -> Graph:
        """The edges that ``forward`` gathers along; takes and raises the same."""
        tokens, patches = self._checked(class_tokens, patch_tokens)
        with no_autocast(tokens):
            return self._gather(tokens, patches)[2]

    def _checked(self, class_tokens: Tensor, patch_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Both in float32 at least, so that rounding chooses no neighbour."""
        width = self.head.in_features
        tokens, patches = (class_tokens, f"B C {width}"), (patch_tokens, f"B N {width}")
        check_shapes(class_tokens=tokens, patch_tokens=patches)
        return at_least_float32(class_tokens), at_least_float32(patch_tokens)

    def _gather(self, tokens: Tensor, patches: Tensor) -> tuple[Tensor, Tensor, Graph]:
        """Heads h (B, C, D), what each gathers a (B, C, D), and the graph: Eq. 1-4."""
        candidates = patches
        if self.switches.tails == "tokens_and_patches":
            candidates = torch.cat((tokens, patches.detach()), 1)
        heads, tails = self.head(tokens), self.tail(candidates)
        if self.switches.similarity == "cosine":
            similarity = F.normalize(heads, dim=2) @ F.normalize(tails, dim=2).mT  # Eq. 1
        else:
            similarity = heads @ tails.mT * heads.shape[2] ** -0.5
        own = PAPER_NEIGHBORS if self.switches.tails == "patches" else max(tokens.shape[1] // 2, 1)
        wanted = self.num_neighbors or own
        best, neighbors = similarity.topk(min(wanted, tails.shape[1]), dim=2)
        closeness = best.softmax(2)

        images = torch.arange(len(tails), device=tails.device)[:, None, None]
        near = tails[images, neighbors]  # (B, C, K, D)
        r, h = closeness[..., None], heads[:, :, None]
        edges = r * near + (1 - r) * h
        scores = self._edge_scores(near, torch.tanh(h + edges))
        weights = scores.softmax(2)
        gathered = (weights[:, :, None] @ near).squeeze(2)
        return heads, gathered, Graph(neighbors, closeness, weights)

    def _edge_scores(self, near: Tensor, turned: Tensor) -> Tensor:
        """(B, C, K) before the softmax of Eq. 4, from tails and tanh's (B, C, K, D)."""
        if self.switches.edge_weights == "sum_of_products":
            return (near * turned).sum(3)
        return near.sum(3) * turned.sum(3)
