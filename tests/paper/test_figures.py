"""The paper's figures say what they should: panels, numbers, marks, what was not run."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import chelsea

from more_lib.paper import figures
from more_lib.paper.token_map import Separation, TokenMap
from more_lib.system.errors import InputError
from tests.figures import helpers
from tests.figures.helpers import CLASSES, class_at, drawn, image, legend, maps, panels, texts

TITLES = ("LAM\nof ViT", "LAM\nwith PTC", "2nd\nbackbone", "CAM", "LAM\n× CAM", "LIR", "GCR")


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


def notes(figure, rows):
    return [[ax.get_xlabel() for ax in row if ax.get_xlabel()] for row in panels(figure, rows)]


def assert_apart(figure, axes):
    """No title touches its neighbour's."""
    figure.draw_without_rendering()
    heads = [ax.title.get_window_extent() for ax in axes]
    assert all(left.x1 < right.x0 for left, right in pairwise(heads))


def artifacts_figure(**changes):
    """A cat on the left, seen by one network on the right and by the other where it is."""
    lost, found = torch.zeros(2, 1, 2, 2, 3)
    lost[0, 0, :, 2] = 0.9  # both patches of the last column, which shows no cat
    lost[0, 0, 0, 0] = 0.8
    found[0, 0, 0, 0] = 0.7
    given = {"images": [image()], "masks": [mask(1)], "columns": {"ViT": lost, "MoRe": found}}
    given |= {"threshold": 0.5, "classes": CLASSES, "class_indices": [0]}
    return figures.plot_artifacts(**(given | changes))


ONE, TWO = [image()], [mask(1)] * 2


def localization(columns, images=ONE, masks=TWO[:1]):
    return figures.plot_localization(images, masks, columns, CLASSES, [0])


def segmentation(value, columns):
    return figures.plot_segmentations([image()], [mask(value)], columns, CLASSES)


FIGURES = {
    "artifacts": artifacts_figure,
    "localization": lambda: localization({"LAM": maps(1, 2, 4, 6), "CAM": None}),
    "segmentations": lambda: segmentation(1, {"a": [mask(2)]}),
    "token maps": lambda: figures.plot_token_maps(token_maps(), CLASSES),
    "one token map": lambda: figures.plot_token_maps(token_maps(names=["MoRe"]), CLASSES),
}


test_every_figure_shows_itself_alike_each_time = helpers.each_shows_itself(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_names_the_papers(name):
    assert FIGURES[name]().get_suptitle().startswith("Figure ")


@pytest.mark.slow
def test_four_rows_of_photographs_stay_small():
    photograph = np.asarray(Image.fromarray(chelsea()).resize((224, 224)))
    smooth = torch.nn.functional.interpolate(maps(4, 2, 14, 14), (224, 224), mode="bilinear")
    columns = {f"map\n{number}": smooth for number in range(7)}
    truth = [mask(1, (224, 224))] * 4
    figure = figures.plot_localization([photograph] * 4, truth, columns, CLASSES, [0, 1, 0, 1])
    assert len(figure.png()) <= 200_000


class TestArtifacts:
    def test_counts_stand_below_the_maps_and_a_line_runs_around_artifacts_alone(self):
        figure = artifacts_figure()
        assert helpers.titles(figure) == ["image", "ViT", "MoRe", "ground truth"]
        assert helpers.row_names(figure) == ["cat"]
        assert notes(figure, 1) == [["artifacts: 2 of 3", "artifacts: 0 of 1"]]
        _, lost, found, _ = panels(figure, 1)[0]
        # Columns of 8 pixels: the last one, from 15.5 to 23.5, over the whole height.
        around = {
            ((15.5, -0.5), (23.5, -0.5)),
            ((15.5, 15.5), (23.5, 15.5)),
            *(((x, y), (x, y + 8)) for x in (15.5, 23.5) for y in (-0.5, 7.5)),
        }
        for lines in lost.collections:  # a line, and the white that sets it off
            assert {tuple(map(tuple, line.tolist())) for line in lines.get_segments()} == around
        assert lost.collections and not any(each.get_segments() for each in found.collections)

    def test_only_the_rows_class_counts(self):
        both = maps(1, 2, 2, 3)
        both[0, 0], both[0, 1] = 0, 0.9
        figure = artifacts_figure(columns={"ViT": both}, class_indices=[1], masks=[mask(2)])
        assert notes(figure, 1) == [["artifacts: 2 of 6"]]  # the middle column is half a dog's


@pytest.mark.slow
class TestLocalization:
    def test_nine_columns_of_which_some_were_not_run(self):
        columns = dict.fromkeys(TITLES) | {"LIR": maps(2, 2, 4, 6), "CAM": maps(2, 2, 16, 24)}
        images, masks = [image(), image(1)], [mask(1), mask(2)]
        figure = figures.plot_localization(images, masks, columns, CLASSES, [0, 1])
        assert helpers.titles(figure) == ["image", *TITLES, "ground\ntruth"]
        assert helpers.row_names(figure) == ["cat", "dog"]
        for index, row in enumerate(panels(figure, 2)):
            np.testing.assert_allclose(drawn(row[6]), columns["LIR"][index, index])
            np.testing.assert_allclose(drawn(row[4]), columns["CAM"][index, index])
            for empty in row[[1, 2, 3, 5, 7]]:
                assert texts(empty) == ["not run\nhere"] and not empty.images
            assert class_at(row[8]) == CLASSES[index]
        assert legend(figure) == ["background", "cat", "dog"]

    def test_all_maps_share_the_scale_from_0_to_1(self):
        *grid, bar = localization({"a": 0.1 * maps(1, 2, 4, 6), "b": maps(1, 2, 4, 6)}).axes
        assert [ax.images[-1].get_clim() for ax in grid[1:3]] == [(0, 1)] * 2
        assert bar.get_ylim() == (0, 1) and bar.get_ylabel() == "map value"
        assert len(localization({"LAM": None}).axes) == 3  # where nothing was run there is no bar

    def test_panels_are_as_wide_as_nine_columns_allow(self):
        columns = dict.fromkeys(TITLES, maps(3, 2, 4, 4))
        images, masks = [image(size=(16, 16))] * 3, [mask(1, (16, 16))] * 3
        figure = figures.plot_localization(images, masks, columns, CLASSES, [0] * 3)
        first = panels(figure, 3)[0]
        assert_apart(figure, first)
        assert all(ax.get_window_extent().width >= 0.8 * figure.dpi for ax in first)


class TestSegmentations:
    def test_masks_with_the_images_own_iou(self):
        half = mask(1)
        half[8:] = 0
        columns = {"baseline": [half, mask(2)], "LIR": None}
        columns["MoRe"] = torch.from_numpy(mask(1)).repeat(2, 1, 1)
        images, masks = [image(), image(1)], [mask(1), mask(0)]
        figure = figures.plot_segmentations(images, masks, columns, CLASSES, ["one", "two"])
        assert helpers.titles(figure) == ["image", *columns, "ground truth"]
        assert helpers.row_names(figure) == ["one", "two"]
        # The second image shows no class: whatever is found there is wrong.
        assert notes(figure, 2) == [["IoU 50 %", "IoU 100 %"], ["IoU 0 %", "IoU 0 %"]]
        (_, first, missing, *_), (_, second, *_) = panels(figure, 2)
        assert (class_at(first), class_at(first, 8)) == ("cat", "background")
        assert class_at(second) == "dog"
        assert texts(missing) == ["not run\nhere"]
        assert legend(figure) == ["background", "cat", "dog"]

    def test_an_image_without_any_class_and_images_of_several_shapes(self):
        assert notes(segmentation(0, {"MoRe": [mask(0)]}), 1) == [["no class"]]
        images = [image(size=size) for size in ((16, 24), (30, 10))]
        masks = [mask(1, each.shape[:2]) for each in images]
        figure = figures.plot_segmentations(images, masks, {"LIR": None, "MoRe": masks}, CLASSES)
        assert [ax.get_box_aspect() for ax in panels(figure, 2)[:, 1]] == [16 / 24, 3]


@pytest.mark.slow
class TestTokenMaps:
    def test_scores_stand_above_panels_in_which_each_class_has_its_points_and_one_mark(self):
        figure = figures.plot_token_maps(given := token_maps(), CLASSES)
        scores = "silhouette 0.26, nearest alike 98 %"
        assert helpers.titles(figure) == [f"baseline\n{scores}", f"MoRe\n{scores}"]
        for ax, tokens in zip(figure.axes, given.values(), strict=True):
            for index, line in enumerate(ax.lines):
                points = tokens.points[tokens.classes == index]
                np.testing.assert_array_equal(line.get_xydata(), points)
        left, right = ([(x.get_color(), x.get_marker()) for x in ax.lines] for ax in figure.axes)
        assert left == right

    @pytest.mark.parametrize("number", [20, 84])
    def test_many_classes_differ_in_colour_or_marker_and_fit_in_the_legend(self, number):
        classes = [f"a name of class {index}" for index in range(number)]
        figure = figures.plot_token_maps(token_maps(number, 2 * number), classes)
        figure.draw_without_rendering()
        assert legend(figure) == classes
        box, page = figure.legends[0].get_window_extent(), figure.bbox
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0
        extents = [ax.get_window_extent() for ax in figure.axes]
        assert all(box.y1 < each.y0 and each.height > 200 for each in extents)
        marks = [(line.get_color(), line.get_marker()) for line in figure.axes[0].lines]
        assert len(set(marks)) == number
        for one, other in pairwise(marks):  # neighbours in the legend differ in both
            assert one[0] != other[0] and one[1] != other[1]

    def test_classes_without_a_token_are_left_out_and_titles_of_three_panels_do_not_touch(self):
        figure = figures.plot_token_maps(
            token_maps(names=("baseline", "LIR", "MoRe")), (*CLASSES, "cow")
        )
        assert legend(figure) == list(CLASSES)
        assert_apart(figure, figure.axes)


UNFIT = {
    "grid of": lambda: artifacts_figure(columns={"ViT": maps(1, 2, 5, 5)}),
    "1 images, 2 masks and 1 names or classes of rows: give one of each a row": lambda: (
        localization({}, masks=TWO)
    ),
    "2 images, 2 masks and 1 names": lambda: localization({}, 2 * ONE, TWO),
    "1 images, 2 masks": lambda: figures.plot_segmentations(ONE, TWO, {}, CLASSES, ["row"]),
    "column 'LAM' has 2 items for 1 images": lambda: localization({"LAM": maps(2, 2, 4, 6)}),
    "nothing to draw": lambda: figures.plot_localization([], [], {"LAM": None}, CLASSES, []),
    "at least one network": lambda: figures.plot_token_maps({}, CLASSES),
}


@pytest.mark.parametrize("message", UNFIT)
def test_what_does_not_fit_together_is_refused(message):
    with pytest.raises(InputError, match=message):
        UNFIT[message]()
