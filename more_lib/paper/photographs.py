"""Photographs of your own: the study ``photographs`` (RESULTS.md, notebook 02 §10).

It trains the profile ``photos`` on a folder with masks. What it learned from does not belong to
this package, so that a record names neither the folder nor its classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from more_lib.data import open_tree
from more_lib.data.transforms import evaluation_transform
from more_lib.evaluation.protocols import MAP_NAMES, MASK_MAPS
from more_lib.evaluation.results import Result
from more_lib.evaluation.scoring import evaluate_or_load
from more_lib.figures.artifacts import mark_patches
from more_lib.figures.canvas import Picture
from more_lib.method import artifacts
from more_lib.method.backbones import load_backbone
from more_lib.method.localization import lam, min_max
from more_lib.method.vit import ClassTokenViT
from more_lib.paper import ablation
from more_lib.paper.published import published
from more_lib.paper.trials import score_trained
from more_lib.recipes.loading import changed
from more_lib.recipes.profiles import PROFILES
from more_lib.recipes.schema import Recipe
from more_lib.training.cache import Trained

# MoRe of the profile photos with a few values of another kind, as titles and overrides. Released
# are those of ``pets`` where the sizes do not decide; frozen blocks would keep its tokens equal.
FURTHER = {row.trial: (row.title, row.overrides) for row in published("photographs").itertuples()}
ONE, SEVERAL = "{}, images of one class", "{}, images of several"
SIDE = 448  # pixels of the squares on which tokens are measured: outliers come with many patches


def anybodys(recipe: Recipe) -> Recipe:
    """The recipe without what is one person's: on a folder, the profile's data and weights."""
    if recipe.data.dataset != "folder":
        return recipe
    usual = PROFILES[recipe.profile].data
    names = ("dataset", "classes", "train_split")
    data = replace(recipe.data, **{name: getattr(usual, name) for name in names})
    return replace(recipe, data=data, backbone=replace(recipe.backbone, weights=""))


def trials(recipe: Recipe) -> dict[str, Recipe]:
    """Baseline, LIR and MoRe, and MoRe by ``FURTHER``."""
    further = {name: changed(recipe, values.split()) for name, (_, values) in FURTHER.items()}
    return ablation.trials(recipe) | further


def score_by_labels(name: str, trained: Trained) -> list[dict]:
    """``trials.score_trained``'s rows, and of each map one row for images of one class and one for
    those of several, where the split has both; mAPs are of all images."""
    rows = score_trained(name, trained)
    tree, data = open_tree(trained.recipe.data), trained.recipe.data
    ids = tree.ids(data.val_split)
    one = [each for each in ids if tree.labels(each).sum() < 2]
    if len(one) in (0, len(ids)):
        return rows
    few = replace(trained.recipe, data=replace(data, skip=(*data.skip, *one)))
    whole, several = (evaluate_or_load(replace(trained, recipe=r)) for r in (trained.recipe, few))
    for row, kind in zip(tuple(rows), MASK_MAPS, strict=True):
        labels = "none" if kind == "decoder" else "true"
        every, some = (each.result(kind, labels) for each in (whole, several))
        # Two passes, of one thread and of two: a pixel at the threshold may fall either way.
        rest = replace(every, matrix=(every.matrix - some.matrix).clip(min=0))
        rows += [_row(row, ONE, kind, rest), _row(row, SEVERAL, kind, some)]
    return rows


def _row(row: dict, title: str, kind: str, result: Result) -> dict:
    summary = result.scores.summary()
    scores = {score: value for score, value in summary.items() if score in row}
    return row | scores | {"map": title.format(MAP_NAMES[kind])}


@torch.no_grad()
def by_block(recipe: Recipe, images: int = 32) -> dict[str, list[dict]]:
    """Long tokens and stray activation of the untrained backbone, by block, with and without
    registers: what "Vision Transformers Need Registers" reported of large ones (notebook 02 §5).

    Of the first ``images`` of the validation split as squares of ``SIDE`` pixels. ``outliers``:
    share of patch tokens longer than twice their image's median; ``largest``: length over median;
    ``isolated``: share of the activated patches (the class token's LAM above one half) with fewer
    than two activated ones around. The registers are as they begin, equal to the class token but
    for noise: a training might teach them more.
    """
    tree, side = open_tree(recipe.data), SIDE
    rows: dict[str, list[dict]] = {}
    for registers in (0, max(recipe.backbone.num_registers, 1)):
        torch.manual_seed(0)
        vit = load_backbone(recipe.backbone.name, recipe.backbone.weights)
        encoder = ClassTokenViT(vit, num_classes=1, num_registers=registers).eval()
        transform = evaluation_transform(side // encoder.patch_size * encoder.patch_size)
        pictures = [transform(tree.image(i)) for i in tree.ids(recipe.data.val_split)[:images]]
        parts = [_measured(encoder, picture[None]) for picture in pictures]
        means = torch.stack(parts).nanmean(0).tolist()
        names = ("outliers", "largest", "isolated")
        rows[f"{registers} registers"] = [dict(zip(names, row, strict=True)) for row in means]
    return rows


def _measured(encoder: ClassTokenViT, image: Tensor) -> Tensor:
    """(L, 3) of one image (1, 3, H, W): outliers, largest length, isolated rate of each block."""
    grid = [length // encoder.patch_size for length in image.shape[-2:]]
    tokens, patches = artifacts.block_tokens(encoder, image)  # (L, 1, 1, D), (L, 1, N, D)
    length = patches[:, 0].norm(dim=2)
    maps = min_max(lam(patches[:, 0].mT.unflatten(2, grid), tokens[:, 0]))
    outliers = artifacts.norm_outliers(patches[:, 0]).float().mean(1)
    largest = length.amax(1) / length.median(1).values
    return torch.stack([outliers, largest, artifacts.isolated_rate(maps, 0.5)[:, 0]], 1)


def eight(total: int) -> list[int]:
    """Positions of eight images, as far apart as a list of ``total`` allows: no one chose them."""
    return sorted({number * total // 8 for number in range(8)}) if total else []


def figure(
    items: Sequence[Mapping], survey: artifacts.Survey, threshold: float, title: str
) -> Picture:
    """Images with LAM of their first class, artifacts and isolated patches outlined.

    items: with "picture" (3, H, W) in [0, 1] and "name"; survey: of the same images, in order.
    """
    chosen = [(n, int(labels.argmax())) for n, labels in enumerate(survey.labels)]
    maps = [survey.maps[n, c] for n, c in chosen]
    stray = artifacts.artifact_patches(survey.maps, survey.share, threshold)
    marks = {
        "artifacts": [stray[n, c] for n, c in chosen],
        "isolated": [artifacts.isolated_patches(values > threshold) for values in maps],
    }
    pictures, names = ([item[key] for item in items] for key in ("picture", "name"))
    return mark_patches(pictures, maps, marks, names, title)
