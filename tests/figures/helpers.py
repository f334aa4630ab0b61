"""Pictures to draw, and what a figure shows."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from more_lib.figures.canvas import Picture

CLASSES = ("cat", "dog")
CAT, DOG, CREAM = (64, 0, 0), (64, 0, 128), (224, 224, 192)  # VOC's colours


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


def texts(ax):
    return [text.get_text() for text in ax.texts]


def drawn(ax):
    """What an axes shows: the array of its uppermost picture."""
    return np.asarray(ax.images[-1].get_array())


def legend(figure):
    """The names in a figure's legend."""
    (only,) = figure.legends
    return [text.get_text() for text in only.get_texts()]


def decoded(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def assert_shows_itself(draw):
    """The figure has a title, comes as a small PNG and leaves no trace in matplotlib."""
    settings = dict(matplotlib.rcParams)
    figure = draw()
    assert isinstance(figure, Picture) and figure.get_suptitle()
    png = figure._repr_mimebundle_()["image/png"]
    height, width, _ = decoded(png).shape
    assert len(png) <= 200_000 and width <= 900 and height > 100
    assert plt.get_fignums() == [] and dict(matplotlib.rcParams) == settings
