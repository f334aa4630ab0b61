"""The grades of a class: every notebook run once, a table of all, a page for each student.

``grade`` writes ``grades.csv``, ``STUDENT.html`` and, for --resume, ``records/``: the marks of a
notebook under a digest of its content, the master's, the library's and the limits, so that neither
names nor dates decide what is graded again.
"""

import asyncio
import csv
import hashlib
import io
import itertools
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

from more_lib.classroom import sandbox
from more_lib.classroom.course import MASTERS
from more_lib.classroom.grading import Mark, Notebook, asked, assemble, marks, nothing
from more_lib.system.errors import InputError, printable
from more_lib.system.files import CHECKOUT, atomic_file, data_folder, write_json

LARGEST = 20_000_000  # bytes of a submitted notebook
WAYS = "FOLDER/STUDENT/NOTEBOOK.ipynb or FOLDER/STUDENT/ASSIGNMENT/NOTEBOOK.ipynb"


class Submission(NamedTuple):
    """What a student handed in: ``notebook`` is the path in the student's folder, "" for none."""

    student: str
    notebook: str
    path: Path


class Master(NamedTuple):
    """Exercises with their solutions and hidden tests."""

    path: Path
    content: bytes
    notebook: Notebook

    @classmethod
    def read(cls, path: Path) -> "Master":
        content = path.read_bytes()
        try:
            return cls(path, content, Notebook.read(content))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


class Graded(NamedTuple):
    """What a submission got; ``problem`` is why it could not be run."""

    submission: Submission
    marks: Sequence[Mark]
    problem: str

    @property
    def points(self) -> float:
        return sum(mark.points or 0 for mark in self.marks)

    @property
    def of(self) -> float:
        return sum(mark.of for mark in self.marks)

    @property
    def by_hand(self) -> float:
        return sum(mark.of for mark in self.marks if mark.points is None)


def grade(
    folder: Path,
    output: Path,
    limits: sandbox.Limits,
    jobs: int,
    resume: bool,
    masters: Path = MASTERS,
) -> list[str]:
    """Grade all submissions of ``folder`` and write ``output``; returns what changed meanwhile.

    folder: as ``WAYS``; other places of notebooks are refused. jobs: notebooks at a time. resume:
    go on in an ``output`` that is there. Raises ``InputError`` before anything runs, for a master
    that fails here too; what is wrong with a submission stands in its grade.
    """
    folder, output = folder.absolute(), output.absolute()
    sources = {path.stem: Master.read(path) for path in sorted(masters.glob("*.ipynb"))}
    if not sources:
        raise InputError(f"no exercises in {masters}: grade from a checkout of the repository")
    found = submissions(folder)
    if output.exists() and not resume:
        raise InputError(f"{output} is there already: --resume goes on with it, or name another")
    if output.is_relative_to(folder):
        raise InputError(f"{output} lies among the submissions: name a folder outside of {folder}")
    with atomic_file(output / "records" / "README.txt") as temporary:  # can it be written?
        temporary.write_text("Marks by content; `classroom grade --resume` reads them.\n")
    watched = [each.path for each in sources.values()]
    watched += [each.path for each in found if not _irregular(each)]
    before = {path: _digest(path.read_bytes()) for path in watched}
    students = [path for path in folder.iterdir() if not path.is_symlink()]
    hidden = [*students, output, masters, CHECKOUT / "tests", CHECKOUT / ".git"]
    with tempfile.TemporaryDirectory(prefix="more-grade-") as place:
        scratch = sandbox.Scratch(Path(place, "kernels"), Path(place, "ours"), hidden, False)
        scratch.kernels.mkdir()
        (scratch.ours / "empty").mkdir(parents=True)
        why = sandbox.why_not_jailed(scratch)
        if why:
            print(f"note: kernels cannot be shut in here ({why}): what they run can read and "
                  "write what you can; grade in a container", file=sys.stderr)  # fmt: skip
        room = Room(sources, limits, scratch._replace(jail=not why), output / "records")
        graded = asyncio.run(room.grade_all(found, jobs))
    _write(graded, output)
    return [str(path) for path in watched if _changed(path, before[path])]


def submissions(folder: Path) -> list[Submission]:
    """Every notebook handed in; raises ``InputError`` for a folder of another layout."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one with a folder for each student")
    found = {*folder.glob("*/*.ipynb"), *folder.glob("*/*/*.ipynb"), *folder.rglob("*.ipynb")}
    kept = [path.relative_to(folder).parts for path in sorted(found)]
    kept = [parts for parts in kept if not any(part.startswith((".", "__")) for part in parts)]
    if odd := [parts for parts in kept if len(parts) not in (2, 3)]:
        raise InputError(f"{printable(folder.joinpath(*odd[0]))}: expected {WAYS}")
    if not kept:
        raise InputError(f"no notebooks in {folder}: expected {WAYS}")
    students = {path.name for path in folder.glob("[!._]*") if path.is_dir()}
    kept += [(student,) for student in students - {parts[0] for parts in kept}]
    return [Submission(p[0], "/".join(p[1:]), folder.joinpath(*p)) for p in sorted(kept)]


def _irregular(submission: Submission) -> str:
    """Why a file is not even read; "" if it may be."""
    depth = submission.notebook.count("/") + 2
    if any(part.is_symlink() for part in [submission.path, *submission.path.parents][:depth]):
        return "it is a link"
    status = submission.path.lstat()
    if not stat.S_ISREG(status.st_mode):
        return "it is no file" if submission.notebook else "no notebook was handed in"
    if not os.access(submission.path, os.R_OK):
        return "it may not be read"
    return "it is larger than 20 MB" if status.st_size > LARGEST else ""


class Room:
    """Where notebooks are run: the masters, the limits, and what has been graded before."""

    def __init__(
        self,
        masters: dict[str, Master],
        limits: sandbox.Limits,
        scratch: sandbox.Scratch,
        kept: Path,
    ) -> None:
        self.masters, self.limits, self.scratch, self.kept = masters, limits, scratch, kept
        sources = sorted(Path(__file__).parents[1].rglob("*.py"))  # answers rest on all of it
        self.checks = [path.read_bytes() for path in sources]
        self.running: dict[Path, asyncio.Task] = {}
        self.numbers = itertools.count()

    async def grade_all(self, found: Sequence[Submission], jobs: int) -> list[Graded]:
        """Grade all, ``jobs`` at a time; each master runs first, to learn what its tests ask."""
        self.turns, count = asyncio.Semaphore(jobs), 0

        async def one(submission: Submission) -> Graded:
            nonlocal count
            graded = await self._grade(submission)
            count += 1
            note = graded.problem or f"{graded.points:g} of {graded.of:g} points"
            by_hand = f", {graded.by_hand:g} by hand" if graded.by_hand else ""
            name = printable(f"{submission.student}/{submission.notebook}")
            print(f"{count}/{len(found)} {name}: {note}{by_hand}", flush=True)
            return graded

        return await asyncio.gather(*map(one, found))

    async def _grade(self, submission: Submission) -> Graded:
        stem, why = Path(submission.notebook).stem, _irregular(submission)
        if stem not in self.masters:
            return Graded(submission, [], why or f"no exercises are called {stem!r}")
        master = self.masters[stem]
        try:
            if why:
                raise InputError(why)
            handed_in = submission.path.read_bytes()
            submitted = Notebook.read(handed_in)
            cells = assemble(master.notebook, submitted)
        except (InputError, OSError) as error:
            return Graded(submission, nothing(master.notebook, str(error)), str(error))
        own = [handed_in, master.content, *self.checks, repr(self.limits).encode()]
        record = self.kept / f"{_digest(*own)}.json"
        if record.is_file():
            kept = json.loads(record.read_text(encoding="utf-8"))
            return Graded(submission, [Mark(*mark) for mark in kept], "")
        calls = await self._once(master)
        outcomes = await self._run([cell.source for cell in cells])
        named = {cell.name: done for cell, done in zip(cells, outcomes, strict=False)}
        given = marks(master.notebook, submitted, named, calls)
        if all(done["status"] != "not run" for done in outcomes or [sandbox.NOTHING]):
            write_json(given, record)  # else it is tried again
        return Graded(submission, given, "")

    async def _once(self, master: Master) -> dict:
        """What the master's tests ask, from the first who needs it."""

        async def ask() -> dict:
            cells = assemble(master.notebook, master.notebook)
            try:
                return asked(cells, await self._run([cell.source for cell in cells]))
            except InputError as error:
                more = "; give more --timeout or --memory if that is why"
                raise InputError(f"{master.path}: {error}{more}") from error

        if master.path not in self.running:
            self.running[master.path] = asyncio.create_task(ask())
        return await self.running[master.path]

    async def _run(self, cells: Sequence[str]) -> list[dict]:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "MORE_DATA": str(data_folder()),
            "PYTHONPATH": str(CHECKOUT),  # the library that grades is the one that is graded with
            **dict.fromkeys(names, "1"),
        }
        async with self.turns:
            number = str(next(self.numbers))
            return await sandbox.run(number, cells, self.limits, self.scratch, environment)


def _write(graded: Sequence[Graded], output: Path) -> None:
    """``grades.csv`` and the students' pages."""
    exercises = sorted({mark.name for each in graded for mark in each.marks})
    head = ["student", "notebook", "points", "of", "by_hand", "reasons", *exercises]
    rows = [[*_row(each), *_points(each, exercises)] for each in graded]
    table = io.StringIO(newline="")
    csv.writer(table).writerows([head, *rows])
    with atomic_file(output / "grades.csv") as temporary:
        temporary.write_text(table.getvalue(), encoding="utf-8", newline="")
    loader = jinja2.PackageLoader("more_lib.classroom", "templates")
    strict = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    template = jinja2.Environment(loader=loader, trim_blocks=True, **strict)
    for student in sorted({each.submission.student for each in graded}):
        own = [each for each in graded if each.submission.student == student]
        page = template.get_template("student.html").render(student=printable(student), graded=own)
        with atomic_file(output / f"{printable(student)}.html") as temporary:
            temporary.write_text(page, encoding="utf-8")


def _row(graded: Graded) -> Iterator[object]:
    said = [f"{mark.name}: {mark.reason}" for mark in graded.marks if mark.reason]
    reason = graded.problem or "; ".join(said)
    texts = [printable(graded.submission.student), printable(graded.submission.notebook)]
    # A table's program would take such a name for a formula.
    yield from ("'" + text if text.startswith(("=", "+", "-", "@")) else text for text in texts)
    yield from (f"{graded.points:g}", f"{graded.of:g}", f"{graded.by_hand:g}", reason)


def _points(graded: Graded, exercises: Sequence[str]) -> Iterator[str]:
    given = {mark.name: mark for mark in graded.marks}
    for name in exercises:
        mark = given.get(name)
        yield "" if mark is None else "by hand" if mark.points is None else f"{mark.points:g}"


def _digest(*contents: bytes) -> str:
    whole = hashlib.sha256()
    for content in contents:
        whole.update(hashlib.sha256(content).digest())
    return whole.hexdigest()


def _changed(path: Path, digest: str) -> bool:
    try:
        return path.is_symlink() or _digest(path.read_bytes()) != digest
    except OSError:
        return True
