"""Figures of numbers draw the numbers they are given, and refuse what they lack."""

import numpy as np
import pytest
import torch

from more_lib.figures import scores
from more_lib.paper.ablation import CONDITIONS, MAIN
from more_lib.system.errors import InputError
from tests.figures.helpers import CLASSES, each_shows_itself, legend, texts

MATRIX = [[8, 2, 2], [4, 4, 0], [0, 0, 0]]
IOUS = {"CAM": [0.8, 0.75, 0.6], "LAM": [0.5, 0.4, np.nan]}
SWEEP = {0.2: 0.3, 0.4: 0.7, 0.6: 0.3}
LOG = [
    {"iteration": 10, "lr": 1e-4, "classification": 0.7, "total": 3.0, "images_per_second": 9.0},
    {"iteration": 20, "lr": 2e-4, "classification": 0.4, "total": 2.0, "images_per_second": 8.0},
]


def rows(std=False, **changes):
    """LAM and CAM of the main conditions; ``changes`` replace values of the baseline's LAM."""
    table = []
    for index, name in enumerate(MAIN):
        cells = {"miou": 0.1 + 0.2 * index, "confusion_ratio": 6.0 - 2 * index, "token_map": 0.9}
        spread = {"miou_std": 0.02, "confusion_ratio_std": 0.5, "token_map_std": 0.01}
        spread = spread if std else {}
        title = CONDITIONS[name].title
        table += [{"title": title, "map": kind, **cells, **spread} for kind in ("LAM", "CAM")]
    table[0] |= changes
    return table


FIGURES = {
    "plot_training": lambda: scores.plot_training(LOG),
    "plot_iou_per_class": lambda: scores.plot_iou_per_class(IOUS, CLASSES),
    "plot_confusion": lambda: scores.plot_confusion(MATRIX, CLASSES),
    "plot_threshold_sweep": lambda: scores.plot_threshold_sweep({"CAM": SWEEP}),
    "plot_token_similarity": lambda: scores.plot_token_similarity(torch.eye(2), CLASSES),
    "plot_ablation": lambda: scores.plot_ablation(rows()),
    "plot_ablation of one value": lambda: scores.plot_ablation(
        [{"title": "more", "map": "LAM", "miou": 0.0, "confusion_ratio": None}]
    ),
}

test_every_figure_shows_itself_and_leaves_no_trace = each_shows_itself(FIGURES)


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
    assert legend(figure) == ["CAM: mIoU 71.7", "LAM: mIoU 45.0"]
    few = scores.plot_iou_per_class({"CAM": [0.5, 0.5]}, CLASSES[:1])
    few.canvas.draw()
    assert few.axes[0].get_window_extent().height > 150  # pixels: two bars and their names
    for given in ({"CAM": [0.5, 0.5]}, {}):
        with pytest.raises(InputError, match="3 classes.* at least once"):
            scores.plot_iou_per_class(given, CLASSES)


def test_confusion_is_normalised_by_row():
    figure = scores.plot_confusion(torch.tensor([[6, 2, 0], [1, 1, 2], [0, 0, 0]]), CLASSES)
    shown = np.ma.filled(figure.axes[0].collections[0].get_array(), np.nan).reshape(3, 3)
    np.testing.assert_allclose(shown, [[75, 25, 0], [25, 25, 50], [np.nan] * 3])
    assert texts(figure.axes[0])[:3] == ["75", "25", "0"]
    assert figure.axes[0].get_ylabel() == "true class"
    with pytest.raises(InputError, match=r"\(2, 2\), but there are 3"):
        scores.plot_confusion(np.eye(2), CLASSES)


def test_sweep_marks_the_best_threshold():
    (ax,) = scores.plot_threshold_sweep({"CAM": SWEEP}).axes
    curve, best = ax.lines
    np.testing.assert_allclose(curve.get_xydata(), [[0.2, 30], [0.4, 70], [0.6, 30]])
    np.testing.assert_allclose(best.get_xydata(), [[0.4, 70]])
    assert ax.get_legend().get_texts()[0].get_text() == "CAM: best 70.0 at 0.4"
    (ax,) = scores.plot_threshold_sweep({"CAM": {0.1: np.nan} | SWEEP}).axes
    assert ax.get_legend().get_texts()[0].get_text() == "CAM: best 70.0 at 0.4"


def test_similarity_keeps_the_cosines_scale():
    figure = scores.plot_token_similarity(torch.tensor([[1.0, 0.25], [0.25, 1.0]]), CLASSES)
    assert figure.axes[0].collections[0].get_clim() == (-1, 1)
    assert texts(figure.axes[0]) == ["1.00", "0.25", "0.25", "1.00"]


def test_a_bar_a_condition_for_each_score():
    figure = scores.plot_ablation(rows())
    assert "LAM" in figure.get_suptitle()
    left = figure.axes[0]
    widths = [[bar.get_width() for bar in ax.patches] for ax in figure.axes]
    wanted = [10, 30, 50], [6, 4, 2], [90, 90, 90]
    assert widths == [pytest.approx(each) for each in wanted]
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names == [CONDITIONS[name].title for name in MAIN]
    assert texts(left) == ["10.0", "30.0", "50.0"]
    assert not left.containers[0].errorbar


def test_several_seeds_get_error_bars():
    left, middle, right = scores.plot_ablation(rows(std=True), "CAM", "All").axes
    assert left.containers[-1].errorbar is not None
    assert texts(left)[0] == "10.0 ± 2.0" and texts(middle)[0] == "6.00 ± 0.50"
    assert texts(right)[0] == "90.0 ± 1.0"


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("missing", [None, np.nan])
def test_a_score_without_a_value_is_written_out(spread, missing):
    names = "miou", "confusion_ratio", "token_map"
    lost = dict.fromkeys([*names, *(f"{name}_std" for name in names)], missing)
    axes = scores.plot_ablation(rows(spread, **lost)).axes
    assert [texts(ax)[0] for ax in axes] == ["no value"] * 3
    assert axes[1].patches[0].get_width() == 0
    assert len(texts(axes[0])[1]) == (10 if spread else 4)


def test_a_map_that_no_row_has_is_refused():
    for given, kinds in (([], "none"), (rows(), "LAM, CAM")):
        with pytest.raises(InputError, match=f"no row of map 'decoder' .*there are: {kinds}"):
            scores.plot_ablation(given, "decoder")
