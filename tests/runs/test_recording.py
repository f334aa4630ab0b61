import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from more_lib.runs.recording import collected, record_costs, record_metrics
from more_lib.system.errors import InputError


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def test_metrics_are_plain_json(tmp_path):
    values = {
        "array": np.array([[1, 2], [3, 4]]),
        "tensor": torch.tensor([0.5, float("nan")]),
        "scalars": (np.float64(0.25), np.int64(3), np.bool_(True), torch.tensor(2)),
        "infinite": math.inf,
        "nested": {1: {"nan": float("nan"), "none": None, "text": "é"}},
    }
    record_metrics(tmp_path, "results", values)
    assert read(tmp_path / "metrics" / "results.json") == {
        "array": [[1, 2], [3, 4]],
        "tensor": [0.5, None],
        "scalars": [0.25, 3, True, 2],
        "infinite": None,
        "nested": {"1": {"nan": None, "none": None, "text": "é"}},
    }
    assert os.listdir(tmp_path / "metrics") == ["results.json"]  # no temporary file stays


def test_a_frame_is_kept_as_the_rows_it_was_made_of(tmp_path):
    rows = [
        {"map": "cam", "miou": 0.1 + 0.2, "seeds": 3, "scales": [1.0, 0.5], "judged": True},
        {"map": None, "miou": None, "seeds": 2**60, "scales": [], "judged": False},
    ]
    frame = pd.DataFrame(rows).assign(count=pd.array([1, None], dtype="Int64"), nan=math.nan)
    more = [{"count": 1, "nan": None}, {"count": None, "nan": None}]
    record_metrics(tmp_path, "frame", frame)
    whole = [{**row, **also} for row, also in zip(rows, more, strict=True)]
    record_metrics(tmp_path, "rows", whole)
    record_costs(tmp_path, "nested", {"table": frame[["seeds"]]})
    frame_json, rows_json = (tmp_path / "metrics" / f"{name}.json" for name in ("frame", "rows"))
    assert frame_json.read_bytes() == rows_json.read_bytes()
    costs = read(tmp_path / "costs" / "nested.json")
    assert costs == {"table": [{"seeds": 3}, {"seeds": 2**60}]}


def test_without_a_folder_metrics_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record_metrics("", "results", [{"miou": 0.5}])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name, metrics, expected",
    [
        ("../up", {}, "plain file name"),
        ("", {}, "plain file name"),
        ("results", 0.5, "results are a float"),
        ("results", [0.1, 0.2], "results are a list;"),
        ("results", {"a": [object()]}, r"results.a\[0\] is a object"),
    ],
)
def test_bad_metrics_are_named(tmp_path, name, metrics, expected):
    with pytest.raises(InputError, match=expected):
        record_metrics(tmp_path, name, metrics)
    assert os.listdir(tmp_path) == []


def test_costs_and_metrics_stay_apart(tmp_path):
    for part, seconds in (("01_one", 1.5), ("02_two", 2.5), ("03_not_done", 3.5)):
        record_metrics(tmp_path / part, "scores", {"miou": 0.25})
        record_costs(tmp_path / part, "training", {"seconds": seconds})
    parts = ["02_two", "01_one", "04_recorded_nothing"]
    found = collected(tmp_path, "costs", parts)
    assert list(found) == ["02_two", "01_one"]
    assert found["02_two"] == {"training": {"seconds": 2.5}}
    assert collected(tmp_path, "metrics", parts)["01_one"] == {"scores": {"miou": 0.25}}


def test_no_notebook_records_times_or_memory_as_metrics():
    """metrics.json must be the same in every run with the same seed on the same machine."""
    for file in sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb")):
        for cell in read(file)["cells"]:
            source = "".join(cell["source"])
            for call in source.split("record_")[1:]:
                if call.startswith("metrics("):
                    for word in ("seconds", "minutes", "memory", "per_second", "perf_counter"):
                        assert word not in call, f"{file.name}: {word}"
