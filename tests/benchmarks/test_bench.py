"""What is timed computes the same on both sides, and the numbers are laid out readably."""

import pytest
import torch
from skimage.data import coffee

from more_lib.system.errors import InputError
from tests.benchmarks import speed as bench
from tests.method import transcriptions


@pytest.fixture
def small(monkeypatch):
    """Seconds instead of minutes: small images, few patches, narrow features."""
    for name, value in {"GRID": 14, "DIM": 16, "PIXELS": 112, "SHAPES": {"tiny": (2, 5)}}.items():
        monkeypatch.setattr(bench, name, value)


def value(run, monkeypatch) -> torch.Tensor:
    """What a timed function computes: its result, or the loss whose gradient it takes."""
    seen = []
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: seen.append(loss.detach()))
    result = run()
    return seen[0] if seen else result


def test_both_sides_of_every_case_compute_the_same(small, monkeypatch):
    inputs = bench._inputs(*bench.SHAPES["tiny"])
    assert (inputs["mask"] == 255).flatten(1).sum(1).min() > 10
    for case, (ours, loop) in bench._cases(transcriptions, inputs).items():
        expected = value(loop, monkeypatch)
        torch.testing.assert_close(
            value(ours, monkeypatch),
            expected,
            rtol=1e-3,
            atol=1e-5,
            msg=lambda m, c=case: f"{c}: {m}",
        )


def test_timings_are_positive_and_printed_as_ratios(small):
    timings = list(bench.bench_losses("tiny", repeats=1))
    assert len(timings) == 8 and all(t.ours > 0 and t.loop > 0 for t in timings)
    text = bench.format_timings([bench.Timing("a case", "voc", 0.002, 0.05)])
    assert text.splitlines()[1].split() == ["a", "case", "voc", "2.0", "50.0", "25.0×"]


def test_dense_crf_is_timed_where_it_can_be(monkeypatch):
    pytest.importorskip("pydensecrf", reason="needs pydensecrf2, the extra crf")
    monkeypatch.setattr(bench, "CRF_SIZES", ((12, 16), (98, 96)))
    small, large = bench.bench_crf(repeats=1)
    assert set(small.seconds) == {"lattice", "exact", "all pairs stored"}
    assert 90 < small.agreement <= 100
    if not torch.accelerator.is_available():
        assert set(large.seconds) == {"lattice"} and large.agreement is None


def test_dense_crf_timings_are_printed_as_ratios():
    seconds = {"all pairs stored": 0.5, "exact": 0.25, "lattice": 0.01}
    run, unrun = (
        bench.CrfTiming(10, 20, seconds, 99.5),
        bench.CrfTiming(90, 1, {"lattice": 2}, None),
    )
    lines = [line.split() for line in bench.format_crf_timings([run, unrun]).splitlines()]
    expected = ["10×20", "4.0e+04", "500.0", "250.0", "2.0×", "10.0", "25.0×", "99.50", "%"]
    assert lines[1] == expected
    assert " ".join(lines[2]) == "90×1 8.1e+03 not run here not run here – 2000.0 – –"


def test_segmentations_for_dense_crf_are_noisy_and_always_the_same():
    photograph = coffee()
    image, scores = bench.noisy_segmentation(photograph, 24, 36, classes=3)
    assert image.shape == (24, 36, 3) and image.dtype == torch.uint8
    torch.testing.assert_close(scores.sum(0), torch.ones(24, 36))
    assert all(share > 0.2 for share in scores.argmax(0).flatten().bincount() / (24 * 36))
    again = bench.noisy_segmentation(photograph, 24, 36, classes=3)[1]
    torch.testing.assert_close(again, scores, rtol=0, atol=0)


def test_an_unknown_shape_is_refused():
    with pytest.raises(InputError, match="shape 'ade' is unknown; there are: voc, coco"):
        next(bench.bench_losses("ade"))


def test_without_a_checkout_it_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "CHECKOUT", tmp_path)
    with pytest.raises(InputError, match="tests/transcriptions.py: run it from a full checkout"):
        next(bench.bench_losses("voc"))
