"""Pictures to draw, and what a figure shows."""

import io
import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from more_lib.figures.canvas import Picture

CLASSES = ("cat", "dog")
CAT, DOG, CREAM = (64, 0, 0), (64, 0, 128), (224, 224, 192)  # VOC's colours
NAMES = {(0, 0, 0): "background", CAT: "cat", DOG: "dog", CREAM: "not counted"}


def image(seed=0, size=(16, 24)):
    return np.random.default_rng(seed).random((*size, 3), dtype=np.float32)


def maps(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def mask(*values, size=(16, 24)):
    """A mask whose first rows have these values."""
    filled = np.zeros(size, np.int64)
    filled[: len(values)] = np.array(values)[:, None]
    return filled


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def row_names(figure):
    return [ax.get_ylabel() for ax in figure.axes if ax.images and ax.get_ylabel()]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def panels(figure, rows):
    """The axes of the grid, without the colour bar's."""
    axes = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    return np.array(axes).reshape(rows, -1)


def drawn(ax):
    """What an axes shows: the array of its uppermost picture."""
    return np.asarray(ax.images[-1].get_array())


def class_at(ax, row=0, column=0):
    """The class that a mask shows at a pixel, by its colour."""
    return NAMES[tuple(drawn(ax)[row, column])]


def legend(figure):
    """The names in a figure's legend."""
    (only,) = figure.legends
    return [text.get_text() for text in only.get_texts()]


def decoded(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def each_shows_itself(figures):
    """A test that these figures, functions by name, come alike each time and leave no trace.

    Each has a title within its page and is a small PNG, without a warning.
    """

    @pytest.mark.slow
    @pytest.mark.parametrize("name", figures)
    def test(name):
        settings = dict(matplotlib.rcParams)
        with warnings.catch_warnings(action="error"):
            figure, again = figures[name](), figures[name]()
            png = figure._repr_mimebundle_()["image/png"]
        assert isinstance(figure, Picture) and figure.get_suptitle() and again.png() == png
        height, width, _ = decoded(png).shape
        assert len(png) <= 200_000 and width <= 900 and height > 100
        heading = figure._suptitle.get_window_extent()
        assert figure.bbox.x0 <= heading.x0 and heading.x1 <= figure.bbox.x1
        assert plt.get_fignums() == [] and dict(matplotlib.rcParams) == settings

    return test
