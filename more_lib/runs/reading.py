"""A run read back from its folder: manifest, metrics and costs, checked before anyone uses them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from more_lib.system.errors import InputError
from more_lib.paper.claims import VERDICT_COLUMNS


# What readers of a manifest rely on, and of which type.
_FIELDS = {
    "profile": str,
    "overrides": list,
    "status": str,
    "started": str,
    "seconds": (int, float),
    "git.commit": str,
    "git.dirty": (bool, type(None)),
    "versions": dict,
    "device.type": str,
    "device.name": str,
    "device.count": int,
    "threads": int,
    "seeds": dict,
    "library_sha256": str,
    "data_sha256": str,
    "backbone_sha256": str,
    "recipe.data.dataset": str,
    "recipe.backbone.name": str,
    "resumed": list,
    "notebooks": list,
}
_NOTEBOOK_FIELDS = {"name": str, "status": str, "seconds": (int, float, type(None))}


@dataclass(frozen=True, eq=False)
class Run:
    """What ``reproduce`` left in ``folder``.

    metrics, costs: {notebook: {name: value}}, empty when the run did not get so far; see
    ``more_lib.recording``.
    """

    folder: Path
    manifest: dict
    metrics: dict[str, dict]
    costs: dict[str, dict]

    @cached_property
    def verdicts(self) -> list[dict[str, str]]:
        """Claims of the paper and what became of them, in ``VERDICT_COLUMNS``, all text."""
        return [
            {column: str(row.get(column, "")) for column in VERDICT_COLUMNS}
            for named in self.metrics.values()
            if is_verdicts(found := named.get("verdicts"))
            for row in found
        ]


def is_verdicts(value: object) -> bool:
    """Whether a recorded metric has the form of verdicts: rows that name a claim and a verdict."""
    return (
        isinstance(value, list)
        and value != []
        and all(isinstance(row, Mapping) and {"claim", "verdict"} <= row.keys() for row in value)
    )


def load_run(folder: str | Path) -> Run:
    """Read a run's folder; an unfinished or failed run will do.

    Raises ``InputError`` that names the file: no manifest.json, damaged JSON, a manifest that
    lacks a field; for a folder of runs it says which runs are in it.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file: give the run's folder, {folder.parent}")
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; runs are in runs/<profile>/")
    if not (folder / "manifest.json").is_file():
        raise InputError(_no_run(folder))
    manifest = _mapping(folder / "manifest.json")
    _check(manifest, _FIELDS, f"{folder / 'manifest.json'}")
    for number, entry in enumerate(manifest["notebooks"]):
        _check(entry, _NOTEBOOK_FIELDS, f"{folder / 'manifest.json'}: notebooks[{number}]")
    parts = (_parts(folder / f"{kind}.json") for kind in ("metrics", "costs"))
    return Run(folder, manifest, *parts)


def _no_run(folder: Path) -> str:
    """Why a folder without manifest.json cannot be read."""
    found = [file for depth in ("*", "*/*") for file in folder.glob(f"{depth}/manifest.json")]
    if not found:
        return f"{folder} holds no manifest.json: it is no folder that `reproduce` made"
    names = sorted((str(file.parent) for file in found), key=lambda name: Path(name).name)
    newest = ", ".join(names[-6:]) + (f" and {len(names) - 6} older" if len(names) > 6 else "")
    return f"{folder} is a folder of runs; give one of them: {newest}"


def _mapping(file: Path) -> dict:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # neither JSON nor UTF-8
        cure = "restore it, or run `python -m more_lib reproduce` again"
        raise InputError(f"{file} is damaged ({error}); {cure}") from error
    if not isinstance(value, dict):
        raise InputError(f"{file} holds a {type(value).__name__}, not what `reproduce` writes")
    return value


def _parts(file: Path) -> dict[str, dict]:
    """metrics.json or costs.json, which a run that did not get so far lacks."""
    value = _mapping(file) if file.is_file() else {}
    for part, named in value.items():
        if not isinstance(named, dict):
            raise InputError(f"{file}: {part} is no mapping of names to values; run it again")
    return value


def _check(value: object, fields: Mapping, where: str) -> None:
    for path, kind in fields.items():
        found = value
        for name in path.split("."):
            found = found.get(name, ...) if isinstance(found, Mapping) else ...
        if not isinstance(found, kind):
            raise InputError(f"{where} has no usable {path}: it is not what `reproduce` writes")
