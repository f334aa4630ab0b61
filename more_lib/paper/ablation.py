"""The paper's ablation (Table 3) on any recipe: the same training, parts of the method left out.

Notebook 06 shows it. Each condition is the recipe with a few values changed, so everything else,
the objective's other terms included, stays as it is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from more_lib.evaluation.protocols import MASK_MAPS
from more_lib.paper.published import published
from more_lib.paper.trials import over_seeds, score_each
from more_lib.recipes.loading import changed
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError


class Condition(NamedTuple):
    """A row of ``published/conditions.csv``, and its mIoU in the paper's Table 3.

    The paper's numbers come from other images, another backbone and another protocol (multi-scale
    LAM, predicted labels, CRF): they say in which order to expect ours, not how large they are.
    """

    title: str
    overrides: tuple[str, ...]
    paper: float | None  # in per cent on VOC 2012 val; None where the paper has no such row


# The baseline classifies its class tokens, as MCTformer does: without CRE nothing else tells a
# token which class is its own.
_PAPER = published("table3").set_index("condition")["miou"].to_dict()
CONDITIONS = {
    name: Condition(title, tuple(overrides.split()), _PAPER.get(row))
    for name, title, row, overrides in published("conditions").fillna("").itertuples(index=False)
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
    maps: Sequence[str] = MASK_MAPS,
) -> pd.DataFrame:
    """Train (or load) and score every condition with every seed; one row a condition and map.

    Columns: the condition, its title, and what ``trials.over_seeds`` says of it.
    """
    table = over_seeds(score_each(trials(recipe, names), seeds, maps))
    table = table.rename(columns={"trial": "condition"})
    table.insert(1, "title", [CONDITIONS[name].title for name in table["condition"]])
    return table
