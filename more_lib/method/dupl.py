"""DuPL (Wu et al., CVPR 2024): what it has beyond MoRe's part, two students that label each other.

A discrepancy keeps the students different, the foreground threshold falls, a mixture model on the
losses drops labels that look wrong, and what was dropped learns by consistency under a strong view.
Patch-token contrast, refinement and the decoder's loss are MoRe's; the pieces here are put together
by the objective.

Where the paper differs from the released code a keyword says so; defaults are the release's.
"""

import math
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial, reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from more_lib.method.localization import resized
from more_lib.method.model import MoRe, MoReOutput
from more_lib.method.vit import ClassTokenViT
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.precision import at_least_float32, no_autocast
from more_lib.system.processes import mean_over_batch
from more_lib.system.shapes import check_shapes


class DualStudent(nn.Module):
    """Two networks of one architecture: encoders that start alike, heads that do not.

    encoder: the pretrained one, with a single class token; the second student gets a copy.
    """

    def __init__(self, encoder: ClassTokenViT, num_classes: int, decoder_width: int = 512) -> None:
        super().__init__()
        encoders = (encoder, deepcopy(encoder))
        students = (MoRe(each, decoder_width, num_classes=num_classes) for each in encoders)
        self.students = nn.ModuleList(students)

    def forward(self, images: Tensor) -> tuple[MoReOutput, MoReOutput]:
        """Each student's output for the same ``images`` (B, 3, H, W), normalised."""
        first, second = (student(images) for student in self.students)
        return first, second


def discrepancy_loss(
    f1: Tensor,
    f2: Tensor,
    form: Literal["sum", "log"] = "sum",
    along: Literal["patches", "channels"] = "patches",
) -> Tensor:
    """How alike two students' features are: each learns to differ from the other (L_dis).

    2 + mean cos(sg f1, f2) + mean cos(sg f2, f1): near 4 for students that are alike, 0 for
    opposite ones. The cosine is one of two rows of N patches, for every image and channel.

    f1, f2: (B, D, h, w), final features. form: "log", the paper's -log(1 - cos) instead of 1 + cos;
    1 - cos is 1e-6 at least, as students start alike. along: "channels" takes one cosine a patch.
    Returns a scalar. Raises ``InputError`` when the shapes differ.
    """
    check_shapes(f1=(f1, "B D h w"), f2=(f2, "B D h w"))
    dim = 2 if along == "patches" else 1
    with no_autocast(f1):
        f1, f2 = (at_least_float32(features).flatten(2) for features in (f1, f2))
        pairs = (f1.detach(), f2), (f2.detach(), f1)
        cosines = [F.cosine_similarity(*pair, dim=dim, eps=1e-6) for pair in pairs]
        if form == "log":
            return sum(-(1 - cosine).clamp(min=1e-6).log().mean() for cosine in cosines)
        return 2 + sum(cosine.mean() for cosine in cosines)


def falling_threshold(
    step: int, steps: int, start: Tensor | float, end: Tensor | float
) -> Tensor | float:
    """The foreground threshold at ``step`` of ``steps``: from start to end along half a cosine.

    start + (end - start) (1 - cos(pi step / (steps - 1))) / 2; ``start`` before step 0, ``end``
    from ``steps`` on. start, end: numbers, or tensors (C,) with a value for each class, as
    released. Returns what they are.
    """
    if step < 0:
        return start
    if step >= steps:
        return end
    return start + (end - start) * (1 - math.cos(math.pi * step / max(steps - 1, 1))) / 2


def image_thresholds(by_class: Tensor, labels: Tensor) -> Tensor:
    """(B,) each image's threshold: the largest of its classes, of all classes where it has none.

    by_class: (C,). labels: (B, C) of 0 and 1. Raises ``InputError`` when the shapes do not fit.
    """
    check_shapes(by_class=(by_class, "C"), labels=(labels, "B C"))
    present = labels > 0
    counted = present | ~present.any(dim=1, keepdim=True)
    return by_class.expand(len(labels), -1).masked_fill(~counted, -torch.inf).amax(dim=1)


DRAWS = 5  # of the strong view's operations, for each image
STRONG: tuple[Callable[[Tensor], Tensor], ...] = (
    tv.autocontrast,
    tv.equalize,
    partial(tv.posterize, bits=2),
    partial(tv.adjust_saturation, saturation_factor=0.7),
    partial(tv.adjust_contrast, contrast_factor=0.7),
    partial(tv.adjust_brightness, brightness_factor=0.7),
    partial(tv.adjust_sharpness, sharpness_factor=0.7),
)


def strong_view(pictures: Tensor, draws: Tensor) -> Tensor:
    """RandAugment: to each image one of ``STRONG`` after the other, drawn with replacement.

    pictures: (B, 3, H, W) in [0, 1], rounded to bytes. draws: (B, n) uniform in [0, 1), which
    choose them. Returns what ``pictures`` are.
    """
    chosen = (len(STRONG) * draws).long().tolist()
    images = (255 * pictures).round().byte()
    images = [
        reduce(lambda image, number: STRONG[number](image), numbers, image)
        for image, numbers in zip(images, chosen, strict=True)
    ]
    return torch.stack(images).to(pictures.dtype) / 255


@torch.no_grad()
def noise_filter(
    logits: Tensor,
    mask: Tensor,
    least: int = 1000,
    floor: float = 0.1,
    gap: float = 1.0,
    posterior: float = 0.95,
) -> Tensor:
    """A student's pixel labels without those that it cannot believe: they become 255.

    Per image: to the cross-entropies above ``floor`` of foreground pixels, if they are more than
    ``least``, a mixture of two normal distributions is fitted. If its means lie more than ``gap``
    apart, foreground pixels whose posterior of the component with the larger mean exceeds
    ``posterior`` are dropped; the background's labels never are.

    logits: (B, C + 1, h, w), of the decoder, resized bilinearly to the mask's size. mask: (B, H, W)
    int64 in 0..C or 255, unchanged. Returns the filtered mask. The fit is scikit-learn's, on the
    CPU, and the same each time. Raises ``InputError`` when the shapes do not fit.
    """
    check_shapes(logits=(logits, "B K h w"), mask=(mask, "B H W"))
    logits = resized(at_least_float32(logits), mask.shape[1:])
    losses = F.cross_entropy(logits, mask, ignore_index=IGNORE_INDEX, reduction="none")
    foreground = (mask != 0) & (mask != IGNORE_INDEX) & losses.isfinite()
    filtered = mask.clone()
    for target, loss, pixels in zip(filtered, losses, foreground, strict=True):
        every = loss[pixels].cpu()
        if (every > floor).sum() > max(least, 1):  # two components need two values
            noisy = _noisy(every, every > floor, gap) > posterior
            target[pixels] = target[pixels].masked_fill_(noisy.to(mask.device), IGNORE_INDEX)
    return filtered


def _noisy(losses: Tensor, fitted: Tensor, gap: float) -> Tensor:
    """(P,) the posterior of the larger-mean component for each of ``losses`` (P,), 0 without gap.

    fitted: (P,) bool, of which values the mixture is made.
    """
    from sklearn.exceptions import ConvergenceWarning  # seconds to import; DuPL alone needs it
    from sklearn.mixture import GaussianMixture

    values = losses.numpy()[:, None]
    mixture = GaussianMixture(2, tol=1e-2, reg_covar=5e-4, max_iter=10, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten iterations are meant
        mixture.fit(values[fitted.numpy()])
    means = mixture.means_[:, 0]
    if abs(means[0] - means[1]) <= gap:
        return torch.zeros_like(losses)
    return torch.from_numpy(mixture.predict_proba(values)[:, means.argmax()])


def consistency_loss(weak: Tensor, strong: Tensor, mask: Tensor, confidence: float = 0.9) -> Tensor:
    """What labels leave open is learned from the student's own plain view, where that is sure.

    Mean cross-entropy of the strong view's logits against the plain view's class, over the pixels
    of the whole batch that are 255 and whose largest probability exceeds ``confidence``; 0 if there
    are none. Padding is 255, so it counts as released.

    weak: (B, C + 1, h, w), logits of the plain view; gets no gradient. strong: (B, C + 1, h', w'),
    of the strong view, which is mirrored: they are flipped back here. Both are resized bilinearly
    to the mask's size. mask: (B, H, W), the *other* student's filtered labels. Returns a scalar.
    Raises ``InputError`` when the shapes do not fit.
    """
    check_shapes(weak=(weak, "B K h w"), strong=(strong, "B K hs ws"), mask=(mask, "B H W"))
    views = (weak.detach(), strong.flip(-1))
    weak, strong = (resized(at_least_float32(view), mask.shape[1:]) for view in views)
    probability, number = weak.softmax(dim=1).max(dim=1)
    chosen = (mask == IGNORE_INDEX) & (probability > confidence)
    losses = F.cross_entropy(strong, number, reduction="none")
    return mean_over_batch(torch.where(chosen, losses, 0).sum(), chosen.sum())
