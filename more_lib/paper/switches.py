"""Where paper and released code differ, each difference as a switch of the recipe (notebook 07).

The recipes hold the released values. A switch of ``published/switches.csv`` names the overrides
that bring the paper's instead, one row at a time, so that a training can say what it is worth.
"""

from typing import NamedTuple

from more_lib.method.model import MoRe
from more_lib.paper.published import published
from more_lib.recipes.loading import changed
from more_lib.recipes.schema import Recipe


class Switch(NamedTuple):
    """One row in which paper and released code differ, and the overrides from one to the other."""

    topic: str
    released: str
    paper: str
    overrides: tuple[str, ...]


def switches(recipe: Recipe) -> dict[str, Switch]:
    """Every row by a short name, as overrides of ``recipe``, which must hold the released values.

    A row whose paper's side it has, as mini has of three, leads back, its texts exchanged.
    K, as in the paper, is half of the patches of a training crop; the row of the tails keeps the
    released K. "all" is the paper's side of every row. Left out: the pretraining, for which a
    backbone must be at hand, and the losses that the paper calls "also adopted", which both have.
    """
    patch = MoRe.from_recipe(recipe, pretrained=False).patch_size
    sizes = {
        "classes": recipe.graph.num_neighbors or len(recipe.data.classes) // 2,
        "patches": (recipe.data.crop_size // patch) ** 2 // 2,
        "tokens": recipe.lir.num_tokens,
    }
    rows, together = {}, {}
    for name, *texts in published("switches").fillna("").itertuples(index=False):
        topic, released, paper, there, back = (text.format(**sizes) for text in texts)
        rows[name] = Switch(topic, released, paper, tuple(there.split()))
        if back and changed(recipe, rows[name].overrides) == recipe:
            rows[name] = Switch(topic, paper, released, tuple(back.split()))
        else:
            together |= dict.fromkeys(rows[name].overrides)
    # The tails' released K is theirs alone: with all of them K is the paper's.
    del together[f"graph.num_neighbors={sizes['classes']}"]
    return rows | {"all": Switch("all of them", "released", "paper", tuple(together))}


def trials(recipe: Recipe) -> dict[str, Recipe]:
    """``recipe`` as released, then with each row switched alone, then with all, by name."""
    alone = {name: changed(recipe, row.overrides) for name, row in switches(recipe).items()}
    return {"release": recipe, **alone}
