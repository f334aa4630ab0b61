"""The released protocols against their literal transcription, one picture at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from more_lib.data.transforms import evaluation_transform
from more_lib.data.voc import VocTree
from more_lib.evaluation.masks import SplitImages, evaluation_mode, segment
from more_lib.evaluation.scoring import score
from more_lib.method.crf import CrfParams
from more_lib.method.model import MoRe
from tests.evaluation.helpers import ColourModel, named, recipe_with, save, set_split
from tests.method import transcriptions

CLASSES = ("cat", "dog", "car", "person")
SIDE = 64  # patches of 8: every scale is whole patches, as of 448 pixels in patches of 16
SIZES = {"wide": (28, 42), "tall": (45, 25), "square": (32, 32)}
LABELS = {"wide": "cat", "tall": "dog", "square": "car"}
NAMES = ("paper-val", "decoder-val", "decoder-val-toco", "cam-log", "lam-log", "decoder-log")
CRF, TOCO_CRF = CrfParams(10, 3.0, 1.0, 4.0, 67.0, 3.0), CrfParams(10, 1.0, 1.0, 4.0, 121.0, 5.0)


class Shifted(nn.Module):
    """A network whose logits are all less by some amount."""

    def __init__(self, model, amount):
        super().__init__()
        self.model, self.amount, self.patch_size = model, amount, model.patch_size

    def forward(self, images):
        output = self.model(images)
        return output._replace(class_logits=output.class_logits - self.amount)


def pixels_of(tree, image_id):
    return np.array(tree.image(image_id))


def square_of(pixels):
    normalised = evaluation_transform(None)(pixels)[None]
    return F.interpolate(normalised, (SIDE, SIDE), mode="bilinear", align_corners=False)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Three photographs of several shapes and a random network that names no class in one."""
    root = tmp_path_factory.mktemp("case")
    for part in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        coarse = rng.integers(0, 256, (4, 5, 3), np.uint8)
        rows, columns = (
            np.arange(side) * of // side for side, of in zip(size, (4, 5), strict=True)
        )
        noise = rng.integers(0, 12, (*size, 3))
        pixels = np.clip(coarse[rows][:, columns] + noise, 0, 255).astype(np.uint8)
        mask = np.zeros(size, np.uint8)
        mask[:9, :9] = {"cat": 8, "dog": 12, "car": 7}[LABELS[name]]
        save(root, name, pixels, mask, LABELS[name])
    set_split(root, *SIZES)
    recipe = recipe_with(
        root,
        f"data.classes=[{','.join(CLASSES)}]",
        f"data.crop_size={SIDE}",
        "backbone.depth=3",
        "evaluation.batch_size=1",
        "evaluation.scales=[1.0, 0.5, 0.75, 1.5]",
    )
    torch.manual_seed(1)
    model = MoRe.from_recipe(recipe, pretrained=False).eval()
    tree = VocTree(root, CLASSES)
    with torch.no_grad():
        for layer in (model.decoder[n] for n in (0, 2, 4)):
            layer.weight.mul_(4)  # so that more than one class has the largest logit somewhere
        squares = [square_of(pixels_of(tree, name)) for name in SIZES]
        best = sorted(model(square).class_logits.max() for square in squares)
    return Shifted(model, (best[0] + best[1]) / 2), recipe, tree


def resize(maps, size):
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def lam_of(output):
    """Dot products, class by class and patch by patch."""
    features, tokens = output.features[0], output.class_tokens[0]
    rows = [[[f @ t for f in line.T] for line in features.unbind(1)] for t in tokens]
    return torch.stack([torch.stack([torch.stack(line) for line in each]) for each in rows])[None]


def stretched(maps):
    """Min-max, class by class."""
    return torch.stack([(m - m.min()) / ((m - m.min()).max() + 1e-5) for m in maps[0]])[None]


def multiscale(model, square, scales, kind):
    total = torch.zeros(())
    for scale in scales:
        view = resize(square, [int(scale * SIDE)] * 2)
        straight, mirrored = model(view), model(view.flip(3))
        if kind == "lam":
            straight, mirrored = lam_of(straight), lam_of(mirrored)
        else:
            straight, mirrored = straight.cam, mirrored.cam
        seen = torch.maximum(resize(straight, (SIDE, SIDE)), resize(mirrored, (SIDE, SIDE)).flip(3))
        total = total + (seen if kind == "lam" else seen.clamp(min=0))
    return stretched(total)


def predicted(output):
    found = [c for c in range(len(CLASSES)) if output.class_logits[0, c] > 0]
    if not found:
        winner = output.seg_logits[0].argmax(0).flatten().tolist()
        found = [c for c in range(len(CLASSES)) if winner.count(c + 1) >= 5]
    return found


@torch.no_grad()
def literal(model, name, pixels, true):
    """The mask of one picture by the table of released protocols, (H, W)."""
    size, square = pixels.shape[:2], square_of(pixels)
    output = model(square)
    if name.startswith("decoder"):
        if name == "decoder-log":
            return resize(output.seg_logits, size)[0].argmax(0)
        largest = None
        for scale in (1, 1.25, 1.5):
            view = resize(square, [int(scale * SIDE)] * 2)
            straight = resize(model(view).seg_logits, size)
            summed = straight + resize(model(view.flip(3)).seg_logits, size).flip(3)
            largest = summed if largest is None else torch.maximum(largest, summed)
        scores = largest[0].softmax(0)
        crf = TOCO_CRF if name == "decoder-val-toco" else CRF
        return transcriptions.dense_crf(torch.from_numpy(pixels), scores, crf).argmax(0)
    if name == "paper-val":
        maps = multiscale(model, square, (1, 0.5, 0.75, 1.25, 1.5, 1.75, 2), "lam")
        maps, found = resize(maps, size)[0], predicted(output)
        if not found:
            return torch.zeros(size, dtype=torch.int64)
        scores = torch.stack([1 - maps[found].max(0).values, *maps[found]])
        belief = transcriptions.dense_crf(torch.from_numpy(pixels), scores, CRF)
        return torch.tensor([0, *(c + 1 for c in found)])[belief.argmax(0)]
    if name == "cam-log":
        maps = resize(multiscale(model, square, (1, 0.5, 0.75, 1.5), "cam"), size)[0]
    else:
        maps = stretched(resize(lam_of(output), size))[0]
    mask = torch.zeros(size, dtype=torch.int64)
    for y in range(size[0]):
        for x in range(size[1]):
            best = max(true, key=lambda c: maps[c, y, x])
            if maps[best, y, x] > 0.5:
                mask[y, x] = best + 1
    return mask


def masks_of(model, recipe, tree, protocols):
    images = SplitImages(tree, tree.ids("val"), labels=True, masks=False)
    with evaluation_mode(model, None) as place:
        batches = list(segment(model, recipe, protocols, images, place))
    return {batch.ids[0]: batch.predictions[:, 0] for batch in batches}


@pytest.mark.slow
def test_every_released_protocol_is_its_literal_transcription(case):
    model, recipe, tree = case
    protocols = named(recipe, *NAMES)
    found, classes = masks_of(model, recipe, tree, protocols), set()
    for image_id, masks in found.items():
        pixels = pixels_of(tree, image_id)
        true = tree.labels(image_id).nonzero()[0].tolist()
        for name, mask in zip(NAMES, masks, strict=True):
            wanted = literal(model, name, pixels, true)
            assert mask.shape == wanted.shape == SIZES[image_id]
            assert (mask != wanted).float().mean() < 1e-3, (image_id, name)  # but for ties
            classes |= {(name, number) for number in wanted.unique().tolist()}
    assert all(len([1 for name, _ in classes if name == each]) > 1 for each in NAMES)
    with torch.no_grad():
        logits = [model(square_of(pixels_of(tree, name))).class_logits for name in SIZES]
    assert sorted(bool((each > 0).any()) for each in logits) == [False, True, True]


@pytest.mark.slow
def test_native_size_and_shape_give_other_masks(case):
    model, recipe, tree = case
    released = masks_of(model, recipe, tree, named(recipe, *NAMES))
    native = masks_of(model, recipe, tree, named(recipe, *(f"{name}-native" for name in NAMES)))
    differing = [(released[i] != native[i]).float().mean((1, 2)) for i in ("wide", "tall")]
    assert (torch.stack(differing).amax(0) > 0.01).all()


class Decoding(ColourModel):
    """Names nothing; its decoder shows a cat on some places of the grid and a dog elsewhere."""

    def __init__(self, places):
        super().__init__()
        self.places = places

    def forward(self, images, **options):
        output = super().forward(images, **options)
        logits = torch.zeros_like(output.seg_logits).flatten(2)  # (B, 3, N)
        logits[:, 0] = 1
        logits[:, 1, : self.places] = logits[:, 2, self.places : self.places + 5] = 2
        decoded = logits.view_as(output.seg_logits)
        return output._replace(class_logits=output.class_logits - 9, seg_logits=decoded)


@pytest.mark.parametrize(("places", "cat"), [(4, False), (5, True)])
def test_without_a_predicted_class_the_decoders_count_from_five_places_on(root, places, cat):
    recipe = recipe_with(root, "data.crop_size=16", "evaluation.batch_size=1")
    (paper,) = named(recipe, "paper-val")
    plain = replace(paper, crf="none", threshold=0.5, scales=(1.0,), flip=False)
    model = Decoding(places)
    for masks in masks_of(model, recipe, VocTree(root, ("cat", "dog")), [plain]).values():
        assert (1 in masks.unique()) <= cat
    result = score(Decoding(places), recipe, [plain]).results[0]
    assert result.note == "images without a predicted class, labelled by the decoder: 3"
    assert bool(result.matrix[:, 1].any()) == cat  # LAM sees blue, the cat's, in the images
    native = score(Decoding(places), recipe, [replace(plain, size=0)]).results[0]
    assert not native.matrix[:, 1:].any()
    assert native.note == "images without a predicted class, all background: 3"
