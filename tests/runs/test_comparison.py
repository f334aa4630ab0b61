import copy

import pytest

from more_lib.runs import comparison
from more_lib.runs.comparison import leaves, write_comparison
from more_lib.runs.reading import load_run
from more_lib.runs.report import write_report
from more_lib.system.errors import InputError
from tests.runs.helpers import VERDICTS, Page, write_run

METRICS = {
    "06_evaluation": {
        "rows": [
            {"dataset": "emoji", "map": "lam", "miou": 0.5, "confusion_ratio": 2.0, "note": "a"},
            {"dataset": "emoji", "map": "cam", "miou": 0.25, "confusion_ratio": None, "note": "b"},
        ],
        "images": 400,
    },
    "07_paper": {"verdicts": VERDICTS},
}


def write(folder, metrics=METRICS, **changes):
    return write_run(folder, {"06_evaluation": []}, metrics, **changes)


@pytest.fixture
def two(tmp_path):
    """A run, and one of another seed, version and score that began later."""
    other = copy.deepcopy(METRICS)
    other["06_evaluation"]["rows"][0]["miou"] = 0.53125
    other["07_paper"]["verdicts"][1]["verdict"] = "shown"
    first = write(tmp_path / "first")
    manifest = load_run(first).manifest
    manifest["recipe"]["optimizer"]["iterations"] = 7
    manifest["versions"]["numpy"] = "2.4.6"
    manifest["started"] = "2026-02-02T03:04:05+00:00"
    return first, write(tmp_path / "second", other, **manifest)


def test_the_same_metrics_are_said_to_be_identical(tmp_path):
    page = Page(write_comparison([write(tmp_path / name) for name in "ab"]))
    assert "The metrics of A and B are identical, all 26 values." in page.text
    assert "None of those that all runs have." in page.text


def test_what_differs_is_listed_with_its_difference(two):
    runs = [load_run(folder) for folder in two]
    differing = comparison.metrics(runs)
    assert differing["06_evaluation"] == [("rows · LAM · mIoU (%)", ["50", "53.125"], ["+3.1"])]
    ((_, values, changes),) = differing["07_paper"]
    assert (values, changes) == (["not shown", "shown"], [""])
    assert comparison.agreement(runs, 0, 1) == "2 of the 26 metrics that A and B share differ."
    assert {row.name: row.values for row in comparison.provenance(runs)} == {
        "started": ["2026-01-02T03:04:05+00:00", "2026-02-02T03:04:05+00:00"],
        "recipe · optimizer · iterations": ["300", "7"],
        "versions · numpy": ["–", "2.4.6"],
    }


def test_notebooks_of_other_source_and_full_runs_are_told_apart(tmp_path):
    runs = [load_run(write(tmp_path / name)) for name in "ab"]
    (entry,) = runs[1].manifest["notebooks"]
    entry |= {"source_sha256": "f" * 64, "parameters": {"full": True}}
    differing = {row.name: row.values for row in comparison.provenance(runs)}
    assert differing["notebook · 06_evaluation · full"] == ["False", "True"]
    assert differing["notebook · 06_evaluation · source_sha256"][1] == "f" * 64


def test_metrics_of_one_run_alone_are_counted(tmp_path):
    every = (METRICS, {"06_evaluation": {"images": 400}}, {}, {})
    runs = [load_run(write(tmp_path / f"{i}", metrics)) for i, metrics in enumerate(every)]
    said = comparison.agreement(runs, 0, 1)
    assert said == "0 of the 1 metrics that A and B share differ; 25 more are in A alone."
    assert comparison.metrics(runs[:2]) == {}
    assert comparison.agreement(runs, 2, 3) == "C and D recorded no metrics."


def test_verdicts_stand_side_by_side(two, tmp_path):
    none = write(tmp_path / "third", {})
    judged = comparison.verdicts([load_run(folder) for folder in (*two, none)])
    assert list(judged) == [row["claim"] for row in VERDICTS]
    apart = [("not shown", "no | less"), ("shown", "no | less"), ("not judged", "")]
    assert judged["CAM gains as well"] == apart
    assert "✗ not shown" in Page(write_comparison(two)).text


def test_the_page_goes_where_one_says_or_to_the_newest_run_and_links_the_reports(two, tmp_path):
    first, second = two
    write_report(first)
    path = write_comparison([second, first])
    assert path == second / "comparison.html"
    assert Page(path).links == [("href", "../first/report.html")]
    elsewhere = tmp_path / "new" / "page.html"
    assert write_comparison(two, elsewhere) == elsewhere and elsewhere.is_file()


def test_nothing_becomes_markup(tmp_path):
    evil = "<script>alert(1)</script>"
    for name in "ab":
        write(tmp_path / name, {evil: {evil: {evil: evil + name}}}, overrides=[evil, name])
    page = Page(write_comparison([tmp_path / "a", tmp_path / "b"]))
    page.assert_still()
    assert evil in page.text


def test_names_of_rows_do_not_depend_on_numbers():
    def names(*rows):
        return [name for name, _ in leaves({"rows": list(rows)})]

    one = {"map": "cam", "miou": 0.5, "scales": [1.0, 0.5]}
    assert names(one, {**one, "map": "lam"}) == [
        f"rows · {row} · {key}" for row in ("CAM", "LAM") for key in ("map", "miou", "scales")
    ]
    assert names(one, {**one, "miou": 0.4})[:2] == ["rows · 1 · map", "rows · 1 · miou"]
    maps = [{"map": name, "labels": labels} for name in ("CAM", "LAM") for labels in "ab"]
    named = [f"rows · {row['map']}\u00a0· {row['labels']} · map" for row in maps]
    assert names(*maps)[::2] == named
    trials = [{"trial": trial, "seed": seed} for trial in ("a", "b") for seed in (0, 1)]
    named = [f"rows · {row['trial']}\u00a0· {row['seed']} · trial" for row in trials]
    assert names(*trials)[::2] == named


def test_only_shares_are_scaled_to_per_cent():
    assert comparison._metric("faulty_percent", [12.5, 13])[1:] == (["12.5", "13"], ["+0.5"])
    assert comparison._metric("miou", [None, 0.125])[1:] == (["–", "12.5"], [""])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["first"], "takes two to 26 runs, not 1"),
        (["first", "second", "second/../first"], "given twice"),
        (["first", ""], "is a folder of runs"),
        (range(27), "takes two to 26 runs, not 27"),
    ],
)
def test_wrong_choices_of_runs_are_refused(two, tmp_path, names, expected):
    with pytest.raises(InputError, match=expected):
        write_comparison([tmp_path / str(name) for name in names])
