"""Figures of notebook 02: each draws, and refuses what does not fit."""

import math

import pytest
import torch
from matplotlib.figure import Figure

from more_lib.figures.artifacts import mark_patches, plot_classes, plot_lines, plot_norms
from more_lib.system.errors import InputError


def random(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_every_figure_draws():
    lines = {"one": [0.1, 0.2, 0.3], "two": [0.3, math.nan, 0.1]}
    maps = random(1, 4, 4)[0]
    figures = [
        plot_classes({"a": [0.1, math.nan], "b": [0.2, 0.4]}, ("cat", "dog")),
        plot_lines({"left": lines, "right": lines}, "block"),
        plot_norms([random(50) + 1, random(50) + 2], 2.0),
        mark_patches(
            [random(3, 32, 32)], [maps], {"off": [maps > 0.5], "alone": [maps > 0.8]}, ["cat"]
        ),
    ]
    for figure in figures:
        assert isinstance(figure, Figure)
        assert figure.get_suptitle()
        assert len(figure.png()) > 1000


def test_classes_need_one_value_each():
    with pytest.raises(InputError, match="2 classes"):
        plot_classes({"a": [0.1]}, ("cat", "dog"))
    with pytest.raises(InputError, match="nothing"):
        plot_classes({}, ("cat", "dog"))


def test_marks_need_the_grid_of_their_map():
    with pytest.raises(InputError, match="grid"):
        mark_patches([random(3, 8, 8)], [random(4, 4)], {"off": [random(2, 2) > 0.5]})
