"""Chapter 4, LIR: three-way masks, the two relations, and what parts identical tokens."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, rand, randint, randn, randperm, tensor

from more_lib.classroom.exercise import Case, Exercise
from more_lib.method.lir import confident_relation_loss, uncertain_patches
from more_lib.method.losses import token_discrepancy_loss
from more_lib.method.pseudo_labels import three_way_mask


def _mask(maps: Tensor, labels: Tensor, high: float, low: float, slip: str = "") -> Tensor:
    value, index = (maps if slip == "absent" else maps * labels[:, :, None, None]).max(1)
    low = high if slip == "sure" else low
    above, below = (value >= high, value <= low) if slip == "equal" else (value > high, value < low)
    inside, outside = (0, 255) if slip == "exchanged" else (255, 0)
    mask = torch.where(above, index + (0 if slip == "zero" else 1), inside)
    return mask.masked_fill(below, outside)


def _mask_cases(draw: Generator) -> list[Case]:
    hand = tensor([[[[0.9, 0.5, 0.25], [0.2, 0.4, 0.3]], [[0.1, 0.6, 0.0], [0.1, 0.45, 0.8]],
                    [[1.0, 0.9, 0.9], [0.9, 1.0, 0.9]]]])  # fmt: skip
    both = tensor([[[[0.9, 0.6]], [[0.6, 0.9]]]])
    maps, labels = rand(2, 4, 5, 6, generator=draw) ** 2, tensor([[1, 0, 1, 0], [1, 0, 0, 1]])
    return [
        Case("six patches by hand", (hand, tensor([[1, 1, 0]]), 0.5, 0.25)),
        Case("two sure classes", (both, tensor([[1, 1]]), 0.5, 0.25), "the larger CAM decides"),
        Case("random maps", (maps, labels, 0.6, 0.2)),
        Case("one class", (maps[:, :1], labels[:, :1], 0.5, 0.25)),
        Case("an image without a class", (maps, 0 * labels, 0.5, 0.25), "all is background"),
        Case("no confident patch", (maps / 3, labels, 0.7, 0.05)),
    ]


MASK = Exercise(
    "04.1", "Sure, unsure", "Cut CAMs into classes, background and the uncertain rest (Eq. 6).",
    1, 10, _mask, {
        "absent": "absent classes take part: only maps of the image's own labels count",
        "zero": "classes are numbered from 1, for 0 is the background",
        "equal": "a value that equals a threshold is uncertain: both are strict",
        "exchanged": "255 and 0 are exchanged: what is below the low threshold is background",
        "sure": "nothing is uncertain here: between the thresholds nobody knows",
    }, _mask_cases, lambda *given: three_way_mask(*given), ("images", "rows", "columns"),
)  # fmt: skip


def _cre(
    tokens: Tensor, patches: Tensor, mask: Tensor, labels: Tensor, tau: float, slip: str = ""
) -> Tensor:
    p = patches.detach() if slip == "detached" else patches
    cosine = tokens @ p.T if slip == "dot" else F.normalize(tokens) @ F.normalize(p).T
    scores = cosine if slip == "tau" else cosine / tau
    numbers = torch.arange(1, len(labels) + 1)[:, None]
    pairs = (mask == numbers) & ((labels > 0)[:, None] | (slip == "absent"))
    counted = scores.masked_fill(~pairs, -torch.inf) if slip == "confident" else scores
    logs = scores - counted.logsumexp(0 if slip == "classes" else 1, True)
    cost = -logs.where(pairs, 0)
    if slip == "each":
        return (cost.sum(1) / pairs.sum(1).clamp(min=1)).sum()
    count = pairs.sum() if slip == "empty" else pairs.sum().clamp(min=1)
    return cost.sum() / count


def _cre_paper(tokens: Tensor, patches: Tensor, mask: Tensor, labels: Tensor, tau: float) -> Tensor:
    given = tokens[None], patches.T[None, :, None], mask[None, None], labels[None], tau
    return confident_relation_loss(*given, "paper")


def _cre_cases(draw: Generator) -> list[Case]:
    tokens, patches = randn(3, 5, generator=draw), randn(8, 5, generator=draw)
    mask = tensor([1, 1, 1, 3, 2, 0, 255, 255])[randperm(8, generator=draw)]
    hand = tensor([[1.0, 0.0]]), tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    given = tokens, patches, mask
    return [
        Case("four patches by hand", (*hand, tensor([1, 1, 0, 0]), tensor([1]), 1.0)),
        Case("random tokens", (*given, tensor([1, 0, 1]), 0.5)),
        Case("a mask with a class that the image has not", (*given, tensor([1, 0, 0]), 0.5)),
        Case("one class", (tokens[:1], patches, mask.clamp(max=1), tensor([1]), 0.1)),
        Case("no confident patch", (tokens, patches, 0 * mask, tensor([1, 1, 0]), 0.5),
             "there is no pair, and the loss is 0"),
    ]  # fmt: skip


CRE = Exercise(
    "04.2", "The confident relation", "Write Eq. 7, the cross-entropy over places, for one image.",
    2, 25, _cre, {
        "classes": "the softmax runs over the classes: each class asks which patch is the answer",
        "confident": "the softmax's sum runs over confident patches only: all patches stand in it",
        "tau": "the temperature is missing",
        "dot": "these are dot products: Eq. 7 compares by cosine",
        "absent": "absent classes are counted: pairs are of classes that the labels name",
        "empty": "without a confident patch this is 0/0: the loss is 0 then",
        "detached": "no gradient reaches the patches: in Eq. 7 they learn; the release detaches",
        "each": "the mean runs over all pairs at once, not over each class's patches",
    }, _cre_cases, _cre_paper, gradient=True,
)  # fmt: skip


def _kept(mask: Tensor, d: int, phi: float, slip: str = "") -> Tensor:
    uncertain, foreground = mask == 255, (mask > 0) & (mask != 255)
    value = (mask if slip == "classes" else 2.0) * foreground
    value = value + (2.0 if slip == "ignored" else 1.0) * uncertain
    before = d - 1 - d // 2 if slip == "down" else d // 2
    maps = F.pad(torch.stack([value, torch.ones_like(value)]), (before, d - 1 - before) * 2)
    sums, inside = F.avg_pool2d(maps, d, 1, divisor_override=1)
    limit = phi * (inside if slip == "inside" else d * d)
    close = sums >= limit if slip == "equal" else sums > limit
    return close if slip == "all" else uncertain & close


def _kept_cases(draw: Generator) -> list[Case]:
    stripes = tensor([1, 1, 1, 255, 255, 255, 0, 0]).repeat(8, 1)
    noise = tensor([0, 255, 255, 1, 3])[randint(0, 5, (2, 9, 10), generator=draw)]
    return [
        Case("the three stripes of notebook 04", (stripes, 6, 1.2)),
        Case("a random mask", (noise[0], 3, 1.2)),
        Case("a random mask and an even kernel", (noise[1], 4, 1.0)),
        Case("a mean that equals phi", (tensor([[1, 255, 0]]).repeat(3, 1), 3, 1.0)),
        Case("a mask that is all uncertain", (torch.full((5, 5), 255), 3, 0.9)),
        Case("a kernel of one patch", (noise[0], 1, 0.9)),
    ]


KERNEL = Exercise(
    "04.3", "Unsure, but beside an object", "Find the uncertain patches that Eq. 8 keeps.",
    2, 20, _kept, {
        "classes": "foreground counts 2 whatever its class: numbers of classes are no amounts",
        "ignored": "255 is counted as foreground: an uncertain patch counts 1",
        "inside": "at the border the mean still runs over d x d: outside of the map counts 0",
        "down": "an even kernel reaches one patch farther up and left, yours down and right",
        "equal": "a mean that equals phi does not exceed it",
        "all": "only uncertain patches can be kept",
    }, _kept_cases, lambda mask, d, phi: uncertain_patches(mask[None], d, phi)[0],
    ("rows", "columns"),
)  # fmt: skip


def _ure(tokens: Tensor, patches: Tensor, kept: Tensor, labels: Tensor, slip: str = "") -> Tensor:
    tokens = tokens if slip == "learns" else tokens.detach()
    patches = patches.detach() if slip == "frozen" else patches
    cosine = F.normalize(tokens) @ F.normalize(patches).T
    cosine = cosine if slip == "signed" else cosine.abs()
    one, present, absent = slip != "plain", (labels > 0)[:, None], (labels == 0)[:, None]
    near = (cosine * present).sum(0) / (present.sum() + one)
    far = (cosine * absent).sum(0) / (absent.sum() + one)
    near, far = (far, near) if slip == "exchanged" else (near, far)
    cost = (1 - near + far) * (1 if slip == "double" else 0.5)
    if slip == "unasked":
        return cost.mean()
    return cost.where(kept, 0).sum() / kept.sum().clamp(min=slip != "empty")


def _ure_cases(draw: Generator) -> list[Case]:
    tokens, patches = randn(4, 6, generator=draw), randn(7, 6, generator=draw)
    kept, labels = tensor([True, False, True, False, True, False, False]), tensor([1, 0, 1, 0])
    hand = torch.eye(2), tensor([[0.6, 0.8], [1.0, 1.0]]), tensor([True, False]), labels[:2]
    return [
        Case("one kept patch by hand", hand),
        Case("random tokens", (tokens, patches, kept, labels)),
        Case("one class, present", (tokens[:1], patches, kept, labels[:1])),
        Case("all classes present", (tokens, patches, kept, labels * 0 + 1)),
        Case("no kept patch", (tokens, patches, kept & False, labels), "the loss is 0 then"),
    ]


URE = Exercise(
    "04.4", "The uncertain relation", "Write URE as released, for one image, and see who learns.",
    2, 15, _ure, {
        "learns": "a gradient reaches the class tokens: as released they are detached here",
        "frozen": "no gradient reaches the patches: they are the ones that learn",
        "signed": "the release takes the absolute value of the cosine",
        "plain": "the 1 in both denominators is missing",
        "exchanged": "near and far are exchanged: drawn to the present, off the absent",
        "double": "each of the two halves counts 0.5",
        "unasked": "patches that were not kept take part",
        "empty": "without a kept patch this is 0/0: the loss is 0 then",
    }, _ure_cases, gradient=True,
)  # fmt: skip


def _parts(loss: Callable, token: Tensor, num_classes: int, slip: str = "") -> bool:
    tokens = token.repeat(num_classes, 1).requires_grad_()
    value = loss(tokens)
    slope = torch.autograd.grad(value, tokens)[0]
    apart = slope - slope[0]
    most = {"any": slope, "sign": apart.relu(), "pair": apart[:2], "sums": apart.sum(1)}
    differ = bool(most.get(slip, apart).abs().max() > 1e-6)
    return {"value": bool(value > 0), "before": False, "always": True}.get(slip, differ)


def _parting_cases(draw: Generator) -> list[Case]:
    token, patches = randn(4, generator=draw).double(), randn(6, 4, generator=draw).double()
    mask = tensor([1, 1, 2, 2, 0, 255])
    losses = {
        "the token discrepancy": lambda q: token_discrepancy_loss(q[None]),
        "the confident relation": lambda q: _cre_paper(q, patches, mask, tensor([1, 1, 0]), 0.5),
        "a pull of all tokens to one patch": lambda q: (q - patches[0]).square().sum() - 99,
        "a loss of a single token": lambda q: q[1].sum() - 99,
        "a loss of the first token": lambda q: q[0].sum() - 99,
        "a loss of the last token": lambda q: q[2].sum() - 99,
        "a loss that takes another channel of each token": lambda q: q.diagonal().sum() - 99,
        "a loss of the tokens' mean": lambda q: q.mean(0).square().sum(),
        "a loss that is constant": lambda q: 0 * q.sum() + 1,
    }
    return [Case(name, (loss, token, 3)) for name, loss in losses.items()]


PARTS = Exercise(
    "04.5", "When tokens part", "Say of a loss whether a step on it parts identical class tokens.",
    2, 15, _parts, {
        "any": "a gradient that is the same for all tokens moves all alike: it has to differ",
        "value": "a loss above 0 need not move anything: look at its gradient",
        "before": "before the step tokens are always identical: what counts is what it does",
        "always": "not every loss parts them: it has to treat classes differently",
        "sign": "a difference has two signs, and both of them part",
        "pair": "any two tokens may part, not the first two alone",
        "sums": "compare steps channel by channel: sums and lengths of different ones may be equal",
    }, _parting_cases,
)  # fmt: skip

EXERCISES = (MASK, CRE, KERNEL, URE, PARTS)
