"""Executed notebooks as pages: whole, still, and fetching nothing."""

import re
from pathlib import Path

import nbformat
import pytest
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell

from more_lib.runs.pages import mathml, write_notebook_page
from tests.runs.helpers import PNG, Page

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def page_of(folder: Path, *cells) -> Page:
    state = {"state": {"a": {"model_name": "IntSliderModel"}}}  # as a live kernel leaves it
    widgets = {"application/vnd.jupyter.widget-state+json": state}
    cells = [new_markdown_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    notebook = new_notebook(cells=cells, metadata={"widgets": widgets})
    nbformat.write(notebook, folder / "01_one.ipynb")
    path = write_notebook_page(folder / "01_one.ipynb")
    assert path == folder / "01_one.html"
    page = Page(path)
    page.assert_still()
    return page


def code(*outputs, source="1 < 2"):
    return new_code_cell(source, outputs=list(outputs), execution_count=4)


def data(**kinds):
    return new_output("display_data", {f"{k.replace('_', '/', 1)}": v for k, v in kinds.items()})


def test_a_page_shows_text_code_outputs_figures_and_tables(tmp_path):
    table = "<style>td {color: red}</style><table><tr><td>55.3</td></tr></table>"
    page = page_of(
        tmp_path,
        "# The title\n\n| a |\n|---|\n| cell |\n\n[next](02_two.ipynb#x) `code`",
        "## Where it looks",
        code(new_output("stream", text="\x1b[31mred\x1b[0m <b>numbers</b>"), source="x = 1 < 2"),
        code(data(image_png=PNG, text_plain="<Figure>"), data(text_html=table, text_plain="55")),
        code(data(text_html="<img src='data:image/png;base64,'>")),
    )
    assert "The title" in page.text and "x = 1 < 2" in page.text.replace("  ", " ")
    assert "red <b>numbers</b>" in page.text and "55.3" in page.text and "Figure" not in page.text
    assert page.tags.count("table") == page.source.count('<div class="scroll">') == 2
    assert re.findall('alt="(.*?)"', page.source) == ["Where it looks", "figure"]
    assert ("href", "02_two.html#x") in page.links and ("href", "01_one.ipynb") in page.links
    assert "<title>MoRe · The title</title>" in page.source


def test_a_page_fetches_nothing_and_runs_no_script(tmp_path):
    evil = "<script>alert(1)</script><link href='http://x'><iframe src='http://x'></iframe>kept"
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "a"}, "text/plain": "slider"}
    page = page_of(
        tmp_path,
        "# $a$ and <script>alert(2)</script>",
        code(data(text_html=evil), data(application_javascript="alert(3)")),
        code(new_output("display_data", widget), source="'<script>alert(4)</script>'"),
        new_raw_cell("<script>alert(5)</script>", metadata={"raw_mimetype": "text/html"}),
    )
    assert "kept" in page.text and "slider" in page.text


def test_a_picture_attached_to_a_cell_is_shown_and_a_missing_one_named(tmp_path):
    attachments = {"there.png": {"image/png": PNG}, "empty.png": {}}
    names = ("there", "empty", "gone")
    text = " ".join(f"![the < {name}](attachment:{name}.png)" for name in names)
    page = page_of(tmp_path, new_markdown_cell(text, attachments=attachments))
    assert page.tags.count("img") == 1
    for name in names[1:]:
        assert f"![the < {name}](attachment:{name}.png)" in page.text


def test_equations_are_mathml_in_text_headings_and_on_lines_of_their_own(tmp_path):
    page = page_of(
        tmp_path,
        "# Temperature $\\tau$\n\nWhere $a < b$, \\$5 and `$x$`:\n\n$$\\frac12$$",
        "\\begin{cases} 0 & a \\\\ 1 & b \\end{cases}",
    )
    assert page.tags.count("math") == 4 and page.tags.count("mfrac") == 1
    assert page.tags.count("mtr") == 2 and page.source.count('class="equation"') == 2
    assert "τ" in page.text and "a < b" in page.text and "$x$" in page.text
    assert "xmlns" not in page.source


@pytest.mark.parametrize("latex", ["\\frac{1", "\\unknown{a} < b", "\\left( x", "{", "x^2^3"])
def test_an_equation_that_cannot_be_converted_is_shown_as_its_latex(latex):
    shown = mathml(latex)
    assert shown == f"<code>{latex.replace('<', '&lt;')}</code>" or shown.startswith("<math")
    assert mathml("\\unknown{a} < b") == "<code>\\unknown{a} &lt; b</code>"


def test_text_in_an_equation_is_no_markup():
    assert "<b>" not in mathml(r"\text{a <b> c}") and "&lt;b&gt;" in mathml(r"\text{a <b> c}")
    assert "arg" in mathml(r"\arg\max_c x", "block") and "<code>" not in mathml(r"\arg\max_c x")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_equation_of_the_notebooks_is_converted(notebook):
    class Equations(IPythonRenderer):
        def inline_math(self, body):
            return shown.append(mathml(body)) or ""

        block_math = inline_math

    shown: list[str] = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            MarkdownWithMath(renderer=Equations()).render(cell.source)
    assert shown and all(re.match("<math display=", each) for each in shown)
