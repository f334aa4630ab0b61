"""The paper's ablation (Table 3) on any recipe: the same training, parts of the method left out.

Notebook 06 shows it. Each condition is the recipe with a few values changed, so everything else,
the objective's other terms included, stays as it is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from more_lib.paper.trials import MAPS, over_seeds, score_each
from more_lib.recipes.loading import changed
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError

_NO_CRE, _NO_URE, _NO_GCR = (
    "loss.confident_relation=0",
    "loss.uncertain_relation=0",
    "graph.use=false",
)
# As MCTformer: without CRE nothing else tells a class token which class is its own.
_BY_NAME = "loss.token_classification=1"


class Condition(NamedTuple):
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


def condition(recipe: Recipe, name: str) -> Recipe:
    """The recipe of one condition; ``InputError`` for a name that ``CONDITIONS`` lacks."""
    if name not in CONDITIONS:
        raise InputError(f"condition {name!r} is unknown; there are: {', '.join(CONDITIONS)}")
    return changed(recipe, CONDITIONS[name].overrides)


def plain(recipe: Recipe) -> Recipe:
    """The baseline without the losses that learn from masks: a ViT with class tokens (Figure 3).

    Class tokens and patches learn from image labels alone; there is no trained decoder.
    """
    mined = ("patch_token_contrast", "segmentation", "dense_energy")
    return changed(condition(recipe, "baseline"), [f"loss.{name}=0" for name in mined])


def trials(recipe: Recipe, names: Sequence[str] = MAIN) -> dict[str, Recipe]:
    """The recipes of some conditions by name, for ``more_lib.paper.trials``."""
    return {name: condition(recipe, name) for name in names}


def run(
    recipe: Recipe,
    names: Sequence[str] = MAIN,
    seeds: Sequence[int] = (0,),
    maps: Sequence[str] = MAPS,
) -> pd.DataFrame:
    """Train (or load) and score every condition with every seed; one row a condition and map.

    Columns: the condition, its title, and what ``trials.over_seeds`` says of it.
    """
    table = over_seeds(score_each(trials(recipe, names), seeds, maps))
    table = table.rename(columns={"trial": "condition"})
    table.insert(1, "title", [CONDITIONS[name].title for name in table["condition"]])
    return table
