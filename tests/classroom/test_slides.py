"""Slides: what is on them, by rule, and that nothing of them is fetched."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from more_lib.classroom.slides import slides_of, write_slides
from tests.data.helpers import refused

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
HEAD = """# 09 · Bread

How does it rise?

**Learning objectives.** After this

- bake;
- eat.

**Time:** an hour."""
FIRST = (
    """## 1 Dough

Flour meets water:

$$ a = b $$

It rests for a night.

Look for: bubbles. They are air. """
    + "And so on, word by word. " * 12
)
CODE = "secret = 1\nplot(secret)"
NETWORK = re.compile(r"""(?:src|href)=["'](?!data:|#)|@import|url\((?!["']?data:)|https?://""")


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (600, 300), "orange").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def picture():
    data = {"image/png": png(), "text/plain": "<Figure>"}
    return new_code_cell(CODE, outputs=[new_output("display_data", data)], execution_count=1)


def printed(text, *tags):
    outputs = [new_output("stream", name="stdout", text=text)]
    return new_code_cell(CODE, outputs=outputs, metadata={"tags": list(tags)}, execution_count=1)


def notebook(*cells):
    text = [new_markdown_cell(each) if isinstance(each, str) else each for each in cells]
    return new_notebook(cells=text)


BOOK = notebook(
    HEAD,
    printed("untagged"),
    FIRST,
    picture(),
    "More prose.",
    printed("a  b\n1  2\n", "report"),
    printed("x" * 200, "report"),
    printed("line\n" * 40, "report"),
    "Then\n\nheat follows\n\n$$ c $$\n\nand cools.",
    "### Crust\n\nIt browns.\n\n| a | b |\n|---|---|\n| 1 | 2 |",
    "## Summary\n\n- Good.",
    "## Exercises\n\nBake.",
    picture(),
    "## Where paper, code and this run differ\n\n| x |\n|---|\n| y |",
)


def save(folder, book=BOOK, name="09_bread.ipynb"):
    nbformat.write(book, folder / name)
    return folder / name


def page(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="module")
def soup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    (path,) = write_slides([save(folder)], folder / "out")
    assert path == folder / "out/09_bread.slides.html"
    return page(path)


def test_headings_make_columns_and_figures_tables_equations_slides(soup):
    columns = soup.select(".slides > section")
    shown = [[each.get_text(" ", strip=True) for each in c.select(".slide")] for c in columns]
    assert [len(column) for column in shown] == [2, 5, 1]
    title, aims = shown[0]
    assert title == "09 · Bread # How does it rise?" and "bake; eat." in aims
    dough, figure, table, equation, crust = shown[1]
    assert "Flour meets water:" in dough and "rests" not in dough and "Look for" not in dough
    assert "Look for: bubbles. They are air." in figure and figure.count("word by word") < 10
    assert "1 Dough" in table and "a  b\n1  2" in table
    assert "heat follows" in equation and "cools" not in equation and "Then" not in equation
    assert "It browns." in crust and columns[1].select("table")
    assert shown[2] == ["Summary # Good."]


def test_only_what_is_for_a_class_is_on_them(soup):
    text = soup.select_one(".slides").get_text()
    for absent in ("secret", "untagged", "xxx", "Bake", "Where paper", "<Figure>"):
        assert absent not in text
    assert len(soup.select(".slide img")) == 1
    assert soup.select_one(".slide img")["alt"] == "1 Dough"


def test_the_rest_of_the_prose_is_notes(soup):
    notes = [each.get_text(" ", strip=True) for each in soup.select("aside.notes")]
    assert "Learning objectives" in notes[0] and "an hour" in notes[0]
    assert "rests for a night" in notes[1] and notes[2].count("word by word") == 12
    assert "More prose." in notes[2]


def test_an_equation_after_a_heading_is_drawn_and_code_after_it_leaves_no_colon():
    (slide,) = slides_of(notebook("## 1 Two\n\nIt follows:"))
    assert slide.html()[0].count("It follows.") == 1
    (slide,) = slides_of(notebook(r"## 1 Two" + "\n\nIt is:\n\n" + r"$$ \frac12 $$"))
    assert "It is:" in slide.html()[0] and "<mfrac>" in slide.html()[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["01_vit_lam", "07_paper_tables_and_figures"])
def test_a_notebooks_pictures_are_all_on_slides_and_nothing_is_fetched(name, tmp_path):
    stored = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in stored["cells"] for output in cell.get("outputs", [])]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    (path,) = write_slides([NOTEBOOKS / f"{name}.ipynb"], tmp_path)
    soup = page(path)
    assert len(soup.select(".slide img")) == pictures > 3
    assert len(soup.select(".slides > section")) >= 6
    for link in soup.select("a"):  # which are followed only if one clicks
        del link["href"]
    for image in soup.select("img"):
        assert image["src"].startswith("data:image/png;base64,")
    assert not NETWORK.search(str(soup))


def test_what_acts_in_a_notebook_does_not_act_on_slides(tmp_path):
    bad = "<script>steal()</script><img src=x onerror=steal()><a href='Java\tScript:steal()'>a</a>"
    (path,) = write_slides([save(tmp_path, notebook(f"# A\n\n{bad}", picture()))], tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "steal" not in text
    policy = page(path).select_one("meta[http-equiv]")["content"]
    assert "default-src 'none'" in policy and "img-src data:;" in policy


def copy_of_reveal(folder, js="window.Reveal = 1; // </script>"):
    (folder / "dist/theme").mkdir(parents=True)
    (folder / "dist/reveal.css").write_text(".reveal { color: red }")
    (folder / "dist/theme/white.css").write_text("@import url(fonts/a.css);\n.x { margin: 7px }")
    (folder / "dist/reveal.js").write_text(js)
    return folder


def test_a_copy_of_reveal_is_put_into_the_file(tmp_path):
    (path,) = write_slides([save(tmp_path)], tmp_path, copy_of_reveal(tmp_path / "reveal"))
    text = path.read_text(encoding="utf-8")
    assert ".reveal { color: red }" in text and "margin: 7px" in text and "@import" not in text
    assert r"window.Reveal = 1; // <\/script>" in text and "Reveal.initialize" in text
    assert "const columns" not in text  # the script of our own


def test_what_cannot_be_shown_is_said_in_one_line(tmp_path):
    (tmp_path / "text.ipynb").write_text("no notebook")
    with refused("text.ipynb is no notebook: give a file .ipynb"):
        list(write_slides([tmp_path / "text.ipynb"], tmp_path))
    with refused("none.ipynb is no notebook"):
        list(write_slides([tmp_path / "none.ipynb"], tmp_path))
    with refused("two notebooks are called 09_bread: make their slides one after the other"):
        list(write_slides([save(tmp_path)] * 2, tmp_path))
    with refused("has no outputs to show: execute it first"):
        list(write_slides([save(tmp_path, notebook(HEAD, new_code_cell(CODE)))], tmp_path))
    with refused("is no copy of reveal.js: it must have dist/reveal.css"):
        list(write_slides([save(tmp_path)], tmp_path, tmp_path))


BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome: apt-get install chromium")
def test_a_browser_without_network_turns_them_by_keys(tmp_path):
    from playwright.sync_api import sync_playwright

    (path,) = write_slides([save(tmp_path)], tmp_path)
    said = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        tab = chromium.new_context(viewport={"width": 640, "height": 360}, offline=True).new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(path.as_uri())

        def place(*keys):
            for key in keys:
                tab.keyboard.press(key)
            return tab.inner_text("#place")

        assert place() == "1 / 8" and place("ArrowLeft") == "1 / 8"
        assert place("ArrowRight", " ", "PageDown") == "4 / 8"
        figure = tab.locator("section.present img").bounding_box()
        assert figure["width"] > 200 and figure["y"] + figure["height"] <= 360
        assert place("ArrowDown") == "8 / 8" and place("ArrowUp") == "3 / 8"
        assert place("End") == "8 / 8" and place("Home") == "1 / 8"
        assert not tab.is_visible("section.present aside.notes")
        tab.keyboard.press("s")
        assert tab.is_visible("section.present aside.notes")
        chromium.close()
    assert said == []
