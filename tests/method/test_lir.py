"""LIR's losses against golden values, pair-by-pair transcriptions, hand cases and bad input."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from more_lib.method.lir import (
    UNCERTAIN_VARIANTS,
    confident_relation_loss,
    sample_patches,
    uncertain_patches,
    uncertain_relation_loss,
)
from more_lib.recipes.schema import LirRecipe
from tests.method import transcriptions
from tests.method.helpers import (
    assert_full_precision,
    assert_golden,
    golden_losses,
    refuses,
    renumbering,
)

VARIANTS = ("release", "paper")
LOSSES = {
    "confident": lambda *inputs, **options: confident_relation_loss(*inputs, 0.5, **options),
    "uncertain": uncertain_relation_loss,
}
EACH = pytest.mark.parametrize("variant", VARIANTS)


def every_patch(variant):
    """URE of a variant, with nothing drawn by lot."""
    return replace(UNCERTAIN_VARIANTS[variant], sampling="all")


def random_case(seed=0, batch=3, classes=4, dim=6, grid=(12, 11)):
    """Tokens, features, masks with large uncertain stretches, and labels that fit the masks."""
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    tokens = torch.randn(batch, classes, dim, **draw)
    features = torch.randn(batch, dim, *grid, **draw)
    labels = (torch.rand(batch, classes, **draw) < 0.5).double()
    labels[:, 0] = 1
    values = torch.where(labels > 0, torch.arange(1, classes + 1), 0)
    mask = torch.zeros(batch, *grid, dtype=torch.int64)
    for image, y, x in itertools.product(range(batch), range(0, grid[0], 3), range(0, grid[1], 3)):
        pick = int(torch.randint(classes + 3, (1,), generator=generator))
        mask[image, y : y + 3, x : x + 3] = values[image, pick] if pick < classes else 255
    return tokens, features, mask, labels


def test_golden_relations_and_their_gradients():
    expected, (tokens, features, mask, labels) = golden_losses()
    tokens.requires_grad_(), features.requires_grad_()
    case = (tokens, features, mask, labels)
    for tau in (0.5, 0.1):
        loss = confident_relation_loss(*case, tau)
        assert_golden(loss, expected[f"confident_relation_tau{tau}"])
        (ours,) = torch.autograd.grad(loss, tokens)
        assert_golden(ours[..., ::16], expected[f"confident_relation_grad_tokens_tau{tau}_every16"])
    loss = uncertain_relation_loss(*case)
    assert_golden(loss, expected["uncertain_relation"])
    (ours,) = torch.autograd.grad(loss, features)
    assert_golden(ours[:, ::16], expected["uncertain_relation_grad_patches_every16"])
    kept = uncertain_patches(mask, 6, 1.2, "corner").flatten(1).sum(1)
    assert kept.tolist() == expected["uncertain_count"].tolist()


@EACH
@pytest.mark.parametrize(("seed", "classes"), [(0, 4), (1, 1), (2, 80)])
def test_confident_relation_equals_its_transcription(variant, seed, classes):
    case = random_case(seed, classes=classes)
    loss = confident_relation_loss(*case, 0.5, variant)
    expected = transcriptions.confident_relation_loss(*case, 0.5, variant)
    torch.testing.assert_close(loss, expected)
    assert loss > 0


@EACH
@pytest.mark.parametrize(("kernel_size", "phi"), [(6, 1.2), (5, 1.0), (3, 1.2), (1, 0.5)])
@pytest.mark.parametrize(("seed", "classes"), [(0, 4), (2, 80)])
def test_uncertain_relation_equals_its_transcription(variant, kernel_size, phi, seed, classes):
    """With room for every kept patch, and none missing, nothing is drawn by lot."""
    case = random_case(seed, classes=classes)
    loss = uncertain_relation_loss(*case, kernel_size, phi, variant=every_patch(variant))
    expected = transcriptions.uncertain_relation_loss(*case, kernel_size, phi, variant)
    torch.testing.assert_close(loss, expected)
    assert loss > 0


@pytest.mark.parametrize(("variant", "token"), [("release", "corner"), ("paper", "centre")])
@pytest.mark.parametrize("grid", [(28, 28), (9, 13), (5, 5), (2, 3)])
def test_kept_patches_equal_the_search_window_by_window(variant, token, grid):
    mask = random_case(5, grid=grid)[2]
    kept = uncertain_patches(mask, 6, 1.2, token)
    expected = torch.zeros_like(kept)
    for image, image_mask in enumerate(mask):
        for y, x in transcriptions.kept_patches(image_mask, 6, 1.2, variant):
            expected[image, y, x] = True
    assert torch.equal(kept, expected)


@EACH
def test_uniform_attention_costs_ln_n(variant):
    """ln 784 a present class, which is 6.66, when a token is orthogonal to every patch."""
    tokens = torch.tensor([[[1.0, 0.0]]]).double()
    features = torch.tensor([0.0, 1.0]).double().view(1, 2, 1, 1).expand(1, 2, 28, 28)
    mask = torch.zeros(1, 28, 28, dtype=torch.int64)
    mask[:, :4] = 1
    loss = confident_relation_loss(tokens, features, mask, torch.ones(1, 1), 0.5, variant)
    assert loss.item() == pytest.approx(math.log(784), rel=1e-5)


def test_confident_relation_by_hand():
    """Patches (2, 0) and (0, 1), token along the first: scores 4 and 0 as released, 2 and 0."""
    tokens = torch.tensor([[[3.0, 0.0]]]).double()
    features = torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]]).double()
    mask, labels = torch.tensor([[[1, 0]]]), torch.ones(1, 1)
    e = math.e
    paper = confident_relation_loss(tokens, features, mask, labels, 0.5, "paper")
    assert paper.item() == pytest.approx(-math.log(e**2 / (e**2 + 1)))
    released = confident_relation_loss(tokens, features, mask, labels, 0.5)
    expected = -math.log(e**4 / (e**4 + 1 + 1e-4)) / (1 + 1e-4)
    assert released.item() == pytest.approx(expected)


def test_uncertain_patches_by_hand():
    """3 x 3 kernels: the mean is (2 + 2 + 1 + 1) / 9 around (1, 1), (2 + 1 + 1) / 9 at (1, 2)."""
    mask = torch.tensor([[[3, 3, 0, 0], [0, 255, 255, 0], [0, 0, 0, 0]]])
    for phi, token, kept in (
        (0.7, "centre", []),
        (0.6, "centre", [[0, 1, 1]]),
        (0.4, "centre", [[0, 1, 1], [0, 1, 2]]),
        (0.6, "corner", [[0, 0, 0]]),
    ):
        assert uncertain_patches(mask, 3, phi, token).nonzero().tolist() == kept
    mask = torch.full((1, 5, 5), 255)
    mask[0].view(-1)[:5] = 1  # 20 uncertain and 5 foreground: a mean of 30 / 25 = 1.2
    assert not uncertain_patches(mask, 5, 1.2)[0, 2, 2]  # equal to phi
    assert uncertain_patches(mask, 5, 1.199)[0, 2, 2]


def test_orthogonal_tokens_cost_one_half_as_released_and_one_in_the_paper():
    tokens = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    features = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    mask = torch.full((1, 8, 8), 255)
    mask[:, :2] = 1
    labels = torch.tensor([[1.0, 0.0]])
    released = uncertain_relation_loss(tokens, features, mask, labels, phi=0.5)
    paper = uncertain_relation_loss(tokens, features, mask, labels, phi=0.5, variant="paper")
    assert (released.item(), paper.item()) == pytest.approx((0.5, 1.0))


@EACH
@pytest.mark.parametrize("name", LOSSES)
def test_order_of_classes_and_images_does_not_matter(name, variant):
    tokens, features, mask, labels = random_case(3)
    options = {"variant": every_patch(variant) if name == "uncertain" else variant}
    loss = LOSSES[name](tokens, features, mask, labels, **options)
    order, images = [2, 0, 3, 1], [1, 2, 0]
    given = tokens[:, order], features, renumbering(order)[mask], labels[:, order]
    other = LOSSES[name](*given, **options)
    torch.testing.assert_close(other, loss)
    shuffled = (part[images] for part in (tokens, features, mask, labels))
    torch.testing.assert_close(LOSSES[name](*shuffled, **options), loss)
    if name == "confident":  # nor does the order of patches
        turned = LOSSES[name](tokens, features.flip(2, 3), mask.flip(1, 2), labels, **options)
        torch.testing.assert_close(turned, loss)


def test_lengths_count_only_where_they_should():
    tokens, features, mask, labels = random_case(3)
    for loss in LOSSES.values():
        longer = loss(3 * tokens, 5 * features, mask, labels, variant="paper")
        torch.testing.assert_close(longer, loss(tokens, features, mask, labels, variant="paper"))
    released = confident_relation_loss(tokens, features, mask, labels, 0.5)
    of_tokens = confident_relation_loss(3 * tokens, features, mask, labels, 0.5)
    torch.testing.assert_close(of_tokens, released)
    of_patches = confident_relation_loss(tokens, 5 * features, mask, labels, 0.5)
    assert not torch.allclose(of_patches, released)


@pytest.mark.parametrize(
    ("name", "variant", "moved"),
    [
        ("confident", "release", [True, False]),
        ("confident", "paper", [True, True]),
        ("uncertain", "release", [False, True]),
        ("uncertain", "paper", [True, True]),
    ],
)
def test_gradients_reach_tokens_and_patches_as_they_should(name, variant, moved):
    tokens, features, mask, labels = random_case(3)
    tokens.requires_grad_(), features.requires_grad_()
    LOSSES[name](tokens, features, mask, labels, variant=variant).backward()
    assert [p.grad is not None and bool(p.grad.any()) for p in (tokens, features)] == moved


def test_released_confident_relation_averages_over_images_and_moves_no_absent_class():
    tokens, *rest = random_case(3)
    loss = confident_relation_loss(tokens.requires_grad_(), *rest, 0.5)
    each = zip(*(part.split(1) for part in (tokens, *rest)), strict=True)
    singles = [confident_relation_loss(*image, 0.5) for image in each]
    torch.testing.assert_close(loss, torch.stack(singles).mean())
    loss.backward()
    assert not tokens.grad[rest[-1] == 0].any()


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck_of_the_papers_form(name):
    tokens, features, mask, labels = random_case(3, batch=1, classes=2, dim=3, grid=(7, 7))
    tokens.requires_grad_(), features.requires_grad_()
    options = {} if name == "confident" else {"kernel_size": 3, "phi": 0.8}
    assert torch.autograd.gradcheck(
        lambda t, f: LOSSES[name](t, f, mask, labels, variant="paper", **options),
        (tokens, features),
    )


def sampling_case(kept_count, foreground_count=50, size=12):
    kept = torch.zeros(1, size * size, dtype=torch.bool)
    kept[0, :kept_count] = True
    mask = torch.full((1, size * size), 255)
    mask[0, kept_count:] = 0
    mask[0, kept_count : kept_count + foreground_count] = 3
    return kept.view(1, size, size), mask.view(1, size, size)


@pytest.mark.parametrize(
    ("kept_count", "extra"),
    [(0, 2), (1, 1), (4, 1), (5, 0), (8, 0), (9, 0), (60, 0)],  # (8 - kept) // 4
)
def test_sampling_takes_eight_at_most_and_fills_up_from_foreground(kept_count, extra):
    kept, mask = sampling_case(kept_count)
    chosen = sample_patches(kept, mask, 8)
    assert (chosen & kept).sum() == min(kept_count, 8)
    assert (chosen & (mask == 3)).sum() == extra
    assert chosen.sum() == min(kept_count, 8) + extra


def test_sampling_goes_anywhere_when_foreground_is_scarce():
    """Two are missing and one foreground patch is there: it gets no preference over the others."""
    kept, mask = sampling_case(0, foreground_count=1)
    draws = torch.cat([sample_patches(kept, mask, 8) for _ in range(40)])
    assert (draws.sum((1, 2)) == 2).all()
    assert (draws & (mask == 3)).sum() < 10  # 2 of 144 by chance


@pytest.mark.parametrize(("kept_count", "foreground"), [(0, 60), (0, 1), (3, 60), (3, 0), (9, 60)])
def test_filling_up_as_released_is_the_search_in_the_cut_map(kept_count, foreground):
    """Literally: places in the map less three patches at each side, used as places of the map."""
    places, allowed = torch.randperm(100, generator=torch.Generator().manual_seed(0)), set()
    mask = torch.zeros(10, 10, dtype=torch.int64)
    mask.view(-1)[places[:foreground]] = 2
    mask[4, 4] = 2 * (foreground > 0)
    kept = torch.zeros(10, 10, dtype=torch.bool)
    kept.view(-1)[places[-kept_count:] if kept_count else []] = True
    cut = mask[3:-3, 3:-3]
    extra = (8 - kept_count) // 4 if kept_count < 8 else 0
    found = [(y, x) for y in range(4) for x in range(4) if 0 < cut[y, x] < 255]
    anywhere = [(y, x) for y in range(4) for x in range(4)]
    allowed = {place for place in (found if len(found) >= extra else anywhere) if not kept[place]}
    seen = set()
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        chosen = sample_patches(kept[None], mask[None], 8, generator, border=3)[0]
        assert (chosen & kept).sum() == min(kept_count, 8)
        filled = set(map(tuple, (chosen & ~kept).nonzero().tolist()))
        assert len(filled) == extra and filled <= allowed
        seen |= filled
    assert seen == (allowed if extra else set())


def test_where_the_cut_map_is_empty_nothing_fills_up():
    kept, mask = sampling_case(0, size=6)
    assert not sample_patches(kept, mask, 8, border=3).any()
    tokens, features, _, labels = random_case(2, grid=(6, 6))
    mask = torch.ones(len(tokens), 6, 6, dtype=torch.int64)
    assert uncertain_relation_loss(tokens, features, mask, labels) == 0


def test_filling_up_is_the_variants():
    """Two confident patches in the middle: their own tokens, or those three up and left."""
    mask = torch.zeros(1, 12, 12, dtype=torch.int64)
    mask[0, 6, 6:8] = 1
    features = torch.zeros(1, 2, 12, 12)
    features[0, 1] = 1
    features[0, :, 6, 6:8] = torch.tensor([[1.0], [0.0]])
    tokens, labels = torch.tensor([[[1.0, 0.0]]]), torch.ones(1, 1)
    losses = {
        fill_up: uncertain_relation_loss(
            tokens, features, mask, labels, variant=replace(LirRecipe(), fill_up=fill_up)
        ).item()
        for fill_up in ("centre", "corner")
    }
    assert losses == pytest.approx({"centre": 0.25, "corner": 0.5})  # 0.5 (1 - |cos| / (1 + 1))
    released = uncertain_relation_loss(tokens, features, mask, labels)
    assert released.item() == pytest.approx(0.5)


def test_sampling_is_fair_and_follows_the_generator_that_the_loss_is_given():
    kept, mask = sampling_case(16)
    seeded = [torch.Generator().manual_seed(seed) for seed in range(300)]
    counts = sum(sample_patches(kept, mask, 8, each).flatten()[:16].float() for each in seeded)
    assert (counts / 300 - 0.5).abs().max() < 0.15  # five standard deviations
    case, again = random_case(3, grid=(28, 28)), []
    for seed in (0, 0, 1):
        generator = torch.Generator().manual_seed(seed)
        again.append(uncertain_relation_loss(*case, phi=0.6, generator=generator))
    assert again[0] == again[1] != again[2]


@EACH
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("fill", [0, 1, 255])
def test_degenerate_masks_give_finite_losses_and_gradients(name, variant, fill):
    tokens, features, mask, labels = random_case(3)
    tokens.requires_grad_(), features.requires_grad_()
    for given in (labels, torch.zeros_like(labels), torch.ones_like(labels)):
        loss = LOSSES[name](tokens, features, torch.full_like(mask, fill), given, variant=variant)
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in (tokens, features))
        if fill == 0 and (name, variant) != ("uncertain", "release"):  # which draws from anywhere
            assert loss == 0


def test_runs_in_float32_under_autocast_and_survives_huge_features():
    case = [part.float() if part.is_floating_point() else part for part in random_case(3)]
    for loss in LOSSES.values():
        assert_full_precision(lambda loss=loss: loss(*case, variant="paper"))
    tokens, features, *rest = case
    assert confident_relation_loss(tokens, 1e4 * features, *rest, 0.01).isfinite()


def test_bad_input_is_refused():
    case = tokens, features, mask, labels = random_case(3)
    shapes = r"labels \(.*\) must be \(B, C, D\), \(B, D, h, w\), \(B, h, w\), \(B, C\)"
    for loss in LOSSES.values():
        refuses(shapes, loss, tokens[0], features, mask, labels)
        refuses(shapes, loss, tokens, features, mask[:, :5], labels)
        refuses(shapes, loss, tokens, features, mask, labels[:, :2])
        refuses(shapes, loss, tokens[..., :3], features, mask, labels)
        refuses("variant 'papers' is unknown", loss, *case, variant="papers")
    refuses("temperature is 0", confident_relation_loss, *case, 0)
    for name in ("kernel_size", "num_tokens"):
        refuses(f"{name} is 0", uncertain_relation_loss, *case, **{name: 0})
    refuses("token is 'middle'", uncertain_patches, mask, 6, 1.2, "middle")
