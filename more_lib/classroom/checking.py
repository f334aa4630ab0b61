"""``check``: an answer beside the right one, and one sentence that points at the idea."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from more_lib.classroom.catalogue import find
from more_lib.classroom.exercise import Case, Exercise
from more_lib.classroom.outcomes import Outcome, fault, outcome


class Verdict(NamedTuple):
    """What ``check`` found; true when the answer is right."""

    right: bool
    sentence: str

    def __bool__(self) -> bool:
        return self.right

    def _ipython_display_(self) -> None:
        """Nothing: ``check`` has printed the sentence already."""


def check(exercise_id: str, answer: Any, seed: int = 0) -> Verdict:
    """Try an answer; print and return "03.4: right" or one sentence on what is wrong.

    exercise_id: as in the notebook, "03.4". answer: the function, number or choice that is asked
    for. seed: of the random cases; hidden tests take others.
    Raises ``InputError`` for an exercise that does not exist.
    """
    exercise = find(exercise_id)
    wrong = _misfit(exercise, answer) or _failure(exercise, answer, seed)
    verdict = Verdict(not wrong, f"{exercise.id}: {wrong or 'right'}")
    print(verdict.sentence)
    return verdict


def _misfit(exercise: Exercise, answer: Any) -> str:
    """Why this is no answer at all: no function, or one of other arguments; "" if it may be one."""
    if exercise.cases is None:
        if answer is None:
            return "not answered yet"
        return "a value is asked for, and this is a function" if callable(answer) else ""
    if not callable(answer):
        return f"a function is asked for, and this is of type {type(answer).__name__}"
    names = [name for name in inspect.signature(exercise.answer).parameters if name != "slip"]
    try:
        inspect.signature(answer).bind(*names)
    except TypeError:
        return f"the function must take {len(names)} arguments: {', '.join(names)}"
    except ValueError:  # a builtin that does not say what it takes
        pass
    return ""


def _failure(exercise: Exercise, answer: Any, seed: int) -> str:
    """What goes wrong on the cases; "" if nothing does."""
    function = answer if callable(answer) else lambda: answer
    failures = []
    for case in exercise.tries(seed):
        right, yours = (_run(each, case, exercise) for each in (exercise.solution, function))
        if what := fault(right, yours, exercise):
            failures.append((case, yours, what))
    if not failures:
        return ""
    case, yours, what = failures[0]
    if yours.error is NotImplementedError:
        return "not written yet"
    where, idea = case.name and f"on {case.name}, ", case.idea and f" ({case.idea})"
    return _slip(exercise, failures) or f"{where}{what}{idea}"


def _slip(exercise: Exercise, failures: list[tuple[Case, Outcome, str]]) -> str:
    """The sentence of the slip that explains most failures; "" if none explains more than half."""

    def explained(slip: Any) -> int:
        wrong = exercise.wrong(slip)
        return sum(
            not fault(_run(wrong, case, exercise), yours, exercise) for case, yours, _ in failures
        )

    counts = {says: explained(slip) for slip, says in exercise.slips.items()}
    best = max(counts, key=lambda says: counts[says])
    return best if 2 * counts[best] > len(failures) else ""


def _run(function: Callable, case: Case, exercise: Exercise) -> Outcome:
    return outcome(function, case, exercise.gradient)
