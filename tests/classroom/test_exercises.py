"""Every exercise: its slips are told apart, its answer agrees with the library, variants pass."""

import pytest
import torch

from more_lib.classroom import check
from more_lib.classroom.catalogue import EXERCISES
from tests.classroom.answers import VARIANTS, WRONG

SEEDS = (0, 1, 2, 100)
SLIPS = [(name, slip) for name, each in EXERCISES.items() for slip in each.slips]


def asked(exercise, slip=None):
    """The right answer, or one with a slip, as a student gives it."""
    if exercise.cases is None:
        return exercise.answer if slip is None else slip
    return exercise.answer if slip is None else exercise.wrong(slip)


@pytest.mark.parametrize("name", EXERCISES)
def test_four_typical_wrong_answers_or_more_each_with_a_sentence_of_its_own(name):
    sentences = list(EXERCISES[name].slips.values())
    assert len(sentences) >= 4 and len(set(sentences)) == len(sentences)
    assert all("\n" not in says and says[-1] != "." for says in sentences)


@pytest.mark.parametrize(("name", "slip"), SLIPS)
def test_a_slip_is_caught_by_its_own_sentence_with_every_seed(name, slip):
    exercise = EXERCISES[name]
    for seed in SEEDS:
        verdict = check(name, asked(exercise, slip), seed)
        assert verdict.sentence == f"{name}: {exercise.slips[slip]}"


@pytest.mark.parametrize("name", EXERCISES)
def test_the_answer_passes_and_agrees_with_the_library(name):
    exercise = EXERCISES[name]
    for seed in SEEDS:
        assert check(name, asked(exercise), seed)  # held against the reference, where there is one
        if exercise.reference:
            assert check(name, exercise.reference, seed)


@pytest.mark.parametrize("name", [name for name, each in EXERCISES.items() if each.cases])
def test_the_answer_in_double_precision_passes(name):
    exercise = EXERCISES[name]

    def double(value):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value.double()
        return type(value)(map(double, value)) if isinstance(value, list | tuple) else value

    assert check(name, lambda *given: exercise.answer(*map(double, given)))


@pytest.mark.parametrize(("name", "variant"), VARIANTS, ids=lambda each: str(each)[:40])
def test_other_ways_to_write_it_pass(name, variant):
    for seed in SEEDS:
        assert check(name, variant, seed)


@pytest.mark.parametrize(("name", "wrong", "says"), WRONG, ids=lambda each: str(each)[:40])
def test_a_wrong_answer_that_a_student_wrote_meets_the_idea(name, wrong, says):
    for seed in SEEDS:
        verdict = check(name, wrong, seed)
        assert not verdict and says in verdict.sentence


def test_every_function_has_a_variant_and_a_wrong_answer_of_its_own():
    functions = {name for name, each in EXERCISES.items() if each.cases}
    assert {name for name, _ in VARIANTS} == functions
    assert {name for name, *_ in WRONG} == functions
