"""Where a run's minutes go, and what became slower: sums by hand, files that are none."""

import json

import pytest

from more_lib.runs import costs
from more_lib.runs.reading import Run
from more_lib.system.errors import InputError
from more_lib.training.step_cost import PLAIN, StepCost
from tests.runs.helpers import MANIFEST


@pytest.fixture
def finished(monkeypatch):
    """A run of two trainings and two notebooks, of which one has not run; a forward takes 0.5 s."""

    def make(**changes):
        entries = [
            {"name": "01_first", "seconds": 60.0, "cpu_seconds": 90.0},
            {"name": "02_second", "seconds": None},
        ]
        manifest = {**MANIFEST, "recipe": {}, "notebooks": entries} | changes
        ahead = {"training": {"networks": 2, "seconds": 120.0, "cpu_seconds": 210.0}}
        run = Run("folder", manifest, {}, {"training_ahead": ahead})
        monkeypatch.setattr(costs, "load_run", lambda folder: run)
        monkeypatch.setattr(costs, "from_dict", lambda recipe: None)
        monkeypatch.setattr(costs, "plain_forward", lambda recipe: 0.5)

    return make


def test_a_run_is_the_sum_of_its_parts(finished):
    finished()
    rows = costs.run_costs("folder")
    assert [tuple(row.values()) for row in rows] == [
        ("trainings side by side, scored", 120.0, 210.0, 420.0),
        ("01_first", 60.0, 90.0, 180.0),
        ("whole run", 180.0, 300.0, 600.0),
    ]
    assert tuple(rows[0]) == costs.COLUMNS
    assert costs.format_costs(rows).splitlines()[2].split() == [
        "01_first",
        *"1.0 1.5 30% 180".split(),
    ]


def test_a_run_without_cpu_times_is_refused(finished):
    finished(notebooks=[{"name": "01_first", "seconds": 60.0}])
    with pytest.raises(InputError, match="did not count CPU time: run `reproduce` again"):
        costs.run_costs("folder")


def test_what_became_slower_is_told_in_forwards(tmp_path):
    times = {PLAIN: 10.0, "forward": 12.0, "whole step": 50.0}
    rows = costs.step_rows([StepCost("fp32", "CPU", times, times, 1.0, 1e9, 1e9)])
    assert [tuple(row.values()) for row in rows] == [
        ("fp32: forward", 0.012, 0.012, 1.2),
        ("fp32: whole step", 0.05, 0.05, 5.0),
    ]
    slower = [{**rows[0], "forwards": 1.25}, {**rows[1], "forwards": 6.0}]
    for name, content in (("a", rows), ("b", slower), ("other", [{**rows[0], "part": "x"}])):
        (tmp_path / name).write_text(json.dumps(content))
    first, second = costs.compare_costs(tmp_path / "a", tmp_path / "b").splitlines()[1:]
    assert first.split() == ["fp32:", "forward", "1.20", "1.25", "1.04"]
    assert second.split() == ["fp32:", "whole", "step", "5.00", "6.00", "1.20", "slower"]
    with pytest.raises(InputError, match="have no part in common"):
        costs.compare_costs(tmp_path / "a", tmp_path / "other")
    kept = {"rows": [{"part": "loss", "share": 0.25}, {**slower[1], "share": None}]}
    (tmp_path / "speed").write_text(json.dumps(kept))
    loop, step = costs.compare_costs(tmp_path / "speed", tmp_path / "speed").splitlines()[1:]
    assert loop.split() == ["loss", "0.25", "0.25", "1.00"] and "6.00" in step
    (tmp_path / "b").write_text("{}x")
    with pytest.raises(InputError, match="no file that `bench --json` wrote"):
        costs.compare_costs(tmp_path / "a", tmp_path / "b")
