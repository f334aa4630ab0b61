import json
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from more_lib.paper.records import mini_run
from more_lib.runs import comparison, report
from more_lib.runs.reading import load_run
from more_lib.runs.report import duration, table, write_report, write_results
from more_lib.system.errors import InputError
from tests.runs.helpers import PNG, VERDICTS, Page, whole_run, write_run

EVIL = "<script>alert(1)</script>\"'><img src=http://evil.example/x.png onerror=alert(2)>"


def tagged(*outputs, caption: str | None = None, tags=("report",)):
    metadata = {"tags": list(tags)} | ({"caption": caption} if caption else {})
    return new_code_cell("...", metadata=metadata, outputs=list(outputs), execution_count=1)


def stdout(text: str):
    return new_output("stream", name="stdout", text=text)


def shown(**data):
    kinds = {"png": "image/png", "html": "text/html", "plain": "text/plain"}
    return new_output("display_data", {kinds[name]: value for name, value in data.items()})


def make_run(folder: Path, *arguments: object, **changes: object) -> Page:
    """A run's folder as ``write_run`` makes it, and its report read."""
    write_run(folder, *arguments, **changes)
    return Page(write_report(folder))


@pytest.mark.slow
def test_the_page_needs_nothing_from_outside(tmp_path):
    cells = [new_markdown_cell("# One\n[a](http://a.example)"), tagged(shown(png=PNG))]
    page = make_run(tmp_path, {"01_one": cells, "02_two": None}, {"01_one": {"a": {"b": 1}}})
    page.assert_still()
    for name, value in page.links:
        inside = value.startswith(("#", "data:image/png;base64,"))
        assert inside or (name == "href" and (tmp_path / value).is_file())
    assert {"src", "href"} <= {name for name, _ in page.links}
    assert "http://" not in page.source and "https://" not in page.source


def test_nothing_becomes_markup(tmp_path):
    cells = [
        new_markdown_cell(f"# Title {EVIL}"),
        tagged(stdout(EVIL), shown(html=EVIL), shown(plain=EVIL), caption=EVIL),
        tagged(shown(png='"><script>alert(3)</script>'), shown(png=PNG), caption=EVIL),
    ]
    verdicts = [{"claim": EVIL, "verdict": EVIL}]
    metrics = {"01_one": {"verdicts": verdicts, EVIL: [{EVIL: EVIL}], "plain": {EVIL: EVIL}}}
    changes = {"overrides": [EVIL], "status": EVIL, "costs": {"01_one": {EVIL: {EVIL: 1}}}}
    page = make_run(tmp_path, {"01_one": cells}, metrics, **changes)
    page.assert_still()
    assert page.tags.count("img") == 1
    assert "alert(1)" in page.text  # shown as text


def test_figures_come_from_tagged_cells_with_their_captions(tmp_path):
    cells = [
        new_markdown_cell("# The title"),
        new_markdown_cell("\n## 2 Where **LAM** looks\nMore."),
        tagged(shown(png=PNG, plain="<Figure size 640x480 with 1 Axes>")),
        tagged(stdout("untagged"), tags=()),
        tagged(stdout("\x1b[31mred\x1b[0m numbers"), caption="From the metadata"),
        tagged(shown(html="<table></table>", plain="a table, which its page shows")),
        tagged(),
    ]
    page = make_run(tmp_path, {"01_one": cells})
    assert page.tags.count("img") == 1 and page.tags.count("figcaption") == 2
    for words in ("2 Where LAM looks", "From the metadata", "red numbers"):
        assert words in page.text
    for words in ("untagged", "Figure size", "a table"):
        assert words not in page.text
    assert page.text.count("The title") == 2  # above its figures and in the list

    # What a kernel delivers in pieces is one text.
    pieces = [stdout("a 1\n"), stdout("b 2\n"), shown(plain="value"), stdout("c 3\n")]
    page = make_run(tmp_path, {"01_one": [tagged(*pieces)]})
    assert page.tags.count("pre") == 3 and "a 1 b 2 value c 3" in page.text


def test_pictures_stop_where_the_page_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr("more_lib.runs.report.MAX_FIGURE_BYTES", 400)
    page = make_run(tmp_path, {"01_one": [tagged(*[shown(png=PNG)] * 5)]})
    assert page.tags.count("img") == 2
    assert "3 more in the notebook" in page.text


@pytest.mark.parametrize(("profile", "stands_in"), [("mini", True), ("voc", False)])
def test_the_banner_says_what_is_a_stand_in(tmp_path, profile, stands_in):
    page = make_run(tmp_path, {"01_one": []}, profile=profile)
    for words in ("EmojiVOC", "not the paper's numbers"):
        assert (words in page.text) == stands_in


def test_the_summary_says_where_the_numbers_come_from(tmp_path):
    executed = {"01_one": [new_markdown_cell("x")], "02_two": None}
    costs = {"05_training": {"training": {"seconds": 361.2, "peak_memory_gb": None}}}
    costs["training_ahead"] = {"training": {"networks": 3, "seconds": 60.0, "cpu_seconds": 115.0}}
    page = make_run(tmp_path, executed, {}, costs=costs, overrides=["seed=1", "a.b=2"])
    for fact in (
        "commit 0123456789ab with uncommitted changes",
        "started 2026-01-02 03:04:05 UTC",
        "took 3 min 5 s, 1 of 2 done",  # the training ahead included
        "device cpu, 2 × x86_64",
        "threads 2",
        "seed of the recipe 0",
        "overrides seed=1 a.b=2",
        "torch 2.6.0",
        "data SHA-256 dddddddddddd",
        "backbone SHA-256 bbbbbbbbbbbb",
    ):
        assert fact in page.text
    assert "01_one done 43 s 01_one.ipynb" in page.text
    assert "02_two not run – –" in page.text
    assert ("href", "01_one.html") in page.links and ("href", "02_two.html") not in page.links
    assert "01_one" in Page(tmp_path / "01_one.html").source
    assert "Costs" in page.text and page.text.index("library SHA-256") < page.text.index("361.20")


def test_a_failed_run_says_so(tmp_path):
    failed = {"name": "01_one", "status": "failed", "seconds": 3.0, "error": "01_one stopped at X"}
    page = make_run(tmp_path, {}, status="failed", notebooks=[failed])
    assert "This run failed. 01_one stopped at X" in page.text
    assert "No notebook recorded any numbers" in page.text


def test_verdicts_come_first_then_what_their_notebook_recorded(tmp_path):
    executed = {
        "06_evaluation": [new_markdown_cell("# Evaluation"), tagged(stdout("Figure 6"))],
        "07_paper": [new_markdown_cell("# The paper"), tagged(stdout("Figure 1"))],
    }
    metrics = {
        "06_evaluation": {"results": [{"map": "lam", "miou": 0.17534}]},
        "07_paper": {"verdicts": VERDICTS, "table_1": [{"map": "lam", "miou": 0.764}]},
    }
    page = make_run(tmp_path, executed, metrics)
    order = (
        "not the paper's numbers",
        "3 claims of the paper: 1 shown, 1 not shown, 1 not run here.",
        "GCR sharpens LAM",
        "✗ not shown",
        "Figure 1",
        "table 1 map mIoU (%) LAM 76.4",
        "Figure 6",
        "06_evaluation.ipynb",
        "07_paper.ipynb",
        "Full hashes",
    )
    places = [page.text.index(words) for words in order]
    assert places == sorted(places)
    assert page.text.count("GCR sharpens LAM") == 1  # lifted out of its notebook's numbers
    assert "17.5" not in page.text  # is in notebook 06's own page
    targets = {value for name, value in page.links if name == "href" and value.startswith("#")}
    assert targets == {"#headlines", "#notebooks", "#provenance"}


def test_a_notebook_that_was_cut_off_leaves_the_rest_of_the_page(tmp_path):
    metrics = {"01_one": {"verdicts": [{"claim": "no verdict"}]}}
    make_run(tmp_path, {"01_one": [], "02_two": [new_markdown_cell("# Two")]}, metrics)
    for content in ("", '{"cells": [', '{"nbformat": 4, "nbformat_minor": 5, "cells": [{}]}'):
        (tmp_path / "01_one.ipynb").write_text(content)
        page = Page(write_report(tmp_path))
        assert "01_one" in page.text and "Two" in page.text and "no verdict" not in page.text


def test_rows_become_a_table_that_names_its_protocol():
    rows = [
        {"map": "cam", "split": "val", "miou": 0.5, "confusion_ratio": 2.5, "note": ""},
        {"map": "lam", "split": "val", "miou": 0.5, "confusion_ratio": None, "note": "<new>"},
    ]
    html = table(rows)
    assert html.count("<tr") == 3 and html.count('<td class="number">50.0</td>') == 2
    assert "<th>mIoU (%)</th>" in html and "<td>–</td>" in html
    assert '<p class="note">all rows: split: val</p>' in html
    assert '<p class="note">LAM: &lt;new&gt;</p>' in html


def test_mappings_become_lists_of_what_they_hold():
    value = {"training_seconds": 361.2, "image_map": 0.9312, "loaded": False, "by": {"lr": 2e-4}}
    html = "".join(table(value).split()).replace('<tdclass="number">', "<td>#")
    rows = "training(s) #361.20", "imagemAP(%) #93.1", "loaded no", "by·learningrate #0.0002"
    for name, text in map(str.split, rows):
        assert f"<th>{name}</th><td>{text}</td>" in html


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path / "notebooks" / "RESULTS.md")
    monkeypatch.setattr(report, "RECORD", tmp_path / "records" / "mini_run.json")
    return tmp_path


@pytest.mark.slow
def test_results_go_into_the_run_or_where_one_says(checkout):
    run = whole_run(checkout / "run", profile="pets")
    assert write_results(run) == run / "RESULTS.md"
    text = write_results(run, checkout / "new" / "page.md").read_text()
    assert text == (run / "RESULTS.md").read_text()
    assert "06 Evaluation" in text and not report.RESULTS.exists()


@pytest.fixture
def runs(checkout):
    """Of one run the tokens were read out, of another they are not, a third is from before."""
    runs = {}
    for name, named in {"a": (0.91, 0.333), "b": (0.91, None), "before": ()}.items():
        columns = dict(zip(("image_map", "token_map"), named, strict=False))
        file = whole_run(checkout / name) / "metrics.json"
        metrics = json.loads(file.read_text())
        for row in (ablation := metrics["06_evaluation"]["06_evaluation"]["ablation"]):
            row.pop("image_map", None), row.pop("token_map", None)
            row |= columns
        metrics["07_paper"]["table"] = ablation
        file.write_text(json.dumps(metrics))
        runs[name] = file.parent
    return runs


@pytest.mark.slow
def test_image_and_token_map_stand_on_every_page_beside_the_scores_of_lam(runs):
    for name, shown in {"a": "| 91.0 | 33.3 |", "b": "| 91.0 | – |", "before": "| – | – |"}.items():
        text = write_results(runs[name]).read_text()
        assert f"| LAM | 1 {shown}" in text
    a, b, before = (table(load_run(run).metrics["07_paper"]["table"]) for run in runs.values())
    assert a.count("<th>image mAP (%)</th>") == a.count("<th>token mAP (%)</th>") == 1
    assert a.count(">91.0</td>") == b.count(">91.0</td>") == a.count(">33.3</td>") > 1
    assert "token mAP: –" in b and "mAP" not in before


def test_runs_are_compared_in_what_both_have_of_it(runs):
    a, b, before = map(load_run, runs.values())
    rows = comparison.metrics([a, b])["07_paper"]
    assert rows and all(row.name.endswith("token mAP (%)") for row in rows)
    assert all((row.values, row.changes) == (["33.3", "–"], [""]) for row in rows)
    assert comparison.metrics([a, before]) == {}
    assert "more are in A alone" in comparison.agreement([a, before], 0, 1)


@pytest.mark.slow
def test_published_results_are_kept_with_the_record_they_were_written_from(checkout):
    run = whole_run(checkout / "run")
    assert write_results(run, publish=True) == report.RESULTS
    assert report.RESULTS.read_text() == write_results(run).read_text()
    record = json.loads(report.RECORD.read_text())
    assert record["commit"] == "0123456789abcdef" and record["verdicts"] == mini_run()["verdicts"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"profile": "pets"}, "of the profile pets"),
        ({"overrides": ["seed=3", "a.b=1"]}, r"changes the recipe \(seed=3 a.b=1\)"),
        ({"status": "failed"}, "it is failed"),
        ({"status": "unfinished"}, "it is unfinished"),
        ({"git": {"commit": "0123", "dirty": True}}, "not committed"),
        ({"git": {"commit": "unknown", "dirty": None}}, "not committed"),
        ({"resumed": [{"at": "", "git": {"commit": "0123", "dirty": True}}]}, "not committed"),
        ({"without": ["06_evaluation"]}, "lacks what notebooks 05, 06 and 07 record"),
        ({"without": ["07_paper"]}, "lacks what notebooks 05, 06 and 07 record"),
    ],
)
def test_a_run_that_results_cannot_speak_of_is_refused(checkout, changes, expected):
    with pytest.raises(InputError, match=expected):
        write_results(whole_run(checkout / "run", **changes), publish=True)
    assert not report.RESULTS.exists() and not report.RECORD.exists()


def test_durations_are_readable():
    texts = [duration(seconds) for seconds in (None, 0.2, 43.2, 59.7, 125, 3780)]
    assert texts == ["–", "0 s", "43 s", "1 min 0 s", "2 min 5 s", "1 h 3 min"]
