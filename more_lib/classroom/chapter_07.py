"""Chapter 7, the paper's tables: when a difference counts, and what one may say of it."""

from math import hypot

from torch import Generator, Tensor, randn, tensor

from more_lib.classroom.exercise import Case, Exercise


def _verdict(before: Tensor, after: Tensor, better: str, slip: str = "") -> str:
    if not len(before) or not len(after):
        return "not shown" if slip == "missing" else "not run"
    gain = float(after.mean() - before.mean()) * (1 if better == "higher" or slip == "up" else -1)
    spreads = [float(x.std(correction=slip != "n")) if len(x) > 1 else 0.0 for x in (before, after)]
    if slip == "single" and min(len(before), len(after)) == 1:
        return "not shown"
    one, other = spreads
    wrong = {"sign": 0.0, "sum": one + other, "after": other, "before": one}
    noise = wrong.get(slip, hypot(one, other))
    return "shown" if gain > 0 and gain >= noise else "not shown"


def _verdict_cases(draw: Generator) -> list[Case]:
    names = {
        "a clear gain": ([70.0, 71.0, 72.0], [75.0, 76.0, 77.0], "higher"),
        "a gain within the noise": ([70.0, 74.0, 72.0], [71.0, 75.0, 73.0], "higher"),
        "a gain between root and sum": ([69.0, 71.0], [71.0, 73.0], "higher"),
        "a gain between the two ways to count": ([69.0, 71.0], [70.6, 72.6], "higher"),
        "less of what should be low": ([3.0, 3.2], [1.0, 1.2], "lower"),
        "more of what should be low": ([1.0, 1.2], [3.0, 3.2], "lower"),
        "a noisy start": ([60.0, 80.0], [73.0, 73.1], "higher"),
        "one side much noisier": ([70.0, 70.2], [70.6, 74.6], "higher"),
        "one seed": ([70.0], [71.0], "higher"), "no run": ([70.0, 71.0], [], "higher"),
        "one seed, and the wrong sign": ([71.0], [70.0], "higher"),
        "one seed beside several": ([70.0], [67.0, 75.0], "higher"),
        "no gain": ([70.0], [70.0], "higher"),
        "nothing to compare with": ([], [70.0, 71.0], "higher"),
    }  # fmt: skip
    ideas = {
        "one seed, and the wrong sign": "one seed counts where the sign is right, and there alone",
        "one seed beside several": "one seed has no deviation, several have theirs",
        "no gain": "what stays the same is no gain",
    }
    shift = float(randn((), generator=draw))
    return [
        Case(name, (tensor(one) + shift, tensor(other) + shift, better), ideas.get(name, ""))
        for name, (one, other, better) in names.items()
    ]


VERDICT = Exercise(
    "07.1", "Is the claim shown?", "Judge a claim by rows with seeds, by one rule for all.",
    2, 15, _verdict, {
        "sign": "the right sign is not enough where seeds differ: compare with their deviations",
        "sum": "deviations of two sides add up as squares: take the root of their sum",
        "after": "both sides are noisy: the deviation of the first is missing",
        "before": "both sides are noisy: the deviation of the second is missing",
        "up": "for some scores lower is better: the sign of the gain turns with that",
        "missing": "what was not run is neither shown nor not shown",
        "single": "one seed has no deviation: the right sign is then an indication, and counts",
        "n": "the deviation of a sample divides by n - 1",
    }, _verdict_cases,
)  # fmt: skip

SEEDS = Exercise(
    "07.2", "How many seeds?", "Find the number of seeds that a step of 2 points needs.",
    1, 5, 19.0, {
        18: "with 18 the step equals twice the error: it has to exceed it",
        10: "both sides are noisy: the errors of both stand under the root",
        5: "the step has to exceed twice the standard error, this is for once",
        7: "deviations add up as squares",
    },
)  # fmt: skip


def _paired(before: Tensor, after: Tensor, slip: str = "") -> tuple[Tensor, Tensor]:
    gains = before - after if slip == "sign" else after - before
    error = gains.std(correction=slip != "n") / len(gains) ** 0.5
    if slip == "unpaired":
        error = (before.var() + after.var()).sqrt() / len(gains) ** 0.5
    error = {"deviation": gains.std(), "n root": gains.std() / len(gains)}.get(slip, error)
    return gains.mean(), error


def _paired_cases(draw: Generator) -> list[Case]:
    before = 70 + 4 * randn(5, generator=draw)
    step = tensor([2.0, 2.4, 1.2, 2.2, 3.1])
    return [
        Case("three seeds by hand", (tensor([60.0, 70.0, 80.0]), tensor([61.0, 72.0, 81.0]))),
        Case("seeds that differ more than the step", (before, before + step)),
        Case("random rows", (before, 71 + randn(5, generator=draw))),
        Case("two seeds", (tensor([70.0, 71.0]), tensor([70.5, 73.0]))),
    ]


PAIRED = Exercise(
    "07.3", "Seed by seed", "Compare two conditions that share their seeds.", 2, 10, _paired, {
        "unpaired": "the rows share their seeds: take the deviation of the differences",
        "deviation": "this is the deviation of one difference: a mean of n is surer by a root",
        "n": "the deviation of a sample divides by n - 1",
        "n root": "the error falls with the root of n, not with n",
        "sign": "a gain is after less before",
    }, _paired_cases,
)  # fmt: skip

CLAIM = Exercise(
    "07.4", "What may one say?", "Choose the sentence that the rows allow.", 1, 10, "c", {
        "a": "the protocol is missing: without split, labels, scales a number means nothing",
        "b": "the two numbers come from different protocols: their difference is no gain",
        "d": "that 0 lies within the noise does not show that there is no effect",
        "e": "one seed can be luck: the rows have three, all of them count",
    },
)  # fmt: skip

EXERCISES = (VERDICT, SEEDS, PAIRED, CLAIM)
