"""``check`` in a kernel that is being graded: it tells the grader what the answer did.

A verdict from a kernel is worth nothing, for whatever runs there can be replaced: ``check`` itself,
``torch.isclose``, ``print``. So the grader takes no verdicts. It is sent what the answer returned
on each case, makes the cases and the right answers itself, and judges. Whoever wants to deceive it
has to send right values.
"""

import base64
import builtins
import io
import json
from typing import Any, NamedTuple

import numpy as np
import torch
from IPython.display import publish_display_data

from more_lib.classroom.catalogue import find
from more_lib.classroom.checking import Attempt, Verdict, attempt, judge
from more_lib.classroom.outcomes import Outcome
from more_lib.classroom.sandbox import REPORT


class Report(NamedTuple):
    """One call of ``check``: what was asked, and what the answer did."""

    exercise_id: str
    seed: int
    attempt: Attempt


def check(exercise_id: str, answer: Any, seed: int = 0) -> Verdict:
    """As ``more_lib.classroom.check``, and display a report for the grader."""
    exercise = find(exercise_id)
    given = attempt(exercise, answer, seed)
    publish_display_data({REPORT: packed(Report(exercise.id, seed, given))})
    verdict = judge(exercise, given, seed)
    print(verdict.sentence)
    return verdict


def packed(report: Report) -> str:
    """A report as text, without pickles."""

    def plain(given: Outcome) -> dict:
        error = given.error and given.error.__name__
        slopes = [[name, _packed(slope)] for name, slope in given.slopes]
        return {**given._asdict(), "value": _packed(given.value), "error": error, "slopes": slopes}

    outcomes = [plain(each) for each in report.attempt.outcomes]
    return json.dumps([report.exercise_id, report.seed, report.attempt.misfit, outcomes])


def unpacked(text: str) -> Report:
    """The report of a text that anybody may have written; raises some error for what is none."""

    def whole(given: dict) -> Outcome:
        error = given["error"] and _error(str(given["error"]))
        slopes = tuple((str(name), _unpacked(slope)) for name, slope in given["slopes"])
        texts = (str(given[name])[:500] for name in ("said", "changed"))
        return Outcome(_unpacked(given["value"]), error, *texts, slopes)

    exercise_id, seed, misfit, outcomes = json.loads(text)
    return Report(exercise_id, seed, Attempt(str(misfit)[:500], [whole(each) for each in outcomes]))


def _packed(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return ["tuple" if isinstance(value, tuple) else "list", *map(_packed, value)]
    try:
        array, kind = value, "array"
        if isinstance(value, torch.Tensor):
            value = value.float() if value.dtype == torch.bfloat16 else value
            array, kind = value.detach().cpu().numpy(), "tensor"
        if isinstance(array, np.ndarray | np.generic):
            np.save(file := io.BytesIO(), array, allow_pickle=False)
            return [kind, base64.b64encode(file.getvalue()).decode()]
    except (TypeError, ValueError, RuntimeError):  # sparse, objects: nobody asked for such
        pass
    return ["other", type(value).__name__]


def _unpacked(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, *parts = value
    if kind in ("array", "tensor"):
        array = np.load(io.BytesIO(base64.b64decode(parts[0])), allow_pickle=False)
        return torch.from_numpy(array) if kind == "tensor" else array
    if kind == "other":
        return type(str(parts[0]), (), {})()
    return {"list": list, "tuple": tuple}[kind](map(_unpacked, parts))


def _error(name: str) -> type[BaseException]:
    """The built-in error of this name, or one that is like no other."""
    known = getattr(builtins, name, None)
    is_error = isinstance(known, type) and issubclass(known, BaseException)
    return known if is_error else type(name, (Exception,), {})
