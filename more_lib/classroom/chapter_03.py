"""Chapter 3, GCR: Eq. 1 to 5, one step an exercise."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, rand, randn, tensor

from more_lib.classroom.exercise import Case, Exercise
from more_lib.method.gcr import GraphCategoryRepresentation

T = tensor([[1.0, 0.0], [0.0, 1.0]])
P = tensor([[0.8, 0.6], [0.6, 0.8], [0.0, 2.0], [-1.6, 1.2]])
HAND = "the six nodes of notebook 03"


def _cosine(heads: Tensor, tails: Tensor) -> Tensor:
    return F.normalize(heads, dim=1) @ F.normalize(tails, dim=1).T


def _best(heads: Tensor, tails: Tensor, K: int, slip: str = "") -> Tensor:
    similarity = heads @ tails.T if slip == "dot" else _cosine(heads, tails)
    similarity = similarity.T if slip == "turned" else similarity
    k = K if slip == "many" else min(K, similarity.shape[1])
    values, index = similarity.topk(k, dim=1, largest=slip != "worst")
    return {"order": index.sort(1).values, "values": values}.get(slip, index)


def _nodes(draw: Generator, C: int, N: int, D: int) -> tuple[Tensor, Tensor]:
    lengths = 0.3 + 3 * rand(N, 1, generator=draw)  # so that dot products choose others
    return randn(C, D, generator=draw), randn(N, D, generator=draw) * lengths


BEST = Exercise(
    "03.1", "Whom to ask", "Find each head's K best tails, best first (Eq. 1).", 1, 10, _best, {
        "dot": "a dot product lets long tails win: compare directions, by cosine",
        "worst": "these are the worst tails: the best have the largest cosine",
        "order": "the tails are the right ones, in the order of their numbers: best first",
        "turned": "these are the best heads of each tail: the class token asks, the patch answers",
        "many": "K can exceed the number of tails: all of them are kept then",
        "values": "these are similarities: asked for is whose they are, the indices",
    }, lambda draw: [
        Case(HAND, (T, P, 2)), Case("random nodes", (*_nodes(draw, 4, 9, 6), 4)),
        Case("as many classes as patches", (*_nodes(draw, 5, 5, 4), 3)),
        Case("one class", (*_nodes(draw, 1, 7, 4), 3)),
        Case("K larger than the number of tails", (*_nodes(draw, 3, 4, 4), 9)),
    ], axes=("heads", "neighbours"),
)  # fmt: skip


def _closeness(similarity: Tensor, K: int, slip: str = "") -> Tensor:
    k = K if slip == "many" else min(K, similarity.shape[1])
    if slip == "early":
        return similarity.softmax(1).topk(k, 1).values
    best = similarity.topk(k, dim=1).values
    wrong = {"shares": best / best.sum(1, True), "sigmoid": best.sigmoid(), "axis": best.softmax(0)}
    return wrong.get(slip, best.softmax(1))


def _closeness_cases(draw: Generator) -> list[Case]:
    sizes = {"random similarities": (3, 8, 3), "as many heads as neighbours": (4, 9, 4),
             "one class": (1, 6, 2), "one neighbour": (3, 5, 1),
             "K larger than the number of tails": (3, 4, 7)}  # fmt: skip
    return [Case(HAND, (_cosine(T, P), 2))] + [
        Case(name, (2 * rand(C, N, generator=draw) - 1, K)) for name, (C, N, K) in sizes.items()
    ]


CLOSENESS = Exercise(
    "03.2", "How close are they?", "Turn the K best similarities into closeness r (Eq. 2).",
    1, 5, _closeness, {
        "early": "the softmax came before the choice: its sum runs over the K neighbours alone",
        "axis": "rows sum to 1 over the neighbours, yours over the classes",
        "shares": "shares of the similarities are no softmax: cosines can be negative",
        "sigmoid": "each neighbour is squashed by itself: in a softmax they compete",
        "many": "K can exceed the number of tails: all of them are kept then",
    }, _closeness_cases, axes=("heads", "neighbours"),
)  # fmt: skip


def _edges(heads: Tensor, near: Tensor, r: Tensor, slip: str = "") -> Tensor:
    r, h = r[..., None], heads[None] if slip == "place" else heads[:, None]
    wrong = {"ends": (1 - r, r), "full": (r, 1), "both": (r, r), "middle": (0.5, 0.5)}
    tail, head = (wrong | {"tail": (r, 0)}).get(slip, (r, 1 - r))
    return tail * near + head * h


def _edge_inputs(draw: Generator, C: int, K: int, D: int) -> tuple[Tensor, Tensor, Tensor]:
    near, r = randn(C, K, D, generator=draw), randn(C, K, generator=draw).softmax(1)
    return randn(C, D, generator=draw), near, r


HAND_EDGES = T, P[_best(T, P, 2)], _closeness(_cosine(T, P), 2)
EDGES = Exercise(
    "03.3", "The edge", "Place each edge between its two ends (Eq. 3).", 1, 5, _edges, {
        "ends": "the ends are exchanged: the closer the tail, the more of the tail",
        "full": "the head counts in full: it gets what r leaves over",
        "both": "both ends are weighted by r: together the two weights must be 1",
        "middle": "this is the middle of the two ends: r decides where between them the edge lies",
        "place": "a head belongs to a row of neighbours, not to a place within it",
        "tail": "only the tail is left: the head's part is missing",
    }, lambda draw: [
        Case(HAND, HAND_EDGES), Case("random nodes", _edge_inputs(draw, 4, 3, 5)),
        Case("equal numbers of heads, neighbours, channels", _edge_inputs(draw, 3, 3, 3)),
        Case("one class", _edge_inputs(draw, 1, 3, 4)),
        Case("one neighbour", (T, P[:2, None], torch.ones(2, 1)), "the edge is the tail there"),
    ], axes=("heads", "neighbours", "channels"),
)  # fmt: skip


def _weights(heads: Tensor, near: Tensor, edges: Tensor, reading: str, slip: str = "") -> Tensor:
    summed = heads[:, None] + edges
    turned = summed if slip in ("plain", "late") else summed.tanh()
    paper = slip == "paper" or (reading == "paper") != (slip == "exchanged")
    scores = (near * turned).sum(2) if paper else near.sum(2) * turned.sum(2)
    scores = scores.tanh() if slip == "late" else scores
    return scores if slip == "scores" else scores.softmax(0 if slip == "axis" else 1)


def _weight_cases(draw: Generator) -> list[Case]:
    sizes = {"random nodes": (4, 3, 5), "as many heads as neighbours": (3, 3, 4),
             "one class": (1, 4, 3), "one neighbour": (3, 1, 4)}  # fmt: skip
    nodes = {HAND: HAND_EDGES} | {k: _edge_inputs(draw, *size) for k, size in sizes.items()}
    return [
        Case(f"{name} ({reading})", (heads, near, _edges(heads, near, r), reading))
        for name, (heads, near, r) in nodes.items()
        for reading in ("paper", "release")
    ]


WEIGHTS = Exercise(
    "03.4", "How much of whom", "Weigh the neighbours by Eq. 4, in both readings.", 2, 15, _weights,
    {
        "axis": "rows sum to 1 over the patches, yours over the classes",
        "plain": "the tanh is missing: head and edge are squashed before the tail meets them",
        "late": "tanh squashes head and edge before the tail meets them, not the score after",
        "paper": "both readings give the paper's weights: the release multiplies two sums",
        "exchanged": "the readings are exchanged: a sum of products, or a product of sums?",
        "scores": "these are scores: a softmax makes weights of them",
    }, _weight_cases, axes=("heads", "neighbours"),
)  # fmt: skip


def _graph(
    tokens: Tensor, patches: Tensor, maps: tuple[Tensor, ...], K: int, slip: str = ""
) -> Tensor:
    W_h, W_t, w1, w2 = (w.T for w in maps) if slip == "turned" else maps
    w1, w2 = (w2, w1) if slip == "swapped" else (w1, w2)
    h, t = tokens @ W_h.T, patches @ W_t.T
    index, r = _best(h, t, K), _closeness(_cosine(h, t), K)
    S = _weights(h, t[index], _edges(h, t[index], r), "paper")
    a = (S[..., None] * (patches if slip == "patches" else t)[index]).sum(1)
    act = F.relu if slip == "relu" else F.leaky_relu
    summed, product = (a if slip == "alone" else h + a) @ w1.T, (a * h) @ w2.T
    return act(summed + product) if slip == "inside" else act(summed) + act(product)


@torch.no_grad()
def _layer(tokens: Tensor, patches: Tensor, maps: tuple[Tensor, ...], K: int) -> Tensor:
    layer = GraphCategoryRepresentation(tokens.shape[1], K, "paper")
    parts = (layer.head, layer.tail, layer.sum_map, layer.product_map)
    for part, weight in zip(parts, maps, strict=True):
        part.weight.copy_(weight)
        part.bias.zero_()
    return layer(tokens[None], patches[None])[0]


def _graph_cases(draw: Generator) -> list[Case]:
    sizes = {"random nodes": (4, 9, 6, 3), "one class": (1, 6, 4, 2), "one neighbour": (3, 6, 4, 1),
             "K larger than the number of patches": (3, 4, 5, 8)}  # fmt: skip
    return [Case(HAND, (T, P, (torch.eye(2),) * 4, 2))] + [
        Case(name, (*_nodes(draw, C, N, D), tuple(randn(4, D, D, generator=draw) / D**0.5), K))
        for name, (C, N, D, K) in sizes.items()
    ]


GRAPH = Exercise(
    "03.5", "The whole graph", "Take class tokens through Eq. 1 to 5.", 3, 25, _graph, {
        "swapped": "w1 and w2 are exchanged: w1 maps the sum, w2 the product",
        "inside": "LeakyReLU comes before the two halves are added, not after",
        "relu": "ReLU cuts off what is negative: LeakyReLU lets a hundredth of it through",
        "alone": "the head is missing from the first half of Eq. 5: h + a stands there",
        "patches": "the raw patches are gathered: what a head gathers are tails",
        "turned": "a map W acts as W x on each vector: for rows that is x @ W.T",
    }, _graph_cases, _layer, ("classes", "channels"),
)  # fmt: skip

EXERCISES = (BEST, CLOSENESS, EDGES, WEIGHTS, GRAPH)
