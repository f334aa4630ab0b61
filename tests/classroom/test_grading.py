"""Grades: what a class hands in, what each gets for it, and what nobody gets points by."""

import asyncio
import csv
import os
import re

import nbformat
import pytest
import torch

from more_lib.classroom import gradebook, witness
from more_lib.classroom.catalogue import EXERCISES
from more_lib.classroom.checking import attempt, check, judge
from more_lib.classroom.course import MASTERS
from more_lib.classroom.grading import STUB, Notebook, assemble
from more_lib.classroom.sandbox import NOTHING, REPORT, Limits
from more_lib.system.errors import InputError
from tests.classroom.submissions import answered, cell, hand_in, master, released

STEM = "07_paper_tables_and_figures"
LIMITS = Limits(60, 8000)
RIGHT = {"07.1": "4", "07.2": "2", "07.3": "4", "07.4": "2", "07.4 reason": "by hand"}


def whole(changes=None):
    return answered(released(STEM), STEM, changes)


def run_here(cells):
    """As ``sandbox.run``, in this process and without its limits."""
    space, found = {"__name__": "__main__"}, []
    for source in cells:
        done = {**NOTHING, "status": "ok", "reports": []}
        with pytest.MonkeyPatch.context() as patch:
            show = lambda data, reports=done["reports"]: reports.append(data[REPORT])  # noqa: E731
            patch.setattr(witness, "publish_display_data", show)
            try:
                exec(compile(source, "cell", "exec"), space)
            except Exception as error:
                done |= {"status": "error", "said": f"{type(error).__name__}: {error}"}
        found.append(done)
    return found


@pytest.fixture
def kernels(monkeypatch):
    """Stands in for kernels; the cells of each that ran."""
    ran = []

    async def run(name, cells, *rest):
        ran.append(cells)
        await asyncio.sleep(0)
        return run_here(cells)

    monkeypatch.setattr(gradebook.sandbox, "run", run)
    monkeypatch.setattr(gradebook.sandbox, "why_not_jailed", lambda scratch: "")
    return ran


def grade(folder, output, resume=False, **more):
    changed = gradebook.grade(folder, output, LIMITS, 2, resume, **more)
    assert changed == []
    return table(output)


def table(output):
    with (output / "grades.csv").open(newline="", encoding="utf-8") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXERCISES)
def test_what_a_kernel_reports_is_judged_as_here(name):
    exercise = EXERCISES[name]
    answers = [exercise.answer, *map(exercise.wrong, exercise.slips), None, lambda: 1 / 0]
    if exercise.cases is None:
        answers = [exercise.answer, *exercise.slips, None, "text", 7.5]
    for answer in answers:
        report = witness.Report(name, 3, attempt(exercise, answer, 3))
        again = witness.unpacked(witness.packed(report))
        assert again[:2] == (name, 3)
        assert judge(exercise, again.attempt, 3) == check(name, answer, 3)


@pytest.mark.parametrize(
    "value",
    [{"a": 1}, [1, (2.5, None)], torch.ones(2).to_sparse(), torch.ones(2).bfloat16()],
    ids=str,
)
def test_values_of_any_kind_are_packed_without_pickles(value):
    again = witness._unpacked(witness._packed(value))
    assert type(again).__name__ in (type(value).__name__, "Tensor")
    if isinstance(value, list):
        assert again == value


@pytest.mark.slow
class TestTheClass:
    """Through all of it, kernels aside."""

    def test_points_reasons_and_pages(self, tmp_path, kernels):
        half = {
            "x07-2-answer": "n = 18",
            "x07-3-answer": "def paired_gain(a, b):\n    return 1 / 0",
        }
        tried = whole()  # with other seeds, by a variable that the tests read, too
        tried.cells.insert(2, nbformat.v4.new_code_cell("for seed in range(5):\n    pass"))
        hand_in(tmp_path / "in", "alice", STEM, tried)
        hand_in(tmp_path / "in", "bob", STEM, whole(half))
        hand_in(tmp_path / "in", "carol", STEM, released(STEM))
        (tmp_path / "in" / "dave").mkdir()
        rows = grade(tmp_path / "in", tmp_path / "out")
        alice, bob, carol = (rows[name] for name in ("alice", "bob", "carol"))
        assert {name: alice[name] for name in RIGHT} == RIGHT and alice["reasons"] == ""
        assert (alice["points"], alice["of"], alice["by_hand"]) == ("12", "14", "2")
        assert (bob["points"], bob["07.2"], bob["07.3"]) == ("6", "0", "0")
        assert EXERCISES["07.2"].slips[18] in bob["reasons"]
        assert "07.3: on three seeds by hand, it raises ZeroDivisionError" in bob["reasons"]
        assert (carol["points"], carol["by_hand"]) == ("0", "0")
        assert "07.1: not written yet" in carol["reasons"]
        assert "07.4 reason: not answered" in carol["reasons"]
        assert rows["dave"]["reasons"] == "no notebook was handed in"
        page = (tmp_path / "out" / "bob.html").read_text(encoding="utf-8")
        assert "it raises ZeroDivisionError" in page and "6 of 14 points" in page

    def test_it_goes_on_by_content_not_by_name(self, tmp_path, kernels):
        hand_in(tmp_path / "in", "alice", STEM, whole())
        first = grade(tmp_path / "in", tmp_path / "out")
        assert len(kernels) == 2  # the master, too
        (tmp_path / "in" / "alice").rename(tmp_path / "in" / "alicia")
        again = grade(tmp_path / "in", tmp_path / "out", resume=True)
        assert len(kernels) == 2 and again["alicia"]["points"] == first["alice"]["points"]
        changed = hand_in(tmp_path / "in", "alicia", STEM, whole({"x07-2-answer": "n = 18"}))
        os.utime(changed, (1, 1))
        assert grade(tmp_path / "in", tmp_path / "out", resume=True)["alicia"]["points"] == "10"
        assert len(kernels) == 4
        masters = tmp_path / "masters"
        masters.mkdir()
        text = (MASTERS / f"{STEM}.ipynb").read_text(encoding="utf-8")
        assert '"points": 4' in text
        (masters / f"{STEM}.ipynb").write_text(text.replace('"points": 4', '"points": 5'))
        third = grade(tmp_path / "in", tmp_path / "out", resume=True, masters=masters)
        assert third["alicia"]["points"] == "12" and len(kernels) == 6
        judges = gradebook.Room({}, LIMITS, None, tmp_path).checks
        assert (gradebook.CHECKOUT / "more_lib/method/losses.py").read_bytes() in judges

    def test_folders_that_are_refused(self, tmp_path, kernels):
        folder = tmp_path / "in"
        with pytest.raises(InputError, match="no such folder"):
            grade(folder, tmp_path / "out")
        folder.mkdir()
        with pytest.raises(
            InputError, match="no notebooks in .*: expected FOLDER/STUDENT/NOTEBOOK"
        ):
            grade(folder, tmp_path / "out")
        path = hand_in(tmp_path, "in", f"alice_{STEM}", whole())
        with pytest.raises(
            InputError, match=f"alice_{STEM}.ipynb: expected FOLDER/STUDENT/NOTEBOOK"
        ):
            grade(folder, tmp_path / "out")
        path.unlink()
        hand_in(folder, "alice/week7", STEM, whole())
        with pytest.raises(InputError, match="lies among the submissions"):
            grade(folder, folder / "grades")
        with pytest.raises(InputError, match="grade from a checkout"):
            grade(folder, tmp_path / "out", masters=tmp_path)
        assert not (tmp_path / "out").exists() and kernels == []
        assert grade(folder, tmp_path / "out")["alice"]["notebook"] == f"week7/{STEM}.ipynb"
        with pytest.raises(InputError, match="is there already: --resume"):
            grade(folder, tmp_path / "out")

    def test_a_master_that_fails_ends_it_in_one_line(self, tmp_path, kernels):
        masters, book = tmp_path / "masters", master(STEM)
        cell(book, "x07-2-answer").source = "n = 3"
        hand_in(tmp_path, "masters", STEM, book)
        hand_in(tmp_path / "in", "alice", STEM, whole())
        with pytest.raises(InputError, match="its own cell 'x07-2-tests' fails here") as error:
            grade(tmp_path / "in", tmp_path / "out", masters=masters)
        assert "\n" not in str(error.value) and not (tmp_path / "out" / "grades.csv").exists()

    def test_a_file_that_changes_meanwhile_is_named(self, tmp_path, kernels):
        hand_in(
            tmp_path / "in", "alice", STEM, whole({"x07-2-answer": "n = open(PATH, 'a').close()"})
        )
        path = hand_in(tmp_path / "in", "bob", STEM, whole())
        (tmp_path / "in" / "alice" / f"{STEM}.ipynb").write_text(
            nbformat.writes(whole({"x07-2-answer": f"n = open({str(path)!r}, 'a').write(' ')"}))
        )
        changed = gradebook.grade(tmp_path / "in", tmp_path / "out", LIMITS, 1, False)
        assert changed == [str(path)]

    def test_each_bad_submission_is_a_zero_with_its_reason_and_nobody_elses(
        self, tmp_path, kernels
    ):
        folder, good = tmp_path / "in", nbformat.writes(whole())
        hand_in(folder, "alice", STEM, good)
        other = whole()
        other.metadata.kernelspec = {"name": "ir", "display_name": "R", "language": "R"}
        other.metadata.language_info = {"name": "R"}
        stranger = nbformat.read(MASTERS.parent / f"{STEM}.ipynb", as_version=4)
        bad = {
            "text": ("hello", "it is no notebook (NotJSONError)"),
            "json": ('{"a": [1]}', "it is no notebook"),
            "list": ("[]", "it is no notebook"),
            "cells": (
                '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": 3}',
                "it is no n",
            ),
            "bytes": ("\udcff", "it is no notebook (UnicodeDecodeError)"),
            "lone": (
                good.replace("n = 19", "n = '\\\\ud800'".replace("\\\\", "\\")),
                "it is no notebook",
            ),
            "empty": ("", "it is no notebook"),
            "r": (other, "its kernel is for R, not for Python"),
            "stranger": (stranger, "no cell of it belongs to the exercises"),
            "large": (good + " " * gradebook.LARGEST, "it is larger than 20 MB"),
        }
        for student, (book, _) in bad.items():
            if student == "bytes":
                hand_in(folder, student, STEM, "").write_bytes(b"\xff\xfe{")
            else:
                hand_in(folder, student, STEM, book)
        hand_in(folder, "name", "homework", whole())
        (folder / "link").mkdir()
        (folder / "link" / f"{STEM}.ipynb").symlink_to(folder / "alice" / f"{STEM}.ipynb")
        (folder / "linked").symlink_to(folder / "alice")
        (folder / "pipe").mkdir()
        os.mkfifo(folder / "pipe" / f"{STEM}.ipynb")
        says = {name: reason for name, (_, reason) in bad.items()}
        says |= {"link": "it is a link", "linked": "it is a link", "pipe": "it is no file"}
        says |= {"name": "no exercises are called 'homework'"}
        rows = grade(folder, tmp_path / "out")
        assert rows.pop("alice")["points"] == "12" and set(rows) == set(says)
        for student, row in rows.items():
            assert row["points"] == "0" and row["reasons"].startswith(says[student]), student
            assert (tmp_path / "out" / f"{student}.html").is_file()
        assert len(kernels) == 2

    @pytest.mark.filterwarnings("ignore:Non-unique cell id")  # as handed in
    def test_cells_that_are_gone_renamed_doubled_or_of_another_kind(self, tmp_path, kernels):
        book = whole()
        for name in ("x07-parameters", "x07-imports", "x07-1-tests", "x07-2-answer", "x07-4-tests"):
            book.cells.remove(cell(book, name))
        cell(book, "x07-3-answer").cell_type = "raw"
        hand_in(tmp_path / "in", "gone", STEM, book)
        book = whole()
        cell(book, "x07-1-tests").metadata.nbgrader.points = 100
        cell(book, "x07-2-tests").metadata.nbgrader.grade_id = "mine"
        book.cells += [cell(book, "x07-3-tests")] * 2
        del cell(book, "x07-4-answer").metadata["nbgrader"]
        hand_in(tmp_path / "in", "renamed", STEM, book)
        rows = grade(tmp_path / "in", tmp_path / "out")
        gone, renamed = rows["gone"], rows["renamed"]
        assert (gone["07.1"], gone["07.2"], gone["07.3"], gone["07.4"]) == ("4", "0", "0", "2")
        assert "(the cell x07-2-answer is missing)" in gone["reasons"]
        assert "(the cell x07-3-answer is no code any more)" in gone["reasons"]
        assert {name: renamed[name] for name in RIGHT} == RIGHT

    def test_a_page_runs_nothing_that_a_student_wrote(self, tmp_path, kernels):
        script = "<script>alert(1)</script><img src=x onerror=alert(1)>"
        book = whole({"x07-3-answer": f"def paired_gain(a, b):\n    raise ValueError({script!r})"})
        cell(book, "x07-4-reason").source = f"</pre>{script}"
        hand_in(tmp_path / "in", "=1+1", STEM, book)
        rows = grade(tmp_path / "in", tmp_path / "out")
        assert list(rows) == ["'=1+1"]  # no formula
        page = (tmp_path / "out" / "=1+1.html").read_text(encoding="utf-8")
        assert page.count("&lt;script&gt;") >= 3 and "default-src 'none'" in page
        assert not re.search(r"<(script|img)|</pre>&lt;/pre", page)


LIES = {
    "words": {
        "x07-1-answer": "verdict = lambda *given: 'shown'\nseed = 7",
        "x07-2-answer": "n = 3\nprint('07.2: right')\ndef check(*given):\n    return True",
        "x07-3-answer": f"""
from IPython.display import publish_display_data as show
def paired_gain(before, after):
    show({{'{REPORT}': '["07.3", 0, "", [{{"value": [1, 2]}}]]'}})
    return 1.0, 1.0""",
        "x07-4-answer": """
class Any(str):
    def __eq__(self, other): return True
    def strip(self): return self
    def casefold(self): return self
sentence = Any('a')""",
    },
    "patches": {
        "x07-2-answer": """
n = 3
import more_lib.classroom as room
from more_lib.classroom import checking, witness
torch.isclose = lambda a, b, **more: torch.ones(()) > 0
checking.judge = witness.judge = lambda *given: checking.Verdict(True, '07.2: right')
room.check = witness.check = lambda *given, **more: checking.Verdict(True, '07.2: right')""",
    },
    "module": {
        "x07-2-answer": """
n = 3
import sys, types
for name in ('more_lib.classroom', 'more_lib.classroom.checking', 'more_lib.classroom.witness'):
    fake = sys.modules[name] = types.ModuleType(name)
    fake.check = lambda *given, **more: True""",
    },
    "trace": {
        "x07-2-answer": """
n = 3
import sys, builtins
def trace(frame, event, arg):
    if event == 'call' and frame.f_code.co_name in ('judge', '_failure', 'fault'):
        frame.f_globals['fault'] = frame.f_globals['_failure'] = lambda *given: ''
    return trace
sys.settrace(trace)
builtins.all = builtins.any = lambda given: True""",
    },
}
ROUGH = {
    "x07-1-answer": "import os\ndef verdict(*given):\n    os._exit(1)",
    "x07-2-answer": "import nothing_of_this_name\nn = 19",
    "x07-3-answer": "def paired_gain(before, after):\n    print('x' * 10**8)",
}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A class graded in real kernels."""
    place = tmp_path_factory.mktemp("class")
    for student, changes in {"alice": {}, "rough": ROUGH, **LIES}.items():
        hand_in(place / "in", student, STEM, whole(changes))
    assert gradebook.grade(place / "in", place / "out", LIMITS, 2, False) == []
    return table(place / "out")


@pytest.mark.slow
@pytest.mark.parametrize("lie", LIES)
def test_nobody_lies_their_way_to_points(real, lie):
    for name in LIES[lie]:
        assert real[lie][name[1:5].replace("-", ".")] == "0", real[lie]


@pytest.mark.slow
def test_who_is_right_has_all_points_and_who_breaks_things_loses_what_broke(real):
    assert {name: real["alice"][name] for name in RIGHT} == RIGHT
    lost = {"07.1": "0", "07.2": "0", "07.3": "0"}
    assert {name: real["rough"][name] for name in RIGHT} == {**RIGHT, **lost}
    for says in ("07.1: it ended its kernel", "No module named 'nothing_of_this_name'", "07.3: it"):
        assert says in real["rough"]["reasons"]


def test_the_order_of_a_submission_is_kept_and_locked_cells_return_to_their_place():
    book = nbformat.from_dict(released(STEM))
    book.cells.insert(0, nbformat.v4.new_code_cell("mine = 1"))
    book.cells.remove(cell(book, "x07-imports"))
    names = [each.name for each in assemble(Notebook(master(STEM).cells), Notebook(book.cells))]
    assert names[:4] == ["", "x07-parameters", "x07-imports", "x07-1-answer"]


def test_of_copies_of_a_cell_the_first_that_is_answered_counts():
    texts = "", STUB, "first", "second"
    copies = [cell(answered(released(STEM), STEM, sentence=each), "x07-4-reason") for each in texts]
    assert Notebook(copies).known()["x07-4-reason"].source == "first"
