"""Masks for images of your own: a trained network and image files in, masks out (notebook 08)."""

import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from more_lib.data.images import read_image
from more_lib.data.transforms import evaluation_transform
from more_lib.evaluation.masks import ImageMaps, protocol_views, scores_of, whole_patches
from more_lib.evaluation.protocols import Protocol, map_protocol
from more_lib.method.crf import dense_crf
from more_lib.method.methods import method_of
from more_lib.method.model import MoRe
from more_lib.recipes.schema import Recipe
from more_lib.system.devices import resolved_precision
from more_lib.system.errors import InputError

# The network sees larger photographs reduced, their longer side to this many training crops: in
# full size nothing would have the size it was trained on, and attention would not fit in memory.
# Images of VOC 2012 and COCO, whose crops are 448, stay as they are.
MOST_CROPS = 1.5


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of one image.

    id: the file's name without its ending. image: RGB, upright, in its own size (H, W).
    asked: names of the classes that were looked for, in the recipe's order: those given, else
        those predicted (a positive logit), and every class by the decoder without given labels.
    labels: the K of them that have a map: all, but of every class those in the mask.
    probabilities: (C,) float32 in [0, 1]: for each class of the recipe, that it is in the image.
    mask: (H, W) uint8, 0 background and 1..C the recipe's classes.
    maps: (K, h, w) float32 in [0, 1], one a label, in the size in which the network saw the image.
    """

    id: str
    image: Image.Image
    asked: tuple[str, ...]
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
    map: str = "",
    crf: bool = False,
) -> Iterator[Prediction]:
    """A ``Prediction`` for each image file, computed when it is asked for: one is in memory.

    The default is the protocol paper-val-native without its CRF: LAM (of another method its own
    map), predicted classes, scales, threshold and refinement of the recipe. An image without a
    predicted class is background altogether. The network sees images in their own size, up to
    ``MOST_CROPS``; masks have it.

    model: runs where it is. recipe: the one that it was trained by. map: of its method's.
    images: files. A camera's EXIF orientation is applied, to image, maps and mask alike.
    labels: class names by file name, with or without its ending, for every image, instead of the
        predicted ones. The decoder then chooses among them and the background.
    crf: refine by ``dense_crf`` as released, in the size the network saw, and by nothing else. The
        background's score is then 1 - the largest map, and no threshold counts.

    Raises ``InputError`` for another map, an unreadable image, one without entry in ``labels``, and
    classes that the recipe lacks.
    """
    protocol = own_protocol(recipe, map, crf)
    paths = [Path(image) for image in images]
    given = None if labels is None else labels_by_name(paths, labels)
    return (_predict(model, recipe, path, given, protocol) for path in paths)


def own_protocol(recipe: Recipe, map: str, crf: bool) -> Protocol:
    """How images of no split get their masks, by the method's own map or the one named.

    Nobody compares them with those of other machines: "auto" is what is fastest here. Raises
    ``InputError`` for a map that the method does not draw.
    """
    drawn = method_of(recipe).maps
    map = map or drawn[0]
    if map not in drawn:
        raise InputError(f"map {map!r} is unknown; choose from {', '.join(drawn)}")
    plain = map_protocol(recipe, map, "none" if map == "decoder" else "predicted")
    plain = replace(plain, precision=resolved_precision(recipe.evaluation.precision))
    refined = replace(plain, threshold=None, crf="released", refinement="none")
    return refined if crf else plain


def labels_by_name(
    images: Iterable[Path], labels: Mapping[str, Collection[str]]
) -> dict[str, Collection[str]]:
    """The entry of each image in ``labels``, by the image's file name.

    It is found by the name, with or without ending; beside an image ``a.jpg`` the entry ``a.jpg``
    is that one's, not that of ``a.jpg.png``. The Unicode form of a name does not count. Raises
    ``InputError`` for an image without entry, and for one with two.
    """
    images = list(images)
    entries = {_composed(name): classes for name, classes in labels.items()}
    others, found = {_composed(image.name) for image in images}, {}
    for image in images:
        name, stem = _composed(image.name), _composed(image.stem)
        keys = [key for key in dict.fromkeys((name, stem)) if key in entries]
        keys = [key for key in keys if key == name or key not in others]
        if not keys:
            raise InputError(
                f"no labels for {image.name}: give it a row, empty if it shows no class"
            )
        if len(keys) > 1:
            raise InputError(f"{image.name} has two rows, {name} and {stem}: keep one of them")
        found[image.name] = entries[keys[0]]
    return found


def class_numbers(
    image: Path, labels: Mapping[str, Collection[str]], classes: Sequence[str]
) -> list[int]:
    """Numbers 1..C, in order, of the classes that ``labels`` gives an image by its file name.

    Raises ``InputError`` for a class that is not in ``classes``.
    """
    names = labels[image.name]
    if unknown := sorted(set(names) - set(classes)):
        raise InputError(
            f"{image.name} has the class {', '.join(repr(name) for name in unknown)}, which the "
            f"network does not know; it knows {', '.join(classes)}"
        )
    return [number for number, known in enumerate(classes, 1) if known in names]


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
    protocol: Protocol,
) -> Prediction:
    names = recipe.data.classes
    numbers = None if labels is None else class_numbers(path, labels, names)
    image = read_image(path)
    seen = image.resize(seen_size(image.size, recipe), Image.Resampling.BICUBIC)
    tensor = evaluation_transform(None)(seen)[None].to(next(model.parameters()).device)
    inputs = whole_patches(tensor, model.patch_size, protocol.scales)
    views, (logits,) = protocol_views(model, inputs, [protocol], recipe.masks.lam_similarity)
    every = protocol.map == "decoder" and numbers is None
    if numbers is None:
        numbers = [n for n, logit in enumerate(logits.tolist(), 1) if every or logit > 0]
    asked = tuple(names[number - 1] for number in numbers)
    scores = scores_of(ImageMaps(views, inputs, 0, numbers, recipe), protocol, numbers)
    shown = scores.values
    if protocol.crf != "none" and numbers:
        probabilities = scores.probabilities(seen.size[::-1])
        scores = scores.refined(dense_crf(np.asarray(seen), probabilities))
    mask = scores.mask(image.size[::-1])
    if every:
        numbers = [number for number in mask.unique().tolist() if number]
        shown = shown[[number - 1 for number in numbers]]
    return Prediction(
        id=path.stem,
        image=image,
        asked=asked,
        labels=tuple(names[number - 1] for number in numbers),
        probabilities=logits.sigmoid().float().cpu().numpy(),
        mask=mask.cpu().numpy(),
        maps=shown.float().cpu().numpy(),
    )


def _composed(name: str) -> str:
    """A name in the one of its Unicode forms that is compared."""
    return unicodedata.normalize("NFC", name)
