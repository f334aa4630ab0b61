"""The record of speed: whose ratios, on what, and how they are told."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from more_lib.runs import speed
from more_lib.runs.costs import format_speed
from more_lib.training.step_cost import PLAIN, StepCost


def test_a_record_holds_steps_in_forwards_and_hot_paths_as_shares_of_loops(monkeypatch):
    times = {PLAIN: 10.0, "whole step": 120.0}
    cost = StepCost("fp32", "CPU", times, times, 3.25, 1e9, 1e9)
    monkeypatch.setattr(speed, "bench_step", lambda recipe, precision: cost)
    monkeypatch.setattr(speed, "ProcessPoolExecutor", lambda n, _: ThreadPoolExecutor(n))
    crf = [{"size": (2, 3), "exact": 0.5, "stored": 2.0}, {"size": (9, 9), "lattice": 1.0}]
    loops = SimpleNamespace(time_losses=lambda shape: [("PAR", 0.1, 0.8)], time_crf=lambda: crf)
    record = speed.measure_speed(loops)
    assert {"command", "device", "threads", "precision", "torch", "commit", "dirty"} < set(record)
    assert [row["part"] for row in record["rows"]] == [
        "step of mini, 8 × 96 px: whole step",
        "step of voc, 2 × 448 px: whole step",
        "VOC's sizes: PAR",
        "dense CRF 2×3, exact",
    ]
    mini, voc, par, exact = record["rows"]
    assert mini["forwards"] == voc["forwards"] == 12 and voc["memory_gb"] == 3.25
    assert par["share"] == pytest.approx(0.125) and exact["share"] == 0.25
    assert "step of voc, 2 × 448 px: whole step" in (told := format_speed(record["rows"]))
    assert "12.000" in told and "0.125" in told and "nan" not in told.lower()
