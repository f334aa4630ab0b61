import json

import pytest
from tests.runs.helpers import VERDICTS, write_run

from more_lib.paper.claims import VERDICT_COLUMNS
from more_lib.runs.reading import load_run
from more_lib.runs.report import write_report
from more_lib.system.errors import InputError


def test_a_run_is_read_back(tmp_path):
    metrics = {"06_evaluation": {"scores": {"miou": 0.5}}, "07_paper": {"verdicts": VERDICTS}}
    costs = {"05_training": {"training": {"seconds": 3.5}}}
    run = load_run(write_run(tmp_path, {"06_evaluation": []}, metrics, costs=costs))
    assert (run.metrics, run.costs, run.manifest["threads"]) == (metrics, costs, 2)
    assert run.verdicts == VERDICTS


def test_an_unfinished_run_has_no_metrics_yet(tmp_path):
    run = load_run(write_run(tmp_path, {"00_start": None}, status="unfinished"))
    assert (run.metrics, run.costs, run.verdicts) == ({}, {}, [])


def test_verdicts_are_text_in_every_column(tmp_path):
    metrics = {"07_paper": {"verdicts": [{"claim": "GCR", "ours": 55.3, "verdict": "shown"}]}}
    (row,) = load_run(write_run(tmp_path, {}, metrics)).verdicts
    assert tuple(row) == VERDICT_COLUMNS
    assert list(row.values()) == ["GCR", "", "55.3", "shown", ""]


@pytest.mark.parametrize("verdicts", [[], {}, "shown", [{"claim": "x"}], [1], None])
def test_other_forms_are_no_verdicts(tmp_path, verdicts):
    assert load_run(write_run(tmp_path, {}, {"07_paper": {"verdicts": verdicts}})).verdicts == []


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match=f"{tmp_path} holds no manifest.json"):
        load_run(tmp_path)
    page = write_report(write_run(tmp_path / "run", {}))
    with pytest.raises(InputError, match=f"report.html is a file: give .* {tmp_path / 'run'}"):
        load_run(page)


def test_a_folder_of_runs_says_which_runs_are_in_it(tmp_path):
    for number in range(1, 9):
        write_run(tmp_path / "mini" / f"2026010{number}-000000-abc", {})
    for folder in (tmp_path, tmp_path / "mini"):
        with pytest.raises(InputError, match="is a folder of runs; give one of them") as error:
            load_run(folder)
        assert f"{tmp_path}/mini/20260108-000000-abc and 2 older" in str(error.value)
        assert "20260102" not in str(error.value)


@pytest.mark.parametrize("name", ["manifest.json", "metrics.json", "costs.json"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"profile": "mini",', "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"[1]", "holds a list"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, expected):
    (write_run(tmp_path, {}) / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} {expected}") as error:
        write_report(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("git", {"dirty": False}), ("device", "cpu"), ("recipe", {}), ("threads", "2")],
)
def test_a_manifest_that_lacks_a_field_names_it(tmp_path, field, value):
    with pytest.raises(InputError, match=f"manifest.json has no usable {field}"):
        load_run(write_run(tmp_path, {}, **{field: value}))


def test_a_manifest_with_a_broken_notebook_entry_names_it(tmp_path):
    entries = [{"name": "00_start", "status": "done", "seconds": 1.5}, {"name": "01"}]
    with pytest.raises(InputError, match=r"notebooks\[1\] has no usable status"):
        load_run(write_run(tmp_path, {}, notebooks=entries))


def test_metrics_of_another_form_are_named(tmp_path):
    write_run(tmp_path, {})
    (tmp_path / "metrics.json").write_text(json.dumps({"06_evaluation": [1]}))
    with pytest.raises(InputError, match="metrics.json: 06_evaluation is no mapping"):
        load_run(tmp_path)
