"""From a split's images to the masks that protocols make of them, one batch after the other.

``evaluation`` counts their pixels, ``voc_server`` writes them to files; neither keeps them.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from more_lib.data.transforms import denormalize, evaluation_transform
from more_lib.data.tree import ImageTree
from more_lib.evaluation.protocols import LABELS, MAPS, Protocol, check_choice
from more_lib.method.crf import (
    CrfParams,
    Method,
    choose_method,
    dense_crf_many,
    has_lattice,
    with_background,
)
from more_lib.method.localization import fuse, multiscale_decoder, multiscale_maps, resized
from more_lib.method.model import MoReOutput
from more_lib.method.pseudo_labels import foreground_mask
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError

CRF = {"released": CrfParams()}
"""What ``Protocol.crf`` may name, beside "none"."""


class Candidates(NamedTuple):
    """What a dense CRF decides between in one image."""

    protocol: int  # its place among the protocols
    image: Tensor  # (H, W, 3) uint8
    scores: Tensor  # (K, H, W) in [0, 1]
    numbers: Tensor  # (K,) the classes that the scores belong to, 0 being the background


@dataclass(eq=False)
class Batch:
    """Some images of a split and what was made of them.

    predictions: for each protocol (B, H, W) int64, 0 background and 1..C, at the images' size.
    logits: (B, C) image-level, on the CPU. labels: (B, C) of 0 and 1, masks: (B, H, W) int64, each
    None unless it was read. exact: whether a CRF was at work, by exact sums.
    """

    ids: list[str]
    logits: Tensor
    labels: Tensor | None
    masks: Tensor | None
    predictions: list[Tensor | None] = field(default_factory=list)
    candidates: list[Candidates] = field(default_factory=list)
    exact: bool = False


class SplitImages(Dataset):
    """Images by id, with image-level ``labels`` and pixel ``masks`` only where they are wanted."""

    def __init__(self, tree: ImageTree, ids: Sequence[str], labels: bool, masks: bool) -> None:
        self.tree, self.ids, self.labels, self.masks = tree, ids, labels, masks
        self.transform = evaluation_transform(None)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        image_id = self.ids[index]
        item = {"id": image_id, "image": self.transform(self.tree.image(image_id))}
        if self.labels:
            item["labels"] = torch.from_numpy(self.tree.labels(image_id))
        if self.masks:
            item["mask"] = torch.from_numpy(self.tree.mask(image_id)).long()
        return item


def segment(
    model: nn.Module,
    recipe: Recipe,
    protocols: Sequence[Protocol],
    images: SplitImages,
    device: torch.device,
) -> Iterator[Batch]:
    """Batches in the order of ``images``, one at a time, each with a mask for every protocol.

    model: as ``MoRe``, on ``device`` and in evaluation mode (``evaluation_mode``).

    Raises ``InputError`` for unusable files, images of several sizes in one batch, and a CRF that
    cannot run here.
    """
    loader = DataLoader(
        images,
        recipe.evaluation.batch_size,
        num_workers=recipe.data.workers,
        collate_fn=_same_size,
        pin_memory=device.type == "cuda",
    )
    batches = (_segmented(model, recipe, protocols, items, device) for items in loader)
    if all(protocol.crf == "none" for protocol in protocols):
        return batches
    return _refined(batches, crf_method(device))


def check_protocols(protocols: Sequence[Protocol]) -> None:
    """Raise ``InputError`` for a protocol that does not say how to make a mask."""
    for protocol in protocols:
        decoder = protocol.map == "decoder"
        check_choice("map", [protocol.map], MAPS)
        check_choice("labels", [protocol.labels], ("none",) if decoder else LABELS)
        check_choice("crf", [protocol.crf], ("none", *CRF))
        if protocol.threshold is not None and (decoder or protocol.crf != "none"):
            raise InputError(
                f"threshold is {protocol.threshold:g} for {protocol.describe()}: decoder and CRF "
                "take none, for they weigh the background by its own score"
            )


def crf_method(device: torch.device) -> Method:
    """How ``dense_crf`` is to run on the images of a whole split.

    On a CPU by the lattice also where one small image could be summed exactly: it would take
    seconds, the split hours. Without pydensecrf2 what is left is "auto".
    """
    lattice = device.type == "cpu" and has_lattice()
    return "lattice" if lattice else "auto"


@contextmanager
def evaluation_mode(model: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """Every module of the model in evaluation mode and on ``device``; afterwards as it was."""
    modes = [(module, module.training) for module in model.modules()]
    home = next(model.parameters()).device
    try:
        yield next(model.eval().to(home if device is None else device).parameters()).device
    finally:
        model.to(home)
        for module, training in modes:
            module.training = training


@torch.inference_mode()
def _segmented(
    model: nn.Module,
    recipe: Recipe,
    protocols: Sequence[Protocol],
    items: dict,
    device: torch.device,
) -> Batch:
    """One batch through the network; what awaits a CRF is left as candidates."""
    images = items["image"].to(device, non_blocking=True)
    size, views = images.shape[-2:], _whole_patches(images, model.patch_size)
    output = model(views)
    labels = {"predicted": (output.class_logits > 0).to(images.dtype)}
    if "labels" in items:
        labels["true"] = items["labels"].to(device)
    maps = _maps(model, views, recipe, protocols, size)
    batch = Batch(items["id"], output.class_logits.cpu(), items.get("labels"), items.get("mask"))
    for place, protocol in enumerate(protocols):
        if protocol.map == "decoder":
            present, scores = None, _decoder_scores(model, views, output, protocol, size)
        else:
            present = labels[protocol.labels]
            found = maps[protocol.scales, protocol.flip, protocol.map]
            if protocol.threshold is not None:
                batch.predictions.append(foreground_mask(found, present, protocol.threshold))
                continue
            scores = with_background(found * present[:, :, None, None])
        if protocol.crf == "none":
            batch.predictions.append(scores.argmax(1))
        else:
            batch.predictions.append(None)
            batch.candidates += _candidates(place, images, scores, present)
    return batch


def _maps(
    model: nn.Module,
    views: Tensor,
    recipe: Recipe,
    protocols: Sequence[Protocol],
    size: Sequence[int],
) -> dict[tuple, Tensor]:
    """The maps that any protocol asks for, by scales, flip and kind: (B, C, H, W) in [0, 1]."""
    found, similarity = {}, recipe.masks.lam_similarity
    wanted = [(p.scales, p.flip, p.map) for p in protocols if p.map != "decoder"]
    for scales, flip in dict.fromkeys(key[:2] for key in wanted):
        maps = multiscale_maps(model, views, scales, similarity, flip)._asdict()
        if (scales, flip, "fused") in wanted:
            maps["fused"] = fuse(maps["lam"], maps["cam"])
        kinds = {kind for kind in maps if (scales, flip, kind) in wanted}
        found |= {(scales, flip, kind): resized(maps[kind], size) for kind in kinds}
    return found


def _decoder_scores(
    model: nn.Module, views: Tensor, output: MoReOutput, protocol: Protocol, size: Sequence[int]
) -> Tensor:
    """The decoder's (B, C + 1, H, W): logits where the largest counts alone, else probabilities."""
    if protocol.scales == (1.0,) and not protocol.flip:
        logits = resized(output.seg_logits, size)
        return logits if protocol.crf == "none" else logits.softmax(1)
    return resized(multiscale_decoder(model, views, protocol.scales, protocol.flip), size)


def _candidates(
    place: int, images: Tensor, scores: Tensor, present: Tensor | None
) -> Iterator[Candidates]:
    """Of each image the background and the classes ``present``, or all: others cannot win."""
    pixels = (denormalize(images) * 255).round().byte().permute(0, 2, 3, 1)
    for index, image in enumerate(pixels):
        numbers = torch.arange(scores.shape[1], device=scores.device)
        if present is not None:
            numbers = numbers[F.pad(present[index] > 0, (1, 0), value=True)]
        yield Candidates(place, image, scores[index, numbers], numbers)


def _refined(batches: Iterable[Batch], method: Method) -> Iterator[Batch]:
    """The batches with the CRF's masks; only as many are under way as keep its processes busy."""
    waiting: deque[Batch] = deque()

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches:
            waiting.append(batch)
            yield from ((candidate.image, candidate.scores) for candidate in batch.candidates)

    with closing(dense_crf_many(pairs(), CRF["released"], method)) as results:
        for first in results:
            batch = waiting.popleft()
            beliefs = [first, *islice(results, len(batch.candidates) - 1)]
            masks: dict[int, list[Tensor]] = {}
            for candidate, belief in zip(batch.candidates, beliefs, strict=True):
                masks.setdefault(candidate.protocol, []).append(candidate.numbers[belief.argmax(0)])
            *_, (_, image, scores, _) = batch.candidates
            batch.exact = choose_method(*image.shape[:2], scores.device, method) == "exact"
            batch.candidates = []
            for place, of_images in masks.items():
                batch.predictions[place] = torch.stack(of_images)
            yield batch


def _whole_patches(images: Tensor, patch: int) -> Tensor:
    """Images resized, if need be, to the multiple of the patch nearest to their size."""
    return resized(images, [max(int(s / patch + 0.5), 1) * patch for s in images.shape[-2:]])


def _same_size(items: list[dict]) -> dict:
    """A batch; ``InputError`` when its images differ in size."""
    sizes = {"x".join(map(str, item["image"].shape[1:])): item["id"] for item in items}
    if len(sizes) > 1:
        two = " and ".join(f"{image_id} is {size}" for size, image_id in list(sizes.items())[:2])
        raise InputError(f"images of one batch differ in size ({two}); set evaluation.batch_size=1")
    return default_collate(items)
