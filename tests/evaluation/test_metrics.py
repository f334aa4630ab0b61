import json
import warnings

import numpy as np
import pytest
import torch

from more_lib.evaluation.metrics import average_precision, confusion_matrix, mean_of_finite, scores
from more_lib.system.errors import InputError
from tests.method.helpers import golden

# Three classes counted by hand; rows are the truth.
#   class 0: TP 4, FP 2, FN 1   class 1: TP 3, FP 1, FN 4   class 2: TP 1, FP 3, FN 1
MATRIX = [[4, 1, 0], [1, 3, 3], [1, 0, 1]]
PER_CLASS = ("iou", "precision", "recall", "confusion_ratio")


def random_masks(seed: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(num_classes, (2, 9, 7), generator=generator)
    target = torch.randint(num_classes, (2, 9, 7), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return prediction, target


@pytest.mark.parametrize(
    ("prediction", "target", "ignored", "counts"),
    [
        (
            [[0, 1, 2], [2, 1, 0]],
            [[1, 1, 255], [1, 255, 0]],
            255,
            [[1, 0, 0], [1, 1, 1], [0, 0, 0]],
        ),
        ([1, 255, 0], [1, 255, 255], 255, [[0, 0], [0, 1]]),
        ([255] * 3, [255] * 3, 255, [[0, 0], [0, 0]]),
        ([0, 1, 2, 0], [0, 0, 2, 1], 0, [[0, 0, 0], [1, 0, 0], [0, 0, 1]]),
    ],
    ids=["by hand", "some left open", "all left open", "a class is ignored"],
)
def test_matrix_by_hand(prediction, target, ignored, counts):
    matrix = confusion_matrix(torch.tensor(prediction), torch.tensor(target), len(counts), ignored)
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == counts


@pytest.mark.parametrize("seed", range(3))
def test_matrix_equals_a_count_pixel_by_pixel(seed):
    prediction, target = random_masks(seed, 21)
    expected = np.zeros((21, 21), dtype=int)
    for guess, truth in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True):
        if truth != 255:
            expected[truth, guess] += 1
    assert np.array_equal(confusion_matrix(prediction, target, 21).numpy(), expected)
    for dtype in (np.uint8, np.int16, np.uint16, np.int32):
        small = confusion_matrix(prediction.numpy().astype(dtype), target.numpy().astype(dtype), 21)
        assert np.array_equal(small.numpy(), expected)


@pytest.mark.parametrize(
    ("measure", "given", "told"),
    [
        (confusion_matrix, ([0, 3], [0, 1], 3), "prediction holds 3"),
        (confusion_matrix, ([0, -1], [0, 1], 3), "prediction holds -1"),
        (confusion_matrix, ([0, 255], [0, 1], 3), "prediction holds 255"),
        (confusion_matrix, ([0, 7], [0, 255], 3), "prediction holds 7"),
        (confusion_matrix, ([0, 1], [0, 3], 3), "target holds 3"),
        (confusion_matrix, ([0, 1], [0, -1], 3), "target holds -1"),
        (confusion_matrix, ([0, 1, 2], [0, 1], 3), "differ in shape"),
        (confusion_matrix, ([0.0, 1.0], [0, 1], 3), "prediction is torch.float32"),
        (confusion_matrix, ([0, 1], [True, False], 3), "target is torch.bool"),
        (scores, ([[1, 2]],), "confusion matrix"),
        (scores, ([1, 2],), "confusion matrix"),
        (scores, ([[1, -1], [0, 1]],), "confusion matrix"),
        (scores, ([[1.0, np.nan], [0, 1]],), "confusion matrix"),
        (average_precision, (np.zeros((3, 2)), np.zeros((3, 1))), "scores"),
        (average_precision, (np.zeros(3), np.zeros(3)), "scores"),
        (average_precision, (np.full((3, 2), np.nan), np.zeros((3, 2))), "nan or inf"),
        (average_precision, (np.zeros((3, 2)), np.full((3, 2), 2)), "labels hold"),
    ],
)
def test_bad_input_is_refused_in_one_line(measure, given, told):
    with pytest.raises(InputError, match=told) as caught:
        measure(*given)
    assert "\n" not in str(caught.value)


def test_scores_by_hand():
    result = scores(MATRIX)
    np.testing.assert_allclose(result.iou, [4 / 7, 3 / 8, 1 / 5])
    np.testing.assert_allclose(result.precision, [4 / 6, 3 / 4, 1 / 4])
    np.testing.assert_allclose(result.recall, [4 / 5, 3 / 7, 1 / 2])
    np.testing.assert_allclose(result.confusion_ratio, [2 / 4, 1 / 3, 3 / 1])
    assert {getattr(result, name).dtype for name in PER_CLASS} == {np.dtype(np.float64)}
    assert result.summary() == {
        "miou": pytest.approx((4 / 7 + 3 / 8 + 1 / 5) / 3),
        "precision": pytest.approx((4 / 6 + 3 / 4 + 1 / 4) / 3),
        "recall": pytest.approx((4 / 5 + 3 / 7 + 1 / 2) / 3),
        "confusion_ratio": pytest.approx((1 / 3 + 3) / 2),  # without the background
        "pixel_accuracy": pytest.approx(8 / 14),
        "classes_without_hits": 0,
    }
    assert result.summary()["miou"] == result.miou


def test_classes_without_pixels_or_hits():
    # 1 hit; 2 predicted but never true; 3 true but never predicted; 4 in neither; 5 always wrong
    matrix = np.zeros((6, 6), dtype=int)
    matrix[0, 0], matrix[1, 1], matrix[0, 1] = 10, 4, 2
    matrix[0, 2], matrix[3, 0], matrix[5, 0], matrix[0, 5] = 1, 3, 2, 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = scores(matrix)
    nan, inf = np.nan, np.inf
    np.testing.assert_allclose(result.iou, [10 / 24, 4 / 6, 0, 0, nan, 0])
    np.testing.assert_allclose(result.precision, [10 / 15, 4 / 6, 0, nan, nan, 0])
    np.testing.assert_allclose(result.recall, [10 / 19, 1, nan, 0, nan, 0])
    np.testing.assert_allclose(result.confusion_ratio, [5 / 10, 2 / 4, inf, nan, nan, inf])
    assert result.miou == pytest.approx((10 / 24 + 4 / 6) / 5)
    summary = result.summary()
    assert summary["confusion_ratio"] == 0.5
    assert summary["classes_without_hits"] == 3
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_summary_of_nothing_and_of_all_right():
    empty = scores(np.zeros((3, 3), dtype=int)).summary()
    assert empty == {**dict.fromkeys(empty), "classes_without_hits": 0}
    target = torch.arange(4).repeat(5)
    perfect = dict.fromkeys(("miou", "precision", "recall", "pixel_accuracy"), 1)
    summary = scores(confusion_matrix(target, target, 4)).summary()
    assert summary == {**perfect, "confusion_ratio": 0, "classes_without_hits": 0}


def test_golden_scores():
    expected = golden("metrics_301")
    result = scores(confusion_matrix(expected["pred"], expected["gt"], int(expected["k"])))
    for name in (*PER_CLASS, "miou", "pixel_accuracy"):
        np.testing.assert_allclose(getattr(result, name), expected[name], rtol=1e-9)


def test_average_precision_by_hand():
    # Class 0 ranked best first: right, wrong, right, wrong. Class 1: all right. Class 2: no image.
    ranking = torch.tensor([[0.9, 5.0, 0.1], [0.8, -1.0, 0.2], [0.7, 7.0, 0.3], [0.1, -2.0, 0.4]])
    labels = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]])
    result = average_precision(ranking, labels)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, [(1 + 2 / 3) / 2, 1.0, np.nan])


def test_average_precision_depends_on_the_ranking_alone():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, 4, generator=generator)
    labels = torch.randint(2, (30, 4), generator=generator)
    expected = average_precision(logits, labels)
    order = torch.randperm(30, generator=generator)
    np.testing.assert_allclose(average_precision(logits[order], labels[order]), expected)
    np.testing.assert_allclose(average_precision(logits.exp(), labels.bool()), expected)


def test_classes_that_the_data_do_not_have_enter_no_mean():
    """Pixels taken for one of them still count against the class that they belong to."""
    found = scores([[6, 0, 2], [1, 3, 4], [0, 0, 0]], absent=[2])
    np.testing.assert_allclose(found.iou, [6 / 9, 3 / 8, np.nan])
    np.testing.assert_allclose(found.precision, [6 / 7, 1, np.nan])
    np.testing.assert_allclose(found.recall, [6 / 8, 3 / 8, np.nan])
    assert found.miou == pytest.approx((6 / 9 + 3 / 8) / 2)
    assert found.pixel_accuracy == 9 / 16 and found.summary()["classes_without_hits"] == 0


def test_the_mean_of_nothing_is_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(mean_of_finite(average_precision(np.zeros((2, 3)), np.zeros((2, 3)))))
    assert mean_of_finite(np.array([1, np.nan, 2, np.inf])) == 1.5
