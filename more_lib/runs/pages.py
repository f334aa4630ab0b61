"""HTML pages that need nothing but a browser: no notebook's script runs and nothing is fetched.

``write_page`` fills one of ``templates``; ``notebook_body`` has nbconvert draw an executed
notebook, with its equations as MathML, which browsers know how to draw.
"""

import html
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import jinja2
import nbformat
from bs4 import BeautifulSoup
from latex2mathml.converter import convert_to_element
from nbconvert import HTMLExporter, TemplateExporter
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from more_lib.runs.reading import captioned, title
from more_lib.system.files import atomic_file

# What outputs are shown as, the first they have; widgets and scripts need a kernel or the net.
SHOWN = ("text/html", "image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/plain")
ACTIVE = "script, style, link, meta, base, iframe, object, embed, form"  # what HTML can do


def write_page(template: str, path: Path, **values: object) -> Path:
    """The page that a template gives with ``values``, all text escaped, written to ``path``.

    Raises ``InputError`` when it cannot be written there.
    """
    loader = jinja2.PackageLoader("more_lib.runs", "templates")
    strict = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    environment = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, **strict)
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
    return write_page(
        "notebook.html",
        notebook.with_suffix(".html"),
        title=title(content.cells) or notebook.stem,
        source=notebook.name,
        body=notebook_body(content),
    )


def notebook_body(content: NotebookNode, code: bool = True) -> str:
    """An executed notebook's cells as HTML in which nothing acts or fetches, ``code`` or none."""
    return _still(_exporter(code).from_notebook_node(content)[0])


def mathml(latex: str, display: str = "inline") -> str:
    """An equation as MathML; as its LaTeX in a code element where that cannot be had.

    display: ``inline``, or ``block`` for an equation on lines of its own.
    """
    known = re.sub(r"\\arg(?![a-zA-Z])", r"\\operatorname{arg}", latex)
    try:
        equation = convert_to_element(known, display=display)
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

    def image(self, text: str, url: str, title: str | None = None) -> str:
        if url.startswith("attachment:") and not self.attachments.get(url[len("attachment:") :]):
            return f"<code>![{text}]({html.escape(url)})</code>"  # the notebook lacks it
        return super().image(text, url, title)


class _Exporter(HTMLExporter):
    """nbconvert's HTML with this module's Markdown, and without what ``_still`` makes needless."""

    def default_filters(self) -> Iterator[tuple[str, Callable]]:
        yield from super().default_filters()
        yield "highlight_code", Highlight2HTML(parent=self)
        yield "clean_html", lambda text: text  # which would parse every cell of code
        yield "filter_data_type", lambda data: [kind for kind in SHOWN if kind in data][:1]

    def from_notebook_node(self, *args, **kwargs) -> tuple[str, dict]:
        # HTMLExporter's own would parse the whole page for names of pictures, as ``_still`` does.
        return TemplateExporter.from_notebook_node(self, *args, **kwargs)

    @jinja2.pass_context
    def markdown2html(self, context: Mapping, source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = _Renderer(escape=False, attachments=attachments, anchor_link_text="#")
        return MarkdownWithMath(renderer=renderer).render(source)


@cache
def _exporter(code: bool) -> _Exporter:
    """One for all pages, so that its templates are compiled once."""
    return _Exporter(template_name="basic", exclude_output_prompt=True, exclude_input=not code)


def _still(body: str) -> str:
    """HTML without what acts or fetches; tables scroll, other notebooks' links go to pages."""
    soup = BeautifulSoup(body, "html.parser")
    for element in soup.select(ACTIVE):
        element.decompose()
    for element in soup.find_all(True):
        element.attrs = {key: text for key, text in element.attrs.items() if not _acts(key, text)}
    for table in soup.select("table"):
        table.wrap(soup.new_tag("div", attrs={"class": "scroll"}))
    for image in soup.select("img:not([alt])"):
        image["alt"] = "figure"
    for link in soup.select("a[href]"):
        link["href"] = re.sub(r"^([\w-]+)\.ipynb(?=#|$)", r"\1.html", link["href"])
    return str(soup)


def _acts(key: str, text: object) -> bool:
    """Whether an attribute is a script: slides, which have one of their own, let it run."""
    known = re.sub(r"[\0- ]", "", str(text)).lower()  # as browsers read addresses
    return key.lower().startswith("on") or known.startswith("javascript:")
