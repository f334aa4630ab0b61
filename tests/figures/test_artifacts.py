"""Figures of notebook 02 draw gaps as gaps, and refuse numbers that do not fit."""

import numpy as np
import pytest

from more_lib.figures import artifacts
from more_lib.system.errors import InputError
from tests.figures.helpers import CLASSES, each_shows_itself, image, maps

LINES = {"one": [0.1, 0.2, 0.3], "two": [0.3, np.nan, 0.1]}
MAP = maps(4, 4)
FIGURES = {
    "plot_classes": lambda: artifacts.plot_classes({"a": [0.1, np.nan], "b": [0.2, 0.4]}, CLASSES),
    "plot_lines": lambda: artifacts.plot_lines({"left": LINES, "right": LINES}, "block"),
    "plot_norms": lambda: artifacts.plot_norms([maps(50) + 1, maps(50) + 2], 2.0),
    "mark_patches": lambda: artifacts.mark_patches(
        [image()], [MAP], {"off": [MAP > 0.5], "alone": [MAP > 0.8]}, ["cat"]
    ),
}

test_every_figure_shows_itself_and_leaves_no_trace = each_shows_itself(FIGURES)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="2 classes"):
        artifacts.plot_classes({"a": [0.1]}, CLASSES)
    with pytest.raises(InputError, match="nothing"):
        artifacts.plot_classes({}, CLASSES)
    with pytest.raises(InputError, match=r"mark off \(2, 2\) must be"):
        artifacts.mark_patches([image()], [MAP], {"off": [maps(2, 2) > 0.5]})
