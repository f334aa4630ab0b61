"""GCR's figures show every edge and name, and refuse what they cannot draw."""

import numpy as np
import pytest
import torch
from matplotlib.patches import FancyArrowPatch, Rectangle

from more_lib.figures import graph as graph_plots
from more_lib.method.gcr import Graph, GraphCategoryRepresentation
from more_lib.system.errors import InputError
from tests.figures.helpers import each_shows_itself, image

HEADS, TAILS = ["T1", "T2"], ["p1", "p2", "p3", "p4"]
GRID = (2, 3)


def graph(batch=1, neighbors=((0, 1), (1, 2))):
    """Two heads, two of four tails each; the second tail is shared, the fourth is nobody's."""
    chosen = torch.tensor([neighbors] * batch)
    r = torch.tensor([[[0.6, 0.4], [0.5, 0.5]]] * batch)
    return Graph(chosen, r, torch.tensor([[[0.9, 0.1], [0.25, 0.75]]] * batch))


def edges(neighbors=(0, 5, -2), weights=(0.7, 0.2, 0.1)):
    return {"a head": (torch.tensor(neighbors), torch.tensor(weights))}


def shapes(ax, kind):
    return [patch for patch in ax.patches if isinstance(patch, kind)]


FIGURES = {
    "plot_graph": lambda: graph_plots.plot_graph(graph(), HEADS, TAILS),
    "show_neighbors": lambda: graph_plots.show_neighbors(image(), edges(), GRID, HEADS),
    "plot_edge_weights": lambda: graph_plots.plot_edge_weights({"here": graph().weights}),
}

test_every_figure_shows_itself_and_leaves_no_trace = each_shows_itself(FIGURES)


def test_graph_draws_every_edge_as_thick_as_its_weight_and_names_nodes_r_and_s():
    (ax,) = FIGURES["plot_graph"]().axes
    arrows = shapes(ax, FancyArrowPatch)
    widths = [arrow.get_linewidth() for arrow in arrows]
    assert len(widths) == 4
    assert np.argsort(widths).tolist() == [1, 2, 3, 0]  # S 0.1, 0.25, 0.75, 0.9
    assert {tuple(x for x, _ in arrow._posA_posB) for arrow in arrows} == {(1, 0)}
    color = {text.get_text(): text.get_color() for text in ax.texts}
    shown = {*HEADS, *TAILS, "r 0.60   S 0.90", "r 0.40   S 0.10", "r 0.50   S 0.25"}
    assert shown <= set(color)
    assert color["p4"] != color["p1"] == color["p2"] == color["p3"]  # nobody chose the fourth


def test_graph_of_the_library_and_of_another_image_of_the_batch():
    layer = GraphCategoryRepresentation(4, 3, "release")
    drawn = layer.graph(torch.randn(2, 2, 4), torch.randn(2, 4, 4))
    figure = graph_plots.plot_graph(drawn, HEADS, [*HEADS, *TAILS], "title", image=1)
    assert len(shapes(figure.axes[0], FancyArrowPatch)) == 6 and figure.get_suptitle() == "title"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((graph(), ["T1"], TAILS), "1 names for 2 heads"),
        ((graph(), HEADS, TAILS[:2]), "2 names of tails, but neighbours from 0 to 2"),
        ((graph(neighbors=((0, 1), (-1, 2))), HEADS, TAILS), "neighbours from -1 to 2"),
        ((graph(), HEADS, TAILS, "title", 1), "image 1 is not one of the 1"),
        ((Graph(*(part[0] for part in graph())), HEADS, TAILS), r"must be \(B, C, K\)"),
        ((graph()._replace(closeness=torch.ones(1, 2, 3)), HEADS, TAILS), r"must be \(B, C, K\)"),
        ((Graph(*[torch.zeros(1, 5, 5, dtype=int)] * 3), "abcde", TAILS), "25 edges are too many"),
    ],
)
def test_graph_that_cannot_be_drawn(arguments, message):
    with pytest.raises(InputError, match=message):
        graph_plots.plot_graph(*arguments)


def test_neighbours_lie_on_their_patches_and_class_tokens_are_written_below():
    figure = FIGURES["show_neighbors"]()
    plain, panel = figure.axes[:2]
    boxes = shapes(panel, Rectangle)
    corners = [(box.get_x(), box.get_y(), box.get_width(), box.get_height()) for box in boxes]
    assert corners == [(-0.5, -0.5, 8, 8), (15.5, 7.5, 8, 8)]  # first and last of 2 x 3 patches
    assert boxes[0].get_facecolor() != boxes[1].get_facecolor()
    assert not plain.patches and panel.get_title() == "a head"
    assert panel.get_xlabel() == "class tokens: 1 of 3\nT1 0.10"  # -2 of two is the first
    several = edges((-3, 1, -1, -2), (0.1, 0.1, 0.5, 0.3))
    figure = graph_plots.show_neighbors(image(), several, GRID, ["cat", "dog", "cow"])
    expected = "class tokens: 3 of 4\ncow 0.50\ndog 0.30\nand 1 more"
    assert figure.axes[1].get_xlabel() == expected
    # Without class tokens nothing is written.
    figure = graph_plots.show_neighbors(image(), edges((0, 1), (0.5, 0.5)), GRID)
    assert figure.axes[1].get_xlabel() == ""


@pytest.mark.parametrize(
    ("neighbors", "weights", "message"),
    [
        ((0, 6), (0.5, 0.5), "from 0 to 6: there are 6 patches"),
        ((0, -3), (0.5, 0.5), "from -3 to 0: there are 6 patches and 2 names"),
        ((0, 1), (1.0,), r"'a head': neighbours \(2,\), weights \(1,\) must be \(K\), \(K\)"),
        (((0, 1),), ((0.5, 0.5),), r"must be \(K\), \(K\)"),
        ((), (), "no neighbour"),
    ],
)
def test_neighbours_that_cannot_be_drawn(neighbors, weights, message):
    with pytest.raises(InputError, match=message):
        graph_plots.show_neighbors(image(), edges(neighbors, weights), GRID, HEADS)


def test_edge_weights_are_ranked_means_with_their_entropy():
    weights = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    (ax,) = graph_plots.plot_edge_weights({"one": weights, "two": weights[None, :1]}).axes
    lines = {line.get_label(): line.get_ydata().tolist() for line in ax.lines}
    assert lines == {"one: 50 % of ln 2": [0.75, 0.25], "two: 0 % of ln 2": [1, 0]}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(lines)
    for bad in ({}, {"a": torch.tensor([0.5, 0.4])}, {"a": torch.tensor([1.5, -0.5])}):
        with pytest.raises(InputError, match="nothing to draw|must be >= 0 and sum to 1"):
            graph_plots.plot_edge_weights(bad)


def test_relative_entropy():
    weights = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]])
    np.testing.assert_allclose(graph_plots.relative_entropy(weights), [0, 1, 0.5], atol=1e-7)
    assert graph_plots.relative_entropy(torch.ones(3, 1)).tolist() == [0, 0, 0]
