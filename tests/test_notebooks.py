"""The notebooks as they are stored: executed in order, without errors, light, and of no machine.

nbval compares nothing in a cell without an execution count, so a stripped notebook would pass
untested: what is checked here is what makes its comparison mean something.
"""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 1_000_000  # bytes
# Folders of somebody's machine: /home/name, /Users/name, C:\Users, /tmp/pytest-1, ~/.cache.
MACHINE_PATH = re.compile(r"(?<![\w.:/])(/(home|Users|root|tmp|mnt)/\w|[A-Z]:\\\\?\w|~/\.cache)")


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture(scope="module")
def cells(path):
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in stored if cell["cell_type"] == "code"]


def test_they_are_numbered_without_a_gap():
    assert [int(path.name[:2]) for path in NOTEBOOKS] == list(range(len(NOTEBOOKS)))


def test_every_cell_was_executed_in_order_and_without_an_error(cells):
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert "error" not in kinds


def test_it_has_three_cells_or_more_to_compare_and_one_of_parameters(cells):
    tagged = [(tag, cell) for cell in cells for tag in cell["metadata"].get("tags", [])]
    checked = [cell for tag, cell in tagged if tag == "nbval-check-output"]
    assert len(checked) >= 3 and all(cell["outputs"] for cell in checked)
    assert [tag for tag, _ in tagged].count("parameters") == 1


def test_it_is_light_and_names_no_folder_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) <= LARGEST
    named = [match[0] for match in MACHINE_PATH.finditer(text)]
    assert not named


def test_every_link_of_the_pages_leads_to_a_file():
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "more_lib/README.md"):
        file = ROOT / page
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text(encoding="utf-8")):
            assert (file.parent / link).exists(), f"{page}: {link}"


def test_readme_lists_every_notebook_and_shows_numbers_that_results_has():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    results = (FOLDER / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    linked = re.findall(r"^\| \[(\d\d) .*\]\(notebooks/(\w+\.ipynb)\)", readme, re.M)
    assert linked == [(path.name[:2], path.name) for path in NOTEBOOKS]
    headline = re.search(r"^\| trained \|.*\n.*\n((?:\|.*\n)+)", readme, re.M)[1].splitlines()
    assert len(headline) == 3
    for row in headline:
        cells = {cell.strip() for cell in row.strip("|").split("|")}
        assert any(cells <= {c.strip() for c in line.split("|")} for line in results), row
