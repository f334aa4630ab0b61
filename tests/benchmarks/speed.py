"""How fast the hot paths are: each against a straightforward loop, same inputs, same run.

The loops are the literal transcriptions that the tests hold the library to, so what is compared
computes the same thing. Only ratios mean anything beyond the machine they were measured on.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from skimage.data import coffee
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur, resize

from more_lib.method import losses
from more_lib.method.crf import EXACT_ON_CPU, CrfParams, choose_method, dense_crf
from more_lib.method.energy import DenseEnergyLoss
from more_lib.method.gaussian import bilateral_features
from more_lib.method.gcr import GraphCategoryRepresentation
from more_lib.method.lir import UNCERTAIN_VARIANTS, confident_relation_loss, uncertain_relation_loss
from more_lib.method.pseudo_labels import PixelAdaptiveRefinement, refine_cam
from more_lib.system.devices import best_device
from more_lib.system.errors import InputError
from tests.method import transcriptions

SHAPES = {"voc": (4, 20), "coco": (4, 80)}  # images, classes; 448 pixels, 28 x 28 patches, D 768
GRID, DIM, PIXELS = 28, 768, 448
CRF_SIZES = ((32, 48), (48, 72), (64, 96), (375, 500))  # height, width; the last is usual in VOC


@dataclass(frozen=True)
class Timing:
    """Best of several runs of one case, in seconds."""

    case: str
    shape: str
    ours: float
    loop: float

    @property
    def ratio(self) -> float:
        return self.loop / self.ours


def bench_losses(shape: str, repeats: int = 3) -> Iterator[Timing]:
    """Time every loss, GCR and the refinement at the sizes of one data set.

    shape: a key of ``SHAPES``. Runs on the GPU where there is one. Losses are timed forward and
    backward. Raises ``InputError`` for another shape.
    """
    if shape not in SHAPES:
        raise InputError(f"shape {shape!r} is unknown; there are: {', '.join(SHAPES)}")
    inputs = _inputs(*SHAPES[shape])
    for case, (ours, loop) in _cases(transcriptions, inputs).items():
        # The loops can take minutes, and need no average to be told from what is timed here.
        yield Timing(case, shape, _timed(ours, repeats)[0], _timed(loop, 1)[0])


def format_timings(timings: list[Timing]) -> str:
    """Aligned text: milliseconds of both, and how many times faster ours is."""
    lines = [f"{'case':26}{'shape':>6}{'ours ms':>12}{'loop ms':>12}{'ratio':>9}"]
    for t in timings:
        times = f"{1000 * t.ours:>12.1f}{1000 * t.loop:>12.1f}{t.ratio:>8.1f}×"
        lines.append(f"{t.case:26}{t.shape:>6}{times}")
    return "\n".join(lines)


@dataclass(frozen=True)
class CrfTiming:
    """One picture's dense CRF: seconds of each way that was run.

    seconds: of "all pairs stored", "exact" and "lattice". agreement: the share of pixels, in %,
    that exact and lattice give the same label; None where exact was not run.
    """

    height: int
    width: int
    seconds: dict[str, float]
    agreement: float | None


def bench_crf(repeats: int = 2) -> Iterator[CrfTiming]:
    """Time dense CRF's exact sums and its lattice, and a transcription that stores all pairs.

    A photograph and three classes, in sizes that take a minute on two CPU cores, and in full size,
    which a CPU does by the lattice alone. Raises ``InputError`` without pydensecrf2.
    """
    brute_force, device = transcriptions.dense_crf, best_device()
    for height, width in CRF_SIZES:
        given = [x.to(device) for x in noisy_segmentation(coffee(), height, width, classes=3)]
        exactly = choose_method(height, width, device) == "exact"
        ways = {"lattice": partial(dense_crf, *given, method="lattice")}
        if exactly:
            ways["exact"] = partial(dense_crf, *given, method="exact")
        if height * width <= EXACT_ON_CPU:
            ways["all pairs stored"] = partial(brute_force, *given, CrfParams())
        seconds, labels = {}, {}
        for way, run in ways.items():
            seconds[way], result = _timed(run, 1 if way == "all pairs stored" else repeats)
            labels[way] = result.argmax(0)
        same = (labels["exact"] == labels["lattice"]).float().mean().item() if exactly else None
        yield CrfTiming(height, width, seconds, 100 * same if exactly else None)


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


def format_crf_timings(timings: list[CrfTiming]) -> str:
    """Aligned text: milliseconds of each way, how many times faster each is, labels alike."""
    head = ("picture", "pairs", "stored ms", "exact ms", "ratio", "lattice ms", "ratio", "alike")
    rows = [head]
    for t in timings:
        stored, exact, lattice = map(t.seconds.get, ("all pairs stored", "exact", "lattice"))
        pairs = f"{(t.height * t.width) ** 2:.1e}"
        alike = "–" if t.agreement is None else f"{t.agreement:.2f} %"
        times = [_milliseconds(stored), _milliseconds(exact), _ratio(stored, exact)]
        times += [_milliseconds(lattice), _ratio(exact, lattice)]
        rows.append((f"{t.height}×{t.width}", pairs, *times, alike))
    note = "pairs: in each of 10 iterations; ratio: times faster than the way before; alike: labels"
    widths = (9, 10, 14, 14, 8, 12, 8, 10)
    lines = ["".join(f"{x:>{w}}" for x, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*lines, note])


def _milliseconds(seconds: float | None) -> str:
    return "not run here" if seconds is None else f"{1000 * seconds:.1f}"


def _ratio(slow: float | None, fast: float | None) -> str:
    return "–" if slow is None or fast is None else f"{slow / fast:.1f}×"


def _inputs(batch: int, classes: int) -> dict[str, Tensor]:
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
    mask = torch.where(strongest > high, number + 1, torch.where(strongest < low, 0, 255))
    inputs = {
        "tokens": torch.randn(batch, classes, DIM, generator=g),
        "features": torch.randn(batch, DIM, GRID, GRID, generator=g),
        "mask": mask,
        "labels": labels,
        "cam": cam,
        "images": torch.rand(batch, 3, PIXELS, PIXELS, generator=g),
        "logits": torch.randn(batch, classes + 1, GRID, GRID, generator=g),
        "pixel_mask": F.interpolate(mask[:, None].float(), (PIXELS, PIXELS))[:, 0].long(),
    }
    return {name: value.to(best_device()) for name, value in inputs.items()}


def _cases(loops: ModuleType, given: dict[str, Tensor]) -> dict[str, tuple[Callable, Callable]]:
    """Pairs of functions without arguments that compute the same."""
    mask, labels = given["mask"], given["labels"]
    tokens, features = given["tokens"].requires_grad_(), given["features"].requires_grad_()
    logits = given["logits"].requires_grad_()
    relation = (tokens, features, mask, labels)
    graph = GraphCategoryRepresentation(DIM).to(tokens.device)
    patches, k = features.flatten(2).mT, max(tokens.shape[1] // 2, 1)
    every = replace(UNCERTAIN_VARIANTS["release"], sampling="all")
    par = PixelAdaptiveRefinement()
    pictures, chosen = given["images"], given["cam"][:, :4]
    refined = (pictures, given["cam"], labels.cpu(), 0.7, 0.25)
    return {
        "confident relation": _trained(
            lambda: confident_relation_loss(*relation, 0.5),
            lambda: loops.confident_relation_loss(*relation, 0.5),
        ),
        "uncertain relation": _trained(
            lambda: uncertain_relation_loss(*relation, variant=every),
            lambda: loops.uncertain_relation_loss(*relation),
        ),
        "patch-token contrast": _trained(
            lambda: losses.patch_token_contrast_loss(features, mask),
            lambda: loops.patch_token_contrast_loss(features, mask),
        ),
        "segmentation": _trained(
            lambda: losses.segmentation_loss(logits, given["pixel_mask"]),
            lambda: loops.segmentation_loss(logits, given["pixel_mask"]),
        ),
        "GCR": _trained(
            lambda: graph(tokens, patches).sum(),
            lambda: loops.graph_category_representation(tokens, patches, graph, k).sum(),
        ),
        "dense energy, 48 × 48": _trained(*_energies(loops, given)),
        "refinement (PAR), 4 maps": (
            lambda: par(pictures, chosen),
            lambda: loops.pixel_adaptive_refinement(pictures, chosen),
        ),
        "CAM to decoder's labels": (
            lambda: refine_cam(par, *refined),
            lambda: loops.refine_cam(refined[0], refined[1], labels, 0.7, 0.25),
        ),
    }


def _energies(loops: ModuleType, given: dict[str, Tensor]) -> tuple[Callable, Callable]:
    """The dense energy of all-unknown pictures of 48 x 48 pixels, exact both ways."""
    side, weight, sigma_rgb, sigma_xy = 48, 1e-7, 15.0, 50.0
    pictures = F.interpolate(given["images"], (side, side), mode="bilinear") * 255
    logits = F.interpolate(given["logits"].detach(), (side, side)).requires_grad_()
    unknown = torch.full((len(pictures), side, side), 255, device=pictures.device)
    features, gate = bilateral_features(pictures, sigma_rgb, sigma_xy), unknown.flatten(1) / 255
    energy = DenseEnergyLoss(weight, sigma_rgb, sigma_xy, 1.0)
    return (
        lambda: energy(pictures, logits, unknown),
        lambda: loops.dense_energy(logits.softmax(1).flatten(2), features, gate, weight),
    )


def _trained(ours: Callable, loop: Callable) -> tuple[Callable, Callable]:
    """Forward and backward of both."""
    return (lambda: ours().backward(), lambda: loop().backward())


def _timed(run: Callable, repeats: int) -> tuple[float, object]:
    """The seconds of the best of ``repeats`` runs, after one that warms up where there are several.

    The second value is what the last one returned.
    """
    times = []
    for _ in range(repeats + (repeats > 1)):
        _wait()
        started = time.perf_counter()
        result = run()
        _wait()
        times.append(time.perf_counter() - started)
    return min(times[repeats > 1 :]), result


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
