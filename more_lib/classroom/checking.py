"""``check``: an answer beside the right one, and one sentence that points at the idea."""

from inspect import signature
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


class Attempt(NamedTuple):
    """What an answer did on each case, or why it cannot be tried."""

    misfit: str
    outcomes: list[Outcome]


class Try(NamedTuple):
    """What an answer did on a case, and what was wrong with that."""

    case: Case
    yours: Outcome
    fault: str


def check(exercise_id: str, answer: Any, seed: int = 0) -> Verdict:
    """Try an answer; print and return "03.4: right" or one sentence on what is wrong.

    exercise_id: as in the notebook, "03.4". answer: the function, number or choice that is asked
    for. seed: of the random cases; hidden tests take others.
    Raises ``InputError`` for an exercise that does not exist.
    """
    exercise = find(exercise_id)
    verdict = judge(exercise, attempt(exercise, answer, seed), seed)
    print(verdict.sentence)
    return verdict


def attempt(exercise: Exercise, answer: Any, seed: int) -> Attempt:
    """What an answer does on each case, or why it is none."""
    if misfit := _misfit(exercise, answer):
        return Attempt(misfit, [])
    function = answer if callable(answer) else lambda: answer
    return Attempt("", [outcome(function, case, exercise) for case in exercise.tries(seed)])


def judge(exercise: Exercise, given: Attempt, seed: int) -> Verdict:
    """The verdict on an attempt with this seed, which may have been made in another process."""
    wrong = given.misfit or _failure(exercise, given.outcomes, seed)
    return Verdict(not wrong, f"{exercise.id}: {wrong or 'right'}")


def _misfit(exercise: Exercise, answer: Any) -> str:
    """Why this is no answer at all: no function, or one of other arguments; "" if it may be one."""
    if exercise.cases is None:
        if answer is None:
            return "not answered yet"
        return "a value is asked for, and this is a function" if callable(answer) else ""
    if not callable(answer):
        return f"a function is asked for, and this is of type {type(answer).__name__}"
    names = exercise.parameters
    try:
        signature(answer).bind(*names)
    except TypeError:
        return f"the function must take {len(names)} arguments: {', '.join(names)}"
    except ValueError:  # a builtin that does not say what it takes
        pass
    return ""


def _failure(exercise: Exercise, outcomes: list[Outcome], seed: int) -> str:
    """What goes wrong on the cases; "" if nothing does."""
    tries = []
    for case, yours in zip(exercise.tries(seed), outcomes, strict=True):
        right = outcome(exercise.solution, case, exercise)
        tries.append(Try(case, yours, fault(right, yours, exercise)))
    first = next((each for each in tries if each.fault), None)
    if first is None:
        return ""
    if first.yours.error is NotImplementedError:
        return "not written yet"
    name, idea = first.case.name, first.case.idea
    plain = (name and f"on {name}, ") + first.fault + (idea and f" ({idea})")
    return _slip(exercise, tries) or plain


def _slip(exercise: Exercise, tries: list[Try]) -> str:
    """The sentence of the slip that explains most faults; "" if none explains more than half."""

    def explained(slip: Any) -> tuple[int, int]:
        wrong = exercise.wrong(slip)
        alike = [
            not fault(outcome(wrong, each.case, exercise), each.yours, exercise) for each in tries
        ]
        return sum(same for same, each in zip(alike, tries, strict=True) if each.fault), sum(alike)

    best = max(exercise.slips, key=explained)
    enough = 2 * explained(best)[0] > sum(bool(each.fault) for each in tries)
    return exercise.slips[best] if enough else ""
