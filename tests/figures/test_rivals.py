"""Figures of notebook 10 show what they are given: frames, flags, lines, components."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from more_lib.figures import canvas
from more_lib.figures import rivals as plots
from more_lib.system.errors import InputError
from tests.figures.helpers import each_shows_itself, image, legend, titles

ROI = np.tile([0, 1, 2], (16, 8))
LOSSES = np.array([0.2, 0.3, 0.4, 2.0, 2.2])
MIXTURE = LOSSES, [0.3, 2.1], [0.1, 0.1], [0.6, 0.4], LOSSES > 1


def crops():
    return plots.plot_crops(image(), ROI, [[2, 3], [8, 16]], [True, False], 6)


FIGURES = {
    "plot_crops": crops,
    "plot_curves": lambda: plots.plot_curves(
        {"a": [(0, 1), (2, 3)], "b": [(0, 2), (2, 2)]}, ("step", "value"), "Curves", {"here": 1}
    ),
    "plot_mixture": lambda: plots.plot_mixture(*MIXTURE),
}
test_each_shows_itself = each_shows_itself(FIGURES)


def test_crops_are_framed_where_they_were_cut_in_the_colour_of_their_flag():
    figure = crops()
    assert titles(figure) == ["image", "where CAM is", "1: positive", "2: negative"]
    picture, region, first, second = figure.axes
    for ax in (picture, region):
        frames = {(f.get_y() + 0.5, f.get_x() + 0.5): to_hex(f.get_edgecolor()) for f in ax.patches}
        assert frames == {(2, 3): canvas.LINES[0].lower(), (8, 16): canvas.LINES[1].lower()}
    assert np.array_equal(region.images[0].get_array(), ROI)
    for ax, cut in ((first, np.s_[2:8, 3:9]), (second, np.s_[8:14, 16:22])):
        assert np.allclose(ax.images[0].get_array(), canvas.as_rgb(image())[cut])
    assert legend(figure) == ["background", "uncertain", "sure"]
    with pytest.raises(InputError, match="no crop to draw"):
        plots.plot_crops(image(), ROI, np.zeros((0, 2)), [], 6)


def test_a_line_goes_through_its_points_and_marks_stand_where_they_are():
    (ax,) = FIGURES["plot_curves"]().axes
    first, second, mark = ax.lines
    assert first.get_xydata().tolist() == [[0, 1], [2, 3]] and second.get_label() == "b"
    assert set(mark.get_xdata()) == {1} and ax.texts[0].get_text() == "here"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "value")


def test_components_have_the_area_of_their_share_and_dropped_losses_another_colour():
    (ax,) = FIGURES["plot_mixture"]().axes
    width = ax.patches[0].get_width()
    for line, share in zip(ax.lines, (0.6, 0.4), strict=True):
        places, heights = line.get_data()
        area = np.trapezoid(heights, places)
        assert area == pytest.approx(share * len(LOSSES) * width, rel=0.1)
    kept, dropped = (text.get_text() for text in ax.get_legend().get_texts()[:2])
    assert (kept, dropped) == ("kept", "dropped")
    counts = [sum(bar.get_height() for bar in container) for container in ax.containers]
    assert counts == [3, 2]
