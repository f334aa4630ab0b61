"""A course folder, and two assignments from it through all of nbgrader's commands."""

import csv
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import nbformat
import pytest

from more_lib.classroom.course import MASTERS, new_course
from more_lib.system.errors import InputError
from more_lib.system.files import CHECKOUT
from tests.classroom.submissions import SOLUTION, answered, master

FIRST, SECOND = "06_evaluation", "07_paper_tables_and_figures"
HALF = {  # of the second: nothing ends, an error, then two right answers
    "x07-1-answer": "import time\ndef verdict(*given):\n    while True:\n        time.sleep(0.1)",
    "x07-2-answer": "n = 1 / 0",
}


def test_a_course_folder_holds_all_masters_with_their_marks(tmp_path):
    said = new_course(tmp_path / "spring 2027")
    course = tmp_path / "spring 2027"
    assert "9 assignments" in said and sorted(os.listdir(course)) == [
        "nbgrader_config.py",
        "source",
    ]
    assert "course_id = 'spring-2027'" in (course / "nbgrader_config.py").read_text()
    for path in MASTERS.glob("*.ipynb"):
        copy = nbformat.read(course / "source" / path.stem / path.name, as_version=4)
        nbformat.validate(copy)
        original = nbformat.read(path, as_version=4)
        assert [c.metadata for c in copy.cells] == [c.metadata for c in original.cells]
        code = [c.source for c in copy.cells if c.cell_type == "code"]
        assert code == [c.source for c in original.cells if c.cell_type == "code"]
        assert "](../" not in "".join(c.source for c in copy.cells)


def test_what_is_in_the_way_stays_and_masters_are_needed(tmp_path):
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / "mine").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        new_course(tmp_path / "course")
    assert os.listdir(tmp_path / "course") == ["mine"]
    with pytest.raises(InputError, match="make a course from a checkout"):
        new_course(tmp_path / "other", masters=tmp_path)
    assert not (tmp_path / "other").exists()


def start_up() -> float:
    """Seconds that a kernel needs here and now until it has imported the checks."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import more_lib.classroom"], check=True, cwd=CHECKOUT)
    return time.monotonic() - began


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The folder of a course in which three students have gone through everything."""
    home = tmp_path_factory.mktemp("home")
    course = home / "course"
    new_course(course)
    config = course / "nbgrader_config.py"
    limit = f"c.Execute.timeout = {20 + int(4 * start_up())}"
    config.write_text(config.read_text().replace("c.Execute.timeout = 60", limit))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it calls alembic
    environment = {**os.environ, "HOME": str(home), "PATH": path, "PYTHONPATH": str(CHECKOUT)}

    def nbgrader(*words):
        command = [sys.executable, "-m", "nbgrader", *words]
        done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    for stem in (FIRST, SECOND):
        nbgrader("generate_assignment", stem)
        nbgrader("release_assignment", stem)
        archive = course / "downloaded" / stem / "archive"
        archive.mkdir(parents=True)
        path = course / "release" / stem / f"{stem}.ipynb"
        with zipfile.ZipFile(archive / "from-the-platform.zip", "w") as file:
            given = {"alice": {}, "bob": HALF if stem == SECOND else {}, "carol": None}
            for student, answers in given.items():
                book = nbformat.read(path, as_version=4)
                if answers is not None:
                    answered(book, stem, answers)
                file.writestr(f"{student}_{stem}.ipynb", nbformat.writes(book))
        nbgrader("zip_collect", stem)
        nbgrader("autograde", stem)
        nbgrader("generate_feedback", stem)
    nbgrader("export")
    return course


@pytest.mark.slow
@pytest.mark.parametrize("stem", [FIRST, SECOND])
def test_no_solution_and_no_hidden_test_is_released(course, stem):
    for folder in ("release", "exchange/course/outbound"):
        path = course / folder / stem / f"{stem}.ipynb"
        text, book = path.read_text(), nbformat.read(path, as_version=4)
        assert "SOLUTION" not in text and "HIDDEN" not in text and "seed + 100" not in text
        assert not any(c.outputs for c in book.cells if c.cell_type == "code")
        assert book.cells[1].source.startswith("NAME = ")
        sources = "\n".join(c.source for c in book.cells)
        for each in master(stem).cells:
            for solution in SOLUTION.findall(each.source):
                lines = solution.splitlines()[1:-1]
                assert not any(line in sources.splitlines() for line in lines if line.strip())
            if each.metadata.get("nbgrader", {}).get("grade_id", "").endswith("-reason"):
                assert each.source[:40] not in sources


@pytest.mark.slow
def test_three_students_get_their_points(course):
    with (course / "grades.csv").open(newline="") as file:
        rows = {(row["assignment"], row["student_id"]): row for row in csv.DictReader(file)}
    points = {key: (float(row["score"]), float(row["max_score"])) for key, row in rows.items()}
    # 2 of each are given by hand.
    assert points == {
        (FIRST, "alice"): (12, 14), (FIRST, "bob"): (12, 14), (FIRST, "carol"): (0, 14),
        (SECOND, "alice"): (12, 14), (SECOND, "bob"): (6, 14), (SECOND, "carol"): (0, 14),
    }  # fmt: skip


@pytest.mark.slow
def test_feedback_says_what_the_checks_say(course):
    def page(student):
        text = (course / "feedback" / student / SECOND / f"{SECOND}.html").read_text()
        return re.sub(r"<[^>]+>", "", text)

    assert page("alice").count(": right") == 6  # with the hidden ones
    assert "CellTimeoutError" in page("bob") and "ZeroDivisionError" in page("bob")
    assert "07.1: not written yet" in page("carol") and "Score: 0.0 / 14.0" in page("carol")


@pytest.mark.slow
def test_submissions_collected_by_nbgrader_are_as_handed_in(course):
    path = course / "submitted" / "bob" / SECOND / f"{SECOND}.ipynb"
    sources = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]
    assert HALF["x07-1-answer"] in sources
    assert not Path(course / "submitted" / "bob" / "wrong").exists()
