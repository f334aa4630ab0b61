"""Figures of GCR's graph (notebook 03): edges of a few nodes, neighbours on a picture, weights."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import FancyArrowPatch, Rectangle

from more_lib.figures import canvas
from more_lib.figures.canvas import Array, Names, Picture
from more_lib.method.gcr import Graph
from more_lib.system.errors import InputError
from more_lib.system.shapes import check_shapes

MOST_EDGES = 24  # as many as can be told apart, with two numbers on each
NODE = {"ha": "center", "va": "center", "fontsize": 11, "zorder": 5}


def plot_graph(
    graph: Graph, heads: Names, tails: Names, title: str = "The graph", image: int = 0
) -> Picture:
    """The edges of one image as arrows from tail to head, with r and S on each (Eq. 2 and 4).

    graph: C heads with K tails each, as ``GraphCategoryRepresentation.graph`` gives it.
    heads, tails: names of the C heads and of all candidate tails, chosen or not, in its order.
    image: which one of the batch.

    Look for tails that two heads share, and for how unequal the arrows of one head are: an arrow is
    as thick as its weight S. Tails in grey are nobody's neighbour. Raises ``InputError`` for names
    that do not fit the graph, an image it lacks, and more than ``MOST_EDGES`` edges.
    """
    count = check_shapes(**{name: (part, "B C K") for name, part in graph._asdict().items()})["B"]
    if not 0 <= image < count:
        raise InputError(f"image {image} is not one of the {count} in the graph")
    neighbors, closeness, weights = (canvas.as_array(part)[image] for part in graph)
    if len(heads) != len(neighbors):
        raise InputError(f"there are {len(heads)} names for {len(neighbors)} heads")
    low, high = neighbors.min(), neighbors.max()
    if low < 0 or high >= len(tails):
        raise InputError(
            f"there are {len(tails)} names of tails, but neighbours from {low} to {high}"
        )
    if neighbors.size > MOST_EDGES:
        raise InputError(f"{neighbors.size} edges are too many to draw: at most {MOST_EDGES}")

    most = max(len(heads), len(tails))
    figure = canvas.new_figure((7.2, 1.0 + 0.62 * most), title)
    ax = figure.subplots()
    head_places = _column(0.0, len(heads), most)
    tail_places = _column(1.0, len(tails), most)
    for (head, rank), tail in np.ndenumerate(neighbors):
        r, weight, color = closeness[head, rank], weights[head, rank], canvas.line_color(head)
        text = f"r {r:.2f}   S {weight:.2f}"
        _arrow(ax, tail_places[tail], head_places[head], weight, color, text)
    for head, (name, place) in enumerate(zip(heads, head_places, strict=True)):
        box = {"boxstyle": "circle", "fc": "white", "ec": canvas.line_color(head), "lw": 2}
        ax.text(*place, name, bbox=box, **NODE)
    for tail, (name, place) in enumerate(zip(tails, tail_places, strict=True)):
        color = "black" if tail in neighbors else "0.65"
        box = {"boxstyle": "square", "fc": "white", "ec": color}
        ax.text(*place, name, bbox=box, color=color, **NODE)
    for x, name in ((0, "heads"), (1, "tails")):
        ax.text(x, most - 0.3, name, ha="center", va="center", color="0.3")
    ax.set(xlim=(-0.12, 1.12), ylim=(-0.6, most))
    ax.set_axis_off()
    return figure


def show_neighbors(
    image: object,
    edges: Mapping[str, tuple[Array, Array]],
    grid: tuple[int, int],
    tokens: Names = (),
    title: str = "The neighbours of a class token",
) -> Picture:
    """The patches of one image that heads gather from, filled by their weight, one panel a head.

    image: RGB, as in ``maps``. edges: by title, the neighbours (K,) and weights (K,) of one head.
    Neighbours count the patches from 0, row by row; a negative number is a class token: of C
    candidates that come before the patches, as released, subtract C. grid: (h, w) of the patches.
    tokens: names of the C class tokens, written below the panel where they are neighbours.

    Look for neighbours on the object and off it, for class tokens among them, and for how few of
    the K carry weight. Raises ``InputError`` for neighbours that are neither patch nor token, and
    for weights that do not fit them.
    """
    picture = canvas.as_rgb(image)
    figure, panels = canvas.new_panels(["image", *edges], title)
    panels[0].imshow(picture)
    scale = ScalarMappable(Normalize(0, 1), canvas.COLORMAP)
    for ax, (name, pair) in zip(panels[1:], edges.items(), strict=True):
        neighbors, weights = map(canvas.as_array, pair)
        given = {f"{name!r}: neighbours": (neighbors, "K"), "weights": (weights, "K")}
        if not check_shapes(**given)["K"]:
            raise InputError(f"{name!r} has no neighbour: give at least one")
        low, high = neighbors.min(), neighbors.max()
        if low < -len(tokens) or high >= grid[0] * grid[1]:
            raise InputError(
                f"{name!r} has neighbours from {low} to {high}: there are {grid[0] * grid[1]} "
                f"patches and {len(tokens)} names of class tokens"
            )
        ax.imshow(picture)
        height, width = picture.shape[0] / grid[0], picture.shape[1] / grid[1]
        for index, weight in zip(neighbors, weights, strict=True):
            if index >= 0:
                row, column = divmod(int(index), grid[1])
                corner = (column * width - 0.5, row * height - 0.5)
                color = (*scale.to_rgba(weight)[:3], 0.75)
                ax.add_patch(Rectangle(corner, width, height, fc=color, ec="white", lw=1))
        ax.set_xlabel(_tokens_text(neighbors, weights, tokens), fontsize=8)
    figure.colorbar(scale, ax=panels, label="weight S", shrink=0.8, aspect=30)
    return figure


def plot_edge_weights(
    weights: Mapping[str, Array], title: str = "How a head shares out its weight"
) -> Picture:
    """Weights (..., K) sorted from the largest, mean over heads and images, one line a graph.

    The legend gives the entropy of the weights as a share of ln K, its value when all K are equal.
    Look for a first point near 1: such a head takes one tail and forgets the others. Raises
    ``InputError`` where weights are negative or do not sum to 1.
    """
    if not weights:
        raise InputError("there is nothing to draw: give the weights of at least one graph")
    figure = canvas.new_figure((7.2, 3.4), title)
    ax = figure.subplots()
    for index, (name, values) in enumerate(weights.items()):
        array = canvas.as_array(values).astype(np.float64)
        if array.ndim < 1 or array.min() < 0 or not np.allclose(array.sum(-1), 1, atol=1e-3):
            raise InputError(f"the weights of {name!r} {array.shape} must be >= 0 and sum to 1")
        size = array.shape[-1]
        ranked = np.sort(array, axis=-1)[..., ::-1].reshape(-1, size).mean(0)
        label = f"{name}: {100 * relative_entropy(array).mean():.0f} % of ln {size}"
        style = canvas.line_style(index) | {"marker": "o", "ms": 3, "label": label}
        ax.plot(range(1, size + 1), ranked, **style)
    ax.set(xlabel="rank of the tail, by weight", ylabel="mean weight", xscale="log", ylim=(0, 1.02))
    ax.set_xticks(ticks := [1, 2, 5, 10, 20, 50, 100], map(str, ticks))
    ax.set_xticks([], minor=True)
    ax.set_xlim(0.9, 1.1 * max(canvas.as_array(values).shape[-1] for values in weights.values()))
    ax.grid(alpha=0.3)
    ax.legend(title="entropy")
    return figure


def relative_entropy(weights: Array) -> np.ndarray:
    """Entropy of weights (..., K) that sum to 1, over ln K: (...), from 0, one tail, to 1, all."""
    array = canvas.as_array(weights).astype(np.float64)
    logs = np.log(array, out=np.zeros_like(array), where=array > 0)
    return -(array * logs).sum(-1) / np.log(max(array.shape[-1], 2))


def _column(x: float, count: int, most: int) -> list[tuple[float, float]]:
    """Places of ``count`` nodes from top to bottom, centred on those of the longer column."""
    step = most / count
    return [(x, most - 0.5 - step * (index + 0.5)) for index in range(count)]


def _arrow(
    ax: Axes, tail: tuple[float, float], head: tuple[float, float], weight: float, color: str, text
) -> None:
    """An arrow as thick as its weight, its text along it, near the tail where arrows part."""
    width = 0.6 + 5 * float(weight)
    style = {"arrowstyle": "-|>", "mutation_scale": 12 + 1.5 * width, "shrinkA": 16, "shrinkB": 18}
    ax.add_patch(FancyArrowPatch(tail, head, lw=width, color=color, alpha=0.8, **style))
    x, y = (0.32 * h + 0.68 * t for h, t in zip(head, tail, strict=True))
    angle = float(np.degrees(np.arctan2(tail[1] - head[1], tail[0] - head[0])))
    box = {"fc": "white", "ec": "none", "pad": 1, "alpha": 0.9}
    look = {"ha": "center", "va": "center", "fontsize": 9, "color": color, "zorder": 4}
    turned = {"rotation": angle, "rotation_mode": "anchor", "transform_rotates_text": True}
    ax.text(x, y, text, bbox=box, **look, **turned)


def _tokens_text(neighbors: np.ndarray, weights: np.ndarray, tokens: Names) -> str:
    """The class tokens among the neighbours, the heaviest first; "" where there can be none."""
    if not len(tokens):
        return ""
    pairs = zip(weights.tolist(), neighbors, strict=True)
    chosen = sorted(((weight, tokens[n]) for weight, n in pairs if n < 0), reverse=True)
    lines = [f"{name} {weight:.2f}" for weight, name in chosen[:2]]
    more = [f"and {len(chosen) - 2} more"] if len(chosen) > 2 else []
    return "\n".join([f"class tokens: {len(chosen)} of {len(neighbors)}", *lines, *more])
