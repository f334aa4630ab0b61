"""The command ``evaluate``: data checked, a network trained or loaded, scores as text and JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from more_lib.data import open_tree, without_bad
from more_lib.data.agreement import contradictions, read_both
from more_lib.evaluation.protocols import PROTOCOLS, map_protocol, named_protocols
from more_lib.evaluation.results import Evaluation, format_table, rows
from more_lib.evaluation.scoring import check_masks, evaluate_or_load, evaluate_protocols
from more_lib.evaluation.voc_server import export_voc
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError
from more_lib.system.files import atomic_file
from more_lib.system.processes import is_main_process
from more_lib.training import Trained, train_or_load
from more_lib.training.cache import cached_folder

Network = Callable[[Recipe], Trained]
"""What gives the trained network of a recipe: from the cache, or from a folder or file."""


def scoreboard(
    recipe: Recipe,
    names: Sequence[str] = (),
    split: str = "",
    skip_bad: bool = False,
    json_file: Path | None = None,
    network: Network | None = None,
) -> str:
    """Scores by the named protocols, or without any those of every map, as a table.

    names: of ``PROTOCOLS``. split: taken instead of the protocols'.
    skip_bad: leave out images that cannot be read, instead of refusing to begin.
    json_file: where to save the evaluation, or with names one by name.
    network: asked once the data are known to be usable; None trains the recipe's, if need be.

    Raises ``InputError`` for unknown names, a network or data that cannot be used, and missing
    masks, these before anything is trained.
    """
    wanted = named_protocols(names, recipe, split)
    if split and not wanted:
        raise InputError("--split goes with --protocol; without, give --set data.val_split=NAME")
    map_protocol(recipe, "cam", "true")  # refuses a student that the method does not have
    splits = {protocol.split for protocol in wanted.values()} or {recipe.data.val_split}
    untrained = network is None and not (cached_folder(recipe) / "record.json").is_file()
    for each in sorted(splits):
        check_masks(open_tree(recipe.data), each)
        if skip_bad:
            recipe = without_bad(recipe, each, masks=True)
        elif untrained:
            tree = open_tree(recipe.data)
            contradictions(tree, each, read_both(tree, tree.ids(each)))
    if skip_bad and network is None:
        recipe = without_bad(recipe, recipe.data.train_split)
    trained = (network or train_or_load)(recipe)
    if wanted:
        by_name = dict(zip(wanted, evaluate_protocols(trained, list(wanted.values())), strict=True))
        parts = {name: json.loads(each.to_json()) for name, each in by_name.items()}
        content = json.dumps(parts, indent=1, allow_nan=False) + "\n"
        text = format_named(by_name)
    else:
        evaluation = evaluate_or_load(trained)
        text, content = format_table(rows(evaluation)), evaluation.to_json()
    if json_file and is_main_process():
        with atomic_file(json_file) as temporary:
            temporary.write_text(content)
    return text


def export_masks(
    recipe: Recipe,
    names: Sequence[str],
    split: str,
    destination: Path,
    network: Network | None = None,
) -> str:
    """``export_voc`` by one named protocol; returns a line that says what was written."""
    wanted = named_protocols(names, recipe, split)
    if len(wanted) != 1:
        raise InputError("--export writes the masks of one protocol: name it by --protocol")
    (protocol,) = wanted.values()
    count = export_voc((network or train_or_load)(recipe), protocol, destination)
    return f"{count} masks by {protocol.describe()}: {destination}"


def format_named(evaluations: Mapping[str, Evaluation]) -> str:
    """A row for each named protocol, then what it is and the published number it belongs to."""
    table = pd.concat([rows(each) for each in evaluations.values()])
    table.insert(0, "protocol", list(evaluations))
    lines = [format_table(table)]
    protocols = {name: each.results[0].protocol for name, each in evaluations.items()}
    for name, protocol in protocols.items():
        published = f"  published with it: {PROTOCOLS[name].published}"
        lines += [f"{name}: {protocol.describe()}", published]
    return "\n".join(lines)
