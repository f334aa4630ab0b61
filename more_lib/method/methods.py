"""The methods that can be trained, by their names in a recipe: nobody else asks for the name."""

from typing import Any, NamedTuple

from more_lib.method.model import MoRe
from more_lib.method.objective import Objective
from more_lib.method.rival_objectives import DuPLObjective, MCTformerObjective, ToCoObjective
from more_lib.method.rivals import DuPL, MCTformerPlus, ToCo
from more_lib.recipes.schema import Recipe


class Method(NamedTuple):
    """A network, built by ``network.from_recipe``, and the ``objective`` that trains it."""

    network: Any  # has what MoRe has: parameter_groups, patch_size, forward for evaluation
    objective: type[Objective]
    maps: tuple[str, ...]  # that masks are made of, its own first; "fused" is LAM x CAM
    students: int = 1  # networks that are trained together, of which a protocol names one


METHODS = {
    "more": Method(MoRe, Objective, ("lam", "cam", "fused", "decoder", "attention")),
    "toco": Method(ToCo, ToCoObjective, ("decoder", "cam", "aux_cam")),
    "dupl": Method(DuPL, DuPLObjective, ("decoder", "cam", "aux_cam"), students=2),
    "mctformer": Method(MCTformerPlus, MCTformerObjective, ("seed", "root", "cam", "attention")),
}


def method_of(recipe: Recipe) -> Method:
    """What a recipe's ``method`` names."""
    return METHODS[recipe.method]
