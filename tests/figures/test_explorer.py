"""A row of the explorer: errors by colour, clicks that find their patch, and what a row shows."""

from itertools import pairwise, product

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from more_lib.figures.canvas import class_colors
from more_lib.figures.explorer import (
    BAR,
    ERRORS,
    HEIGHT,
    WIDTH,
    Seen,
    draw_seen,
    errors,
    patch_at,
    picture_boxes,
    png,
)
from tests.figures.helpers import decoded

CLASSES = ("cat", "dog")
SIZE, GRID = (24, 16), (6, 4)


def seen(**changes):
    """A grey picture of 24 x 16 pixels whose upper half is claimed as cat; its left half is one."""
    mask, truth = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    mask[:12], truth[:, :8] = 1, 1
    values = dict(
        image=np.full((*SIZE, 3), 128, np.uint8),
        map=np.linspace(0, 1, 24 * 16).reshape(SIZE),
        mask=mask,
        truth=truth,
        number=1,
        scores={"IoU": 1 / 3, "precision": 0.5, "FP/TP": 1.0, "recall": float("nan")},
        patch=(2, 1),
        likeness=np.linspace(-0.5, 1, 24).reshape(GRID),
        tokens=np.array([0.5, -0.25]),
        gathered=None,
        neighbors=None,
    )
    return Seen(**values | changes)


def drawn(**changes):
    return np.asarray(draw_seen(seen(**changes), CLASSES, "a title"))


def at(row, panel, down, across):
    """The colour of a place, in shares of a panel."""
    left, top, width, height = picture_boxes(SIZE)[panel]
    return row[int(top + down * height), int(left + across * width)].astype(int)


def test_errors_of_eight_pixels_by_hand():
    truth = np.array([[1, 1, 1, 0], [0, 2, 0, 255]])
    mask = np.array([[1, 0, 2, 1], [1, 1, 0, 1]])
    found = {kind: where.astype(int).tolist() for kind, where in errors(mask, truth, 1).items()}
    assert found == {
        "right": [[1, 0, 0, 0], [0, 0, 0, 0]],
        "false": [[0, 0, 0, 1], [1, 1, 0, 0]],
        "missed": [[0, 1, 1, 0], [0, 0, 0, 0]],
    }


@pytest.mark.parametrize("size", [(96, 96), (300, 451), (500, 20)])
def test_a_click_in_any_picture_finds_its_patch_and_none_outside(size):
    grid = (3, 5)
    for (left, top, width, height), row, column in product(picture_boxes(size), range(3), range(5)):
        x = (left + (column + 0.5) / 5 * width) / WIDTH
        y = (top + (row + 0.5) / 3 * height) / HEIGHT
        assert patch_at(x, y, size, grid) == (row, column)
    left, top, width, height = picture_boxes(size)[0]
    below, beside = (left + 0.5, top + height + 1), (left + width + 1, top + 0.5)
    for x, y in (below, beside, (left + 0.5, top - 1), (WIDTH - 1, HEIGHT // 2)):
        assert patch_at(x / WIDTH, y / HEIGHT, size, grid) is None


def test_every_picture_lies_within_the_row_and_beside_the_others():
    boxes = picture_boxes((50, 100))
    assert all(0 <= x and x + w <= WIDTH and 0 <= y and y + h <= HEIGHT for x, y, w, h in boxes)
    assert all(a[0] + a[2] < b[0] for a, b in pairwise(boxes))
    assert {(w, h) for _, _, w, h in boxes} == {(192, 96)}


def test_mask_and_errors_have_their_colours_where_they_are():
    row = drawn()
    cat = class_colors(CLASSES)[1]
    assert (at(row, 2, 0.25, 0.7) == cat).all() and not at(row, 2, 0.75, 0.7).any()
    for kind, place in {"right": (0.2, 0.2), "false": (0.2, 0.8), "missed": (0.8, 0.2)}.items():
        wanted = 0.25 * 128 + 0.75 * 255 * np.array(to_rgb(ERRORS[kind]))
        assert np.abs(at(row, 3, *place) - wanted).max() <= 1, kind
    assert (at(row, 3, 0.8, 0.8) == 128).all()  # right, and no class


def test_maps_run_from_dark_to_bright_and_likeness_from_its_least():
    row = drawn()
    for panel in (1, 4):
        assert at(row, panel, 0.02, 0.1).sum() + 100 < at(row, panel, 0.98, 0.9).sum()
    lifted = drawn(likeness=np.linspace(0.9, 1, 24).reshape(GRID))
    assert (at(lifted, 4, 0.02, 0.1) == at(row, 4, 0.02, 0.1)).all()


def test_the_chosen_patch_and_the_graphs_are_framed():
    row = drawn()
    height = picture_boxes(SIZE)[0][3]
    for panel in (0, 4):  # just outside is white, just inside black
        edge = [at(row, panel, 2 / 6 + shift / height, 1.5 / 4) for shift in (-1, 1)]
        assert (edge[0] == 255).all() and not edge[1].any()
    neighbors = np.zeros(GRID, bool)
    neighbors[5, 3] = True  # in the corner: closed at the picture's edge, too
    framed = drawn(neighbors=neighbors, gathered=np.array([0.7, np.nan]))
    for place in ((5 / 6 + 1 / height, 3.5 / 4), (1 - 1 / height, 3.5 / 4)):
        assert (at(framed, 4, *place) == np.array(to_rgb(ERRORS["false"])) * 255).all()
    assert (at(framed, 0, 0.9, 0.9) == at(row, 0, 0.9, 0.9)).all()


def test_without_truth_the_errors_are_the_picture_in_grey():
    row = drawn(truth=None, scores={})
    assert (at(row, 3, 0.2, 0.2) == 128).all() and (row != drawn()).any()


def test_many_classes_and_large_pictures_fit_as_well():
    names = tuple(f"class {number}" for number in range(80))
    large = seen(image=np.zeros((600, 900, 3), np.uint8), mask=np.zeros((600, 900), int),
                 truth=None, scores={}, number=80, tokens=np.linspace(-1, 1, 80))  # fmt: skip
    row = draw_seen(large, names)
    assert row.size == (WIDTH, HEIGHT) and (decoded(png(row)) == np.asarray(row)).all()


def test_of_many_classes_the_rows_own_has_its_bar_however_unlike_the_patch_is():
    names = tuple(f"class {number}" for number in range(20))
    row = draw_seen(seen(number=3, tokens=np.linspace(0, 1, 20)), names)
    assert (np.asarray(row)[:, 5 * 204 :] == to_bar()).all(-1).any()


def test_a_token_that_stands_for_all_classes_has_one_bar_of_no_classs_name():
    row, left = drawn(tokens=np.array([0.5])), 5 * 204
    assert (row[:, left:] != drawn()[:, left:]).any()
    assert not (row[:, left:] == to_bar()).all(-1).any()  # the colour of the class asked for


def to_bar():
    return (np.array(to_rgb(BAR)) * 255).round()
