"""The methods that can be trained, by their names in a recipe: nobody else asks for the name."""

from typing import Any, NamedTuple

from more_lib.method.model import MoRe
from more_lib.method.objective import Objective
from more_lib.method.rivals import (
    DuPL,
    DuPLObjective,
    MCTformerObjective,
    MCTformerPlus,
    ToCo,
    ToCoObjective,
)
from more_lib.recipes.schema import Recipe


class Method(NamedTuple):
    """A network, built by ``network.from_recipe``, and the ``objective`` that trains it."""

    network: Any  # has what MoRe has: parameter_groups, patch_size, forward for evaluation
    objective: type[Objective]


METHODS = {
    "more": Method(MoRe, Objective),
    "toco": Method(ToCo, ToCoObjective),
    "dupl": Method(DuPL, DuPLObjective),
    "mctformer": Method(MCTformerPlus, MCTformerObjective),
}


def method_of(recipe: Recipe) -> Method:
    """What a recipe's ``method`` names."""
    return METHODS[recipe.method]
