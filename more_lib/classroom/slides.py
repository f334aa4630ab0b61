"""Slides of a notebook: one HTML file with everything in it that needs nothing but a browser.

What is on them is decided by rule, from an executed notebook as it is. A heading of the second
level begins a column of slides, one of the third a slide in it: with the paragraph after it, tables
and equations. Each figure is a slide, with the "Look for" line before it, and so is what a cell
tagged ``report`` prints, if it can be read from afar. Code is left out, and so are exercises; other
prose is speaker's notes.

nbconvert draws the cells, and the sections are reveal.js's. No package that the kit needs brings
reveal.js in a form that others can use, and nothing may be fetched in class: without it a small
script of our own turns the pages; with a folder of it (npm's package ``reveal.js``, 4 or 5) the
file has reveal.js in it instead.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook

from more_lib.runs.pages import notebook_body, write_page
from more_lib.runs.reading import captioned, title
from more_lib.system.errors import InputError
from more_lib.system.files import CHECKOUT

LEFT_OUT = ("Exercises", "Where paper")  # sections that are worked through, not shown
LINES, COLUMNS = 24, 130  # of a printed table that one can read from the last row
WORDS = 45  # of what to look for that leave room for the figure
REVEAL = {"css": "dist/reveal.css", "theme": "dist/theme/white.css", "js": "dist/reveal.js"}


@dataclass
class Slide:
    """What one slide shows, and what is said to it. level: of the heading that it begins with."""

    level: int
    cells: list[NotebookNode]
    notes: list[str] = field(default_factory=list)

    def html(self) -> tuple[str, str]:
        notes = [new_markdown_cell("\n\n".join(self.notes))] if self.notes else []
        body, said = (new_notebook(cells=cells) for cells in (self.cells, notes))
        return notebook_body(body, code=False), notebook_body(said) if notes else ""


def write_slides(
    notebooks: Sequence[Path], folder: Path, reveal: Path | None = None
) -> Iterator[Path]:
    """Write ``NAME.slides.html`` to a folder for each notebook, by default all numbered ones.

    Raises ``InputError`` for a file that is no executed notebook, two of one name, and a ``reveal``
    folder that has no reveal.js.
    """
    names = [notebook.stem for notebook in notebooks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two notebooks are called {twice}: make their slides one after the other")
    scripts = _reveal(reveal) if reveal else {}
    for notebook in notebooks or sorted((CHECKOUT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        content = _read(notebook)
        shown = [(slide.level, *slide.html()) for slide in slides_of(content)]
        yield write_page(
            "slides.html",
            folder / f"{notebook.stem}.slides.html",
            title=title(content.cells) or notebook.stem,
            columns=_columns(shown),
            reveal=scripts,
        )


def slides_of(content: NotebookNode) -> list[Slide]:
    """The slides of an executed notebook, in order."""
    slides: list[Slide] = []
    heading, look, skipping = "", "", False
    captions = {id(cell): caption for cell, caption in captioned(content.cells)}
    for cell in content.cells:
        if cell.cell_type == "markdown":
            blocks = _blocks(cell.source)
            if level := len(re.match(r"#{0,3}(?= )", cell.source)[0]) if _is_heading(cell) else 0:
                heading = blocks[0].splitlines()[0].lstrip("# ")
                skipping = heading.startswith(LEFT_OUT)
            if skipping:
                continue
            slides += _text_slides(level, heading, blocks)
            look = next((b for b in blocks if b.startswith("Look for")), look if not level else "")
            if not level and slides:
                slides[-1].notes += [b for b in blocks if "$$" not in b and b != look]
        elif cell.cell_type == "code" and not skipping and (shown := _shown(cell)):
            shown.metadata["alt"] = captions[id(cell)] or heading
            first = _first_sentences(look)
            slide = _slide(4, [f"### {heading}", first], [look] if first != look else [])
            slides.append(replace(slide, cells=[*slide.cells, shown]))
            look = ""
    return slides


def _text_slides(level: int, heading: str, blocks: list[str]) -> list[Slide]:
    """The slides of a cell of prose: none of one that has neither a heading nor an equation."""
    equations = [n for n, block in enumerate(blocks) if "$$" in block]
    if not level:
        first = max(equations[0] - 1, 0) if equations else 0
        text = blocks[first : equations[-1] + 1] if equations else []
        return [_slide(4, [f"### {heading}", *text], [])] if equations else []
    head, rest = blocks[:2], blocks[2:]
    lists = [block for block in rest if block.startswith("- ")]
    if level == 1:
        told = [block for block in rest if block not in lists]
        aims = [_slide(4, ["### You will be able to", lists[0]], [])] if lists else []
        return [_slide(1, head, told), *aims]
    look = [block for block in blocks if block.startswith("Look for")]
    shown = [*head, *(block for block in rest if "$$" in block or block.startswith("|"))]
    told = [block for block in rest if block not in shown and block not in look]
    return [_slide(level, [block for block in shown if block not in look], told)]


def _first_sentences(text: str) -> str:
    """As many whole sentences as make no more than ``WORDS``, and one at least."""
    kept, *rest = re.split(r"(?<=[.?!]) (?=[A-Z])", text)
    for sentence in rest:
        if len(f"{kept} {sentence}".split()) > WORDS:
            break
        kept = f"{kept} {sentence}"
    return kept


def _slide(level: int, blocks: list[str], notes: list[str]) -> Slide:
    text = re.sub(r":$", ".", "\n\n".join(filter(None, blocks)))  # what came next was code
    return Slide(level, [new_markdown_cell(text)], notes)


def _is_heading(cell: NotebookNode) -> bool:
    return bool(re.match(r"#{1,3} ", cell.source))


def _blocks(source: str) -> list[str]:
    """Paragraphs, lists, equations and fenced code of a cell, in order."""
    blocks: list[str] = []
    for part in re.split(r"\n\s*\n", source.strip()):
        is_open = blocks and any(blocks[-1].count(mark) % 2 for mark in ("$$", "```"))
        blocks = [*blocks[:-1], f"{blocks[-1]}\n\n{part}"] if is_open else [*blocks, part]
    return blocks


def _shown(cell: NotebookNode) -> NotebookNode | None:
    """The cell with what a slide shows of its outputs; None where that is nothing."""
    figures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
    printed = [output for output in cell.outputs if output.output_type == "stream"]
    lines = "".join(output.text for output in printed).splitlines()
    fits = 0 < len(lines) <= LINES and max(map(len, lines)) <= COLUMNS
    if not figures and fits and "report" in cell.metadata.get("tags", ()):
        figures = printed
    return NotebookNode({**cell, "outputs": figures}) if figures else None


def _columns(slides: list[tuple[int, str, str]]) -> list[list[tuple[str, str]]]:
    """Slides by column: each of level 1 or 2 begins one."""
    columns: list[list[tuple[str, str]]] = []
    for level, body, notes in slides:
        if level <= 2 or not columns:
            columns.append([])
        columns[-1].append((body, notes))
    return columns


def _read(notebook: Path) -> NotebookNode:
    try:
        content = nbformat.read(notebook, as_version=4)
        nbformat.validate(content)
    except Exception as error:  # whatever a file sets off that is none
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{notebook} is no notebook: give a file .ipynb ({reason})") from error
    if not any(cell.get("outputs") for cell in content.cells):
        raise InputError(f"{notebook} has no outputs to show: execute it first")
    return content


def _reveal(folder: Path) -> dict[str, str]:
    """Style, theme and script of a copy of reveal.js, to stand within a page."""
    try:
        files = {name: (folder / path).read_text("utf-8") for name, path in REVEAL.items()}
    except (OSError, ValueError) as error:
        wanted = ", ".join(REVEAL.values())
        raise InputError(f"{folder} is no copy of reveal.js: it must have {wanted}") from error
    theme = re.sub(r"@import [^;]*;", "", files["theme"])  # fonts, which would be fetched
    return files | {"theme": theme, "js": files["js"].replace("</script", r"<\/script")}
