import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from tests.runs.helpers import VERDICTS, write_run

from more_lib.runs.report import duration, write_report
from more_lib.runs.tables import html_tables, metric_tables

PNG = base64.encodebytes(b"\x89PNG\r\n\x1a\n" + bytes(90)).decode()  # notebooks break the lines
EVIL = "<script>alert(1)</script>\"'><img src=http://evil.example/x.png onerror=alert(2)>"


class Page(HTMLParser):
    """What a browser would see: tags, the values of src and href, the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(text)
        self.text = " ".join(self.words.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [(name, value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        if self.tags[-1:] != ["style"]:
            self.words += data + " "


def tagged(*outputs, caption: str | None = None, tags=("report",)):
    metadata = {"tags": list(tags)} | ({"caption": caption} if caption else {})
    return new_code_cell("...", metadata=metadata, outputs=list(outputs), execution_count=1)


def stdout(text: str):
    return new_output("stream", name="stdout", text=text)


def shown(**data):
    kinds = {"png": "image/png", "html": "text/html", "plain": "text/plain"}
    return new_output("display_data", {kinds[name]: value for name, value in data.items()})


def make_run(folder: Path, *arguments: object, **changes: object) -> Page:
    """A run's folder as ``run_folder.write_run`` makes it, and its report read."""
    write_run(folder, *arguments, **changes)
    return Page(write_report(folder).read_text(encoding="utf-8"))


def texts(table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_the_page_needs_nothing_from_outside(tmp_path):
    cells = [new_markdown_cell("# One\n[a](http://a.example)"), tagged(shown(png=PNG))]
    page = make_run(tmp_path, {"01_one": cells, "02_two": None}, {"01_one": {"a": {"b": 1}}})
    for name, value in page.links:
        assert value.startswith("data:image/png;base64,") if name == "src" else True
        assert name == "src" or value.startswith("#") or (tmp_path / value).is_file()
    assert {"src", "href"} <= {name for name, _ in page.links}
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "url(" not in source and "@import" not in source
    assert "http://" not in source and "https://" not in source


def test_nothing_becomes_markup(tmp_path):
    html = f"<table><tr><th>{EVIL}</th></tr><tr><td onclick='x'>{EVIL}kept</td></tr></table>"
    cells = [
        new_markdown_cell(f"# Title {EVIL}"),
        tagged(stdout(EVIL), shown(html=html), shown(plain=EVIL), caption=EVIL),
        tagged(shown(png='"><script>alert(3)</script>'), shown(png=PNG), caption=EVIL),
    ]
    metrics = {"01_one": {EVIL: [{EVIL: EVIL, "iou": {EVIL: 0.5}}], "plain": {EVIL: EVIL}}}
    page = make_run(tmp_path, {"01_one": cells}, metrics, overrides=[EVIL], status=EVIL)
    assert "script" not in page.tags
    assert not {"onerror", "onclick"} & page.attributes
    assert all(value.startswith("data:") for name, value in page.links if name == "src")
    assert page.tags.count("img") == 1
    assert "alert(1)" in page.text  # shown as text
    assert "kept" in page.text


def test_figures_come_from_tagged_cells_with_their_captions(tmp_path):
    cells = [
        new_markdown_cell("# The title"),
        new_markdown_cell("\n## 2 Where **LAM** looks, see [Eq. 1](#eq)\nMore."),
        tagged(shown(png=PNG, plain="<Figure size 640x480 with 1 Axes>")),
        tagged(stdout("untagged"), tags=()),
        tagged(stdout("\x1b[31mred\x1b[0m numbers"), caption="From the metadata"),
        tagged(),
    ]
    page = make_run(tmp_path, {"01_one": cells})
    assert page.tags.count("img") == 1 and page.tags.count("figcaption") == 2
    assert "2 Where LAM looks, see Eq. 1" in page.text
    assert "From the metadata" in page.text
    assert "red numbers" in page.text
    assert "untagged" not in page.text and "Figure size" not in page.text
    assert page.text.count("The title") == 2  # in the list and above its figures


def test_a_text_that_a_kernel_delivered_in_pieces_is_one(tmp_path):
    pieces = [stdout("a 1\n"), stdout("b 2\n"), shown(plain="value"), stdout("c 3\n")]
    page = make_run(tmp_path, {"01_one": [tagged(*pieces)]})
    assert page.tags.count("pre") == 3
    assert "a 1 b 2 value c 3" in page.text


def test_pictures_stop_where_the_page_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr("more_lib.runs.report.MAX_FIGURE_BYTES", 400)
    page = make_run(tmp_path, {"01_one": [tagged(*[shown(png=PNG)] * 5)]})
    assert page.tags.count("img") == 2
    assert "3 more in the notebook" in page.text


def test_the_banner_says_what_is_a_stand_in(tmp_path):
    mini = make_run(tmp_path, {"01_one": []})
    assert "EmojiVOC" in mini.text and "not the paper's numbers" in mini.text
    voc = make_run(tmp_path, {"01_one": []}, profile="voc")
    assert "EmojiVOC" not in voc.text and "not the paper's numbers" not in voc.text


def test_the_summary_says_where_the_numbers_come_from(tmp_path):
    page = make_run(tmp_path, {"01_one": [], "02_two": None}, overrides=["seed=1", "a.b=2"])
    for fact in (
        "commit 0123456789ab with uncommitted changes",
        "started 2026-01-02 03:04:05 UTC",
        "took 2 min 5 s, 1 of 2 done",
        "device cpu, 2 × x86_64",
        "threads 2",
        "seeds recipe 0",
        "overrides seed=1 a.b=2",
        "torch 2.6.0",
        "data SHA-256 dddddddddddd",
        "backbone SHA-256 bbbbbbbbbbbb",
    ):
        assert fact in page.text
    assert "01_one.ipynb · 43 s · done" in page.text
    assert "02_two not run · –" in page.text


def test_a_failed_run_says_so(tmp_path):
    failed = {"name": "01_one", "status": "failed", "seconds": 3.0, "error": "01_one stopped at X"}
    page = make_run(tmp_path, {}, status="failed", notebooks=[failed])
    assert "This run failed. 01_one stopped at X" in page.text
    assert "No notebook recorded any numbers" in page.text


def test_results_appear_under_their_notebooks_title(tmp_path):
    row = {"map": "lam", "miou": 0.17534}
    cells = [new_markdown_cell("# Evaluation")]
    page = make_run(tmp_path, {"06_eval": cells}, {"06_eval": {"results": [row]}})
    assert "Evaluation" in page.text
    assert "Numbers results map mIoU (%) LAM 17.5" in page.text


def test_verdicts_come_first_and_their_notebook_next(tmp_path):
    executed = {
        "06_evaluation": [new_markdown_cell("# Evaluation")],
        "07_paper": [new_markdown_cell("# The paper"), tagged(stdout("Figure 1"))],
    }
    metrics = {
        "06_evaluation": {"results": [{"map": "lam", "miou": 0.17534}]},
        "07_paper": {"verdicts": VERDICTS, "table1": [{"method": "MoRe", "paper": 76.4}]},
    }
    page = make_run(tmp_path, executed, metrics)
    assert "3 claims of the paper: 1 shown, 1 not shown, 1 not run here." in page.text
    order = (
        "not the paper's numbers",
        "what this run shows",
        "GCR sharpens LAM",
        "✗ not shown",
        "Contents",
        "Figure 1",
        "table1",
        "LAM 17.5",
        "Full hashes",
    )
    places = [page.text.index(words) for words in order]
    assert places == sorted(places)
    assert page.text.count("GCR sharpens LAM") == 1  # lifted out of its notebook's numbers
    targets = {value for name, value in page.links if name == "href" and value.startswith("#")}
    assert targets == {"#verdicts", "#06_evaluation", "#07_paper", "#provenance"}


def test_what_only_looks_like_verdicts_stays_with_its_notebook(tmp_path):
    page = make_run(tmp_path, {"01_one": []}, {"01_one": {"verdicts": [{"claim": "alone"}]}})
    assert "what this run shows" not in page.text
    assert "Numbers verdicts claim alone" in page.text


def test_costs_are_shown_with_the_provenance(tmp_path):
    costs = {"05_training": {"training": {"seconds": 361.2, "peak_memory_gb": None}}}
    page = make_run(tmp_path, {"05_training": []}, {}, costs=costs)
    assert "Costs" in page.text and "361.20" in page.text
    assert page.text.index("library SHA-256") < page.text.index("361.20")


def test_a_notebook_that_was_cut_off_leaves_the_rest_of_the_page(tmp_path):
    make_run(tmp_path, {"01_one": [], "02_two": [new_markdown_cell("# Two")]})
    (tmp_path / "01_one.ipynb").write_text('{"cells": [')
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "01_one" in page.text and "Two" in page.text


def test_rows_become_a_table_that_names_its_protocol():
    rows = [
        {"split": "val", "scales": [1.0, 0.5], "map": "cam", "miou": 0.5, "confusion_ratio": 2.5},
        {"split": "val", "scales": [1.0, 0.5], "map": "lam", "miou": 0.5, "confusion_ratio": None},
    ]
    (table,) = metric_tables("results", rows)
    assert table.header == ["map", "mIoU (%)", "confusion ratio"]
    assert texts(table) == [["CAM", "50.0", "2.50"], ["LAM", "50.0", "–"]]
    assert table.notes == ["all rows: split: val · scales: 1, 0.5"]
    assert table.rows[0][1].share == 0.5 and table.rows[0][2].share is None


def test_columns_of_mappings_become_a_table_by_key():
    rows = [
        {"map": "cam", "labels": "true", "iou": {"cat": 0.25, "dog": None}},
        {"map": "lam", "labels": "true", "iou": {"cat": 1, "cow": 0.0}},
    ]
    plain, by_class = metric_tables("results", rows)
    assert plain.header == ["map"]
    assert by_class.title == "results · IoU (%)"
    assert by_class.header == ["", "CAM", "LAM"]
    assert texts(by_class) == [["cat", "25.0", "100.0"], ["dog", "–", "–"], ["cow", "–", "0.0"]]


def test_rows_are_named_by_the_first_words_that_tell_them_apart():
    def names(*rows):
        (*_, table) = metric_tables("results", [{**row, "iou": {"cat": 0.5}} for row in rows])
        return table.header[1:]

    cam, lam = {"map": "cam", "labels": "true"}, {"map": "lam", "labels": "true"}
    assert names({**cam, "note": "long"}, {**lam, "note": ""}) == ["CAM", "LAM"]
    assert names(cam, {**cam, "labels": "predicted"}, lam) == [
        "CAM\u00a0· true",
        "CAM\u00a0· predicted",
        "LAM\u00a0· true",
    ]
    assert names(cam, cam) == ["1", "2"]


def test_notes_of_rows_stand_below_the_table():
    rows = [{"map": "cam", "note": ""}, {"map": "decoder", "note": "not trained"}]
    (table,) = metric_tables("results", rows)
    assert texts(table) == [["CAM"], ["decoder"]]
    assert table.notes == ["decoder: not trained"]


def test_mappings_become_lists_of_what_they_hold():
    training = {"training_seconds": 361.2, "image_map": 0.9312, "lr": 2e-4, "images": 4000}
    plain, matrix, classes = metric_tables(
        "run", {**training, "loaded": False, "matrix": [[1, 2], [3, 4]], "by": {"names": ["a"]}}
    )
    assert texts(plain) == [
        ["training (s)", "361.20"],
        ["image mAP (%)", "93.1"],
        ["learning rate", "0.0002"],
        ["images", "4,000"],
        ["loaded", "no"],
    ]
    assert texts(matrix) == [["1", "2"], ["3", "4"]]
    assert (classes.title, texts(classes)) == ("run · by", [["names", "a"]])


def test_mappings_of_mappings_become_rows():
    (table,) = metric_tables("maps", {"cam": {"recall": 0.5}, "lam": {"recall": 0.75}})
    assert table.header == ["", "recall (%)"]
    assert texts(table) == [["CAM", "50.0"], ["LAM", "75.0"]]


def test_html_tables_are_read_as_text():
    html = (
        "<style>td {color: red}</style><p>before</p><table><thead><tr><th></th><th>AP</th></tr>"
        "</thead><tbody><tr><th>0</th><td> 0.91 <b>x</b>\n&lt;y&gt;</td></tr></tbody></table>after"
    )
    (table,) = html_tables(html)
    assert table.header == ["", "AP"]
    assert texts(table) == [["0", "0.91 x <y>"]]
    assert table.rows[0][0].number and not table.rows[0][1].number


@pytest.mark.parametrize(
    "html", ["", "<td>loose", "<table><tr>text</tr><tr><td>", "<tr><td>x</td>"]
)
def test_broken_html_breaks_nothing(html):
    assert all(text == "" for table in html_tables(html) for row in texts(table) for text in row)


@pytest.mark.parametrize(
    "seconds, expected",
    [
        (None, "–"),
        (0.2, "0 s"),
        (43.2, "43 s"),
        (59.7, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3780, "1 h 3 min"),
    ],
)
def test_durations_are_readable(seconds, expected):
    assert duration(seconds) == expected
