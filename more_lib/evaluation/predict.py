"""Masks for images of your own: a trained network and image files in, masks out (notebook 08).

One image is in memory at a time. ``prediction_files`` checks files and writes what comes out.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from more_lib.data.images import read_image
from more_lib.data.transforms import evaluation_transform
from more_lib.method.crf import dense_crf, with_background
from more_lib.method.localization import fuse, multiscale_maps, resized
from more_lib.method.model import MoRe
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError

MAPS = ("lam", "cam", "fused", "decoder")

# The network sees larger photographs reduced, their longer side to this many training crops: in
# full size nothing would have the size it was trained on, and attention would not fit in memory.
# Images of VOC 2012 and COCO, whose crops are 448, stay as they are.
MOST_CROPS = 1.5


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of one image.

    id: the file's name without its ending. image: RGB, upright, in its own size (H, W).
    labels: names of the K classes that were looked for, in the recipe's order: those given, else
        those predicted (a positive logit). The decoder without given labels looks for every class
        and names those it found.
    probabilities: (C,) float32 in [0, 1]: for each class of the recipe, that it is in the image.
    mask: (H, W) uint8, 0 background and 1..C the recipe's classes.
    maps: (K, h, w) float32 in [0, 1], one a label, in the size in which the network saw the image
        (the decoder's: its patch grid).
    """

    id: str
    image: Image.Image
    labels: tuple[str, ...]
    probabilities: np.ndarray
    mask: np.ndarray
    maps: np.ndarray


def predict(
    model: MoRe,
    recipe: Recipe,
    images: Iterable[str | Path],
    labels: Mapping[str, Collection[str]] | None = None,
    *,
    map: str = "lam",
    crf: bool = False,
) -> Iterator[Prediction]:
    """A ``Prediction`` for each image file, computed when it is asked for.

    The default is the way in which the released code makes its masks, CRF aside: LAM, predicted
    classes, scales and threshold of the recipe. An image without a predicted class is background
    altogether. The network sees images in their own size, up to ``MOST_CROPS``; masks have it.

    Args:
        model: runs where it is. recipe: the one that the model was trained by.
        images: files. A camera's EXIF orientation is applied, to image, maps and mask alike.
        labels: class names by file name, with or without its ending, for every image, instead of
            the predicted ones. The decoder then chooses among them and the background.
        map: one of ``MAPS``.
        crf: refine by ``dense_crf`` as released, in the size the network saw. The background's
            score is then 1 - the largest map, and no threshold counts.

    Raises ``InputError`` for another map, an unreadable image, one without entry in ``labels``, and
    classes that the recipe lacks.
    """
    check_map(map)
    return (_predict(model, recipe, Path(image), labels, map, crf) for image in images)


def check_map(map: str) -> None:
    """Raise ``InputError`` unless ``map`` is one of ``MAPS``."""
    if map not in MAPS:
        raise InputError(f"map {map!r} is unknown; choose from {', '.join(MAPS)}")


def class_indices(
    image: Path, labels: Mapping[str, Collection[str]], classes: Sequence[str]
) -> list[int]:
    """Places 0..C-1, in order, of the classes that ``labels`` gives an image.

    Its entry is found by the file's name, with or without ending. Raises ``InputError`` for an
    image without entry and for a class that is not in ``classes``.
    """
    names = labels.get(image.name, labels.get(image.stem))
    if names is None:
        raise InputError(f"no labels for {image.name}: give it a row, empty if it shows no class")
    if unknown := sorted(set(names) - set(classes)):
        raise InputError(
            f"{image.name} has the class {', '.join(map(repr, unknown))}, which the network does "
            f"not know; it knows {', '.join(classes)}"
        )
    return [index for index, known in enumerate(classes) if known in names]


def seen_size(size: tuple[int, int], recipe: Recipe) -> tuple[int, int]:
    """(w, h) in which the network sees an image of (W, H), before it is cut into whole patches."""
    factor = min(1, MOST_CROPS * recipe.data.crop_size / max(size))
    width, height = (max(round(side * factor), 1) for side in size)
    return width, height


@torch.inference_mode()
def _predict(
    model: MoRe,
    recipe: Recipe,
    path: Path,
    labels: Mapping[str, Collection[str]] | None,
    map: str,
    crf: bool,
) -> Prediction:
    given = None if labels is None else class_indices(path, labels, recipe.data.classes)
    image = read_image(path)
    seen = image.resize(seen_size(image.size, recipe), Image.Resampling.BICUBIC)
    views = _network_input(seen, model.patch_size, recipe.evaluation.scales)
    views = views.to(next(model.parameters()).device)
    output = model(views)
    logits = output.class_logits[0]
    chosen = (logits > 0).nonzero()[:, 0].tolist() if given is None else given
    if map == "decoder":
        chosen = list(range(len(logits))) if given is None else given
        scores = output.seg_logits[0, [0, *(index + 1 for index in chosen)]]
        maps = scores.softmax(0)[1:]
    else:
        maps = _maps(model, views, recipe, map)[chosen]
        threshold = maps.new_full((1, *maps.shape[1:]), recipe.evaluation.threshold)
        scores = torch.cat([threshold, maps])
    if crf and chosen:
        scores = _refined(seen, maps, scores if map == "decoder" else None)
    mask = _winner(scores, [index + 1 for index in chosen], image.size[::-1])
    if map == "decoder" and given is None:
        found = set(mask.unique().tolist())
        kept = [index for index in chosen if index + 1 in found]
        maps, chosen = maps[kept], kept
    return Prediction(
        id=path.stem,
        image=image,
        labels=tuple(recipe.data.classes[index] for index in chosen),
        probabilities=logits.sigmoid().float().cpu().numpy(),
        mask=mask.cpu().numpy(),
        maps=maps.float().cpu().numpy(),
    )


def _network_input(image: Image.Image, patch: int, scales: Sequence[float]) -> Tensor:
    """(1, 3, h, w), normalised: whole patches, as near to the image's size as may be.

    The smallest scale must leave a patch of a small or narrow image, so that is enlarged.
    """
    least = math.ceil(1 / min(1, *scales))
    patches = [max(int(side / patch + 0.5), least) for side in image.size[::-1]]
    tensor = evaluation_transform(None)(image)[None]
    return resized(tensor, [patch * number for number in patches])


def _maps(model: MoRe, views: Tensor, recipe: Recipe, map: str) -> Tensor:
    """All classes' maps of one kind, (C, h, w) in [0, 1], over the recipe's scales."""
    scales, similarity = recipe.evaluation.scales, recipe.masks.lam_similarity
    found = multiscale_maps(model, views, scales, similarity)
    return (fuse(found.lam, found.cam) if map == "fused" else getattr(found, map))[0]


def _refined(seen: Image.Image, maps: Tensor, logits: Tensor | None) -> Tensor:
    """Scores (1 + K, h, w) after dense CRF, background first, in the size of ``seen``.

    The decoder's come from its ``logits`` (1 + K, h, w), all others from the maps (K, h, w).
    """
    size = seen.size[::-1]
    if logits is None:
        probabilities = with_background(resized(maps[None], size)[0])
    else:
        probabilities = resized(logits[None], size)[0].softmax(0)
    return dense_crf(np.asarray(seen), probabilities)


def _winner(scores: Tensor, numbers: Sequence[int], size: Sequence[int]) -> Tensor:
    """The class number of the largest score where that exceeds the background's, else 0.

    scores: (1 + K, h, w), background first. numbers: of the K classes. Returns (H, W) uint8. One
    class at a time is brought to the image's size: a photograph's K together need not fit.
    """
    best = resized(scores[None, :1], size)[0, 0]
    winner = torch.zeros_like(best, dtype=torch.uint8)
    for number, score in zip(numbers, scores[1:], strict=True):
        score = resized(score[None, None], size)[0, 0]
        winner.masked_fill_(score > best, number)
        best = torch.maximum(best, score)
    return winner
