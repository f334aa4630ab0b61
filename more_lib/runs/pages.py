"""HTML pages that need nothing but a browser: no script runs and nothing is fetched.

``write_page`` fills one of ``templates``; ``write_notebook_page`` has nbconvert draw an executed
notebook, with its equations as MathML, which browsers know how to draw.
"""

import html
import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import jinja2
import nbformat
from bs4 import BeautifulSoup
from latex2mathml.converter import convert_to_element
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

from more_lib.runs.reading import captioned, title
from more_lib.system.files import atomic_file

# What outputs are shown as, the first they have; widgets and scripts need a kernel or the net.
SHOWN = ("text/html", "image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/plain")
ACTIVE = "script, style, link, meta, base, iframe, object, embed, form"  # what HTML can do
MACROS = r"\newcommand{\arg}{\operatorname{arg}}"  # commands that latex2mathml does not know


def write_page(template: str, path: Path, **values: object) -> Path:
    """The page that a template gives with ``values``, all text escaped, written to ``path``.

    Raises ``InputError`` when it cannot be written there.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("more_lib.runs", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(values)
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def write_notebook_page(notebook: Path) -> Path:
    """The page beside an executed notebook that shows it whole: text, code, figures, tables.

    Raises ``ValueError`` for a file that nbformat cannot read.
    """
    content = nbformat.read(notebook, as_version=4)
    for cell, caption in captioned(content.cells):
        cell.metadata["alt"] = cell.metadata.get("alt") or caption or "figure"
    config = Config({"NbConvertBase": {"display_data_priority": list(SHOWN)}})
    exporter = _Exporter(config=config, template_name="basic", exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(content)
    return write_page(
        "notebook.html",
        notebook.with_suffix(".html"),
        title=title(content.cells) or notebook.stem,
        source=notebook.name,
        body=Markup(_still(body)),
    )


def mathml(latex: str, display: str = "inline") -> str:
    """An equation as MathML; as its LaTeX in a code element where that cannot be had.

    Args:
        display: ``inline``, or ``block`` for an equation on lines of its own.
    """
    try:
        equation = convert_to_element(MACROS + latex, display=display)
    except Exception:  # the converter's own errors, and whatever half an equation sets off in it
        return f"<code>{html.escape(latex)}</code>"
    del equation.attrib["xmlns"]  # HTML needs none, and headings with one come out prefixed
    for node in equation.iter():
        node.text = html.unescape(node.text or "")  # it writes symbols as entities
    if any(node.text.startswith("\\") for node in equation.iter()):  # an unknown command
        return f"<code>{html.escape(latex)}</code>"
    return ElementTree.tostring(equation, encoding="unicode", short_empty_elements=False)


class _Renderer(IPythonRenderer):
    """nbconvert's Markdown, which leaves equations to a script, with equations as MathML."""

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return f'<span class="equation">{mathml(body, "block")}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")


class _Exporter(HTMLExporter):
    """nbconvert's HTML with this module's Markdown."""

    @jinja2.pass_context
    def markdown2html(self, context: Mapping, source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = _Renderer(escape=False, attachments=attachments, anchor_link_text="#")
        return MarkdownWithMath(renderer=renderer).render(source)


def _still(body: str) -> str:
    """HTML without what acts or fetches; tables scroll, other notebooks' links go to pages."""
    soup = BeautifulSoup(body, "html.parser")
    for element in soup.select(ACTIVE):
        element.decompose()
    for table in soup.select("table"):
        table.wrap(soup.new_tag("div", attrs={"class": "scroll"}))
    for link in soup.select("a[href]"):
        link["href"] = re.sub(r"^([\w-]+)\.ipynb(?=#|$)", r"\1.html", link["href"])
    return str(soup)
