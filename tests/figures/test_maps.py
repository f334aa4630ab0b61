"""Figures say what they should: panels, titles, colours, scales. Their looks are not tested."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from more_lib.data.images import PALETTE
from more_lib.figures import canvas, scores
from more_lib.figures import maps as viz
from more_lib.recipes.classes import VOC_CLASSES
from more_lib.system.errors import InputError

CLASSES = ("cat", "dog")
CAT, DOG, CREAM = (64, 0, 0), (64, 0, 128), (224, 224, 192)  # VOC's colours


def image(seed=0, size=(16, 24)):
    return np.random.default_rng(seed).random((*size, 3), dtype=np.float32)


def maps(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def mask(*values, size=(16, 24)):
    filled = np.zeros(size, np.int64)
    for row, value in enumerate(values):
        filled[row] = value
    return filled


MATRIX = [[8, 2, 2], [4, 4, 0], [0, 0, 0]]
IOUS = {"CAM": [0.8, 0.75, 0.6], "LAM": [0.5, 0.4, np.nan]}
SWEEP = {0.2: 0.3, 0.4: 0.7, 0.6: 0.3}
LOG = [
    {"iteration": 10, "lr": 1e-4, "classification": 0.7, "total": 3.0, "images_per_second": 9.0},
    {"iteration": 20, "lr": 2e-4, "classification": 0.4, "total": 2.0, "images_per_second": 8.0},
]

FIGURES = {
    "show_images": lambda: viz.show_images([image(), image(1)], ["one", "two"], "both"),
    "show_dataset": lambda: viz.show_dataset([image()], [mask(1, 2, 255)], CLASSES, ["one"]),
    "show_maps": lambda: viz.show_maps(image(), {"LAM": maps(2, 3), "CAM": maps(16, 24)}),
    "compare_localization": lambda: viz.compare_localization(
        [image()], [mask(1)], {"CAM": maps(1, 2, 4, 6), "decoder": [mask(2)]}, CLASSES, [0]
    ),
    "plot_attention_heads": lambda: viz.plot_attention_heads(image(), maps(3, 2, 3)),
    "plot_patch_grid": lambda: viz.plot_patch_grid(image(), 8),
    "plot_training": lambda: scores.plot_training(LOG),
    "plot_iou_per_class": lambda: scores.plot_iou_per_class(IOUS, CLASSES),
    "plot_confusion": lambda: scores.plot_confusion(MATRIX, CLASSES),
    "plot_threshold_sweep": lambda: scores.plot_threshold_sweep({"CAM": SWEEP}),
    "plot_token_similarity": lambda: scores.plot_token_similarity(torch.eye(2), CLASSES),
}


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def drawn(ax):
    """What an axes shows: the array of its uppermost picture."""
    return np.asarray(ax.images[-1].get_array())


def legend(figure):
    (found,) = figure.legends
    return {
        text.get_text(): tuple(np.rint(np.array(patch.get_facecolor()[:3]) * 255).astype(int))
        for text, patch in zip(found.get_texts(), found.get_patches(), strict=True)
    }


def decoded(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_shows_itself_and_leaves_no_trace(name):
    settings = dict(matplotlib.rcParams)
    figure = FIGURES[name]()
    assert isinstance(figure, Figure) and figure.get_suptitle()
    bundle = figure._repr_mimebundle_()
    height, width, _ = decoded(bundle["image/png"]).shape
    assert len(bundle["image/png"]) <= 200_000 and width <= 900 and height > 100
    assert plt.get_fignums() == [] and dict(matplotlib.rcParams) == settings


def test_notebooks_show_figures_by_themselves():
    formatters = pytest.importorskip("IPython.core.formatters")
    data, _ = formatters.DisplayFormatter().format(FIGURES["show_maps"]())
    assert data["image/png"].startswith(b"\x89PNG")
    assert data["text/plain"] == "<Picture size 690x290 with 4 Axes>"  # no address


def test_noisy_figures_lose_low_bits_and_no_others_do(monkeypatch):
    noisy = viz.show_images([image(), image(1)], title="noise")
    noisy.savefig(exact := io.BytesIO(), format="png")
    np.testing.assert_array_equal(decoded(noisy.png()), decoded(exact.getvalue()))
    monkeypatch.setattr(canvas, "MAX_PNG", len(noisy.png()) * 9 // 10)
    small = noisy.png()
    assert len(small) <= canvas.MAX_PNG
    difference = decoded(small).astype(int) - decoded(exact.getvalue())
    assert 0 < np.abs(difference).max() <= 9  # half a step of 4 bits


def test_class_colours_are_vocs():
    assert canvas.class_colors(CLASSES).tolist() == [[0, 0, 0], list(CAT), list(DOG)]
    np.testing.assert_array_equal(canvas.class_colors(VOC_CLASSES), PALETTE[:21])
    # Other data has classes that VOC lacks: all different, in VOC's order.
    np.testing.assert_array_equal(canvas.class_colors(("cat", "unicorn")), PALETTE[:3])


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list])
def test_colorize(kind):
    values = [[0, 1], [2, 255]]
    expected = [[[0, 0, 0], list(CAT)], [list(DOG), list(CREAM)]]
    colours = viz.colorize(kind(values), CLASSES)
    assert colours.tolist() == expected and colours.dtype == np.uint8


@pytest.mark.parametrize("values", [[[3]], [[-1]], [[0.5]], [[254]]])
def test_colorize_refuses_what_is_no_mask(values):
    with pytest.raises(InputError, match="give integers from 0 to 2, and 255"):
        viz.colorize(np.array(values), CLASSES)


def test_summary():
    values = torch.tensor([[0.0, 1.0, 0.5], [-0.004, 0.25, 1.0]], requires_grad=True)
    assert viz.summary(values) == "shape (2, 3), min 0.00, mean 0.46, max 1.00"
    assert viz.summary([3]) == "shape (1,), min 3.00, mean 3.00, max 3.00"
    assert viz.summary(np.array([1, np.nan])) == "shape (2,), min nan, mean nan, max nan"


def test_any_kind_of_image_is_drawn_alike():
    pixels = (image() * 255).astype(np.uint8)
    scaled = torch.from_numpy(pixels / 255).permute(2, 0, 1)
    kinds = [pixels, Image.fromarray(pixels), scaled, scaled.float(), torch.from_numpy(pixels)]
    figure = viz.show_images(kinds)
    for ax in figure.axes:
        np.testing.assert_allclose(drawn(ax), pixels / 255, atol=1e-6)


@pytest.mark.parametrize(
    "broken, message",
    [
        (image() * 4 - 2, "denormalize it first"),
        (image()[..., 0], r"shape \(16, 24\)"),
        (image()[..., :2], r"shape \(24, 2, 16\)|shape \(2, 16, 24\)"),
    ],
)
def test_what_is_no_image(broken, message):
    with pytest.raises(InputError, match=message):
        viz.show_images([broken])


def test_nothing_to_draw():
    with pytest.raises(InputError, match="nothing to draw"):
        viz.show_images([])


def test_many_images_wrap():
    figure = viz.show_images([image()] * 9, [f"image {i}" for i in range(9)])
    assert titles(figure) == [f"image {i}" for i in range(9)] and len(figure.axes) == 9
    rows = {ax.get_subplotspec().rowspan.start for ax in figure.axes}
    assert rows == {0, 1}


def test_dataset_panels_and_legend():
    figure = viz.show_dataset([image(), image(1)], [mask(1), mask(2, 255)], CLASSES, ["a", "b"])
    assert titles(figure) == ["a", "b"] and len(figure.axes) == 4
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()] == ["image", "mask"]
    assert tuple(drawn(figure.axes[2])[0, 0]) == CAT
    assert tuple(drawn(figure.axes[3])[1, 0]) == CREAM
    assert legend(figure) == {"background": (0, 0, 0), "cat": CAT, "dog": DOG, "not counted": CREAM}


def test_legend_names_only_what_is_there():
    figure = viz.show_dataset([image()], [mask(2)], CLASSES)
    assert list(legend(figure)) == ["background", "dog"]


def test_maps_share_one_scale_over_the_whole_image():
    low, high = maps(2, 3) - 1, maps(16, 24) * 3
    figure = viz.show_maps(image(), {"LAM": low, "CAM": high})
    *panels, bar = figure.axes
    assert titles(figure) == ["image", "LAM", "CAM"] and bar.get_ylabel() == "map value"
    limits = (float(low.min()), float(high.max()))
    for ax in panels[1:]:
        assert ax.images[-1].get_clim() == pytest.approx(limits)
        assert tuple(ax.images[-1].get_extent()) == (-0.5, 23.5, 15.5, -0.5)
    assert bar.get_ylim() == pytest.approx(limits)
    np.testing.assert_allclose(drawn(panels[1]), low)


def test_constant_maps_are_drawn(recwarn):
    figure = viz.show_maps(image(), {"nothing": torch.zeros(2, 3)})
    assert figure.png() and not recwarn.list


def test_comparison_shows_each_rows_class():
    cams = maps(3, 2, 4, 6)
    figure = viz.compare_localization(
        [image(seed) for seed in range(3)], [mask(1), mask(2), mask(1, 2)],
        {"CAM": cams, "decoder": torch.stack([torch.from_numpy(mask(2))] * 3)}, CLASSES, [0, 1, 1],
    )  # fmt: skip
    assert titles(figure) == ["image", "CAM", "decoder", "ground truth"]
    grid = np.array(figure.axes[:12]).reshape(3, 4)
    assert [ax.get_ylabel() for ax in grid[:, 0]] == ["cat", "dog", "dog"]
    for row, index in enumerate([0, 1, 1]):
        np.testing.assert_allclose(drawn(grid[row, 1]), cams[row, index])
        assert tuple(drawn(grid[row, 2])[0, 0]) == DOG
    assert tuple(drawn(grid[2, 3])[0, 0]) == CAT and tuple(drawn(grid[2, 3])[1, 0]) == DOG
    assert len(figure.axes) == 13  # and the colour bar


def test_comparison_of_masks_alone_needs_no_colour_bar():
    figure = viz.compare_localization([image()], [mask(1)], {"CAM": [mask(1)]}, CLASSES, [0])
    assert len(figure.axes) == 3


def test_heads():
    figure = viz.plot_attention_heads(image(), maps(3, 2, 3))
    assert titles(figure) == ["image", "head 1", "head 2", "head 3"]


def test_patch_grid():
    figure = viz.plot_patch_grid(image(), 8)
    assert figure.get_suptitle() == "2 × 3 = 6 patches of 8 × 8 pixels"
    across, down = (lines.get_segments() for lines in figure.axes[1].collections)
    assert [line[0][0] for line in across] == [7.5, 15.5] and [line[0][1] for line in down] == [7.5]
    for patch in (5, 0):
        with pytest.raises(InputError, match=f"patch of {patch} does not divide .* 16x24"):
            viz.plot_patch_grid(image(), patch)


def test_training_curves():
    losses, rate = scores.plot_training(LOG).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in losses.lines}
    assert lines == {"classification": [[10, 0.7], [20, 0.4]], "total": [[10, 3.0], [20, 2.0]]}
    assert rate.lines[0].get_xydata().tolist() == [[10, 1e-4], [20, 2e-4]]
    assert losses.get_xlabel() == rate.get_xlabel() == "iteration"


def test_iou_bars():
    figure = scores.plot_iou_per_class(IOUS, CLASSES)
    (ax,) = figure.axes
    good, bad = ([bar.get_width() for bar in bars] for bars in ax.containers)
    np.testing.assert_allclose(good, [80, 75, 60])
    np.testing.assert_allclose(bad, [50, 40, np.nan])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["background", *CLASSES]
    assert [line.get_xdata()[0] for line in ax.lines] == pytest.approx([215 / 3, 45])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "CAM: mIoU 71.7",
        "LAM: mIoU 45.0",
    ]
    with pytest.raises(InputError, match="3 classes"):
        scores.plot_iou_per_class({"CAM": [0.5, 0.5]}, CLASSES)
    with pytest.raises(InputError, match="at least once"):
        scores.plot_iou_per_class({}, CLASSES)


def test_confusion_is_normalised_by_row():
    figure = scores.plot_confusion(torch.tensor([[6, 2, 0], [1, 1, 2], [0, 0, 0]]), CLASSES)
    shown = np.ma.filled(figure.axes[0].collections[0].get_array(), np.nan).reshape(3, 3)
    np.testing.assert_allclose(shown, [[75, 25, 0], [25, 25, 50], [np.nan] * 3])
    assert [text.get_text() for text in figure.axes[0].texts[:3]] == ["75", "25", "0"]
    assert figure.axes[0].get_ylabel() == "true class"
    with pytest.raises(InputError, match=r"\(2, 2\), but there are 3"):
        scores.plot_confusion(np.eye(2), CLASSES)


def test_sweep_marks_the_best_threshold():
    (ax,) = scores.plot_threshold_sweep({"CAM": SWEEP}).axes
    curve, best = ax.lines
    np.testing.assert_allclose(curve.get_xydata(), [[0.2, 30], [0.4, 70], [0.6, 30]])
    np.testing.assert_allclose(best.get_xydata(), [[0.4, 70]])
    assert ax.get_legend().get_texts()[0].get_text() == "CAM: best 70.0 at 0.4"


def test_similarity_keeps_the_cosines_scale():
    figure = scores.plot_token_similarity(torch.tensor([[1.0, 0.25], [0.25, 1.0]]), CLASSES)
    assert figure.axes[0].collections[0].get_clim() == (-1, 1)
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", "0.25", "0.25", "1.00"]
