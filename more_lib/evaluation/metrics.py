"""From masks to numbers: confusion matrix, IoU, the paper's confusion ratio, mAP (notebook 06)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.errors import InputError
from more_lib.system.shapes import check_shapes


@dataclass(frozen=True, eq=False)
class Scores:
    """What a confusion matrix says; K classes, index 0 is the background.

    iou (K,): TP / (TP + FP + FN); nan for a class in neither target nor prediction, hence 0 for
        one that is predicted although it never occurs.
    precision (K,): TP / (TP + FP); nan for a class never predicted.
    recall (K,): TP / (TP + FN); nan for a class that never occurs in the target.
    confusion_ratio (K,): FP / TP, the paper's measure of false activation (notebook 02);
        inf without hits (TP = 0, FP > 0), nan when FP = TP = 0.
    miou: mean of ``iou`` over the classes that have one, background included.
    pixel_accuracy: share of the counted pixels whose class is right; nan without any.
    Arrays are float64; all values are fractions, not per cent.
    """

    iou: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    confusion_ratio: np.ndarray
    miou: float
    pixel_accuracy: float

    def summary(self) -> dict[str, float | int | None]:
        """Single numbers, fit for JSON: a mean that nothing enters is None.

        ``precision`` and ``recall`` are means over all classes that have one, background included.
        ``confusion_ratio`` is the mean over the foreground classes with TP > 0, for a class
        without hits has no finite ratio. How many classes that hides is
        ``classes_without_hits``: foreground classes in target or prediction whose TP is 0.
        """
        ratio = self.confusion_ratio[1:]
        without_hits = ~np.isfinite(ratio) & ~np.isnan(self.iou[1:])
        means = {
            "miou": self.miou,
            "precision": mean_of_finite(self.precision),
            "recall": mean_of_finite(self.recall),
            "confusion_ratio": mean_of_finite(ratio),
            "pixel_accuracy": self.pixel_accuracy,
        }
        numbers = {name: None if np.isnan(mean) else mean for name, mean in means.items()}
        return {**numbers, "classes_without_hits": int(without_hits.sum())}


def confusion_matrix(
    prediction: Tensor | ArrayLike,
    target: Tensor | ArrayLike,
    num_classes: int,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Count pixels by true class (rows) and predicted class (columns): (K, K) int64.

    prediction, target: integer masks of one shape, any shape, on one device; values
    0..num_classes-1, background being 0. Pixels whose target is ``ignore_index`` are left out, and
    only there may the prediction be ``ignore_index``: to drop the pixels that a prediction leaves
    open would flatter it. Matrices of several images add up.

    Raises ``InputError`` for shapes that differ, masks that are not integer and any other value.
    """
    prediction, target = torch.as_tensor(prediction), torch.as_tensor(target)
    for name, mask in (("prediction", prediction), ("target", target)):
        if mask.is_floating_point() or mask.is_complex() or mask.dtype == torch.bool:
            raise InputError(f"{name} is {mask.dtype}; give a mask of integer class numbers")
    prediction, target = prediction.long(), target.long()
    if prediction.shape != target.shape:
        shapes = f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)}"
        raise InputError(f"{shapes} differ in shape; resize one of them")
    counted = target != ignore_index
    judged = counted | (prediction != ignore_index)
    for name, values in (("target", target[counted]), ("prediction", prediction[judged])):
        strange = values[(values < 0) | (values >= num_classes)]
        if strange.numel():
            raise InputError(
                f"{name} holds {int(strange[0])}; expected 0 to {num_classes - 1}, or "
                f"{ignore_index} where the target is ignored; check the mask's source and "
                "num_classes"
            )
    # torchmetrics counts the same way, but mistakes a prediction out of range for another class
    # and needs (pixels, K * K) memory once deterministic algorithms are switched on.
    pairs = target[counted] * num_classes + prediction[counted]
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(matrix: Tensor | ArrayLike, absent: Sequence[int] = ()) -> Scores:
    """Per-class and mean scores of a (K, K) confusion matrix with the targets in rows.

    absent: classes that the data do not have. Their scores are nan and enter no mean; pixels that
    are taken for one of them still count against the class that they belong to.

    Raises ``InputError`` when the matrix is not square or holds negative or non-finite counts.
    """
    counts = torch.as_tensor(matrix).cpu().numpy().astype(np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise InputError(f"a confusion matrix is square (K, K), this one is {counts.shape}")
    if not np.all(np.isfinite(counts) & (counts >= 0)):
        raise InputError("the confusion matrix holds negative or non-finite counts; count again")
    hits = counts.diagonal()
    false_positives = counts.sum(axis=0) - hits
    false_negatives = counts.sum(axis=1) - hits
    with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 is nan and n/0 inf, as documented
        precision, recall = hits / (hits + false_positives), hits / (hits + false_negatives)
        iou = hits / (hits + false_positives + false_negatives)
        ratio = false_positives / hits
        for values in (iou, precision, recall, ratio):
            values[list(absent)] = np.nan
        return Scores(
            iou=iou,
            precision=precision,
            recall=recall,
            confusion_ratio=ratio,
            miou=mean_of_finite(iou),
            pixel_accuracy=float(hits.sum() / counts.sum()),
        )


def average_precision(scores: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> np.ndarray:
    """Average precision of image-level scores, class by class: (C,) float64, nan without positives.

    scores: (N, C) real, larger means more likely; logits will do. labels: (N, C) of 0 and 1.
    The mean over the classes that are not nan is the mAP (``mean_of_finite``). It is the area
    under the precision-recall steps, without VOC 2007's interpolation.

    Raises ``InputError`` for shapes that differ, labels other than 0 and 1, non-finite scores.
    """
    from sklearn.metrics import average_precision_score  # a second, which kept scores do not need

    given = (scores, labels)
    scores, labels = (torch.as_tensor(each).detach().cpu().double().numpy() for each in given)
    check_shapes(scores=(scores, "images classes"), labels=(labels, "images classes"))
    if not np.isfinite(scores).all():
        raise InputError("scores hold nan or inf; check the model's logits")
    if not np.isin(labels, (0, 1)).all():
        raise InputError("labels hold values other than 0 and 1; give multi-hot image labels")
    each = zip(labels.T, scores.T, strict=True)
    return np.array([average_precision_score(y, z) if y.any() else np.nan for y, z in each])


def mean_of_finite(values: np.ndarray) -> float:
    """The mean of the values that are finite; nan if none is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
