import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell

from more_lib.paper.claims import VERDICT_COLUMNS
from more_lib.paper.records import mini_run
from more_lib.runs.reading import captioned, load_run, record_of, title
from more_lib.runs.recording import record_costs, record_metrics
from more_lib.runs.report import write_report
from more_lib.system.errors import InputError
from tests.runs.helpers import MEASURED, VERDICTS, whole_run, write_run


def test_a_run_is_read_back(tmp_path):
    metrics = {"06_evaluation": {"scores": {"miou": 0.5}}, "07_paper": {"verdicts": VERDICTS}}
    costs = {"05_training": {"training": {"seconds": 3.5}}}
    run = load_run(write_run(tmp_path, {"06_evaluation": []}, metrics, costs=costs))
    assert (run.metrics, run.costs, run.manifest["threads"]) == (metrics, costs, 2)
    assert run.verdicts == VERDICTS


def test_the_record_of_a_run_has_the_form_of_the_stored_one(tmp_path):
    record, stored = record_of(load_run(whole_run(tmp_path))), mini_run()
    assert list(record) == list(stored)
    measured = ("protocol", "ablation", "protocols", "optimizer", "verdicts")
    for name in (*measured, "training", "training_ahead"):
        assert record[name] == stored[name]
    assert record["notebooks"] == [
        {"name": "06_evaluation", "title": "06 · Evaluation: what?", "seconds": 43.2},
    ]
    assert record["commit"] == "0123456789abcdef"


def test_a_run_in_progress_is_read_from_what_was_recorded_so_far(tmp_path):
    executed = {"05_training": [], "06_evaluation": [], "07_paper": None}
    run = load_run(write_run(tmp_path, executed, status="unfinished"))
    assert (run.metrics, run.costs, run.verdicts) == ({}, {}, [])
    record_metrics(tmp_path / "06_evaluation", "06_evaluation", MEASURED)
    record_metrics(tmp_path / "07_paper", "verdicts", VERDICTS)
    record_costs(tmp_path / "05_training", "05_training", {"threads": 1})
    record_costs(tmp_path / "training_ahead", "training", {"networks": 3})
    record = record_of(load_run(tmp_path))
    assert (record["verdicts"], record["training_ahead"]) == (VERDICTS, {"networks": 3})
    assert record["training"] == {"threads": 1}


@pytest.mark.parametrize("measured", [{}, {**MEASURED, "rows": []}, [1]])
def test_a_run_without_the_numbers_has_no_record(tmp_path, measured):
    metrics = {"06_evaluation": {"06_evaluation": measured}, "07_paper": {"verdicts": VERDICTS}}
    with pytest.raises(InputError, match="lacks what notebooks 05, 06 and 07 record"):
        record_of(load_run(write_run(tmp_path, {}, metrics)))


def test_captions_come_from_the_metadata_or_the_prose_before():
    cells = [
        new_markdown_cell("# The *title*"),
        new_markdown_cell("\n## 2 Where **LAM** looks, see [Eq. 1](#eq)\nMore."),
        new_code_cell("1"),
        new_markdown_cell("failed", metadata={"tags": ["papermill-error-cell-tag"]}),
        new_code_cell("2"),
        new_code_cell("3", metadata={"caption": "From the metadata"}),
    ]
    captions = [caption for _, caption in captioned(cells)]
    assert captions == ["2 Where LAM looks, see Eq. 1"] * 2 + ["From the metadata"]
    assert title(cells) == "The title" and title(cells[1:]) == ""


def test_verdicts_are_text_in_every_column_and_other_forms_are_none(tmp_path):
    def verdicts(value):
        return load_run(write_run(tmp_path, {}, {"07_paper": {"verdicts": value}})).verdicts

    (row,) = verdicts([{"claim": "GCR", "ours": 55.3, "verdict": "shown"}])
    assert row == dict(zip(VERDICT_COLUMNS, ("GCR", "", "55.3", "shown", ""), strict=True))
    assert not any(map(verdicts, ([], {}, "shown", [{"claim": "x"}], [1], None)))


def test_what_is_no_run_is_named(tmp_path):
    (page := tmp_path / "report.html").touch()
    for path, expected in (
        (tmp_path / "nowhere", "nowhere does not exist"),
        (page, f"report.html is a file: give .* {tmp_path}"),
        (tmp_path, f"{tmp_path} holds no manifest.json"),
    ):
        with pytest.raises(InputError, match=expected):
            load_run(path)


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
        (b'{"06_evaluation": [1]}', "has no usable (profile|06_evaluation): it is not"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, expected):
    (write_run(tmp_path, {}) / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} {expected}") as error:
        write_report(tmp_path)
    assert "\n" not in str(error.value)


ENTRY = {"name": "00_start", "status": "done", "seconds": 1.5}


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("git", {"dirty": False}, "git.commit"),
        ("git", {"commit": "", "dirty": "no"}, "git.dirty"),
        ("device", "cpu", "device"),
        ("recipe", {}, "recipe.data"),
        ("threads", "2", "threads"),
        ("notebooks", [ENTRY, {"name": "01", "seconds": None}], r"notebooks\[1\].status"),
    ],
)
def test_a_manifest_that_lacks_a_field_names_it(tmp_path, field, value, named):
    with pytest.raises(InputError, match=f"manifest.json has no usable {named}: it is not"):
        load_run(write_run(tmp_path, {}, **{field: value}))
