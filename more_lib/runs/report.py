"""``report.html``: one page about a run, from its manifest, metrics, costs and executed notebooks.

What the paper claims and what this run shows comes first, from the metric ``verdicts`` that a
notebook recorded; then that notebook, the others, and what it all rests on. Figures and tables are
the outputs of notebook cells tagged ``report``; a cell's caption is its metadata's ``caption``,
else the first line of the markdown before it.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from more_lib.runs.page import write_page
from more_lib.runs.reading import Run, is_verdicts, load_run
from more_lib.paper.claims import verdict_counts
from more_lib.runs.tables import Table, html_tables, metric_tables

MAX_FIGURE_BYTES = 8_000_000  # of all figures together, in base64: the page stays below 10 MB
MAX_TEXT = 20_000  # characters of one text output


@dataclass(frozen=True)
class Figure:
    """What one tagged cell showed: pictures as data URIs, tables, text."""

    caption: str
    images: Sequence[str]
    tables: Sequence[Table]
    texts: Sequence[str]
    left_out: int  # pictures for which the page has no room


@dataclass(frozen=True)
class Section:
    """One notebook of the run; ``link`` is "" when there is no executed file."""

    name: str
    title: str
    status: str
    time: str
    link: str
    error: str
    figures: Sequence[Figure]
    tables: Sequence[Table]  # what it recorded, verdicts left out


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a run's folder and return its path.

    Reads ``manifest.json``, ``metrics.json``, ``costs.json`` and the executed notebooks, of which
    all but the manifest may be missing. Whatever they hold is shown as text, never as markup.

    Raises ``InputError`` for a folder that is no run, or whose files are damaged.
    """
    run = load_run(folder)
    return write_page(
        "report.html",
        run.folder / "report.html",
        run=run,
        verdict_counts=verdict_counts(run.verdicts),
        cautions=_cautions(run.manifest),
        sections=_sections(run),
        facts=facts(run),
        costs=[
            table
            for part, named in run.costs.items()
            for name, value in named.items()
            for table in metric_tables(part if name == part else f"{part} · {name}", value)
        ],
        recipe=list(metric_tables("recipe", run.manifest["recipe"])),
        versions=list(metric_tables("versions", run.manifest["versions"])),
    )


def run_title(path: Path) -> str:
    """The first heading of an executed notebook, "" when there is none to read."""
    return _first_heading(_cells(path))


def duration(seconds: float | None) -> str:
    """``125`` as ``2 min 5 s``; a dash for None."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def facts(run: Run) -> list[tuple[str, str]]:
    """What a reader needs to judge or repeat the run, as label and text."""
    manifest = run.manifest
    git, device, versions = manifest["git"], manifest["device"], manifest["versions"]
    state = {True: " with uncommitted changes", False: "", None: ""}[git["dirty"]]
    done = sum(entry["status"] == "done" for entry in manifest["notebooks"])
    found = [
        ("commit", git["commit"][:12] + state),
        ("started", manifest["started"].replace("T", " ").replace("+00:00", " UTC")),
        ("took", f"{duration(manifest['seconds'])}, {done} of {len(manifest['notebooks'])} done"),
        ("device", f"{device['type']}, {device['count']} × {device['name']}"),
        ("threads", str(manifest["threads"])),
        ("seeds", ", ".join(f"{name} {seed}" for name, seed in manifest["seeds"].items())),
        ("overrides", " ".join(map(str, manifest["overrides"])) or "none"),
        *((name, versions[name]) for name in ("python", "torch", "timm") if name in versions),
        *(
            (f"{name.removesuffix('_sha256')} SHA-256", manifest[name][:12])
            for name in ("library_sha256", "data_sha256", "backbone_sha256")
        ),
    ]
    if manifest["resumed"]:
        times = [resumed["at"].replace("+00:00", "") for resumed in manifest["resumed"]]
        found.append(("resumed", ", ".join(times)))
    return found


def _cautions(manifest: Mapping) -> list[str]:
    """Sentences that keep small stand-ins from being taken for the paper's set-up."""
    recipe, cautions = manifest["recipe"], []
    if recipe["data"]["dataset"] == "emoji":
        cautions.append(
            "The images are EmojiVOC: small pictures of emoji pasted on photographs and textures, "
            "made on this machine in place of PASCAL VOC."
        )
    if recipe["backbone"]["name"].startswith("mini"):  # as all that ship
        cautions.append(
            "The backbone is a small vision transformer that stands in for the paper's ViT-B "
            "pretrained on ImageNet."
        )
    if cautions:
        cautions.append(
            "These are not the paper's numbers and cannot be set beside its tables. They show the "
            "effects it describes at a size that a laptop can repeat."
        )
    return cautions


def _sections(run: Run) -> list[Section]:
    """Sections in the page's order: first those that judge the paper's claims."""
    room = _Room(MAX_FIGURE_BYTES)
    judging = {name for name, named in run.metrics.items() if is_verdicts(named.get("verdicts"))}
    entries = sorted(run.manifest["notebooks"], key=lambda entry: entry["name"] not in judging)
    return [_section(entry, run, room) for entry in entries]


def _section(entry: Mapping, run: Run, room: "_Room") -> Section:
    name = entry["name"]
    file = run.folder / f"{name}.ipynb"
    ran = entry["status"] != "not run" and file.is_file()
    cells = _cells(file) if ran else []
    recorded = run.metrics.get(name, {})
    shown = [key for key, value in recorded.items() if key != "verdicts" or not is_verdicts(value)]
    return Section(
        name=name,
        title=_first_heading(cells) or name,
        status=entry["status"],
        time=duration(entry["seconds"]),
        link=quote(file.name) if ran else "",
        error=entry.get("error", ""),
        figures=list(_figures(cells, room)),
        tables=[table for key in shown for table in metric_tables(key, recorded[key])],
    )


def _cells(file: Path) -> list[dict]:
    """The cells of an executed notebook; none when it is missing, or was cut off while written."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, LookupError):
        return []


@dataclass
class _Room:
    """How many bytes of pictures the page still takes."""

    left: int

    def takes(self, picture: str) -> bool:
        fits = len(picture) <= self.left
        self.left -= len(picture) if fits else 0
        return fits


def _first_heading(cells: Sequence[Mapping]) -> str:
    prose = "\n".join(_text(cell["source"]) for cell in cells if _is_prose(cell))
    found = re.search(r"^# .*", prose, re.MULTILINE)
    return _without_markdown(found[0]) if found else ""


def _figures(cells: Sequence[Mapping], room: _Room) -> Iterator[Figure]:
    heading = ""
    for cell in cells:
        if _is_prose(cell):
            lines = (_without_markdown(line) for line in _text(cell["source"]).split("\n"))
            heading = next(filter(None, lines), heading)
        elif "report" in cell["metadata"].get("tags", ()) and cell.get("outputs"):
            figure = _figure(cell["metadata"].get("caption") or heading, cell["outputs"], room)
            if figure.images or figure.tables or figure.texts or figure.left_out:
                yield figure


def _figure(caption: str, outputs: Sequence[Mapping], room: _Room) -> Figure:
    images, tables, texts, left_out = [], [], [], 0
    printed = False  # whether the output before was: a kernel may deliver one text in pieces
    for output in outputs:
        data = output.get("data", {})
        picture = _picture(data.get("image/png", ""))
        found = html_tables(_text(data.get("text/html", "")))
        text = ""
        if picture and room.takes(picture):
            images.append(picture)
        elif picture:
            left_out += 1
        elif found:
            tables.extend(found)
        else:
            text = _text(data.get("text/plain", output.get("text", "")))
            texts.append((texts.pop() if printed and "text" in output else "") + text)
        printed = bool(text) and "text" in output
    texts = [re.sub(r"\x1b\[[0-9;]*m", "", text).strip("\n")[:MAX_TEXT] for text in texts]
    texts = [text for text in texts if text and not text.startswith("<IPython.core.display")]
    return Figure(caption, images, tables, texts, left_out)


def _picture(encoded: str | Sequence[str]) -> str:
    """A PNG output as a data URI, "" when it is none."""
    try:
        content = base64.b64decode("".join(_text(encoded).split()), validate=True)
    except (binascii.Error, ValueError):
        return ""
    if not content.startswith(b"\x89PNG"):
        return ""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _is_prose(cell: Mapping) -> bool:
    papermill_mark = "papermill-error-cell-tag" in cell["metadata"].get("tags", ())
    return cell["cell_type"] == "markdown" and not papermill_mark


def _without_markdown(line: str) -> str:
    """A line of markdown as plain words."""
    line = re.sub(r"<[^>]*>|[*`]", "", line.strip())
    line = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", line)
    return re.sub(r"^(#+|>|-|\d+\.)\s+", "", line).strip()


def _text(source: str | Sequence[str]) -> str:
    """Notebook files keep text as one string or as a list of lines."""
    return source if isinstance(source, str) else "".join(source)
