"""Exponents of known growth, and a leak that is told from none."""

import pytest

from tests.benchmarks import scaling


def test_exponents_of_known_growth():
    sizes = [10, 20, 40, 80]
    assert scaling.exponent(sizes, [3.0 * n**2 for n in sizes]) == pytest.approx(2)
    assert scaling.exponent(sizes, [5.0, 5.0, 4.0, 8.0]) == pytest.approx(1)  # the larger half
    assert scaling.exponent(sizes, [0, 0, 0, 0]) != scaling.exponent(sizes, [0, 0, 0, 0])  # nan


@pytest.mark.slow
def test_a_pass_without_a_leak_and_with_one(monkeypatch, capsys):
    kept = []

    def leaking(images, classes, side):
        # Blocks that no freed memory of this process can hold, so that each is seen.
        kept.extend(bytearray(b"x") * (40 * 2**20) for _ in range(images))

    def thrifty(images, classes, side):
        [sum(range(10**5)) for _ in range(images)]

    monkeypatch.setattr(scaling, "QUICK", {"images": (1, 4)})
    monkeypatch.setattr(scaling, "ACTIVITIES", {"train": leaking, "evaluate": thrifty})
    bounds = {(name, "images"): (1.0, 0.0) for name in ("train", "evaluate")}
    monkeypatch.setattr(scaling, "BOUNDS", bounds)
    leak, none = scaling.scaling()
    # Megabytes an image, 40; a system that takes memory back meanwhile makes it more or less.
    assert 20 < leak["memory_exponent"] < 80
    assert abs(none["memory_exponent"]) < 0.5
    leaks, does_not, _ = capsys.readouterr().out.splitlines()
    assert leaks.startswith("train    images") and " of 0 >" in leaks
    assert "0.00 of 0  " in does_not
