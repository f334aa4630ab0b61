"""Chapter 5, training: the schedule, and the terms that need care at their borders."""

from math import log, log10, sqrt

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, rand, randint, randn, tensor

from more_lib.classroom.exercise import Case, Exercise
from more_lib.method.gaussian import gaussian_sum
from more_lib.method.losses import segmentation_loss, token_discrepancy_loss


def _factor(t: int, warmup: int, iterations: int, slip: str = "") -> float:
    climb = 1 - (1 - t / warmup) * (1 - 1e-6)
    if slip == "shifted":
        decay = (1 - max(t - warmup, 0) / (iterations - warmup)) ** 0.9
    else:
        decay = (1 - t / iterations) ** (1 if slip == "line" else 0.9)
    if t < warmup or (slip == "late" and t == warmup):
        return climb * decay if slip == "both" else climb
    return 1.0 if slip == "flat" else decay


def _factor_cases(draw: Generator) -> list[Case]:
    times = [0, 5, 9, 10, 11, 99, *randint(0, 100, (4,), generator=draw).tolist()]
    return [Case(f"iteration {t} of 100, 10 of them warm-up", (t, 10, 100)) for t in times]


SCHEDULE = Exercise(
    "05.1", "The schedule", "Give the learning rate's factor at iteration t.", 1, 5, _factor, {
        "shifted": "the decay counts from the first iteration on, not from the end of the warm-up",
        "both": "warm-up and decay do not act together: the one ends where the other begins",
        "line": "the decay has a power: it is no straight line",
        "late": "at the last step of the warm-up the decay has taken over already",
        "flat": "after the warm-up the rate does not stay: it decays to 0",
    }, _factor_cases,
)  # fmt: skip


def _segmentation(logits: Tensor, mask: Tensor, slip: str = "") -> Tensor:
    known = mask != 255
    safe = mask.where(known, 0)
    if slip == "ignored":
        mask, known = safe, known | True
    loss = -logits.log_softmax(1).gather(1, safe[:, None])[:, 0]
    small = 0 if slip == "empty" else 1e-6
    halves = [known] if slip == "once" else [mask == 0, (mask != 0) & known]
    axes = (1, 2) if slip == "image" else (0, 1, 2)
    counts = [mask.numel() if slip == "all" else half.sum(axes) for half in halves]
    pairs = zip(halves, counts, strict=True)
    means = [(loss.where(half, 0).sum(axes) / (count + small)).mean() for half, count in pairs]
    return sum(means, torch.zeros(())) / (1 if slip == "sum" else len(means))


def _segmentation_cases(draw: Generator) -> list[Case]:
    def case(name: str, batch: int, classes: int, idea: str = "", known: float = 0.8) -> Case:
        logits = 2 * randn(batch, classes + 1, 4, 5, generator=draw)
        mask = randint(0, classes + 1, (batch, 4, 5), generator=draw)
        mask[1:] = mask[1:].where(rand(batch - 1, 4, 5, generator=draw) < 0.4, 0)
        unknown = rand(batch, 4, 5, generator=draw) >= known
        return Case(name, (logits, mask.masked_fill(unknown, 255)), idea)

    hand = tensor([[[[0.0, 0.0, 2.0, 0.0]], [[0.0, 0.0, 0.0, 9.0]]]]), tensor([[[0, 1, 1, 255]]])
    random = case("random logits", 3, 4)
    logits, mask = random.args
    empty = "a half without a pixel adds 0 to the loss"
    return [
        Case("four pixels by hand", hand), random, case("one class", 2, 1),
        Case("a crop of background alone", (logits, 0 * mask), empty),
        Case("a crop of foreground alone", (logits, 0 * mask + 1), empty),
        case("a crop that is all ignored", 2, 3, "the loss is 0 there, and its gradient", 0.0),
    ]  # fmt: skip


SEGMENTATION = Exercise(
    "05.2", "When nothing is known", "Write the decoder's loss so that no crop breaks it.",
    2, 15, _segmentation, {
        "ignored": "255 is counted as background: such pixels teach nothing",
        "once": "this is one mean over all pixels: background and foreground have one each",
        "empty": "a half without a pixel gives 0/0: the small number is missing",
        "image": "the means run over the whole batch, yours over each image",
        "all": "ignored pixels stand in the denominator: divide by the pixels of that half",
        "sum": "the two means are added: half of each is asked for",
    }, _segmentation_cases, lambda logits, mask: segmentation_loss(logits, mask), gradient=True,
)  # fmt: skip


def _discrepancy(tokens: Tensor, tau: float, slip: str = "") -> Tensor:
    unit = tokens if slip == "dot" else F.normalize(tokens, dim=2)
    other = unit.detach() if slip == "detached" else unit
    scores = unit @ other.mT / (1 if slip == "tau" else tau)
    own = scores.diagonal(dim1=1, dim2=2)
    among = scores - torch.eye(scores.shape[1]) * (1e9 if slip == "others" else 0)
    cost = among.logsumexp(2) - own
    return cost.sum(1).mean() if slip == "sum" else cost.mean()


def _discrepancy_cases(draw: Generator) -> list[Case]:
    return [
        Case("two tokens at right angles, tau = 1", (torch.eye(2)[None], 1.0)),
        Case("random tokens", (2 * randn(2, 4, 5, generator=draw), 0.5)),
        Case("equal tokens", (torch.ones(1, 3, 4), 0.07)),
        Case("one class", (randn(2, 1, 4, generator=draw), 0.07)),
    ]


DISCREPANCY = Exercise(
    "05.3", "Apart from each other", "Write the token discrepancy of a batch.", 2, 10, _discrepancy,
    {
        "dot": "these are dot products: tokens are compared by cosine",
        "tau": "the temperature is missing",
        "others": "the token itself stands in the softmax's sum too",
        "sum": "the mean over the tokens is asked for, this is their sum",
        "detached": "only one side of each pair learns: no token is detached here",
    }, _discrepancy_cases, lambda tokens, tau: token_discrepancy_loss(tokens, None, tau),
    gradient=True,
)  # fmt: skip


def _energy(
    place: Tensor, rgb: Tensor, s: Tensor, gate: Tensor, sigmas: tuple[float, float], slip: str = ""
) -> Tensor:
    xy, colour = sigmas
    place = 0 * place if slip == "colour" else place
    far = (place[:, None] - place) / xy, (rgb[:, None] - rgb) / colour
    squares = sum(each.square().sum(2) for each in far)
    kernel = torch.exp(-squares / (1 if slip == "half" else 2))
    kernel = kernel - torch.eye(len(s)) if slip == "itself" else kernel
    gate = torch.ones_like(gate) if slip == "gate" else gate
    agree = (1 - s @ s.T) if slip == "differ" else s @ s.T
    energy = -(gate[:, None] * kernel * agree).sum()
    return -energy if slip == "sign" else energy


def _energy_summed(
    place: Tensor, rgb: Tensor, s: Tensor, gate: Tensor, sigmas: tuple[float, float]
) -> Tensor:
    features = torch.cat([place / sigmas[0], rgb / sigmas[1]], 1)
    return -(s * gate[:, None] * gaussian_sum(features[None], s[None])[0]).sum()


def _energy_cases(draw: Generator) -> list[Case]:
    square = tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    row, rgb = tensor([[0.0, 0.0], [1.0, 0.0]]), tensor([[9.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    colours, s = 255 * rand(4, 3, generator=draw), randn(4, 3, generator=draw).softmax(1)
    return [
        Case("two pixels by hand", (row, rgb, torch.eye(2), torch.ones(2), (1.0, 15.0))),
        Case("four pixels", (square, colours, s, rand(4, generator=draw), (2.0, 90.0))),
        Case("four pixels of one colour", (square, 0 * colours, s, torch.ones(4), (1.0, 15.0))),
        Case("a closed gate", (square, colours, s, torch.zeros(4), (2.0, 90.0))),
    ]


ENERGY = Exercise(
    "05.4", "The energy of four pixels", "Write the dense energy as a sum over all pairs.",
    2, 15, _energy, {
        "sign": "the sign is wrong: neighbours that agree lower the energy",
        "half": "the exponent has a factor of one half",
        "itself": "a pixel is its own neighbour too: pairs with i = j count",
        "gate": "the gate is missing: a pixel that is decided and labelled stays out",
        "colour": "the kernel looks at colour alone: pixels are also far apart in place",
        "differ": "labels that differ are counted: the product of probabilities says they agree",
    }, _energy_cases, _energy_summed,
)  # fmt: skip


def _halfway(C: int, tau: float, slip: str = "") -> float:
    wrong = {
        "sign": 1 + tau * log(sqrt(C) + 1), "others": 1 - tau * log((C - 1) / sqrt(C)),
        "fraction": 1 + tau * log((C / 2 - 1) / (C - 1)), "tau": 1 - log(sqrt(C) + 1),
        "ten": 1 - tau * log10(sqrt(C) + 1), "angle": 0.5,
    }  # fmt: skip
    return wrong.get(slip, 1 - tau * log(sqrt(C) + 1))


HALFWAY = Exercise(
    "05.5", "Half-way apart", "Find the common cosine at which the discrepancy is half of ln C.",
    2, 10, _halfway, {
        "sign": "a cosine is at most 1: a sign was lost",
        "others": "the token itself stands in the softmax's sum too",
        "fraction": "half of ln C is ln of the root of C, not of C / 2",
        "tau": "the cosines are divided by the temperature: it is missing",
        "ten": "the logarithm of a cross-entropy is the natural one",
        "angle": "half of the loss is not half of the cosine: put rho into the formula and solve",
    }, lambda draw: [Case(f"C = {C}, tau = {tau:.2g}", (C, tau)) for C, tau in (
        (20, 0.07), (9, 1.0), (10, 0.05 + float(rand((), generator=draw))))],
)  # fmt: skip

EXERCISES = (SCHEDULE, SEGMENTATION, DISCREPANCY, ENERGY, HALFWAY)
