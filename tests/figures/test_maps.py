"""Figures of images, masks and maps: panels, titles, colours. Their looks are not tested."""

import numpy as np
import pytest
import torch

from more_lib.figures import maps as figures
from more_lib.system.errors import InputError
from tests.figures import helpers
from tests.figures.helpers import CLASSES, class_at, image, legend, maps, mask, titles

FIGURES = {
    "show_images": lambda: figures.show_images([image(), image(1)], ["one", "two"], "both"),
    "show_dataset": lambda: figures.show_dataset([image()], [mask(1, 2, 255)], CLASSES, ["one"]),
    "show_maps": lambda: figures.show_maps(image(), {"LAM": maps(2, 3), "CAM": maps(16, 24)}),
    "show_maps of a constant": lambda: figures.show_maps(image(), {"nothing": torch.zeros(2, 3)}),
    "compare_localization": lambda: figures.compare_localization(
        [image()], [mask(1)], {"CAM": maps(1, 2, 4, 6), "decoder": [mask(2)]}, CLASSES, [0]
    ),
    "plot_attention_heads": lambda: figures.plot_attention_heads(image(), maps(3, 2, 3)),
    "plot_patch_grid": lambda: figures.plot_patch_grid(image(), 8),
}

test_every_figure_shows_itself_and_leaves_no_trace = helpers.each_shows_itself(FIGURES)


def test_summary():
    values = torch.tensor([[0.0, 1.0, 0.5], [-0.004, 0.25, 1.0]], requires_grad=True)
    assert figures.summary(values) == "shape (2, 3), min 0.00, mean 0.46, max 1.00"
    assert figures.summary([3]) == "shape (1,), min 3.00, mean 3.00, max 3.00"
    assert figures.summary(np.array([1, np.nan])) == "shape (2,), min nan, mean nan, max nan"


def test_dataset_panels_and_legend():
    figure = figures.show_dataset([image(), image(1)], [mask(1), mask(2, 255)], CLASSES, ["a", "b"])
    assert titles(figure) == ["a", "b"] and len(figure.axes) == 4
    assert helpers.row_names(figure) == ["image", "mask"]
    assert (class_at(figure.axes[2]), class_at(figure.axes[3], 1)) == ("cat", "not counted")
    assert legend(figure) == ["background", "cat", "dog", "not counted"]


def test_comparison_shows_each_rows_class():
    cams = maps(3, 2, 4, 6)
    figure = figures.compare_localization(
        [image(seed) for seed in range(3)], [mask(1), mask(2), mask(1, 2)],
        {"CAM": cams, "decoder": torch.stack([torch.from_numpy(mask(2))] * 3)}, CLASSES, [0, 1, 1],
    )  # fmt: skip
    assert titles(figure) == ["image", "CAM", "decoder", "ground truth"]
    grid = np.reshape(figure.axes[:-1], (3, 4))  # without the colour bar
    assert helpers.row_names(figure) == ["cat", "dog", "dog"]
    for row, index in enumerate([0, 1, 1]):
        np.testing.assert_allclose(helpers.drawn(grid[row, 1]), cams[row, index])
        assert class_at(grid[row, 2]) == "dog"
    assert class_at(grid[2, 3]) == "cat" and class_at(grid[2, 3], 1) == "dog"
    figure = figures.compare_localization([image()], [mask(1)], {"CAM": [mask(1)]}, CLASSES, [0])
    assert len(figure.axes) == 3  # masks alone do not need a colour bar


def test_heads():
    assert titles(FIGURES["plot_attention_heads"]()) == ["image", "head 1", "head 2", "head 3"]


def test_patch_grid():
    figure = FIGURES["plot_patch_grid"]()
    assert figure.get_suptitle() == "2 × 3 = 6 patches of 8 × 8 pixels"
    across, down = (lines.get_segments() for lines in figure.axes[1].collections)
    assert [line[0][0] for line in across] == [7.5, 15.5] and [line[0][1] for line in down] == [7.5]
    for patch in (5, 0):
        with pytest.raises(InputError, match=f"patch of {patch} does not divide .* 16x24"):
            figures.plot_patch_grid(image(), patch)
