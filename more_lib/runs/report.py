"""``report.html``: what a run shows, on one page that links each executed notebook's own.

The paper's claims and their verdicts come first, from the metric ``verdicts`` that a notebook
recorded; then that notebook's numbers, and what cells tagged ``report`` drew; then the notebooks,
and what it all rests on. ``write_results`` says the same numbers in Markdown.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from nbformat import NotebookNode

from more_lib.paper import results
from more_lib.paper.claims import verdict_counts
from more_lib.paper.frames import Readable, cell_text, label, readable
from more_lib.runs.pages import write_notebook_page, write_page
from more_lib.runs.reading import Run, captioned, is_verdicts, load_run, record_of, title
from more_lib.runs.recording import TRAINING_AHEAD
from more_lib.system.errors import InputError
from more_lib.system.files import CHECKOUT, atomic_file, write_json

RESULTS = CHECKOUT / "notebooks" / "RESULTS.md"
RECORD = CHECKOUT / "more_lib" / "paper" / "records" / "mini_run.json"
MAX_FIGURE_BYTES = 8_000_000  # of all figures together, in base64: the page stays below 10 MB
MAX_TEXT = 20_000  # characters of one text output
PNG = re.compile(r"iVBORw0KGgo[\w+/=\s]*", re.ASCII)  # in base64: its first bytes are always these


class Figure(NamedTuple):
    """What one tagged cell showed: pictures as data URIs, and texts."""

    caption: str
    images: list[str]
    texts: list[str]
    left_out: int  # pictures for which the page has no room


def write_report(folder: str | Path) -> Path:
    """``report.html`` in a run's folder, written with a page for each executed notebook.

    Reads ``manifest.json``, ``metrics.json``, ``costs.json`` and the executed notebooks, of which
    all but the manifest may be missing. Whatever they hold is shown as text, never as markup.
    Raises ``InputError`` for a folder that is no run, or whose files are damaged.
    """
    run = load_run(folder)
    judging = [part for part, named in run.metrics.items() if is_verdicts(named.get("verdicts"))]
    entries = {entry["name"]: entry for entry in run.manifest["notebooks"]}
    shown, room = {}, MAX_FIGURE_BYTES
    for name in sorted(entries, key=lambda name: name not in judging):
        shown[name] = _notebook(entries[name], run, name in judging, room)
        room -= sum(len(image) for figure in shown[name]["figures"] for image in figure.images)
    ahead = run.costs.get(TRAINING_AHEAD, {}).get("training", {}).get("seconds", 0)
    return write_page(
        "report.html",
        run.folder / "report.html",
        run=run,
        took=run.manifest["seconds"] + ahead,
        verdict_counts=verdict_counts(run.verdicts),
        headlines=[each for each in shown.values() if each["tables"] or each["figures"]],
        notebooks=[shown[name] for name in entries],
        done=sum(entry["status"] == "done" for entry in entries.values()),
        costs={
            part if name == part else f"{part} · {name}": table(value)
            for part, named in run.costs.items()
            for name, value in named.items()
        },
        table=table,
        duration=duration,
    )


def write_results(
    folder: str | Path, destination: str | Path | None = None, publish: bool = False
) -> Path:
    """``RESULTS.md`` of a run, in its folder or at ``destination``; returns its path.

    publish: write ``notebooks/RESULTS.md`` of the checkout and the record of what it says,
    ``paper/records/mini_run.json``, from a whole run of mini, committed and unchanged. Raises
    ``InputError`` for a run without notebook 06's numbers, and one not fit to publish.
    """
    run = load_run(folder)
    if publish:
        _check_publishable(run)
    record = record_of(run)
    content = results.render(record)
    path = Path(destination or (RESULTS if publish else run.folder / "RESULTS.md"))
    if publish:
        write_json(record, RECORD)
    with atomic_file(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
    return path


def table(value: object) -> str:
    """A recorded value as an HTML table: rows as they are, a mapping as name and value."""
    if isinstance(value, Mapping):
        flat = pd.json_normalize(value, sep=" · ").to_dict("records")[0]
        names = [label(name, item) for name, item in flat.items()]
        frame = Readable([cell_text(*item) for item in flat.items()], index=names)
    else:
        frame = readable(pd.DataFrame(value))
    shown = frame.to_html(border=0, header=not isinstance(value, Mapping))  # which escapes cells
    number = r"[-+\u2212]?\d[\d.,]*(e[-+]\d+)?%?"
    shown = re.sub(f"<td>({number})</td>", r'<td class="number">\1</td>', shown)
    said = "".join(f'<p class="note">{escape(note)}</p>' for note in frame.attrs.get("notes", ()))
    return f'<div class="scroll">{shown}</div>{said}'


def duration(seconds: float | None) -> str:
    """``125`` as ``2 min 5 s``; a dash for None."""
    if seconds is None:
        return "–"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _check_publishable(run: Run) -> None:
    manifest = run.manifest
    states = [manifest["git"], *(resumed["git"] for resumed in manifest["resumed"])]
    faults = {
        f"it is of the profile {manifest['profile']}": manifest["profile"] != "mini",
        f"it changes the recipe ({' '.join(manifest['overrides'])})": manifest["overrides"] != [],
        f"it is {manifest['status']}": manifest["status"] != "done",
        "its code was not committed": any(state["dirty"] is not False for state in states),
    }
    if fault := next((fault for fault, holds in faults.items() if holds), ""):
        raise InputError(f"RESULTS.md is of a whole run of mini, and {run.folder}: {fault}")


def _notebook(entry: Mapping, run: Run, judges: bool, room: int) -> dict:
    """What the page shows of one notebook, with ``room`` bytes left for its pictures."""
    file = run.folder / f"{entry['name']}.ipynb"
    ran = entry["status"] != "not run" and file.is_file()
    cells = run.cells(entry["name"]) if ran else []
    recorded = run.metrics.get(entry["name"], {}) if judges else {}
    return {
        "error": "",
        **entry,
        "title": title(cells) or entry["name"],
        "file": file.name if ran else "",
        "page": write_notebook_page(file).name if cells else "",
        "judges": judges,
        "tables": {key: table(value) for key, value in recorded.items() if key != "verdicts"},
        "figures": list(_figures(cells, room)),
    }


def _figures(cells: Sequence[NotebookNode], room: int) -> Iterator[Figure]:
    for cell, caption in captioned(cells):
        if "report" not in cell["metadata"].get("tags", ()):
            continue
        pictures, texts = _shown(cell["outputs"])
        images = []
        for picture in pictures:
            if len(picture) <= room:
                images.append(picture)
                room -= len(picture)
        if pictures or texts:
            yield Figure(caption, images, texts, len(pictures) - len(images))


def _shown(outputs: Sequence[Mapping]) -> tuple[list[str], list[str]]:
    """A cell's pictures and texts; its tables are in the notebook's page and the metrics."""
    pictures, texts = [], []
    for printed, group in groupby(outputs, lambda output: output["output_type"] == "stream"):
        if printed:  # a kernel may deliver one text in pieces
            texts.append("".join(output["text"] for output in group))
            continue
        for data in (output.get("data", {}) for output in group):
            if PNG.fullmatch(picture := data.get("image/png", "")):
                pictures.append(f"data:image/png;base64,{''.join(picture.split())}")
            elif "text/html" not in data:
                texts.append(data.get("text/plain", ""))
    texts = [re.sub(r"\x1b\[[0-9;]*m", "", each).strip("\n")[:MAX_TEXT] for each in texts]
    return pictures, [each for each in texts if each]
