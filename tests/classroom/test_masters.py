"""The masters of the exercises: they run with their solutions, and nbgrader can read them."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from more_lib.classroom.catalogue import EXERCISES
from tests.classroom.submissions import HIDDEN, SOLUTION

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
MASTERS = sorted((FOLDER / "exercises").glob("*.ipynb"))
DOTS = {1: "●○○", 2: "●●○", 3: "●●●"}


@pytest.fixture(scope="module", params=MASTERS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture(scope="module")
def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def named(cells, ending):
    """The cells that nbgrader knows, by exercise: ``x01-2-answer`` is that of 01.2."""
    found = [cell for cell in cells if cell["id"].endswith(ending)]
    return {cell["id"][1:5].replace("-", "."): cell for cell in found}


def test_it_is_valid_with_ids_and_executed_without_an_error(path, cells):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    ids = [cell["id"] for cell in cells]
    assert len(set(ids)) == len(ids) and (book.nbformat, book.nbformat_minor) == (4, 5)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not any(o["output_type"] == "error" for cell in code for o in cell["outputs"])
    assert book.metadata.kernelspec.name == "python3" and "widgets" not in book.metadata


def test_it_opens_as_every_notebook_does(path, cells):
    head = source(cells[0])
    assert head.startswith(f"# Exercises {path.name[:2]} · ") and f"(../{path.name})" in head
    assert (FOLDER / path.name).is_file()
    objectives = re.search(r"\*\*Learning objectives\.\*\*.*?\n\n((?:- .*\n)+)", head)[1]
    assert 3 <= objectives.count("\n") <= 5
    minutes = sum(each.minutes for name, each in EXERCISES.items() if name[:2] == path.name[:2])
    assert "**Paper:**" in head and f"**Time:** {minutes} minutes in all" in head
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert [source(cell).split(" = ")[0] for cell in tagged] == ["seed: int"]


def test_each_exercise_has_its_parts(path, cells):
    own = {name: each for name, each in EXERCISES.items() if name[:2] == path.name[:2]}
    texts, answers, tests = (named(cells, f"-{part}") for part in ("text", "answer", "tests"))
    assert list(own) == list(texts) == list(answers) == list(tests)
    assert list(named(cells, "-analysis")) == list(own)
    for name, each in own.items():
        text, test = source(texts[name]), source(tests[name])
        title = f"## {name} {each.title} ({DOTS[each.difficulty]}, {each.minutes} minutes)\n\n"
        assert text.startswith(f"{title}**Goal.** {each.goal}\n") and "$$" in text
        assert text.count("<details><summary>Hint") in (1, 2)
        assert len(SOLUTION.findall(source(answers[name]))) == 1
        assert test.startswith(f'assert check("{name}", ')
        assert len(HIDDEN.findall(test)) == (1 if each.cases else 0)
        said = "".join(line for output in tests[name]["outputs"] for line in output["text"])
        assert said == f"{name}: right\n" * (2 if each.cases else 1)


def test_nbgrader_knows_what_is_solution_test_and_graded_by_hand(cells):
    known = {cell["id"]: cell["metadata"].get("nbgrader") for cell in cells}
    keys = {"grade", "grade_id", "locked", "schema_version", "solution", "task"}
    for name, data in known.items():
        kind = name.rpartition("-")[2]
        if kind not in ("answer", "tests", "reason", "parameters", "imports"):
            assert data is None
            continue
        graded = kind in ("tests", "reason")
        assert set(data) == keys | ({"points"} if graded else set())
        assert data["grade_id"] == name and re.fullmatch(r"[\w-]+", name)
        assert (data["schema_version"], data["task"], data["grade"]) == (3, False, graded)
        written = kind in ("answer", "reason")
        assert data["solution"] is written and data["locked"] is not written
        assert not graded or data["points"] > 0
    assert any(name.endswith("-reason") for name in known)
    assert all(f"{name[:-6]}question" in known for name in known if name.endswith("-reason"))


def run(cells, change=lambda text: text):
    """The code cells in one namespace, as a notebook runs them; what each graded one raised."""
    space, raised = {"__name__": "__main__"}, {}
    for cell in cells:
        if cell["cell_type"] == "code":
            try:
                exec(compile(change(source(cell)), cell["id"], "exec"), space)
            except (AssertionError, NotImplementedError, NameError) as error:
                raised[cell["id"]] = error
    return raised


def test_its_code_runs_with_the_solutions_in(cells):
    assert run(cells) == {}


def test_without_the_solutions_no_check_passes(cells, capsys):
    def released(text):
        """As nbgrader hands it out."""
        return HIDDEN.sub("", SOLUTION.sub("raise NotImplementedError()", text))

    raised = run(cells, released)
    tests = [cell["id"] for cell in cells if cell["id"].endswith("-tests")]
    assert tests and set(tests) <= set(raised)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(tests)
    assert all(line.endswith(("not written yet", "not answered yet")) for line in said)


def test_masters_and_exercises_are_the_same_chapters():
    assert [path.name[:2] for path in MASTERS] == sorted({name[:2] for name in EXERCISES})


def test_the_notebooks_name_and_link_their_exercises(path, cells):
    stored = json.loads((FOLDER / path.name).read_text(encoding="utf-8"))["cells"]
    section = next(source(cell) for cell in stored if "## Exercises" in source(cell))
    section = section.partition("## Exercises")[2].partition("\n## ")[0]
    assert f"(exercises/{path.name})" in section and "assert" not in section
    for name, each in EXERCISES.items():
        if name[:2] == path.name[:2]:
            row = f"**{name} {each.title}** ({DOTS[each.difficulty]}, {each.minutes} minutes)"
            assert row in section
