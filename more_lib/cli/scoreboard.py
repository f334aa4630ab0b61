"""The command ``evaluate``: data checked, a network trained or loaded, scores as text and JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from more_lib import training
from more_lib.data import open_tree, without_bad
from more_lib.evaluation.protocols import PROTOCOLS, named_protocols
from more_lib.evaluation.results import Evaluation, format_table, rows
from more_lib.evaluation.scoring import check_masks, evaluate_or_load, evaluate_protocols
from more_lib.evaluation.voc_server import export_voc
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError
from more_lib.system.files import atomic_file
from more_lib.system.processes import is_main_process
from more_lib.training.cache import Trained


def scoreboard(
    recipe: Recipe,
    checkpoint: Path | None = None,
    names: Sequence[str] = (),
    split: str = "",
    skip_bad: bool = False,
    json_file: Path | None = None,
) -> str:
    """Scores by the named protocols, or without any those of every map, as a table.

    Args:
        checkpoint: a folder that ``train`` wrote; else the recipe's network, trained if need be.
        names: of ``PROTOCOLS``. split: taken instead of the protocols'.
        skip_bad: leave out images that cannot be read, instead of refusing to begin.
        json_file: where to save the evaluation, or with names one by name.

    Raises ``InputError`` for unknown names, a checkpoint or data that cannot be used, and missing
    masks, these before anything is trained.
    """
    wanted = named_protocols(names, recipe, split)
    if split and not wanted:
        raise InputError("--split goes with --protocol; without, give --set data.val_split=NAME")
    splits = {protocol.split for protocol in wanted.values()} or {recipe.data.val_split}
    for each in sorted(splits):
        check_masks(open_tree(recipe.data), each)
        if skip_bad:
            recipe = without_bad(recipe, each, masks=True)
    if skip_bad and not checkpoint:
        recipe = without_bad(recipe, recipe.data.train_split)
    trained = _trained(recipe, checkpoint)
    if wanted:
        found = evaluate_protocols(trained, list(wanted.values()))
        by_name = dict(zip(wanted, found, strict=True))
        text, content = format_named(by_name), _named_json(by_name)
    else:
        evaluation = evaluate_or_load(trained)
        text = f"{format_table(rows(evaluation))}\nimage labels: mAP {evaluation.image_map:.4f}"
        content = evaluation.to_json()
    if json_file and is_main_process():
        with atomic_file(json_file) as temporary:
            temporary.write_text(content)
    return text


def export_masks(
    recipe: Recipe, checkpoint: Path | None, names: Sequence[str], split: str, destination: Path
) -> str:
    """``export_voc`` by one named protocol; returns a line that says what was written."""
    wanted = named_protocols(names, recipe, split)
    if len(wanted) != 1:
        raise InputError("--export writes the masks of one protocol: name it by --protocol")
    (protocol,) = wanted.values()
    count = export_voc(_trained(recipe, checkpoint), protocol, destination)
    return f"{count} masks by {protocol.describe()}: {destination}"


def format_named(evaluations: Mapping[str, Evaluation]) -> str:
    """A row for each named protocol, then what it is and the published number it belongs to."""
    table = [
        {"protocol": name, **row} for name, found in evaluations.items() for row in rows(found)
    ]
    lines = [format_table(table)]
    for found in {
        found.results[0].protocol.split: found for found in evaluations.values()
    }.values():
        split = found.results[0].protocol.split
        lines.append(f"image labels on {split}: mAP {found.image_map:.4f}")
    for name, found in evaluations.items():
        lines.append(f"{name}: {found.results[0].protocol.describe()}")
        lines.append(f"  published with it: {PROTOCOLS[name].published}")
    return "\n".join(lines)


def _named_json(evaluations: Mapping[str, Evaluation]) -> str:
    content = {name: json.loads(found.to_json()) for name, found in evaluations.items()}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _trained(recipe: Recipe, checkpoint: Path | None) -> Trained:
    if checkpoint:
        return training.load_trained(checkpoint, recipe)
    return training.train_or_load(recipe)
