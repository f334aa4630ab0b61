"""The rows of the paper's figures: which images, by a rule, and what networks make of them.

Notebook 07 draws them with ``figures``. An index is an image's place in the split's list.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils.data import default_collate

from more_lib.data import open_tree
from more_lib.data.transforms import evaluation_transform
from more_lib.data.voc import VocMasks
from more_lib.evaluation.masks import Batch, SplitImages, evaluation_mode, segment
from more_lib.evaluation.protocols import Protocol
from more_lib.evaluation.scoring import Device, check_masks
from more_lib.method.localization import fuse, kinds_of, views_of
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError
from more_lib.system.shapes import check_shapes


def representative(values: Tensor | ArrayLike, count: int) -> list[int]:
    """Places of ``count`` values that stand for all of them, from the lowest to the highest.

    The values are sorted, equal ones in their order, nan left out, and those nearest to evenly
    spaced quantiles are taken: for 1 the median, for 5 the quantiles 0.1, 0.3, 0.5, 0.7 and 0.9. So
    neither the best nor the worst is picked for being it.

    values: (M,), for the paper's figures MoRe's IoU of each image (``image_ious``). Raises
    ``InputError`` when there are fewer than ``count``, or ``count`` is below 1.
    """
    values = np.asarray(values, dtype=np.float64)
    order = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]
    if not 1 <= count <= len(order):
        raise InputError(f"{count} rows of {len(order)} images: give 1 to {len(order)}")
    quantiles = (np.arange(count) + 0.5) / count
    return order[np.floor(quantiles * (len(order) - 1) + 0.5).astype(int)].tolist()


def largest_class(masks: Tensor, num_classes: int) -> list[int]:
    """The class 0..C-1 with the most pixels of each mask, the first of several: a row's class.

    masks: (B, H, W) integers. Raises ``InputError`` for a mask without any class.
    """
    pixels = _of_class(masks, num_classes).sum((2, 3))
    if len(empty := (pixels.sum(1) == 0).nonzero()):
        raise InputError(f"mask {int(empty[0])} shows none of the {num_classes} classes")
    return pixels.argmax(1).tolist()


def image_iou(predictions: Tensor, masks: Tensor, num_classes: int) -> Tensor:
    """Each image's own score: mean IoU of the classes in its mask or its prediction.

    The background is left out, and pixels whose mask is 255. predictions, masks: (B, H, W)
    integers, 0 background and 1..C. Returns (B,) float64 in [0, 1], nan for an image with neither.
    Raises ``InputError`` for shapes that differ.
    """
    check_shapes(predictions=(predictions, "B H W"), masks=(masks, "B H W"))
    counted = (masks != IGNORE_INDEX)[:, None]
    said, true = (_of_class(each, num_classes) & counted for each in (predictions, masks))
    hits, either = (each.sum((2, 3)).double() for each in (said & true, said | true))
    return (hits / either).nanmean(1)  # 0/0 is nan: a class that has nothing to do with the image


def image_ious(
    model: nn.Module,
    recipe: Recipe,
    protocol: Protocol,
    count: int | None = None,
    device: Device = None,
) -> Tensor:
    """``image_iou`` of the first ``count`` images of the protocol's split, or of all: (M,).

    Masks are made as the evaluation makes them. model: as ``MoRe``; runs on ``device`` (where it
    is, if None). Raises what ``evaluation.score`` raises.
    """
    known = len(open_tree(recipe.data).ids(protocol.split))
    indices = range(known if count is None else min(count, known))
    number = len(recipe.data.classes)
    batches = _segmented(model, recipe, protocol, indices, device)
    return torch.cat([image_iou(b.predictions[0].cpu(), b.masks, number) for b in batches])


def segmentations(
    model: nn.Module,
    recipe: Recipe,
    protocol: Protocol,
    indices: Sequence[int],
    device: Device = None,
) -> list[Tensor]:
    """The masks that a protocol makes of some images of its split, (H, W) int64 each.

    In the images' own sizes, for ``figures.plot_segmentations``. Raises as ``image_ious``.
    """
    batches = _segmented(model, recipe, protocol, indices, device)
    return [mask for batch in batches for mask in batch.predictions[0].cpu()]


def square_batch(recipe: Recipe, indices: Sequence[int]) -> dict:
    """Some images of the validation split as one batch, as the network sees them in training.

    Brought to squares of ``data.crop_size``, masks too (to the nearest pixel), so that the patch
    grid fits. Keys: "image" (B, 3, S, S) normalised, "mask" (B, S, S) int64, "labels" (B, C), and
    "id". ``artifacts.survey`` takes it in a list.
    """
    tree, data = open_tree(recipe.data), recipe.data
    check_masks(tree, data.val_split)
    dataset = VocMasks(tree, data.val_split, evaluation_transform(data.crop_size))
    items = [dataset[index] for index in _checked(indices, len(dataset))]
    for item in items:
        mask = F.interpolate(item["mask"][None, None].float(), item["image"].shape[-2:])
        item["mask"] = mask[0, 0].long()
    return default_collate(items)


def localize(
    model: nn.Module, recipe: Recipe, images: Tensor, device: Device = None
) -> dict[str, Tensor]:
    """Every map of images by the names of ``protocols.MAP_NAMES``, at the recipe's scales.

    images: (B, 3, H, W), normalised. Returns all that the network draws but for the decoder's, with
    LAM also "fused" (LAM times CAM), each (B, C, H, W) in [0, 1], on the CPU. Raises what
    ``views_of`` raises.
    """
    group, similarity = (recipe.evaluation.scales, True), recipe.masks.lam_similarity
    kinds = [kind for kind in kinds_of(model) if kind != "decoder"]
    with evaluation_mode(model, device) as place:
        views = views_of(model, images.to(place), [group], similarity, kinds)
        found = {kind: views.merged(group, kind) for kind in kinds}
    if "lam" in found:
        found["fused"] = fuse(found["lam"], found["cam"])
    return {kind: maps.cpu() for kind, maps in found.items()}


def _segmented(
    model: nn.Module, recipe: Recipe, protocol: Protocol, indices: Sequence[int], device: Device
) -> Iterator[Batch]:
    tree = open_tree(recipe.data)
    check_masks(tree, protocol.split)
    ids = tree.ids(protocol.split)
    chosen = [ids[index] for index in _checked(indices, len(ids))]
    images = SplitImages(tree, chosen, labels=True, masks=True)
    with evaluation_mode(model, device) as place:
        yield from segment(model, recipe, [protocol], images, place)


def _checked(indices: Sequence[int], known: int) -> Sequence[int]:
    strange = [index for index in indices if not 0 <= index < known]
    if strange or not len(indices):
        wrong = f"hold {strange[0]}" if strange else "are empty"
        raise InputError(f"indices {wrong}; give some from 0 to {known - 1}, places in the split")
    return indices


def _of_class(masks: Tensor, num_classes: int) -> Tensor:
    """Where each class is: (B, C, H, W) bool."""
    numbers = torch.arange(1, num_classes + 1, device=masks.device)
    return masks[:, None] == numbers[:, None, None]
