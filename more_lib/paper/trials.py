"""Many trainings of variations of a recipe: side by side, and their scores over seeds.

The ablation (notebook 06), the switches between paper and released code and the backbones
(notebook 07) are trials: recipes by name, each trained with several seeds and scored alike.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from math import isnan, nan
from multiprocessing import get_context
from statistics import mean, stdev

import pandas as pd
import torch

from more_lib.data import open_tree
from more_lib.evaluation.protocols import MAP_NAMES, MASK_MAPS
from more_lib.evaluation.scoring import evaluate_or_load
from more_lib.recipes.loading import training_fingerprint
from more_lib.recipes.schema import Recipe
from more_lib.training.cache import Trained, cached_folder, train_or_load

SCORES = ("miou", "precision", "recall", "confusion_ratio", "image_map", "token_map")
MISSED = "classes_without_hits"  # which a mean of confusion ratios leaves out
Rows = pd.DataFrame | Sequence[Mapping]


def with_seeds(recipes: Iterable[Recipe], seeds: Sequence[int]) -> list[Recipe]:
    """Every recipe with every seed: all recipes with the first one, then with the next."""
    recipes = list(recipes)
    return [replace(recipe, seed=seed) for seed in seeds for recipe in recipes]


def is_trained(recipe: Recipe) -> bool:
    """Whether ``train_or_load`` would find this recipe's network in the cache."""
    return (cached_folder(recipe) / "record.json").exists()


def train_side_by_side(recipes: Sequence[Recipe]) -> int:
    """Train and score on a CPU, several at once, those that the cache lacks; how many it was.

    Trainings of one thread each get a quarter more done than one after the other on all threads.
    Does nothing on an accelerator, and for one training or thread. Raises as ``train_or_load``.
    """
    threads = torch.get_num_threads()
    if torch.accelerator.is_available() or threads == 1 or not recipes:
        return 0
    open_tree(recipes[0].data)  # EmojiVOC is made once, not by each process
    by_training = {training_fingerprint(recipe): recipe for recipe in recipes}
    missing = [recipe for recipe in by_training.values() if not is_trained(recipe)]
    if len(missing) < 2:
        return 0
    workers = len(missing) if len(missing) <= 2 * threads else threads
    print(f"training {len(missing)} networks, {workers} at once", flush=True)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(_train_all, missing, workers).result()
    return len(missing)


def score_each(
    trials: Mapping[str, Recipe], seeds: Sequence[int], maps: Sequence[str] = MASK_MAPS
) -> pd.DataFrame:
    """Train (or load) and score every trial with every seed: a row a trial, seed and map.

    Columns: trial, seed, map (its name in tables), ``SCORES`` as fractions, missing where a score
    has no value, and ``MISSED``; image and token mAP are a network's, the same for each map. Maps
    take the true image labels, on ``recipe.data.val_split``; scales and threshold are the recipe's,
    without CRF.
    """
    seeded = ((name, each) for name in trials for each in with_seeds([trials[name]], seeds))
    rows = (row for name, each in seeded for row in score_trained(name, train_or_load(each), maps))
    return pd.DataFrame(rows)


def score_trained(name: str, trained: Trained, maps: Sequence[str] = MASK_MAPS) -> list[dict]:
    """The rows of ``score_each`` that are one network's, as JSON has them: None for no value."""
    evaluation, rows = evaluate_or_load(trained), []
    image_map = None if isnan(evaluation.image_map) else evaluation.image_map
    for kind in maps:
        labels = "none" if kind == "decoder" else "true"
        summary = evaluation.result(kind, labels).scores.summary()
        summary |= {"image_map": image_map, "token_map": evaluation.token_map}
        row = {"trial": name, "seed": trained.recipe.seed, "map": MAP_NAMES[kind]}
        rows.append(row | {score: summary[score] for score in (*SCORES, MISSED)})
    return rows


def over_seeds(rows: Rows, scores: Sequence[str] = (*SCORES, MISSED)) -> pd.DataFrame:
    """``score_each``'s rows with the seeds of a trial and map put together, in order.

    Columns: trial, map, seeds (how many), and each of ``scores``: its mean and, when a trial has
    two seeds or more, its standard deviation (n - 1) as ``<score>_std``. Missing where a seed has
    no value, as in records older than a score, the deviation also of one seed.
    """
    frame = pd.DataFrame(rows, columns=["trial", "map", *scores])
    groups = frame.astype(dict.fromkeys(scores, float)).groupby(["trial", "map"], sort=False)
    table = groups.size().to_frame("seeds")
    for score in scores:
        table[score] = groups[score].agg(_mean)
        if (table["seeds"] > 1).any():
            table[f"{score}_std"] = groups[score].agg(_std)
    return table.reset_index()


def with_spread(row: Mapping | pd.Series, score: str) -> str:
    """``31.4 ± 0.6``, a mean with its deviation if it has one; a dash without a value.

    Shares are in per cent, a confusion ratio as it is; a ``<score>_gain`` has its sign.
    """
    factor, digits = (1, 2) if score.startswith("confusion_ratio") else (100, 1)
    value, spread = row[score], row.get(f"{score}_std")  # no deviations where all have one seed
    if pd.isna(value):
        return "–"
    text = f"{factor * value:{'+' if score.endswith('_gain') else ''}.{digits}f}"
    return text if pd.isna(spread) else f"{text} ± {factor * spread:.{digits}f}"


def _train_all(recipes: Sequence[Recipe], workers: int) -> None:
    """In a new process, whose imports the workers share; a fork elsewhere may hang or crash."""
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context, _one_thread) as pool:
        list(pool.map(_train_and_score, recipes))


def _one_thread() -> None:
    os.environ["MORE_PROGRESS"] = "0"  # bars of several trainings would overwrite each other
    torch.set_num_threads(1)


def _train_and_score(recipe: Recipe) -> None:
    evaluate_or_load(train_or_load(recipe))


# Not pandas' own: these are rounded correctly, so that records agree to the last digit.
def _mean(values: pd.Series) -> float:
    return mean(values) if values.notna().all() else nan


def _std(values: pd.Series) -> float:
    return stdev(values) if len(values) > 1 and values.notna().all() else nan
