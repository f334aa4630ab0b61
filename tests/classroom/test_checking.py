"""What ``check`` says of answers that are no answers, and of the ways in which values go wrong."""

import pytest
import torch

from more_lib.classroom import check
from more_lib.classroom.catalogue import EXERCISES, find
from more_lib.classroom.checking import attempt, judge
from more_lib.classroom.exercise import Case, Exercise
from more_lib.classroom.outcomes import fault, outcome
from more_lib.system.errors import InputError


def right(heads, near, r):
    return r[..., None] * near + (1 - r[..., None]) * heads[:, None]


def written_to(heads, near, r):
    near *= r[..., None]
    return near + (1 - r[..., None]) * heads[:, None]


def not_yet(heads, near, r):
    raise NotImplementedError


ANSWERS = {
    "a function is asked for, and this is of type int": 3,
    "the function must take 3 arguments: heads, near, r": lambda heads: heads,
    "not written yet": not_yet,
    "it raises IndexError: ": lambda heads, near, r: near[99],
    "it changes its argument near: work on a copy": written_to,
    "it returns nothing: end it with return": lambda heads, near, r: None,
    "it returns a dict; a tensor of numbers is asked for": lambda heads, near, r: {},
    "the shape (2, 2), and (2, 2, 2), which is (heads, neighbours, channels)": lambda *a: a[0],
    "it returns nan: look for 0/0": lambda *a: right(*a) * torch.nan,
    "all is 2 times right": lambda *a: 2 * right(*a),
    "all is 1.0004 times right": lambda *a: 1.0004 * right(*a),
    "the sign is wrong": lambda *a: -right(*a),
    "values are wrong, the first at [0, 0, 0]": lambda *a: right(*a).sin(),
}


@pytest.mark.parametrize("name", EXERCISES)
def test_what_a_notebook_sets_in_torch_changes_no_verdict(name):
    exercise = EXERCISES[name]
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        given = attempt(exercise, exercise.answer, 0)
        assert torch.get_default_dtype() is torch.float64 and not torch.is_grad_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
    assert judge(exercise, given, 0)  # where nothing is set, as `grade` does


@pytest.mark.parametrize("says", ANSWERS)
def test_each_way_to_be_no_answer_has_a_clear_sentence(says, capsys):
    verdict = check("03.3", ANSWERS[says])
    assert not verdict and says in verdict.sentence
    assert capsys.readouterr().out == verdict.sentence + "\n"
    assert "\n" not in verdict.sentence and verdict.sentence.startswith("03.3: ")


def test_a_right_answer_gets_a_short_line_and_the_inputs_stay(capsys):
    verdict = check("03.3", right, seed=5)
    assert verdict and verdict.right and verdict.sentence == "03.3: right"
    assert capsys.readouterr().out == "03.3: right\n"
    assert verdict._ipython_display_() is None


def test_axes_that_do_not_sum_to_one_are_named():
    def other(heads, near, edges, reading):
        return torch.rand(*near.shape[:2], generator=torch.Generator().manual_seed(1))

    assert "values sum to 1 over the neighbours, yours do not" in check("03.4", other).sentence
    columns = check("03.4", lambda *given: other(*given).softmax(0))
    assert "values sum to 1 over the neighbours, yours over the heads" in columns.sentence


def test_kinds_of_values_are_told_apart():
    assert "int64; yes or no (bool)" in check("02.2", lambda active: active.long()).sentence
    assert "values are wrong" in check("02.2", lambda active: active | True).sentence  # not all
    floats = check("04.1", lambda maps, labels, high, low: maps[:, 0])
    assert "it returns float32; a tensor of whole number (int64)s is asked for" in floats.sentence
    bools = check("04.1", lambda maps, labels, high, low: maps[:, 0] > 0)
    assert "it returns bool" in bools.sentence
    assert "must return 2 things" in check("01.2", lambda features, weight: features).sentence
    turned = check("01.1", lambda cls, position, C: (cls + position[:, :1]).repeat(C, 1, 1))
    assert "asked for: the axes are in another order" in turned.sentence
    assert "not answered yet" in check("02.5", None).sentence
    assert "a value is asked for" in check("02.5", lambda: "b").sentence
    assert "the answer is a text, in quotes" in check("02.5", 2).sentence
    assert "not 'z'" in check("02.5", "z").sentence
    assert check("02.5", " B ")
    assert "the value is another one" in check("01.5", 0.3).sentence
    assert "a number is asked for" in check("01.5", "0.3").sentence


def test_a_border_says_what_it_is_there_for():
    def breaks(features, class_tokens):
        maps = torch.einsum("bdhw,bcd->bchw", features, class_tokens)
        spread = maps.amax((2, 3), keepdim=True) - maps.amin((2, 3), keepdim=True)
        assert spread.all(), "flat"
        return (maps - maps.amin((2, 3), keepdim=True)) / (spread + 1e-5)

    assert check("01.3", breaks).sentence == (
        "01.3: on a map that is the same everywhere, it raises AssertionError: flat "
        "(nothing stands out there, so the map is 0)"
    )


def test_gradients_are_part_of_the_answer():
    def asked(one: torch.Tensor, other: torch.Tensor):
        return (one * other.detach()).sum()

    exercise = Exercise("", "", "", 1, 1, asked, {}, cases=lambda draw: [], gradient=True)
    case = Case("", (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])))
    answers = {
        "": lambda a, b: a @ b.detach(),
        "a gradient reaches other, which must not learn here": lambda a, b: a @ b,
        "no gradient reaches one": lambda a, b: a.detach() @ b.detach(),
        "the gradient of one is another one": lambda a, b: (
            (a * b).detach().sum() + 0 * a.sum() + (a - a.detach()).sum()
        ),
    }
    for says, answer in answers.items():
        seen = fault(outcome(asked, case, exercise), outcome(answer, case, exercise), exercise)
        assert says in seen and bool(says) == bool(seen)


def test_an_unknown_exercise_names_the_nearest():
    with pytest.raises(InputError, match=r"exercise '3.4' is unknown: did you mean 03.4\?"):
        check("3.4", right)
    with pytest.raises(InputError, match="exercise 7 is unknown: give one of 01.1, "):
        find(7)


def test_exercises_are_numbered_without_a_gap_three_to_five_a_chapter():
    chapters = {}
    for name, exercise in EXERCISES.items():
        assert name == exercise.id and exercise.title and exercise.goal
        assert exercise.difficulty in (1, 2, 3) and 1 <= exercise.minutes <= 60
        chapters.setdefault(name[:2], []).append(int(name[3:]))
    for numbers in chapters.values():
        assert numbers == list(range(1, len(numbers) + 1)) and 3 <= len(numbers) <= 5
    assert list(chapters) == [*(f"{n:02}" for n in range(1, 9)), "10"]  # 09 is the explorer
