"""What is timed computes the same on both sides, and the numbers are laid out readably."""

import pytest
import torch
from skimage.data import coffee

from more_lib.system.errors import InputError
from tests.benchmarks import speed


@pytest.fixture
def small(monkeypatch):
    """Seconds instead of minutes: small images, few patches, narrow features."""
    for name, value in {"GRID": 14, "DIM": 16, "PIXELS": 112, "SHAPES": {"tiny": (2, 5)}}.items():
        monkeypatch.setattr(speed, name, value)


def test_both_sides_of_every_case_compute_the_same(small):
    mask = speed.inputs(*speed.SHAPES["tiny"])["mask"]
    assert (mask == 255).flatten(1).sum(1).min() > 10
    for case, (ours, loop) in speed.cases(*speed.SHAPES["tiny"]).items():
        torch.testing.assert_close(
            ours(), loop(), rtol=1e-3, atol=1e-5, msg=lambda m, c=case: f"{c}: {m}"
        )


def test_timings_are_positive_and_printed_as_ratios(small, monkeypatch):
    rows = list(speed.time_losses("tiny", repeats=1))
    assert len(rows) == 8 and all(ours > 0 and loop > 0 for _, ours, loop in rows)
    monkeypatch.setattr(speed, "time_losses", lambda shape: [("a case", 0.002, 0.05)])
    assert speed.losses("all").splitlines()[1].split() == "a case tiny 2.0 50.0 25.0×".split()


def test_dense_crf_is_timed_where_it_can_be(monkeypatch):
    pytest.importorskip("pydensecrf", reason="needs pydensecrf2, the extra crf")
    monkeypatch.setattr(speed, "CRF_SIZES", ((12, 16), (98, 96)))
    few, many = speed.time_crf(repeats=1)
    assert few.keys() == {"size", "lattice", "exact", "stored", "alike"}
    assert 90 < few["alike"] <= 100
    if not torch.accelerator.is_available():
        assert many.keys() == {"size", "lattice"}


def test_dense_crf_timings_are_printed_as_ratios(monkeypatch):
    run = {"size": (10, 20), "stored": 0.5, "exact": 0.25, "lattice": 0.01, "alike": 99.5}
    monkeypatch.setattr(speed, "time_crf", lambda: [run, {"size": (90, 1), "lattice": 2}])
    lines = [" ".join(line.split()) for line in speed.crf().splitlines()]
    assert lines[1] == "10×20 4.0e+04 500.0 250.0 2.0× 10.0 25.0× 99.50 %"
    assert lines[2] == "90×1 8.1e+03 not run here not run here – 2000.0 – –"


def test_segmentations_for_dense_crf_are_noisy_and_always_the_same():
    image, scores = speed.noisy_segmentation(coffee(), 24, 36, classes=3)
    assert image.shape == (24, 36, 3) and image.dtype == torch.uint8
    torch.testing.assert_close(scores.sum(0), torch.ones(24, 36))
    assert all(share > 0.2 for share in scores.argmax(0).flatten().bincount() / (24 * 36))
    again = speed.noisy_segmentation(coffee(), 24, 36, classes=3)[1]
    torch.testing.assert_close(again, scores, rtol=0, atol=0)


def test_an_unknown_shape_is_refused():
    with pytest.raises(InputError, match="shape 'ade' is unknown; there are: voc, coco"):
        speed.losses("ade")
