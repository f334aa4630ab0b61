"""Photographs of your own: scores by how many classes an image shows (RESULTS.md, notebook 02).

The study ``photographs`` trains the profile ``photos`` on a folder with masks. What it learned from
does not belong to this package, so that a record names neither the folder nor its classes.
"""

from dataclasses import replace

from more_lib.data import open_tree
from more_lib.evaluation.protocols import MAP_NAMES, MASK_MAPS
from more_lib.evaluation.results import Result
from more_lib.evaluation.scoring import evaluate_or_load
from more_lib.paper.trials import score_trained
from more_lib.recipes.profiles import PROFILES
from more_lib.recipes.schema import Recipe
from more_lib.training.cache import Trained

ONE, SEVERAL = "{}, images of one class", "{}, images of several"


def anybodys(recipe: Recipe) -> Recipe:
    """The recipe without what is one person's: on a folder, the profile's data and weights."""
    if recipe.data.dataset != "folder":
        return recipe
    usual = PROFILES[recipe.profile].data
    names = ("dataset", "classes", "train_split")
    data = replace(recipe.data, **{name: getattr(usual, name) for name in names})
    return replace(recipe, data=data, backbone=replace(recipe.backbone, weights=""))


def score_by_labels(name: str, trained: Trained) -> list[dict]:
    """``trials.score_trained``'s rows, and of each map one row for images of one class and one for
    those of several, where the split has such; mAPs are of all images."""
    rows = score_trained(name, trained)
    tree, data = open_tree(trained.recipe.data), trained.recipe.data
    one = [each for each in tree.ids(data.val_split) if tree.labels(each).sum() < 2]
    if len(one) in (0, len(tree.ids(data.val_split))):
        return rows
    few = replace(trained.recipe, data=replace(data, skip=(*data.skip, *one)))
    whole, several = (evaluate_or_load(replace(trained, recipe=r)) for r in (trained.recipe, few))
    for row, kind in zip(tuple(rows), MASK_MAPS, strict=True):
        labels = "none" if kind == "decoder" else "true"
        every, some = (each.result(kind, labels) for each in (whole, several))
        rest = replace(every, matrix=every.matrix - some.matrix)
        rows += [_row(row, ONE, kind, rest), _row(row, SEVERAL, kind, some)]
    return rows


def _row(row: dict, title: str, kind: str, result: Result) -> dict:
    summary = result.scores.summary()
    scores = {score: value for score, value in summary.items() if score in row}
    return row | scores | {"map": title.format(MAP_NAMES[kind])}
