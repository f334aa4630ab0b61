"""The paper's figures say what they should: panels, numbers, marks, what was not run."""

import io
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import chelsea

from more_lib.figures.canvas import Picture
from more_lib.paper import figures
from more_lib.paper.figures import (
    plot_artifacts,
    plot_localization,
    plot_segmentations,
    plot_token_maps,
)
from more_lib.paper.token_map import Separation, TokenMap
from more_lib.system.errors import InputError

CLASSES = ("cat", "dog")
CAT, DOG = (64, 0, 0), (64, 0, 128)  # VOC's colours


def image(seed=0, size=(16, 24)):
    return np.random.default_rng(seed).random((*size, 3), dtype=np.float32)


def maps(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def mask(value, size=(16, 24)):
    """The class in the left half."""
    filled = np.zeros(size, np.int64)
    filled[:, : size[1] // 2] = value
    return filled


def token_maps(number=2, count=40, names=("baseline", "MoRe")):
    rng = np.random.default_rng(0)
    classes = np.arange(count) % number
    points = rng.standard_normal((count, 2)).astype(np.float32)
    measured = Separation(0.256, 0.978, count, number)
    return {name: TokenMap(points + i, classes, measured) for i, name in enumerate(names)}


def panels(figure, rows):
    """The axes of the grid, without the colour bar's."""
    axes = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    return np.array(axes).reshape(rows, -1)


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def notes(grid):
    return [[ax.get_xlabel() for ax in row if ax.get_xlabel()] for row in grid]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def drawn(ax):
    return np.asarray(ax.images[-1].get_array())


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def artifacts_figure(**changes):
    """A cat on the left, seen by one network on the right and by the other where it is."""
    lost, found = torch.zeros(2, 1, 2, 2, 3)
    lost[0, 0, :, 2] = 0.9  # both patches of the last column, which shows no cat
    lost[0, 0, 0, 0] = 0.8
    found[0, 0, 0, 0] = 0.7
    given = {
        "images": [image()],
        "masks": [mask(1)],
        "columns": {"ViT": lost, "MoRe": found},
        "threshold": 0.5,
        "classes": CLASSES,
        "class_indices": [0],
    }
    return plot_artifacts(**(given | changes))


FIGURES = {
    "artifacts": artifacts_figure,
    "localization": lambda: plot_localization(
        [image()], [mask(1)], {"LAM": maps(1, 2, 4, 6), "CAM": None}, CLASSES, [0]
    ),
    "segmentations": lambda: plot_segmentations([image()], [mask(1)], {"a": [mask(2)]}, CLASSES),
    "token maps": lambda: plot_token_maps(token_maps(), CLASSES),
    "one token map": lambda: plot_token_maps(token_maps(names=["MoRe"]), CLASSES),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_shows_itself_alike_each_time(name, recwarn):
    figure = FIGURES[name]()
    assert isinstance(figure, Picture) and figure.get_suptitle().startswith("Figure ")
    png = figure.png()
    height, width, _ = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).shape
    assert width <= 900 and height > 100 and plt.get_fignums() == []
    assert FIGURES[name]().png() == png and not recwarn.list
    heading = figure._suptitle.get_window_extent()
    assert figure.bbox.x0 <= heading.x0 and heading.x1 <= figure.bbox.x1


def test_four_rows_of_photographs_stay_small():
    photograph = np.asarray(Image.fromarray(chelsea()).resize((224, 224)))
    smooth = torch.nn.functional.interpolate(maps(4, 2, 14, 14), (224, 224), mode="bilinear")
    columns = {f"map\n{number}": smooth for number in range(7)}
    truth = [mask(1, (224, 224))] * 4
    figure = plot_localization([photograph] * 4, truth, columns, CLASSES, [0, 1, 0, 1])
    assert len(figure.png()) <= 200_000


class TestArtifacts:
    def test_counts_stand_below_the_maps(self):
        figure = artifacts_figure()
        assert titles(figure) == ["image", "ViT", "MoRe", "ground truth"]
        grid = panels(figure, 1)
        assert grid[0, 0].get_ylabel() == "cat"
        assert notes(grid) == [["artifacts: 2 of 3", "artifacts: 0 of 1"]]

    def test_a_line_runs_around_them_and_around_nothing_else(self):
        _, lost, found, _ = panels(artifacts_figure(), 1)[0]
        (lines,) = lost.collections
        # Columns of 8 pixels: the last one, from 15.5 to 23.5, over the whole height.
        segments = {tuple(map(tuple, line.tolist())) for line in lines.get_segments()}
        assert segments == {
            ((15.5, -0.5), (23.5, -0.5)),
            ((15.5, 15.5), (23.5, 15.5)),
            *(((x, y), (x, y + 8)) for x in (15.5, 23.5) for y in (-0.5, 7.5)),
        }
        assert not found.collections[0].get_segments()

    def test_only_the_rows_class_counts(self):
        both = maps(1, 2, 2, 3)
        both[0, 0], both[0, 1] = 0, 0.9
        figure = artifacts_figure(columns={"ViT": both}, class_indices=[1], masks=[mask(2)])
        # The middle column is half a dog's.
        assert notes(panels(figure, 1)) == [["artifacts: 2 of 6"]]


class TestLocalization:
    TITLES = ("LAM\nof ViT", "LAM\nwith PTC", "2nd\nbackbone", "CAM", "LAM\n× CAM", "LIR", "GCR")

    def test_nine_columns_of_which_some_were_not_run(self):
        columns = dict.fromkeys(self.TITLES) | {"LIR": maps(2, 2, 4, 6), "CAM": maps(2, 2, 16, 24)}
        images, masks = [image(), image(1)], [mask(1), mask(2)]
        figure = plot_localization(images, masks, columns, CLASSES, [0, 1])
        assert titles(figure) == ["image", *self.TITLES, "ground\ntruth"]
        grid = panels(figure, 2)
        assert [ax.get_ylabel() for ax in grid[:, 0]] == ["cat", "dog"]
        for row, index in enumerate((0, 1)):
            np.testing.assert_allclose(drawn(grid[row, 6]), columns["LIR"][row, index])
            np.testing.assert_allclose(drawn(grid[row, 4]), columns["CAM"][row, index])
            for empty in (1, 2, 3, 5, 7):
                assert texts(grid[row, empty]) == ["not run\nhere"]
                assert not grid[row, empty].images
            assert tuple(drawn(grid[row, 8])[0, 0]) == (CAT, DOG)[index]
        assert legend(figure) == ["background", "cat", "dog"]

    def test_all_maps_share_the_scale_from_0_to_1(self):
        figure = plot_localization(
            [image()], [mask(1)], {"a": 0.1 * maps(1, 2, 4, 6), "b": maps(1, 2, 4, 6)}, CLASSES, [0]
        )
        *grid, bar = figure.axes
        assert [ax.images[-1].get_clim() for ax in grid[1:3]] == [(0, 1)] * 2
        assert bar.get_ylim() == (0, 1) and bar.get_ylabel() == "map value"

    def test_panels_are_as_wide_as_nine_columns_allow(self):
        columns = dict.fromkeys(self.TITLES, maps(3, 2, 4, 4))
        images, masks = [image(size=(16, 16))] * 3, [mask(1, (16, 16))] * 3
        figure = plot_localization(images, masks, columns, CLASSES, [0] * 3)
        figure.draw_without_rendering()
        boxes = [ax.get_window_extent() for ax in panels(figure, 3)[0]]
        assert all(box.width >= 0.8 * figure.dpi for box in boxes)
        heads = [ax.title.get_window_extent() for ax in panels(figure, 3)[0]]
        assert all(left.x1 < right.x0 for left, right in pairwise(heads))

    def test_nothing_that_was_run_still_makes_a_figure(self):
        figure = plot_localization([image()], [mask(1)], {"LAM": None}, CLASSES, [0])
        assert len(figure.axes) == 3  # no colour bar


class TestSegmentations:
    def test_masks_with_the_images_own_iou(self):
        half = mask(1)
        half[8:] = 0
        columns = {
            "baseline": [half, mask(2)],
            "LIR": None,
            "MoRe": torch.from_numpy(mask(1)).repeat(2, 1, 1),
        }
        figure = plot_segmentations(
            [image(), image(1)], [mask(1), mask(0)], columns, CLASSES, ["one", "two"]
        )
        assert titles(figure) == ["image", *columns, "ground truth"]
        grid = panels(figure, 2)
        assert [ax.get_ylabel() for ax in grid[:, 0]] == ["one", "two"]
        # The second image shows no class: whatever is found there is wrong.
        assert notes(grid) == [["IoU 50 %", "IoU 100 %"], ["IoU 0 %", "IoU 0 %"]]
        assert tuple(drawn(grid[0, 1])[0, 0]) == CAT and tuple(drawn(grid[0, 1])[8, 0]) == (0, 0, 0)
        assert tuple(drawn(grid[1, 1])[0, 0]) == DOG
        assert texts(grid[0, 2]) == ["not run\nhere"]
        assert legend(figure) == ["background", "cat", "dog"]

    def test_an_image_without_any_class(self):
        figure = plot_segmentations([image()], [mask(0)], {"MoRe": [mask(0)]}, CLASSES)
        assert notes(panels(figure, 1)) == [["no class"]]

    def test_images_of_several_shapes(self):
        sizes = [(16, 24), (30, 10)]
        figure = plot_segmentations(
            [image(size=size) for size in sizes], [mask(1, size) for size in sizes],
            {"MoRe": [mask(1, size) for size in sizes], "LIR": None}, CLASSES,
        )  # fmt: skip
        assert [ax.get_box_aspect() for ax in panels(figure, 2)[:, 2]] == [16 / 24, 3]


class TestTokenMaps:
    def test_scores_stand_above_the_panels(self):
        figure = plot_token_maps(token_maps(), CLASSES)
        scores = "silhouette 0.26, nearest alike 98 %"
        assert titles(figure) == [f"baseline\n{scores}", f"MoRe\n{scores}"]
        assert legend(figure) == list(CLASSES)

    def test_each_class_has_its_points_and_one_mark_in_all_panels(self):
        given = token_maps()
        figure = plot_token_maps(given, CLASSES)
        for ax, tokens in zip(figure.axes, given.values(), strict=True):
            for index, line in enumerate(ax.lines):
                np.testing.assert_array_equal(
                    line.get_xydata(), tokens.points[tokens.classes == index]
                )
        left, right = ([(x.get_color(), x.get_marker()) for x in ax.lines] for ax in figure.axes)
        assert left == right

    def test_84_classes_differ_in_colour_or_marker(self):
        marks = [figures._mark(index) for index in range(84)]
        assert len({(mark["color"], mark["marker"]) for mark in marks}) == 84
        # Neighbours in the legend differ in both.
        for one, other in pairwise(marks):
            assert one["color"] != other["color"] and one["marker"] != other["marker"]

    @pytest.mark.parametrize("number", [20, 80])
    def test_many_classes_fit_in_the_legend(self, number):
        classes = [f"a name of class {index}" for index in range(number)]
        figure = plot_token_maps(token_maps(number, 2 * number), classes)
        figure.draw_without_rendering()
        (found,) = figure.legends
        assert legend(figure) == classes
        box, page = found.get_window_extent(), figure.bbox
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0
        assert box.y1 < min(ax.get_window_extent().y0 for ax in figure.axes)
        assert all(ax.get_window_extent().height > 200 for ax in figure.axes)

    def test_classes_without_a_token_are_left_out(self):
        figure = plot_token_maps(token_maps(2), ("cat", "dog", "cow"))
        assert legend(figure) == ["cat", "dog"]

    def test_titles_of_three_panels_do_not_touch(self):
        figure = plot_token_maps(token_maps(names=("baseline", "LIR", "MoRe")), CLASSES)
        figure.draw_without_rendering()
        heads = [ax.title.get_window_extent() for ax in figure.axes]
        assert all(left.x1 < right.x0 for left, right in pairwise(heads))


ONE, TWO = [image()], [mask(1)] * 2
UNFIT = {
    "grid of": lambda: artifacts_figure(columns={"ViT": maps(1, 2, 5, 5)}),
    "1 images, 2 masks and 1 names or classes of rows: give one of each a row": lambda: (
        plot_localization(ONE, TWO, {}, CLASSES, [0])
    ),
    "2 images, 2 masks and 1 names": lambda: plot_localization(2 * ONE, TWO, {}, CLASSES, [0]),
    "1 images, 2 masks": lambda: plot_segmentations(ONE, TWO, {}, CLASSES, ["row"]),
    "column 'LAM' has 2 items for 1 images": lambda: plot_localization(
        ONE, TWO[:1], {"LAM": maps(2, 2, 4, 6)}, CLASSES, [0]
    ),
    "nothing to draw": lambda: plot_localization([], [], {"LAM": None}, CLASSES, []),
    "at least one network": lambda: plot_token_maps({}, CLASSES),
}


@pytest.mark.parametrize("message", UNFIT)
def test_what_does_not_fit_together_is_refused(message):
    with pytest.raises(InputError, match=message):
        UNFIT[message]()
