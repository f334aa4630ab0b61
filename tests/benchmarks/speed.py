"""How fast the hot paths are: each against a straightforward loop, same inputs, same run.

The loops are the literal transcriptions that the tests hold the library to, so what is compared
computes the same thing. Only ratios mean anything beyond the machine they were measured on.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from skimage.data import coffee
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur, resize

from more_lib.method.crf import CrfParams, choose_method, dense_crf
from more_lib.method.energy import DenseEnergyLoss
from more_lib.method.gaussian import EXACT_ON_CPU, bilateral_features
from more_lib.method.gcr import GraphCategoryRepresentation
from more_lib.method.lir import confident_relation_loss, uncertain_relation_loss
from more_lib.method.losses import patch_token_contrast_loss, segmentation_loss
from more_lib.method.pseudo_labels import PixelAdaptiveRefinement, refine_cam
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.recipes.schema import LirRecipe
from more_lib.system.devices import best_device
from more_lib.system.errors import InputError
from tests.method import transcriptions as loops

SHAPES = {"voc": (4, 20), "coco": (4, 80)}  # images, classes; 448 pixels, 28 x 28 patches, D 768
GRID, DIM, PIXELS = 28, 768, 448
CRF_SIZES = ((32, 48), (48, 72), (64, 96), (375, 500))  # height, width; the last is usual in VOC


def losses(shape: str) -> str:
    """``time_losses`` as text, at the sizes of one data set or with "all" of both.

    Milliseconds of both sides, and how many times faster ours is.
    """
    lines = [f"{'case':26}{'shape':>6}{'ours ms':>12}{'loop ms':>12}{'ratio':>9}"]
    for name in SHAPES if shape == "all" else [shape]:
        for case, ours, loop in time_losses(name):
            times = f"{1000 * ours:>12.1f}{1000 * loop:>12.1f}{loop / ours:>8.1f}×"
            lines.append(f"{case:26}{name:>6}{times}")
    return "\n".join(lines)


def time_losses(shape: str, repeats: int = 3) -> Iterator[tuple[str, float, float]]:
    """Each case (losses, GCR, refinement) with the best seconds of ours and of the loop.

    shape: a key of ``SHAPES``. Runs on the GPU where there is one. Losses are timed forward and
    backward. Raises ``InputError`` for another shape.
    """
    if shape not in SHAPES:
        raise InputError(f"shape {shape!r} is unknown; there are: {', '.join(SHAPES)}")
    for case, (ours, loop) in cases(*SHAPES[shape]).items():
        # The loops can take minutes, and need no average to be told from what is timed here.
        yield case, _timed(ours, repeats)[0], _timed(loop, 1)[0]


def time_crf(repeats: int = 2) -> Iterator[dict]:
    """Time dense CRF's exact sums and its lattice, and a transcription that stores all pairs.

    A photograph and three classes, in sizes that take a minute on two CPU cores, and in full size,
    which a CPU does by the lattice alone. Rows of ``size``, seconds of the ways that were run
    ("stored", "exact", "lattice"), and ``alike``, the share of pixels in % that exact and lattice
    give the same label. Raises ``InputError`` without pydensecrf2.
    """
    device = best_device()
    for height, width in CRF_SIZES:
        given = [x.to(device) for x in noisy_segmentation(coffee(), height, width, classes=3)]
        ways = {"lattice": partial(dense_crf, *given, method="lattice")}
        if choose_method(height, width, device) == "exact":
            ways["exact"] = partial(dense_crf, *given, method="exact")
        if height * width <= EXACT_ON_CPU:
            ways["stored"] = partial(loops.dense_crf, *given, CrfParams())
        row, labels = {"size": (height, width)}, {}
        for way, run in ways.items():
            row[way], result = _timed(run, 1 if way == "stored" else repeats)
            labels[way] = result.argmax(0)
        if "exact" in ways:
            row["alike"] = 100 * (labels["exact"] == labels["lattice"]).float().mean().item()
        yield row


def crf() -> str:
    """``time_crf`` as text: milliseconds of each way, ratios, and how many labels are alike."""
    line = "{:>9}{:>10}{:>14}{:>14}{:>8}{:>12}{:>8}{:>10}".format
    head = ("picture", "pairs", "stored ms", "exact ms", "ratio", "lattice ms", "ratio", "alike")
    lines = [line(*head)]
    for row in time_crf():
        (height, width), ways = row["size"], [row.get(w) for w in ("stored", "exact", "lattice")]
        stored, exact, lattice = (f"{1000 * t:.1f}" if t else "not run here" for t in ways)
        gain, more = (f"{a / b:.1f}×" if a and b else "–" for a, b in pairwise(ways))
        alike = f"{row['alike']:.2f} %" if "alike" in row else "–"
        size = f"{height}×{width}", f"{(height * width) ** 2:.1e}"
        lines.append(line(*size, stored, exact, gain, lattice, more, alike))
    note = "pairs: in each of 10 iterations; ratio: times faster than the way before; alike: labels"
    return "\n".join([*lines, note])


def noisy_segmentation(
    photograph: np.ndarray, height: int, width: int, classes: int
) -> tuple[Tensor, Tensor]:
    """A picture and scores for dense CRF: as many brightnesses as classes, blurred and noisy.

    photograph: (h, w, 3) uint8. Returns the image (height, width, 3) uint8 and probabilities
    (classes, height, width), always the same ones.
    """
    image = resize(torch.tensor(photograph).permute(2, 0, 1), [height, width], antialias=True)
    red = image[0].float()
    steps = red.quantile(torch.arange(1, classes) / classes)
    regions = F.one_hot(torch.bucketize(red, steps), classes).permute(2, 0, 1).float()
    noise = torch.randn(regions.shape, generator=torch.Generator().manual_seed(0))
    scores = 0.6 * gaussian_blur(regions, [13, 13], [3.0, 3.0]) + 0.4 / classes + 0.15 * noise
    scores = scores.clamp(min=0.02)
    return image.permute(1, 2, 0), scores / scores.sum(0)


def inputs(batch: int, classes: int) -> dict[str, Tensor]:
    """Random tensors of realistic make: one to three classes an image, masks with long borders."""
    g = torch.Generator().manual_seed(0)
    labels = torch.zeros(batch, classes)
    for image in range(batch):
        labels[image, torch.randperm(classes, generator=g)[: 1 + image % 3]] = 1
    coarse = torch.rand(batch, classes, 7, 7, generator=g)
    cam = F.interpolate(coarse, (PIXELS, PIXELS), mode="bicubic").clamp(0, 1)
    small = F.interpolate(cam, (GRID, GRID), mode="bilinear") * labels[:, :, None, None]
    strongest, number = small.max(1)
    # A third of the patches uncertain: hundreds an image.
    low, high = (strongest.flatten(1).quantile(q, 1).view(-1, 1, 1) for q in (0.3, 0.65))
    mask = torch.where(strongest > high, number + 1, torch.where(strongest < low, 0, IGNORE_INDEX))
    made = {
        "tokens": torch.randn(batch, classes, DIM, generator=g),
        "features": torch.randn(batch, DIM, GRID, GRID, generator=g),
        "mask": mask,
        "labels": labels,
        "cam": cam,
        "images": torch.rand(batch, 3, PIXELS, PIXELS, generator=g),
        "logits": torch.randn(batch, classes + 1, GRID, GRID, generator=g),
        "pixel_mask": F.interpolate(mask[:, None].float(), (PIXELS, PIXELS))[:, 0].long(),
    }
    return {name: value.to(best_device()) for name, value in made.items()}


def cases(batch: int, classes: int) -> dict[str, tuple[Callable, Callable]]:
    """Ours and a loop that computes the same, by name: functions without arguments."""
    given = inputs(batch, classes)
    mask, labels = given["mask"], given["labels"]
    tokens, features = given["tokens"].requires_grad_(), given["features"].requires_grad_()
    logits = given["logits"].requires_grad_()
    relation = (tokens, features, mask, labels)
    graph = GraphCategoryRepresentation(DIM).to(tokens.device)
    patches, k = features.flatten(2).mT, max(classes // 2, 1)
    par, pictures, cam = PixelAdaptiveRefinement(), given["images"], given["cam"]

    def both(loss: Callable, *values: object) -> tuple[Callable, Callable]:
        return partial(loss, *values), partial(getattr(loops, loss.__name__), *values)

    return {
        "confident relation": both(confident_relation_loss, *relation, 0.5),
        "uncertain relation": (
            lambda: uncertain_relation_loss(*relation, variant=LirRecipe(sampling="all")),
            lambda: loops.uncertain_relation_loss(*relation),
        ),
        "patch-token contrast": both(patch_token_contrast_loss, features, mask),
        "segmentation": both(segmentation_loss, logits, given["pixel_mask"]),
        "GCR": (
            lambda: graph(tokens, patches).sum(),
            lambda: loops.graph_category_representation(tokens, patches, graph, k).sum(),
        ),
        "dense energy, 48 × 48": _energies(pictures, logits.detach()),
        "refinement (PAR), 4 maps": (
            lambda: par(pictures, cam[:, :4]),
            lambda: loops.pixel_adaptive_refinement(pictures, cam[:, :4]),
        ),
        "CAM to decoder's labels": (
            lambda: refine_cam(par, pictures, cam, labels.cpu(), 0.7, 0.25),
            lambda: loops.refine_cam(pictures, cam, labels, 0.7, 0.25),
        ),
    }


def _energies(pictures: Tensor, logits: Tensor) -> tuple[Callable, Callable]:
    """The dense energy of all-unknown pictures of 48 x 48 pixels, exact both ways."""
    side, weight, sigma_rgb, sigma_xy = 48, 1e-7, 15.0, 50.0
    pictures = F.interpolate(pictures, (side, side), mode="bilinear") * 255
    logits = F.interpolate(logits, (side, side)).requires_grad_()
    unknown = torch.full((len(pictures), side, side), IGNORE_INDEX, device=pictures.device)
    features = bilateral_features(pictures, sigma_rgb, sigma_xy)
    gate = torch.ones_like(features[..., 0])  # which counts unknown pixels in full
    energy = DenseEnergyLoss(weight, sigma_rgb, sigma_xy, 1.0)
    return (
        lambda: energy(pictures, logits, unknown),
        lambda: loops.dense_energy(logits.softmax(1).flatten(2), features, gate, weight),
    )


def _timed(run: Callable, repeats: int) -> tuple[float, Tensor]:
    """Seconds of the best of ``repeats`` runs, one that warms up aside, and what the last gave.

    What has a gradient is timed with it.
    """
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    times = []
    for _ in range(repeats + (repeats > 1)):
        wait()
        started = time.perf_counter()
        result = run()
        if result.requires_grad:
            result.backward()
        wait()
        times.append(time.perf_counter() - started)
    return min(times[repeats > 1 :]), result
