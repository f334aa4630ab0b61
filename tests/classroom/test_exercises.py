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


def named(each: object) -> str:
    """An id that is the same in every process: a function's address is not."""
    return getattr(each, "__name__", str(each)[:40])


@pytest.mark.parametrize("name", EXERCISES)
def test_four_typical_wrong_answers_or_more_each_with_a_sentence_of_its_own(name):
    sentences = list(EXERCISES[name].slips.values())
    assert len(sentences) >= 4 and len(set(sentences)) == len(sentences)
    assert all("\n" not in says and says[-1] != "." for says in sentences)


@pytest.mark.slow
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


@pytest.mark.parametrize(("name", "variant"), VARIANTS, ids=named)
def test_other_ways_to_write_it_pass(name, variant):
    for seed in SEEDS:
        assert check(name, variant, seed)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wrong", "says"), WRONG, ids=named)
def test_a_wrong_answer_that_a_student_wrote_meets_the_idea(name, wrong, says):
    for seed in SEEDS:
        verdict = check(name, wrong, seed)
        assert not verdict and says in verdict.sentence


def test_every_function_has_a_variant_and_a_wrong_answer_of_its_own():
    functions = {name for name, each in EXERCISES.items() if each.cases}
    assert {name for name, _ in VARIANTS} == functions
    assert {name for name, *_ in WRONG} == functions


def test_answers_without_a_reference_agree_with_the_library():
    """What the classroom does not import, for it would take seconds."""
    from more_lib.evaluation.metrics import confusion_matrix, scores
    from more_lib.method.crf import CrfParams, dense_crf
    from more_lib.method.gaussian import bilateral_features
    from more_lib.method.lir import uncertain_relation_loss
    from more_lib.method.toco import local_crops, roi_mask
    from more_lib.recipes import load_recipe
    from more_lib.training import learning_rate_factor

    overrides = ["optimizer.warmup_iterations=10", "optimizer.iterations=100"]
    schedule = load_recipe("mini", overrides).optimizer
    for case in EXERCISES["05.1"].tries(3):
        assert EXERCISES["05.1"].answer(*case.args) == learning_rate_factor(case.args[0], schedule)
    for case in EXERCISES["02.1"].tries(3):
        prediction, target, classes = case.args
        whole = scores(confusion_matrix(prediction, target, classes + 1)).confusion_ratio[1:]
        ours = EXERCISES["02.1"].answer(*case.args)
        torch.testing.assert_close(ours, torch.as_tensor(whole), equal_nan=True)
    for case in EXERCISES["06.1"].tries(3):
        assert float(EXERCISES["06.1"].answer(*case.args)) == pytest.approx(scores(*case.args).miou)
    ratios = scores(torch.tensor([[50, 3], [2, 6]]))
    given = (torch.tensor([each[1]]) for each in (ratios.confusion_ratio, ratios.recall))
    assert float(EXERCISES["06.4"].answer(*given)) == pytest.approx(ratios.iou[1])

    draw = torch.Generator().manual_seed(1)
    image = torch.randint(0, 9, (3, 4, 3), generator=draw, dtype=torch.uint8)
    p = torch.randn(2, 3, 4, generator=draw).softmax(0)
    features = bilateral_features(image.permute(2, 0, 1)[None].float(), 3.0, 67.0)[0]
    kernel = torch.exp(-torch.cdist(features, features).square() / 2)
    whole = dense_crf(image, p, CrfParams(iterations=1, gaussian_weight=0), "exact")
    ours = EXERCISES["06.3"].answer(p.flatten(1).T, kernel, 4.0)
    torch.testing.assert_close(ours.T.view_as(p), whole, rtol=1e-4, atol=1e-5)

    for case in EXERCISES["04.4"].tries(3):  # its mask keeps the chosen patches, by a kernel of 1
        tokens, patches, kept, labels = case.args
        mask = torch.where(kept, 255, 0)[None, None]
        given = tokens[None], patches.T[None, :, None], mask, labels[None]
        if kept.any():  # else the release fills up with others
            loss = uncertain_relation_loss(*given, 1, 0.9, int(kept.sum()))
            torch.testing.assert_close(loss, EXERCISES["04.4"].answer(*case.args))

    for case in EXERCISES["10.1"].tries(3):  # at corners that the library draws
        maps, labels, _, size, high, low = case.args
        roi = roi_mask(maps[None], labels[None], high, low)
        _, positive, corners = local_crops(maps[None, :1].expand(-1, 3, -1, -1), roi, 4, size)
        ours = EXERCISES["10.1"].answer(maps, labels, corners[0], size, high, low)
        assert torch.equal(ours[0], roi[0]) and torch.equal(ours[1], positive[0])
