"""The paper's ablation (Table 3) on any recipe: the same training, parts of the method left out.

Notebook 06 shows it. Each condition is the recipe with a few values changed, so everything else,
the objective's other terms included, stays as it is.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import mean, stdev

import torch

from more_lib.data import open_tree
from more_lib.errors import InputError
from more_lib.evaluation import MAP_NAMES, evaluate_or_load
from more_lib.recipes import Recipe, changed
from more_lib.training import cached_folder, train_or_load

_NO_CRE, _NO_URE, _NO_GCR = (
    "loss.confident_relation=0",
    "loss.uncertain_relation=0",
    "graph.use=false",
)
# As MCTformer: without CRE nothing else tells a class token which class is its own.
_BY_NAME = "loss.token_classification=1"


@dataclass(frozen=True)
class Condition:
    """A row of the ablation; ``paper`` is its mIoU in per cent on VOC 2012 val, None without one.

    The paper's numbers come from other images, another backbone and another protocol (multi-scale
    LAM, predicted labels, CRF): they say in which order to expect ours, not how large they are.
    """

    title: str
    overrides: tuple[str, ...]
    paper: float | None


CONDITIONS = {
    "baseline": Condition(
        "baseline: neither LIR nor GCR", (_NO_CRE, _NO_URE, _NO_GCR, _BY_NAME), 41.6
    ),
    "lir": Condition("LIR without GCR", (_NO_GCR,), 72.1),
    "gcr": Condition("GCR without LIR", (_NO_CRE, _NO_URE), None),
    "without_cre": Condition("without CRE", (_NO_CRE,), 65.0),
    "without_ure": Condition("without URE", (_NO_URE,), 74.4),
    "more": Condition("MoRe: LIR and GCR", (), 76.4),
}
MAIN = ("baseline", "lir", "more")
SCORES = ("miou", "precision", "recall", "confusion_ratio")


def condition(recipe: Recipe, name: str) -> Recipe:
    """The recipe of one condition; ``InputError`` for a name that ``CONDITIONS`` lacks."""
    if name not in CONDITIONS:
        raise InputError(f"condition {name!r} is unknown; there are: {', '.join(CONDITIONS)}")
    return changed(recipe, CONDITIONS[name].overrides)


def train_side_by_side(
    recipe: Recipe, names: Sequence[str] = MAIN, seeds: Sequence[int] = (0,)
) -> int:
    """Train and score on a CPU, several at once, what ``run`` would find missing; how many it was.

    Trainings of one thread each get a quarter more done than one after the other on all threads.
    On an accelerator, and where it would be one training or one thread, nothing is done. Raises
    what ``train_or_load`` raises.
    """
    threads = torch.get_num_threads()
    if torch.accelerator.is_available() or threads == 1:
        return 0
    open_tree(recipe.data)  # EmojiVOC is made once, not by each process
    recipes = [replace(condition(recipe, name), seed=seed) for seed in seeds for name in names]
    missing = [each for each in recipes if not (cached_folder(each) / "record.json").exists()]
    if len(missing) < 2:
        return 0
    workers = len(missing) if len(missing) <= 2 * threads else threads
    print(f"training {len(missing)} networks, {workers} at once", flush=True)
    with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
        list(pool.map(_train_and_score, missing))
    return len(missing)


def _one_thread() -> None:
    os.environ["MORE_PROGRESS"] = "0"  # bars of several trainings would overwrite each other
    torch.set_num_threads(1)


def _train_and_score(recipe: Recipe) -> None:
    evaluate_or_load(train_or_load(recipe))


def run(
    recipe: Recipe,
    names: Sequence[str] = MAIN,
    seeds: Sequence[int] = (0,),
    maps: Sequence[str] = ("lam", "cam", "fused", "decoder"),
) -> list[dict]:
    """Train (or load) and score every condition with every seed; one row a condition and map.

    A row holds the map, the number of seeds, and for each of ``SCORES`` its mean and, with two
    seeds or more, its standard deviation (n - 1) as ``<score>_std``. Shares are fractions. Maps
    take the true image labels; scales and threshold are the recipe's.
    """
    rows = []
    for name in names:
        recipes = [replace(condition(recipe, name), seed=seed) for seed in seeds]
        evaluations = [evaluate_or_load(train_or_load(each)) for each in recipes]
        for kind in maps:
            labels = "none" if kind == "decoder" else "true"
            found = [e.result(kind, labels).scores.summary() for e in evaluations]
            rows.append({"condition": name, "map": MAP_NAMES[kind], **_spread(found)})
    return rows


def _spread(summaries: Sequence[dict]) -> dict:
    """Number of seeds, mean and standard deviation of each score; None where one has no value."""
    row: dict = {"seeds": len(summaries)}
    for score in SCORES:
        values = [summary[score] for summary in summaries]
        whole = None not in values
        row[score] = mean(values) if whole else None
        if len(values) > 1:
            row[f"{score}_std"] = stdev(values) if whole else None
    return row
