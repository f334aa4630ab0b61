"""One rule from a network's maps to a mask, for scores, for export and for images of your own.

Of the maps over some views the classes that are looked for, perhaps a dense CRF; then the largest
score takes the pixel. ``segment`` makes the masks of a split so, which nobody keeps in memory.
"""

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, tee

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from more_lib.data.transforms import denormalize, evaluation_transform
from more_lib.data.tree import ImageTree
from more_lib.evaluation.protocols import MAP_NAMES, Protocol, network_of
from more_lib.evaluation.released import predicted_classes, square_map, square_views
from more_lib.method.crf import (
    CRF_PARAMS,
    Method,
    choose_method,
    dense_crf_many,
    has_lattice,
    with_background,
)
from more_lib.method.localization import Group, Views, fuse, resized, views_of
from more_lib.method.methods import method_of
from more_lib.method.model import MoRe
from more_lib.method.pseudo_labels import PixelAdaptiveRefinement
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError
from more_lib.system.precision import autocast

FUSED = {"fused": ("lam", "cam")}  # maps that are made of others


def drawn_maps(recipe: Recipe) -> list[str]:
    """The maps that a recipe's method draws, in the order of tables."""
    return [name for name in MAP_NAMES if name in method_of(recipe).maps]


@dataclass(frozen=True, eq=False)
class Scores:
    """What the background and K classes score at the pixels of one image.

    classes: their numbers, of 1..C. values: (K, h, w) in [0, 1]. background: (h, w) likewise where
    it has a score of its own, else the threshold that a class must exceed.
    """

    classes: list[int]
    values: Tensor
    background: Tensor | float

    def mask(self, size: Sequence[int]) -> Tensor:
        """(H, W) uint8: the class of the largest score where that exceeds the background's, else 0.

        One class at a time is brought to ``size``: a photograph's K together need not fit.
        """
        if isinstance(self.background, Tensor):
            best = resized(self.background[None, None], size)[0, 0]
        else:
            best = self.values.new_full(tuple(size), self.background)
        mask = torch.zeros_like(best, dtype=torch.uint8)
        for number, values in zip(self.classes, self.values, strict=True):
            score = resized(values[None, None], size)[0, 0]
            mask.masked_fill_(score > best, number)
            best = torch.maximum(best, score)
        return mask

    def probabilities(self, size: Sequence[int]) -> Tensor:
        """(1 + K, H, W) for ``dense_crf``; a background without score has 1 - the largest."""
        if not self.classes:
            return self.values.new_ones(1, *size)
        if isinstance(self.background, Tensor):
            return resized(torch.cat([self.background[None], self.values])[None], size)[0]
        return with_background(resized(self.values[None], size)[0])

    def refined(self, probabilities: Tensor) -> "Scores":
        """The same classes with the (1 + K, H, W) that ``dense_crf`` made of ``probabilities``."""
        return Scores(self.classes, probabilities[1:], probabilities[0])


def protocol_views(
    model: MoRe, images: Tensor, protocols: Iterable[Protocol], similarity: str
) -> tuple[Views, Tensor]:
    """What all protocols need of the network, each view run once, and image logits (B, C).

    protocols: of one place. images: (B, 3, H, W) normalised, whole patches.
    """
    protocols = list(protocols)
    model = network_of(model, protocols)
    groups = list(dict.fromkeys((protocol.scales, protocol.flip) for protocol in protocols))
    if not any(1 in scales for scales, _ in groups):
        groups.append(((1.0,), False))  # the logits are those of the images as they are
    kinds = dict.fromkeys(kind for each in protocols for kind in FUSED.get(each.map, (each.map,)))
    with autocast(images.device, protocols[0].precision):
        views = views_of(model, images, groups, similarity, list(kinds))
    assert views.class_logits is not None
    return views, views.class_logits


class ImageMaps:
    """The maps of one image of a batch at its size: each is drawn once, of few classes.

    views: of ``protocol_views``, of ``inputs``. index: the image's. classes: the numbers 1..C that
    any protocol looks for. Upsampling the maps of all C would cost more than a small network.
    """

    def __init__(
        self, views: Views, inputs: Tensor, index: int, classes: Iterable[int], recipe: Recipe
    ) -> None:
        self.views, self.image, self.classes = views, slice(index, index + 1), sorted(set(classes))
        self.picture, self.masks = inputs[self.image], recipe.masks
        self._drawn: dict[tuple[Group, str, str], Tensor] = {}

    def of(self, protocol: Protocol, kind: str, classes: Sequence[int]) -> Tensor:
        """(K, H, W) in [0, 1] of a protocol's views; for the decoder, 0 is the background."""
        group, decoder = (protocol.scales, protocol.flip), kind == "decoder"
        key = group, kind, protocol.refinement
        if not classes:
            return torch.zeros(0, *self.views.size, device=self.views.raw[group[0][0]][kind].device)
        if key not in self._drawn:
            channels = slice(None) if decoder else [number - 1 for number in self.classes]
            maps = self.views.merged(group, kind, self.image, channels)
            if protocol.refinement == "par":
                par = PixelAdaptiveRefinement(self.masks.dilations, self.masks.refinements)
                maps = par.to(maps.device).level(self.picture, maps)
            self._drawn[key] = maps[0]
        drawn = self._drawn[key]
        return drawn[list(classes) if decoder else [self.classes.index(n) for n in classes]]


def scores_of(maps: ImageMaps, protocol: Protocol, classes: list[int]) -> Scores:
    """What a protocol lets compete for the pixels of one image, at the maps' size.

    classes: the numbers 1..C that are looked for; the decoder's probabilities are then those among
    them and the background.
    """
    if protocol.map == "decoder":
        shares = maps.of(protocol, "decoder", [0, *classes])
        shares = shares / shares.sum(0).clamp(min=1e-5)
        return Scores(classes, shares[1:], shares[0])
    values = [maps.of(protocol, kind, classes) for kind in FUSED.get(protocol.map, (protocol.map,))]
    scores = fuse(*values) if protocol.map in FUSED and classes else values[0]
    # Without a threshold the background has 1 - the largest map, which that exceeds from 0.5 on.
    return Scores(classes, scores, 0.5 if protocol.threshold is None else protocol.threshold)


def square_scores(
    views: Views, index: int, protocol: Protocol, classes: list[int], size: Sequence[int]
) -> Scores:
    """``scores_of`` for a protocol whose images are squares; ``size``: the photograph's (H, W)."""
    values, least = square_map(views, index, protocol, classes, size), protocol.threshold
    if protocol.map == "decoder":
        return Scores(classes, values[1:], values[0])
    return Scores(classes, values, 0.5 if least is None else least)


def whole_patches(images: Tensor, patch: int, scales: Iterable[float] = ()) -> Tensor:
    """Images (B, 3, H, W) at the nearest whole number of patches that leaves one at all scales."""
    least = math.ceil(1 / min([1, *scales]))
    return resized(images, [max(int(s / patch + 0.5), least) * patch for s in images.shape[-2:]])


@dataclass(eq=False)
class Batch:
    """Some images of a split and what was made of them.

    logits, token_logits: (B, C), what classifier and class tokens say of an image, on the CPU.
    labels: (B, C) of 0 and 1, masks: (B, H, W) int64, each None unless it was read. predictions:
    for each protocol (B, H, W), together (P, B, H, W) int64, 0 background and 1..C, at the images'
    size. exact: whether a CRF was at work, by exact sums. undecided: what awaits the CRF: the place
    (p, b) of a mask, (H, W, 3) uint8 pixels, scores.
    """

    ids: list[str]
    logits: Tensor
    token_logits: Tensor
    labels: Tensor | None
    masks: Tensor | None
    predictions: Tensor
    undecided: list[tuple[tuple[int, int], Tensor, Scores]] = field(default_factory=list)
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
    model: MoRe,
    recipe: Recipe,
    protocols: Sequence[Protocol],
    images: SplitImages,
    device: torch.device,
) -> Generator[Batch, None, None]:
    """Batches in the order of ``images``, one at a time, each with a mask for every protocol.

    model: on ``device`` and in ``evaluation_mode``. protocols: of one size and precision. Raises
    ``InputError`` for unusable files, images of several sizes in one batch, and a CRF that cannot
    run here.
    """
    size, workers, pinned = recipe.evaluation.batch_size, recipe.data.workers, device.type == "cuda"
    loader = DataLoader(images, size, num_workers=workers, collate_fn=_same_size, pin_memory=pinned)
    batches: Iterator[Batch] = (_scored(model, recipe, protocols, each, device) for each in loader)
    if all(protocol.crf == "none" for protocol in protocols):
        yield from batches
        return
    # To keep its processes busy, the CRF draws batches ahead of what it gives back; tee keeps them.
    batches, ahead = tee(batches)
    pairs = (
        (pixels, scores.probabilities(pixels.shape[:2]), CRF_PARAMS[protocols[p].crf])
        for batch in ahead
        for (p, _), pixels, scores in batch.undecided
    )
    method = crf_method(device)
    with closing(dense_crf_many(pairs, method=method)) as beliefs:
        for batch in batches:
            with torch.inference_mode():
                for (place, _, scores), belief in zip(batch.undecided, beliefs, strict=False):
                    batch.predictions[place] = scores.refined(belief).mask(belief.shape[-2:])
            batch.undecided.clear()
            height, width = batch.predictions.shape[-2:]
            batch.exact = choose_method(height, width, device, method) == "exact"
            yield batch


def crf_method(device: torch.device) -> Method:
    """How a split's CRF runs: on a CPU by the lattice, if there; exact sums would take hours."""
    return "lattice" if device.type == "cpu" and has_lattice() else "auto"


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
def _scored(
    model: MoRe, recipe: Recipe, protocols: Sequence[Protocol], items: dict, device: torch.device
) -> Batch:
    """One batch through the network: masks, but for those that a CRF has to decide."""
    images, similarity = items["image"].to(device, non_blocking=True), recipe.masks.lam_similarity
    if protocols[0].size:
        views, logits = square_views(model, images, protocols, similarity)
        predicted = predicted_classes(views, logits)
    else:
        inputs = whole_patches(images, model.patch_size, [s for p in protocols for s in p.scales])
        views, logits = protocol_views(model, inputs, protocols, similarity)
        predicted = logits > 0
    present = {"none": torch.ones_like(logits), "predicted": predicted}
    present |= {"true": items["labels"]} if "labels" in items else {}
    # The classes 1..C of each image, by whose labels they are.
    classes = {
        kind: [[number for number, y in enumerate(row, 1) if y] for row in labels.tolist()]
        for kind, labels in present.items()
    }
    pixels = (denormalize(images) * 255).round().byte().permute(0, 2, 3, 1)
    masks = images.new_zeros((len(protocols), *pixels.shape[:3]), dtype=torch.int64)
    assert views.token_logits is not None
    named = logits.cpu(), views.token_logits.cpu()
    batch = Batch(items["id"], *named, items.get("labels"), items.get("mask"), masks)
    for b in range(len(images)):
        if protocols[0].size:
            scored = partial(square_scores, views, b, size=images.shape[-2:])
        else:
            wanted = {p.labels: classes[p.labels][b] for p in protocols if p.map != "decoder"}
            scored = partial(
                scores_of, ImageMaps(views, inputs, b, chain(*wanted.values()), recipe)
            )
        for p, protocol in enumerate(protocols):
            scores = scored(protocol, classes[protocol.labels][b])
            if protocol.crf == "none":
                masks[p, b] = scores.mask(masks.shape[-2:])
            else:
                batch.undecided.append(((p, b), pixels[b], scores))
    return batch


def _same_size(items: list[dict]) -> dict:
    """A batch; ``InputError`` when its images differ in size."""
    sizes = {"x".join(map(str, item["image"].shape[1:])): item["id"] for item in items}
    if len(sizes) > 1:
        two = " and ".join(f"{image_id} is {size}" for size, image_id in list(sizes.items())[:2])
        raise InputError(f"images of one batch differ in size ({two}); set evaluation.batch_size=1")
    return default_collate(items)
