"""What synthetic students hand in: a released copy of a master, with answers written into it."""

import re

import nbformat

from more_lib.classroom.course import MASTERS

SOLUTION = re.compile(r"### BEGIN SOLUTION\n.*?### END SOLUTION", re.DOTALL)
HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS\n.*?### END HIDDEN TESTS", re.DOTALL)
SENTENCE = "Because it is so."


def master(stem):
    return nbformat.read(MASTERS / f"{stem}.ipynb", as_version=4)


def cell(book, name):
    return next(
        each for each in book.cells if each.metadata.get("nbgrader", {}).get("grade_id") == name
    )


def released(stem):
    """As students get it: no solution, no hidden test, no output."""
    book = master(stem)
    for each in book.cells:
        each.source = HIDDEN.sub("", SOLUTION.sub("raise NotImplementedError()", each.source))
        if each.cell_type == "code":
            each.outputs, each.execution_count = [], None
        if each.metadata.get("nbgrader", {}).get("grade_id", "").endswith("-reason"):
            each.source = "YOUR ANSWER HERE"
    return book


def answered(book, stem, answers=None, sentence=SENTENCE):
    """Write answers into a released copy: the master's own, but where others are given.

    answers: code by ``grade_id``; None leaves a cell as it is.
    """
    for right in master(stem).cells:
        name = right.metadata.get("nbgrader", {}).get("grade_id", "")
        if name.endswith("-reason"):
            cell(book, name).source = sentence
        if name.endswith("-answer"):
            source = (answers or {}).get(name, right.source)
            cell(book, name).source = cell(book, name).source if source is None else source
    return book


def hand_in(folder, student, stem, book):
    path = folder / student / f"{stem}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(book if isinstance(book, str) else nbformat.writes(book), encoding="utf-8")
    return path
