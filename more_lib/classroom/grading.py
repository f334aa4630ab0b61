"""The points of one submitted notebook: a student's answers under the master's tests.

Cells are known by nbgrader's ``grade_id``. Tests and other locked cells are the master's, hidden
tests included, whatever a submission made of them; all other code is the student's. Points are
those of the test cells that run without an error and whose checks' reports are right by our own
judgement (``witness``). Cells that check by plain asserts, as one may write them, are believed.
"""

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import nbformat

from more_lib.classroom.catalogue import EXERCISES, find
from more_lib.classroom.checking import judge
from more_lib.classroom.sandbox import NOTHING
from more_lib.classroom.witness import unpacked
from more_lib.system.errors import InputError

logging.getLogger("traitlets").setLevel(logging.CRITICAL)  # what nbformat finds is no news here

# So that a student's own `check` is not asked; the lines of the master's cell stay together.
BEFORE_TESTS = "from more_lib.classroom.witness import check\n"
STUB = "YOUR ANSWER HERE"  # nbgrader's, where an answer is a text
UNANSWERED = ("", STUB)
SAYS = {
    "late": "it took too long and was stopped",
    "flood": "it printed too much",
    "died": "it ended its kernel",
    "not run": "it did not run: other cells used up the notebook's time or its kernels",
}


class Mark(NamedTuple):
    """The points of a graded cell, None where a person has to give them."""

    name: str  # "03.4", and "03.4 reason" for the sentence asked for beside it
    title: str
    points: float | None
    of: float
    reason: str = ""
    answer: str = ""  # what the student wrote


@dataclass(frozen=True)
class Notebook:
    """The cells of a notebook that this program can read."""

    cells: Sequence[Mapping]

    @classmethod
    def read(cls, content: bytes) -> "Notebook":
        """Raises ``InputError`` with half a sentence on why it cannot be graded."""
        try:
            with warnings.catch_warnings(action="ignore"):  # doubled cells, old formats
                book = nbformat.reads(content.decode("utf-8"), as_version=4)
            cells = [cell for cell in book.cells if isinstance(cell.source, str)]
            language = book.metadata.get("kernelspec", {}).get("language", "")
            language = book.metadata.get("language_info", {}).get("name", "") or language
            "".join(cell.source + cell.cell_type for cell in cells).encode("utf-8")
            known = [cell.metadata.get("nbgrader", {}).get("grade_id", "") for cell in cells]
        except Exception as error:  # nbformat raises what it likes
            raise InputError(f"it is no notebook ({type(error).__name__})") from error
        if str(language or "python").lower() not in ("python", "ipython"):
            raise InputError(f"its kernel is for {str(language)[:20]}, not for Python")
        if not all(isinstance(name, str) for name in known):
            raise InputError("its nbgrader metadata are broken")
        return cls(cells)

    def known(self) -> dict[str, Mapping]:
        """By ``grade_id``, in order; of copies of a cell the first that is answered."""
        found: dict[str, Mapping] = {}
        for cell in self.cells:
            name = _data(cell).get("grade_id")
            if name and (name not in found or found[name].source.strip() in UNANSWERED):
                found[name] = cell
        return found


class Cell(NamedTuple):
    """Code to run, and the ``grade_id`` that it stands for, "" if none."""

    name: str
    source: str


def assemble(master: Notebook, submitted: Notebook) -> list[Cell]:
    """The code to run: the student's, in its order, with the master's locked cells in theirs.

    Locked cells that are missing come after the last of those they follow in the master. Raises
    ``InputError`` where no cell is the master's.
    """
    known, cells, seen = master.known(), [], set()
    if not set(known) & set(submitted.known()):
        raise InputError("no cell of it belongs to the exercises: is it another notebook?")
    tagged = [cell for cell in master.cells if "parameters" in cell["metadata"].get("tags", ())]
    given = "".join(f"{cell['source']}\n" for cell in tagged)
    locked = {name: run for name, cell in known.items() if (run := _locked(cell, given))}
    for cell in submitted.cells:
        name = _data(cell).get("grade_id", "")
        if name in locked and name not in seen:
            cells.append(locked[name])
        elif name not in locked and cell.cell_type == "code":
            cells.append(Cell(name if name in known else "", cell.source))
        seen.add(name)
    for place, name in enumerate(known):
        if name in locked and name not in seen:
            before = [i for i, cell in enumerate(cells) if cell.name in list(known)[:place]]
            cells.insert(max(before, default=-1) + 1, locked[name])
    return cells


def asked(cells: Sequence[Cell], outcomes: Sequence[Mapping]) -> dict[str, list[tuple[str, int]]]:
    """What each of the master's tests asks ``check`` for: exercises and seeds.

    outcomes: of the master's own cells. Raises ``InputError`` where one of them went wrong.
    """
    calls: dict[str, list[tuple[str, int]]] = {}
    for cell, done in zip(cells, outcomes or [NOTHING] * len(cells), strict=True):
        if done["status"] != "ok":
            what = done["said"] or SAYS[done["status"]]
            raise InputError(f"its own cell {cell.name or cell.source[:30]!r} fails here: {what}")
        reports = [unpacked(text) for text in done["reports"]]
        calls[cell.name] = [(report.exercise_id, report.seed) for report in reports]
    return calls


def marks(
    master: Notebook, submitted: Notebook, outcomes: Mapping[str, Mapping], calls: Mapping
) -> list[Mark]:
    """What a submission gets for each graded cell; outcomes and calls by ``grade_id``."""
    found, theirs, done = [], submitted.known(), []
    for name, cell in master.known().items():
        data = _data(cell)
        if not data.get("grade"):
            done += [name] if data.get("solution") else []
            continue
        if data.get("solution") or cell.cell_type != "code":
            text = theirs[name].source.strip() if name in theirs else ""
            empty = text in UNANSWERED
            given = (0, "not answered") if empty else (None, "")
            found.append(_mark(cell, *given, text))
            continue
        reason = _reason(outcomes.get(name, NOTHING), calls[name])
        if reason:
            reason += "".join(_trouble(each, theirs, outcomes) for each in done)
        code = "\n\n".join(theirs[each].source for each in done if each in theirs)
        found.append(_mark(cell, 0 if reason else data["points"], reason, code))
        done = []
    return found


def nothing(master: Notebook, reason: str) -> list[Mark]:
    """Marks of a submission that cannot be graded."""
    graded = [cell for cell in master.known().values() if _data(cell).get("grade")]
    return [_mark(cell, 0, reason, "") for cell in graded]


def _mark(cell: Mapping, points: float | None, reason: str, answer: str) -> Mark:
    name = _data(cell)["grade_id"]
    name = re.sub(r"^x(\d\d)-(\d+)-", r"\1.\2 ", name).removesuffix(" tests")
    title = EXERCISES[name[:4]].title if name[:4] in EXERCISES else ""
    reason = "".join(c if c.isprintable() else " " for c in reason)[:600]
    return Mark(name, title, points, _data(cell)["points"], reason, answer[:20_000])


def _reason(done: Mapping, calls: Sequence[tuple[str, int]]) -> str:
    """Why a test cell gives no points; "" if it gives them."""
    reports = done.get("reports", [])
    for (name, seed), text in zip(calls, reports, strict=False):
        try:
            report = unpacked(text)
            if (report.exercise_id, report.seed) != (name, seed):
                return "the check was asked for something else, or with another seed"
            verdict = judge(find(name), report.attempt, seed)
        except Exception:  # whatever somebody sent
            return "what the check reports cannot be read"
        if not verdict:
            return verdict.sentence.removeprefix(f"{name}: ")
    if done["status"] != "ok":
        return done.get("said") or SAYS[done["status"]]
    return "" if len(reports) >= len(calls) else "the check reports nothing: was it replaced?"


def _trouble(name: str, theirs: Mapping[str, Mapping], outcomes: Mapping[str, Mapping]) -> str:
    """What is wrong with an answer's cell itself."""
    if name not in theirs:
        return f" (the cell {name} is missing)"
    if theirs[name].cell_type != "code":
        return f" (the cell {name} is no code any more)"
    done = outcomes.get(name, {"status": "ok"})
    said = done.get("said") or SAYS.get(done["status"], "")
    return f" (the cell {name}: {said})" if said else ""


def _data(cell: Mapping) -> dict[str, Any]:
    """nbgrader's metadata of a cell."""
    return cell["metadata"].get("nbgrader", {})


def _locked(cell: Mapping, given: str) -> Cell | None:
    """What runs in place of a locked code cell; None for one that students write.

    given: the master's parameters, again before each test: a student may have used the names.
    """
    data = _data(cell)
    if data.get("solution") or not (data.get("grade") or data.get("locked")):
        return None
    before = BEFORE_TESTS + given if data.get("grade") else ""
    return Cell(data["grade_id"], before + cell["source"]) if cell["cell_type"] == "code" else None
