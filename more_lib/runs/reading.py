"""A run read back from its folder: manifest, metrics, costs and notebooks, checked before use."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from pydantic import BaseModel, TypeAdapter, ValidationError, create_model

from more_lib.paper.claims import VERDICT_COLUMNS
from more_lib.runs.recording import TRAINING_AHEAD, collected
from more_lib.system.errors import InputError


def _form(**fields: object) -> type[BaseModel]:
    """Mappings that have these fields, of these types, and may have more."""
    return create_model("Form", **{name: (kind, ...) for name, kind in fields.items()})


# What readers of a manifest rely on.
_MANIFEST = _form(
    **dict.fromkeys("profile status started".split(), str),
    **dict.fromkeys("library_sha256 data_sha256 backbone_sha256".split(), str),
    **dict.fromkeys("versions seeds".split(), dict),
    **dict.fromkeys("overrides resumed".split(), list),
    seconds=float,
    threads=int,
    git=_form(commit=str, dirty=bool | None),
    device=_form(type=str, name=str, count=int),
    recipe=_form(data=_form(dataset=str), backbone=_form(name=str), optimizer=dict),
    notebooks=list[_form(name=str, status=str, seconds=float | None)],
)


@dataclass(frozen=True, eq=False)
class Run:
    """What ``reproduce`` left in ``folder``; of a run in progress what there is so far.

    metrics, costs: {notebook: {name: value}} as recorded, see ``runs.recording``.
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
            if is_verdicts(rows := named.get("verdicts"))
            for row in rows
        ]

    def cells(self, notebook: str) -> list[NotebookNode]:
        """The cells of an executed notebook; none where it is missing or was cut off."""
        try:
            content = nbformat.read(self.folder / f"{notebook}.ipynb", as_version=4)
            nbformat.validate(content)
            return content.cells
        except Exception:  # whatever a damaged file sets off
            return []


def load_run(folder: str | Path) -> Run:
    """The run in a folder; an unfinished or failed one will do.

    Raises ``InputError`` that names the file: no manifest.json, damaged JSON, a manifest that
    lacks a field; for a folder of runs it says which runs are in it.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file: give the run's folder, {folder.parent}")
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; runs are in runs/<profile>/")
    if not (file := folder / "manifest.json").is_file():
        raise InputError(_no_run(folder))
    manifest = _checked_json(file, _MANIFEST)
    names = [TRAINING_AHEAD, *(entry["name"] for entry in manifest["notebooks"])]
    kinds = ("metrics", "costs")
    if manifest["status"] == "unfinished":
        return Run(folder, manifest, *(collected(folder, kind, names) for kind in kinds))
    files = (folder / f"{kind}.json" for kind in kinds)  # which a run that broke off early lacks
    recorded = (_checked_json(f, dict[str, dict]) if f.is_file() else {} for f in files)
    return Run(folder, manifest, *recorded)


def record_of(run: Run) -> dict:
    """What RESULTS.md says of a run, as JSON values; of notebooks, those that have run.

    Raises ``InputError`` for a run without notebook 06's numbers and 07's verdicts.
    """
    manifest = run.manifest
    try:
        if not run.verdicts:
            raise LookupError("verdicts")
        measured = run.metrics["06_evaluation"]["06_evaluation"]
        (protocol,) = (r for r in measured["rows"] if (r["map"], r["labels"]) == ("lam", "true"))
        fields = ("dataset", "split", "images", "scales", "threshold", "crf")
        optimizer = manifest["recipe"]["optimizer"]
        times = {entry["name"]: entry["seconds"] for entry in manifest["notebooks"]}
        return {
            "commit": manifest["git"]["commit"],
            **{name: manifest[name] for name in "started device threads seeds versions".split()},
            "optimizer": {name: optimizer[name] for name in ("iterations", "batch_size")},
            "training": run.costs["05_training"]["05_training"],
            "training_ahead": run.costs.get(TRAINING_AHEAD, {}).get("training", {}),
            "notebooks": [
                {"name": name, "title": title(run.cells(name)), "seconds": seconds}
                for name, seconds in times.items()
                if seconds is not None
            ],
            "protocol": {name: protocol[name] for name in fields},
            "ablation": measured["ablation"],
            "protocols": measured["protocols"],
            "verdicts": run.verdicts,
        }
    except (LookupError, TypeError, ValueError) as error:
        lacking = f"it lacks what notebooks 05, 06 and 07 record for RESULTS.md ({error!r})"
        raise InputError(f"{run.folder}: {lacking}") from error


def is_verdicts(value: object) -> bool:
    """Whether a recorded metric has the form of verdicts: rows that name a claim and a verdict."""
    rows = value if isinstance(value, list) else []
    named = (isinstance(row, Mapping) and {"claim", "verdict"} <= row.keys() for row in rows)
    return bool(rows) and all(named)


def captioned(cells: Sequence[NotebookNode]) -> Iterator[tuple[NotebookNode, str]]:
    """Code cells, each with its caption: its metadata's, else the first line of prose before it."""
    heading = ""
    for cell in cells:
        if _is_prose(cell):
            heading = next(filter(None, map(_plain, cell.source.split("\n"))), heading)
        elif cell.cell_type == "code":
            yield cell, cell.metadata.get("caption") or heading


def title(cells: Sequence[NotebookNode]) -> str:
    """A notebook's first heading in plain words, "" without any."""
    prose = "\n".join(cell.source for cell in cells if _is_prose(cell))
    heading = re.search(r"^# .*", prose, re.MULTILINE)
    return _plain(heading[0]) if heading else ""


def _is_prose(cell: NotebookNode) -> bool:
    papermill_mark = "papermill-error-cell-tag" in cell.metadata.get("tags", ())
    return cell.cell_type == "markdown" and not papermill_mark


def _plain(line: str) -> str:
    """A line of Markdown as plain words."""
    line = re.sub(r"<[^>]*>|[*`]", "", line.strip())
    line = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", line)
    return re.sub(r"^(#+|>|-|\d+\.)\s+", "", line).strip()


def _no_run(folder: Path) -> str:
    """Why a folder without manifest.json cannot be read."""
    runs = [file.parent for depth in ("*", "*/*") for file in folder.glob(f"{depth}/manifest.json")]
    if not runs:
        return f"{folder} holds no manifest.json: it is no folder that `reproduce` made"
    newest = ", ".join(map(str, sorted(runs, key=lambda run: run.name)[-6:]))
    older = f" and {len(runs) - 6} older" if len(runs) > 6 else ""
    return f"{folder} is a folder of runs; give one of them: {newest}{older}"


def _checked_json(file: Path, form: object) -> dict:
    """A file's JSON, if it is of a form; ``InputError`` names the file and the field that is not.

    form: whatever pydantic can check; numbers in quotes are no numbers.
    """
    content = file.read_bytes()
    try:
        TypeAdapter(form).validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = re.sub(r"\.(\d+)(?=\.)", r"[\1]", ".".join(map(str, first["loc"])))
        held = type(first["input"]).__name__
        fault = f"has no usable {field}: it is" if field else f"holds a {held},"
        if first["type"] == "json_invalid":  # not UTF-8 either
            cure = "restore it, or run `python -m more_lib reproduce` again"
            raise InputError(f"{file} is damaged ({first['msg']}); {cure}") from error
        raise InputError(f"{file} {fault} not what `reproduce` writes") from error
    return json.loads(content)
