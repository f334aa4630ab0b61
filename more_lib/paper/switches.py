"""Where paper and released code differ, each difference as a switch of the recipe (notebook 07).

The recipes hold the released values. A switch names the overrides that bring the paper's instead,
one row at a time, so that a training can say what the row is worth.
"""

from typing import NamedTuple

from more_lib.method.model import MoRe
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

    K, as in the paper, is half of the patches of a training crop; the row of the tails keeps the
    released K. Left out: the pretraining, for which a backbone must be at hand, and the losses that
    the paper calls "also adopted", which both have.
    """
    own = recipe.graph.num_neighbors or int(0.5 * len(recipe.data.classes))
    half = (
        recipe.data.crop_size // MoRe.from_recipe(recipe, pretrained=False).patch_size
    ) ** 2 // 2
    rows = {
        "neighbors": Switch(
            "GCR: neighbours K",
            f"half of the classes: {own}",
            f"half of the patches: {half}",
            (f"graph.num_neighbors={half}",),
        ),
        "tails": Switch(
            "GCR: candidate tails",
            "class tokens and detached patches",
            "patches",
            ("graph.tails=patches", f"graph.num_neighbors={own}"),
        ),
        "similarity": Switch(
            "GCR: similarity that ranks tails",
            "dot product / sqrt(D)",
            "cosine",
            ("graph.similarity=cosine",),
        ),
        "edge_weights": Switch(
            "GCR: weights, Eq. 4",
            "product of two sums",
            "sum of products",
            ("graph.edge_weights=sum_of_products",),
        ),
        "update": Switch(
            "GCR: update, Eq. 5",
            "a tenth, added to the tokens, LayerNorm",
            "as written",
            ("graph.update=plain",),
        ),
        "lam": Switch("LAM", "dot product", "cosine", ("masks.lam_similarity=cosine",)),
        "decoder_map": Switch(
            "decoder's labels", "from CAM", "from LAM", ("masks.decoder_map=lam",)
        ),
        "confident": Switch(
            "CRE, Eq. 7",
            "patches detached, not normalised; mean a class",
            "cosine, patches trained; mean over pairs",
            ("lir.confident=paper",),
        ),
        "form": Switch("URE, Eq. 9", "absolute cosine, halves", "cosine", ("lir.form=cosine",)),
        "token": Switch(
            "URE: patch that is taken", "corner of its window", "centre", ("lir.token=centre",)
        ),
        "sampling": Switch(
            "URE: sampling",
            f"{recipe.lir.num_tokens} at random",
            "every kept patch",
            ("lir.sampling=all",),
        ),
    }
    together = [text for row in rows.values() for text in row.overrides]
    together.remove(f"graph.num_neighbors={own}")  # of the tails alone
    rows["all"] = Switch("all of them", "released", "paper", tuple(together))
    return rows


def trials(recipe: Recipe) -> dict[str, Recipe]:
    """``recipe`` as released, then with each row switched alone, then with all, by name."""
    rows = switches(recipe)
    return {
        "release": recipe,
        **{name: changed(recipe, row.overrides) for name, row in rows.items()},
    }
