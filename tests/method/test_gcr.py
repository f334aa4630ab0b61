"""GCR against a head-by-head transcription, hand cases and what must not change.

test_model holds it to golden values.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch

from more_lib.method.gcr import VARIANTS, GraphCategoryRepresentation
from tests.method import transcriptions
from tests.method.helpers import assert_full_precision, drawn, refuses

DIM = 8


def tokens_and_patches(seed=0, batch=2, classes=6, patches=12, dim=DIM):
    return drawn(batch, classes, dim, seed=seed), drawn(batch, patches, dim, seed=seed + 100)


def graph(num_neighbors=None, variant="release", dim=DIM, seed=0):
    torch.manual_seed(seed)
    return GraphCategoryRepresentation(dim, num_neighbors, variant).double()


SINGLE_SWITCHES = [
    replace(VARIANTS["release"], **{name: getattr(VARIANTS["paper"], name)})
    for name in ("tails", "similarity", "edge_weights", "update")
]


@pytest.mark.parametrize("num_neighbors", [1, 3, 12])
@pytest.mark.parametrize("variant", ["release", "paper", *SINGLE_SWITCHES])
def test_equals_the_transcription_of_equations_1_to_5(variant, num_neighbors):
    layer, (tokens, patches) = graph(num_neighbors, variant), tokens_and_patches(1)
    expected = transcriptions.graph_category_representation(tokens, patches, layer, num_neighbors)
    torch.testing.assert_close(layer(tokens, patches), expected)


def test_default_number_of_neighbours():
    tokens, patches = tokens_and_patches()
    assert graph().graph(tokens, patches).neighbors.shape == (2, 6, 3)  # int(C / 2)
    assert graph().graph(tokens[:, :1], patches).neighbors.shape == (2, 1, 1)
    wide = torch.randn(1, 500, DIM, dtype=torch.float64)
    paper = graph(variant="paper")
    assert paper.graph(tokens[:1], wide).neighbors.shape == (1, 6, 392)
    assert paper.graph(tokens, patches).neighbors.shape == (2, 6, 12)  # all there are
    torch.testing.assert_close(graph(18)(tokens, patches), graph(1000)(tokens, patches))


def test_paper_by_hand_with_two_tails():
    """h = (1, 0); tails (1, 0) and (0, 1): cosines 1 and 0, everything else follows."""
    layer = graph(2, "paper", dim=2)
    for linear in (layer.head, layer.tail, layer.sum_map, layer.product_map):
        torch.nn.init.eye_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    head = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    tails = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    e, tanh = torch.e, lambda x: torch.tensor(x, dtype=torch.float64).tanh()
    r = e / (e + 1)
    s1 = tanh(1 + r + (1 - r))  # t1 . tanh(h + e1), e1 = r t1 + (1 - r) h
    s2 = tanh(1 - r)  # e2 = (1 - r) t2 + r h, second channel of tanh(h + e2)
    weight = torch.stack([s1, s2]).softmax(0)
    edges = layer.graph(head, tails)
    assert edges.neighbors.tolist() == [[[0, 1]]]
    torch.testing.assert_close(edges.closeness[0, 0, 0].item(), r)
    torch.testing.assert_close(edges.weights[0, 0], weight)
    expected = torch.stack([1 + 2 * weight[0], weight[1]])  # (h + a) + (a * h)
    torch.testing.assert_close(layer(head, tails)[0, 0], expected)


def test_the_released_product_of_sums_cannot_tell_channels_apart():
    """Reordering the channels of a tail changes Eq. 4, but not what was released."""
    near, turned = drawn(1, 1, 3, DIM), drawn(1, 1, 3, DIM, seed=1).tanh()
    order = torch.randperm(DIM, generator=torch.Generator().manual_seed(0))
    for variant in VARIANTS:
        scores = graph(variant=variant)._edge_scores
        blind = torch.allclose(scores(near, turned), scores(near[..., order], turned))
        assert blind == (variant == "release")


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_sum_to_one_and_neighbours_come_best_first(variant):
    tokens, patches = tokens_and_patches()
    edges = graph(4, variant).graph(tokens, patches)
    for part in (edges.closeness, edges.weights):
        torch.testing.assert_close(part.sum(2), torch.ones_like(part[..., 0]))
    assert (edges.closeness.diff(dim=2) <= 0).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_order_of_classes_patches_and_images_does_not_matter(variant):
    layer, (tokens, patches) = graph(4, variant), tokens_and_patches()
    result = layer(tokens, patches)
    classes, places = [3, 1, 0, 5, 4, 2], torch.randperm(12)
    torch.testing.assert_close(layer(tokens[:, classes], patches), result[:, classes])
    torch.testing.assert_close(layer(tokens, patches[:, places]), result)
    torch.testing.assert_close(layer(tokens[1:], patches[1:]), result[1:])
    alike = layer(tokens[:, :1].expand(-1, 6, -1), patches)
    torch.testing.assert_close(alike, alike[:, :1].expand(-1, 6, -1))


@pytest.mark.parametrize(("variant", "trains_patches"), [("release", False), ("paper", True)])
def test_gradients_reach_patches_only_as_the_paper_writes_it(variant, trains_patches):
    layer, (tokens, patches) = graph(4, variant), tokens_and_patches()
    tokens.requires_grad_(), patches.requires_grad_()
    layer(tokens, patches).square().sum().backward()
    assert tokens.grad.abs().max() > 0
    assert (patches.grad is not None) == trains_patches
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


def test_gradcheck():
    layer, (tokens, patches) = graph(3, "paper", dim=3), tokens_and_patches(2, 1, 2, 4, 3)
    tokens.requires_grad_(), patches.requires_grad_()
    assert torch.autograd.gradcheck(layer, (tokens, patches))


def test_runs_in_float32_under_autocast():
    tokens, patches = (each.float() for each in tokens_and_patches())
    assert_full_precision(partial(graph().float(), tokens, patches))


def test_bad_input_is_refused():
    refuses("variant 'papers' is unknown; choose release or paper", graph, variant="papers")
    refuses("num_neighbors is 0", graph, num_neighbors=0)
    tokens, patches = tokens_and_patches()
    for pair in ((tokens[0], patches), (tokens[:1], patches), (tokens[..., :4], patches)):
        refuses(r"must be \(B, C, 8\), \(B, N, 8\)", graph(), *pair)
