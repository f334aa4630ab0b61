"""Figures of notebook 04 say what they should: panels, values, windows, rings. No looks."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Circle, Rectangle

from more_lib.figures import relations as plots
from more_lib.method.lir import uncertain_patches
from more_lib.system.errors import InputError
from tests.figures.helpers import CLASSES, each_shows_itself, image, legend, maps, titles

STRIPES = np.tile(np.array([1, 1, 1, 255, 255, 255, 0, 0]), (8, 1))


def log(*pairs):
    return [{"iteration": step, "lr": 1e-4, "cre": value} for step, value in pairs]


LOG = log((10, 3.0), (20, 2.0))
FIGURES = {
    "plot_three_way": lambda: plots.plot_three_way(
        image(), {"mask": np.array([[0, 1], [2, 255]])}, CLASSES, {"CAM": maps(2, 2)}
    ),
    "plot_windows": lambda: plots.plot_windows(STRIPES, (4, 3)),
    "plot_kept_patches": lambda: plots.plot_kept_patches(STRIPES, {"all": STRIPES == 255}),
    "plot_lam_steps": lambda: plots.plot_lam_steps(
        image(), STRIPES, {"before": maps(2, 8, 8), "after": maps(2, 8, 8)}, CLASSES, [0, 1]
    ),
    "plot_log_terms": lambda: plots.plot_log_terms(
        {"this run": LOG}, {"cre": "CRE"}, {}, title="The log"
    ),
}


def rings(ax):
    """Row and column of every ring, each drawn as two circles of one centre."""
    centres = {patch.center for patch in ax.patches if isinstance(patch, Circle)}
    return sorted((int(y), int(x)) for x, y in centres)


def frames(ax):
    """Row, column and side of every frame, by its colour."""
    squares = (patch for patch in ax.patches if isinstance(patch, Rectangle))
    colors = ((to_hex(each.get_edgecolor()).upper(), each) for each in squares)
    return {c: (each.get_y() + 0.5, each.get_x() + 0.5, each.get_width()) for c, each in colors}


test_every_figure_shows_itself_and_leaves_no_trace = each_shows_itself(FIGURES)


def test_three_way_masks_name_what_is_open():
    figure = FIGURES["plot_three_way"]()
    assert titles(figure) == ["image", "CAM", "mask"]
    assert legend(figure) == ["background", "cat", "dog", "uncertain"]
    assert figure.axes[3].get_ylabel() == "map value"
    only = plots.plot_three_way(image(), {"mask": np.array([[1, 0]])}, CLASSES)
    assert len(only.axes) == 2 and legend(only) == ["background", "cat"]


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list])
def test_kernel_values(kind):
    values = plots.kernel_values(kind([[0, 1], [2, 255]]))
    assert values.tolist() == [[0, 2], [2, 1]]


@pytest.mark.parametrize(
    ("patch", "mean"), [((4, 3), 1.5), ((4, 4), 7 / 6), ((2, 3), 1.25), ((1, 3), 1.0)]
)
def test_window_mean_by_hand(patch, mean):
    assert plots.window_mean(STRIPES, patch) == pytest.approx(mean)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6])
def test_window_mean_decides_as_the_library_does(size):
    generator = torch.Generator().manual_seed(size)
    mask = torch.tensor([0, 1, 2, 255])[torch.randint(4, (9, 7), generator=generator)]
    kept = uncertain_patches(mask[None], size, 1.2)[0]
    for place in (mask == 255).nonzero().tolist():
        assert (plots.window_mean(mask, place, size) > 1.2) == bool(kept[tuple(place)])


def test_windows_draw_values_window_and_both_tokens_unless_too_near_the_border():
    paper, released = plots.plot_windows(torch.tensor(STRIPES), (4, 3)).axes
    for ax in (paper, released):
        assert len(ax.texts) == 64 and ax.texts[3].get_text() == "1"
        assert frames(ax) == {plots.WINDOW: (1, 0, 6), plots.TESTED: (4, 3, 1)}
        assert "mean 1.50 > φ = 1.2, kept" in ax.get_title()
    assert rings(paper) == [(4, 3)] and rings(released) == [(1, 0)]
    for ax in plots.plot_windows(STRIPES, (4, 4)).axes:  # without a token
        assert "mean 1.17 ≤ φ = 1.2" in ax.get_title() and "kept" not in ax.get_title()
        assert rings(ax) == []
    paper, released = plots.plot_windows(STRIPES, (6, 3)).axes  # near the border
    assert rings(paper) == [(6, 3)] and rings(released) == []
    assert "not tested" in released.get_title() and plots.WINDOW not in frames(released)


def test_kept_patches_are_ringed_and_counted():
    kept = uncertain_patches(torch.tensor(STRIPES)[None], 6, 1.2)[0]
    first, second = plots.plot_kept_patches(STRIPES, {"paper": kept, "none": kept & False}).axes
    assert first.get_title() == "paper: 5" and second.get_title() == "none: 0"
    assert rings(first) == [(row, 3) for row in range(2, 7)] and rings(second) == []


def test_lam_steps_have_a_row_a_class_and_a_frame_in_each():
    figure = FIGURES["plot_lam_steps"]()
    cells = np.array(figure.axes[:6]).reshape(2, 3)
    assert [ax.get_ylabel() for ax in cells[:, 0]] == ["cat", "dog"]
    assert [ax.get_title() for ax in cells[0]] == ["image", "before", "after"]
    framed, empty = ([ax.collections[0].get_segments() for ax in row] for row in cells)
    assert not any(empty)
    for segments in framed:
        places = np.concatenate(segments)
        assert places.min(0).tolist() == [-0.5, -0.5]
        assert places.max(0).tolist() == [8.5, 15.5]  # 3 of 8 columns


def test_log_terms_leave_out_lines_without_the_term():
    waiting = [{"iteration": 5, "lr": 1e-4}, *LOG]
    levels = {"this run": {"cre": 2.5}}
    (ax,) = plots.plot_log_terms({"this run": waiting}, {"cre": "CRE"}, levels).axes
    curve, level = ax.lines
    assert curve.get_xdata().tolist() == [10, 20] and curve.get_ydata().tolist() == [3.0, 2.0]
    assert set(level.get_ydata()) == {2.5} and ax.get_title() == "this run: CRE"
    assert ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > 3


def test_log_terms_show_what_is_negative():
    for values, limits in ((((5, -0.2), (9, -0.4)), (-0.42, 0)), (((5, -1), (9, 2)), (-1.05, 2.1))):
        (ax,) = plots.plot_log_terms({"one": log(*values)}, {"cre": "CRE"}, {}).axes
        assert ax.get_ylim() == pytest.approx(limits)


def test_log_terms_together_or_apart():
    logs = {"one": LOG, "two": log((10, 9.0))}
    assert len(plots.plot_log_terms(logs, {"cre": "CRE", "lr": "rate"}, {}).axes) == 4
    figure = plots.plot_log_terms(logs, {"cre": "CRE"}, {}, together=True)
    (ax,) = figure.axes
    assert len(ax.lines) == 2 and ax.get_ylim()[1] > 9 and legend(figure) == ["one", "two"]


def lam_steps(mask, size):
    return plots.plot_lam_steps(image(), mask, {"before": maps(2, size, size)}, CLASSES, [0])


NOT_UNCERTAIN, NO_MASK = "is not uncertain in this mask", r"give \(h, w\) integers"
OUTSIDE = ((0, 0), (0, 7), (8, 3), (-1, 3))
NO_MASKS = (np.zeros((2, 2)), np.zeros(4, int), np.zeros((1, 2, 2), int))
UNFIT = [
    *((NOT_UNCERTAIN, plots.plot_windows, STRIPES, place) for place in OUTSIDE),
    *((NO_MASK, plots.kernel_values, mask) for mask in NO_MASKS),
    ("give at least one mask", plots.plot_three_way, image(), {}, CLASSES),
    ("give integers", plots.plot_three_way, image(), {"m": np.array([[3]])}, CLASSES),
    ("give integers", plots.plot_three_way, image(), {"m": np.array([[0.5]])}, CLASSES),
    ("give at least one", plots.plot_kept_patches, STRIPES, {}),
    (r"choice other \(2, 2\) must be", plots.plot_kept_patches, STRIPES, {"other": maps(2, 2)}),
    (r"mask \(8, 8\), map before \(4, 4\) must be", lam_steps, STRIPES, 4),
    ("give integers", lam_steps, STRIPES / 2, 8),
    ("give at least one log", plots.plot_log_terms, {}, {"cre": "CRE"}, {}),
    ("give at least one log", plots.plot_log_terms, {"one": LOG}, {}, {}),
    ("one has no ure; its lines hold: ", plots.plot_log_terms, {"one": LOG}, {"ure": "URE"}, {}),
    ("one has no cre; .* nothing", plots.plot_log_terms, {"one": []}, {"cre": "CRE"}, {}),
]


@pytest.mark.parametrize("unfit", UNFIT)
def test_what_does_not_fit_is_refused(unfit):
    message, draw, *given = unfit
    with pytest.raises(InputError, match=message):
        draw(*given)
