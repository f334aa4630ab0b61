"""Dense CRF against a transcription that stores all pairs, by hand, and against pydensecrf2."""

import math
import multiprocessing
from functools import partial

import numpy as np
import pytest
import torch
from skimage.data import coffee, rocket
from sklearn.datasets import load_sample_image

from more_lib.method import crf, pseudo_labels
from more_lib.method.crf import CrfParams, choose_method, dense_crf, dense_crf_many, with_background
from more_lib.method.gaussian import bilateral_features
from tests.benchmarks.speed import noisy_segmentation
from tests.method import transcriptions
from tests.method.helpers import assert_full_precision, refuses
from tests.method.permutohedral import permutohedral_filter

PHOTOGRAPHS = {
    "coffee": coffee,
    "rocket": rocket,
    "china": lambda: load_sample_image("china.jpg"),
    "flower": lambda: load_sample_image("flower.jpg"),
}
QUICK = CrfParams(iterations=3, bilateral_sigma_rgb=9)


@pytest.fixture
def lattice():
    pytest.importorskip("pydensecrf", reason="needs pydensecrf2, the extra crf")


@pytest.fixture(params=["exact", "lattice"])
def method(request):
    if request.param == "lattice":
        request.getfixturevalue("lattice")
    return request.param


def random_input(height=9, width=11, classes=4, seed=0):
    """An image of a few colours, not far from each other, and any probabilities."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(100, 112, (height, width, 3), generator=generator, dtype=torch.uint8)
    scores = torch.randn(classes, height, width, generator=generator)
    return image, scores.softmax(0)


def photograph(name="coffee", height=32, width=48, classes=2):
    return noisy_segmentation(PHOTOGRAPHS[name](), height, width, classes)


def alike(one, other):
    """The share of pixels of the same label."""
    return (one.argmax(0) == other.argmax(0)).float().mean().item()


@pytest.mark.parametrize(
    ("picture", "params"),
    [
        (random_input(), CrfParams()),
        (random_input(), CrfParams(iterations=1)),
        (random_input(), CrfParams(3, 2.5, 3.5, 7.0, 5.0, 13.0)),
        (random_input(), CrfParams(gaussian_weight=0)),
        (random_input(), CrfParams(bilateral_weight=0, gaussian_sigma=2)),
        (photograph("rocket", classes=3), CrfParams()),
    ],
)
def test_equals_all_pairs_stored(picture, params):
    expected, result = transcriptions.dense_crf(*picture, params), dense_crf(*picture, params)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-4)
    assert alike(result, expected) == 1


def test_two_pixels_by_hand():
    image = torch.tensor([[[10, 20, 30], [12, 20, 29]]], dtype=torch.uint8)
    probabilities = torch.tensor([[[0.6, 0.3]], [[0.4, 0.7]]])
    near = math.exp(-0.5)
    like = math.exp(-(1 / 67**2 + (4 + 1) / 3**2) / 2)
    # Both pixels have z = 1 + near and 1 + like, so dividing by it is all there is to normalise.
    expected = []
    for own, other in ((0.6, 0.3), (0.3, 0.6)):
        first = 3 * (own + near * other) / (1 + near) + 4 * (own + like * other) / (1 + like)
        second = 7 - first  # each kernel's row adds up to 1, and so do a pixel's beliefs
        odds = own * math.exp(first) / ((1 - own) * math.exp(second))
        expected.append(odds / (1 + odds))
    result = pseudo_labels.dense_crf(image, probabilities, CrfParams(iterations=1))  # reexported
    torch.testing.assert_close(result[0, 0], torch.tensor(expected))


@pytest.mark.gpu
def test_gpu_and_cpu_agree():
    image, probabilities = photograph("coffee", 64, 96, classes=3)
    expected = dense_crf(image, probabilities, method="exact")
    result = dense_crf(image, probabilities.cuda())
    assert result.is_cuda and alike(result.cpu(), expected) > 0.999
    torch.testing.assert_close(result.cpu(), expected, rtol=0, atol=2e-2)


def test_nothing_to_go_by_stays_so_and_without_iterations_or_weights_the_scores_come_back():
    image = torch.full((8, 8, 3), 77, dtype=torch.uint8)
    even = torch.full((4, 8, 8), 0.25)
    torch.testing.assert_close(dense_crf(image, even), even)
    sure = torch.tensor([0.2, 0.5, 0.3]).view(3, 1, 1).expand(3, 8, 8)
    assert (dense_crf(image, sure).argmax(0) == 1).all()
    image, probabilities = random_input()
    for params in (CrfParams(iterations=0), CrfParams(gaussian_weight=0, bilateral_weight=0)):
        torch.testing.assert_close(dense_crf(image, probabilities, params), probabilities)


def test_beliefs_add_up_to_one_whatever_scores_do_and_follow_permuted_classes_and_mirrors():
    image, probabilities = random_input()
    result = dense_crf(image, probabilities)
    torch.testing.assert_close(result.sum(0), torch.ones(9, 11))
    torch.testing.assert_close(dense_crf(image, probabilities / 2), result)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(dense_crf(image, probabilities[order]), result[order])
    mirrored = dense_crf(image.flip(1), probabilities.flip(2))
    torch.testing.assert_close(mirrored, result.flip(2))
    turned = dense_crf(image.transpose(0, 1), probabilities.transpose(1, 2))
    torch.testing.assert_close(turned, result.transpose(1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["gaussian_weight", "bilateral_weight"])
def test_more_weight_smooths_more(kernel):
    """Fewer neighbours of like colour get unlike labels."""
    image, probabilities = photograph()
    like = image.int().diff(dim=1).abs().amax(-1) <= 3
    none = {"gaussian_weight": 0, "bilateral_weight": 0}
    borders = []
    for weight in (0, 1, 4):
        labels = dense_crf(image, probabilities, CrfParams(**none | {kernel: weight})).argmax(0)
        borders.append(int((like & (labels.diff(dim=1) != 0)).sum()))
    assert borders[0] > 1.2 * borders[1] > 1.4 * borders[2], borders


def test_labels_follow_the_edge_of_the_picture():
    """A map that misses the edge by two pixels is drawn to it by the colours alone."""
    image = torch.zeros(12, 20, 3, dtype=torch.uint8)
    image[:, 10:] = 200
    inside = torch.full((12, 20), 0.3)
    inside[:, 8:] = 0.7
    labels = dense_crf(image, torch.stack([1 - inside, inside])).argmax(0)
    assert (labels == (torch.arange(20) >= 10)).all()


def test_mixed_precision_changes_nothing_arrays_are_taken_too_and_left_alone():
    image, probabilities = random_input()
    assert_full_precision(partial(dense_crf, image, probabilities))
    half = probabilities.bfloat16()
    torch.testing.assert_close(dense_crf(image, half), dense_crf(image, half.float()))
    arrays = image.numpy().copy(), probabilities.numpy().copy()
    for array in arrays:
        array.flags.writeable = False
    expected = dense_crf(image, probabilities.requires_grad_())
    assert not expected.requires_grad
    torch.testing.assert_close(dense_crf(*arrays), expected, rtol=0, atol=0)
    assert np.array_equal(image, arrays[0])


def test_background_is_what_no_class_claims():
    maps = torch.tensor([0.2, 0.7, 0.0]).view(3, 1, 1)
    result = with_background(maps)
    torch.testing.assert_close(result.flatten(), torch.tensor([0.3, 0.2, 0.7, 0.0]))
    assert with_background(torch.rand(2, 5, 4, 3)).shape == (2, 6, 4, 3)


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1)])
def test_lines_and_single_pixels(shape, method):
    image, probabilities = random_input(*shape)
    result = dense_crf(image, probabilities, method=method)
    expected = transcriptions.dense_crf(image, probabilities, CrfParams())
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=0.2)


def test_one_class_takes_all_and_zeros_are_no_verdict(method):
    image, probabilities = random_input(classes=2)
    one = dense_crf(image, probabilities[:1], method=method)
    torch.testing.assert_close(one, torch.ones(1, 9, 11))
    image[:] = 100
    probabilities[0], probabilities[1] = 0.9, 0.1
    probabilities[:, 4, 5] = torch.tensor([0.0, 0.1])
    lone = dense_crf(image, probabilities, CrfParams(gaussian_weight=15), method)
    assert lone.isfinite().all() and (lone.argmax(0) == 0).all()


def test_bad_input_is_refused():
    image, p = random_input()
    refuses("image is torch.float32; give uint8", dense_crf, image.float(), p)
    shapes = r"image .*, probabilities .* must be \(H, W, 3\), \(K, H, W\)"
    wrong = [(bad, p) for bad in (image[..., :2], image[0], image[..., None])]
    for given in (*wrong, *((image, bad) for bad in (p[0], p[:, 1:], p.transpose(1, 2)))):
        refuses(shapes, dense_crf, *given)
    for values in (p - 1, p * 3, p * math.nan, p[:0]):
        refuses(r"must lie in \[0, 1\]", dense_crf, image, values)
    unknown = "'best' is unknown; give auto, exact or lattice"
    refuses(unknown, dense_crf, image, p, method="best")
    bad = torch.zeros(3, 3), torch.zeros(2, 3, 3)  # one among many
    few = r"image \(3, 3\), probabilities"
    refuses(few, lambda: list(dense_crf_many([random_input(), bad])))


@pytest.mark.parametrize("name", vars(CrfParams()))
def test_sigmas_are_positive_and_nothing_is_negative(name):
    value, rule = (0, "be positive") if "sigma" in name else (-1, "not be negative")
    refuses(f"{name} is {value}; it must {rule}", CrfParams, **{name: value})


def test_the_choice_is_by_device_and_size_and_without_pydensecrf2_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(crf, "find_spec", lambda name: name)
    assert choose_method(96, 97) == "lattice"
    assert choose_method(2000, 2000, "cuda:1") == "exact"
    assert choose_method(10, 10, "cuda", "lattice") == "lattice"
    assert choose_method(96, 97, "cpu", "exact") == "exact"
    for found in (True, None):
        monkeypatch.setattr(crf, "find_spec", lambda name, found=found: found)
        assert choose_method(96, 96) == "exact"
    given = random_input(96, 97, 2)
    cure = r"96×97 .* needs pydensecrf2: `pip install -e .\[crf\]`"
    refuses(cure, dense_crf, *given)
    refuses(cure, lambda: next(dense_crf_many([given])))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "classes"), [*((name, 2) for name in PHOTOGRAPHS), ("coffee", 3)])
def test_exact_and_lattice_agree_on_photographs(name, classes, lattice):
    image, probabilities = photograph(name, 48, 64, classes)
    exact = dense_crf(image, probabilities, method="exact")
    assert alike(exact, dense_crf(image, probabilities, method="lattice")) >= 0.98
    assert classes > 2 or alike(exact, probabilities) < 0.96  # or agreement would mean nothing


def mean_field(image, probabilities, near, like, normalised=True, itself=True):
    """The released parameters in float64, with any two filters (N, K) -> (N, K) for the kernels."""
    scores = probabilities.flatten(1).T.double().numpy()
    log_scores = np.log(scores.clip(min=1e-5))
    belief, kernels = scores / scores.sum(1, keepdims=True), []
    for weight, kernel in ((3, near), (4, like)):
        sums = kernel(np.ones((len(scores), 1)))
        kernels.append((weight, kernel, sums**-0.5 if normalised else 1))
    for _ in range(10):
        logits = log_scores.copy()
        for weight, kernel, scale in kernels:
            logits += weight * scale * kernel(scale * belief)
            logits -= 0 if itself else weight * scale**2 * belief
        belief = np.exp(logits - logits.max(1, keepdims=True))
        belief /= belief.sum(1, keepdims=True)
    return torch.from_numpy(belief.T.reshape(probabilities.shape))


def filters(image):
    """Of the position and of position and colour: two exact ones, two of a lattice of our own."""
    picture = image.permute(2, 0, 1)[None].double()
    place = bilateral_features(torch.zeros_like(picture), 1, 1)[0, :, :2].numpy()
    both = bilateral_features(picture, 3, 67)[0].numpy()
    squares = [((features[:, None] - features) ** 2).sum(-1) for features in (place, both)]
    exact = [np.exp(-each / 2).__matmul__ for each in squares]
    return exact + [partial(permutohedral_filter, features) for features in (place, both)]


def test_what_is_left_between_the_two_is_the_bilateral_lattice(lattice):
    """Not normalisation, not the pixel itself, not rounding, hardly the lattice of the position."""
    image, probabilities = photograph("rocket")
    near, like, lattice_near, lattice_like = filters(image)
    library = dense_crf(image, probabilities, method="lattice")
    exact = dense_crf(image, probabilities, method="exact")

    def agreement(*chosen, **how):
        return alike(mean_field(image, probabilities, *chosen, **how), library)

    # With the approximation in it, this is what the library computes, to every label.
    assert agreement(lattice_near, lattice_like) > 0.999
    assert agreement(lattice_near, lattice_like, itself=False) < 0.97
    assert agreement(lattice_near, lattice_like, normalised=False) < 0.99
    # Without it, all of the difference comes back, and from the bilateral kernel.
    left = 1 - alike(exact, library)
    assert 0.004 < left < 0.02
    assert 1 - agreement(near, lattice_like) < left / 3
    assert 1 - agreement(lattice_near, like) > left / 2
    # Rounding to float32 moves no label.
    assert alike(mean_field(image, probabilities, near, like), exact) == 1


def test_the_lattice_has_half_the_height_and_shorter_tails():
    image, _ = photograph("coffee", 24, 36)
    _, like, _, lattice_like = filters(image)
    unit = np.eye(image.shape[0] * image.shape[1])
    exact, approximate = like(unit), lattice_like(unit)
    distance = np.sqrt(-2 * np.log(exact.clip(min=1e-300)))
    ratio = [
        approximate[inside].mean() / exact[inside].mean()
        for inside in (distance < 1e-6, (0.5 < distance) & (distance < 1), distance > 3)
    ]
    assert 0.45 < ratio[0] < 0.55 and ratio[1] == pytest.approx(ratio[0], rel=0.1)
    assert ratio[2] < ratio[0] / 2
    # Normalisation cancels the height; what the tails lack goes to the pixel itself.
    own = [(np.diag(kernel) / kernel.sum(1)).mean() for kernel in (exact, approximate)]
    assert own[1] > 1.08 * own[0]


def test_many_pictures_come_in_order_over_processes(lattice):
    """Sizes differ, so that later ones are done before earlier ones."""
    sizes = [(60, 90), (8, 9), (40, 50), (7, 12), (30, 20)]
    pairs = [random_input(*size, seed=i) for i, size in enumerate(sizes)]
    results = list(dense_crf_many(iter(pairs), QUICK, "lattice", workers=2))
    assert [tuple(result.shape[1:]) for result in results] == sizes
    for pair, result in zip(pairs, results, strict=True):
        torch.testing.assert_close(result, dense_crf(*pair, QUICK, "lattice"), rtol=0, atol=0)
    assert not multiprocessing.active_children()


def test_a_picture_may_bring_its_own_parameters():
    pair, own = random_input(6, 7), CrfParams(iterations=3, bilateral_weight=9)
    plain, other = dense_crf_many([pair, (*pair, own)], QUICK)
    torch.testing.assert_close(plain, dense_crf(*pair, QUICK))
    torch.testing.assert_close(other, dense_crf(*pair, own))
    assert not torch.allclose(plain, other)


def test_many_pictures_are_read_as_they_are_needed():
    read = []

    def pairs():
        for seed in range(9):
            read.append(seed)
            yield random_input(3, 4, seed=seed)

    results = dense_crf_many(pairs(), QUICK, workers=2)
    torch.testing.assert_close(next(results), dense_crf(*random_input(3, 4, seed=0), QUICK))
    assert len(read) == 4
    assert len(list(results)) == 8 and len(read) == 9
    assert not multiprocessing.active_children()


def test_a_dead_process_is_reported(lattice):
    def pairs():
        yield random_input()
        for child in multiprocessing.active_children():
            child.kill()
        yield random_input()

    with pytest.raises(RuntimeError, match="one of 1 dense CRF processes died.* fewer workers"):
        list(dense_crf_many(pairs(), method="lattice", workers=1))
    assert not multiprocessing.active_children()
