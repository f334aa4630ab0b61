"""A frame is shown as a reader wants it: spelled, in per cent, whole, and the same each time."""

import pandas as pd
import pytest

from more_lib.paper.frames import cell_text, label, markdown, readable

FRAME = pd.DataFrame(
    {
        "condition": ["baseline", "more"],
        "our_miou": [0.256, None],
        "confusion_ratio": [5.851, 0.49],
        "seeds": pd.array([3, None], dtype="Int64"),
        "split": ["val", "val"],
        "note": ["", "by CRF"],
    }
)


def test_the_first_column_is_the_index_and_what_all_rows_share_is_said_in_words():
    table = readable(FRAME)
    assert table.columns.name == "condition" and list(table.index) == ["baseline", "MoRe"]
    assert list(table) == ["our mIoU (%)", "confusion ratio", "seeds"]
    assert table.to_numpy().tolist() == [["25.6", "5.85", "3"], ["–", "0.49", "–"]]
    assert table.attrs["notes"] == ["all rows: split: val", "MoRe: by CRF"]
    alone = readable(FRAME[:1].drop(columns="note"))
    assert not alone.attrs["notes"]  # one row agrees with nobody
    twice = readable(pd.DataFrame({"a": [1, 1], "note": ["", "seen"]}))
    assert list(twice.index) == ["1", "1"] and twice.attrs["notes"] == ["all rows: a: 1", "1: seen"]
    assert "our mIoU (%)" in readable(FRAME.assign(our_miou=0.5))  # a result is never a note
    assert readable(FRAME[:0].drop(columns="note")).empty and readable(pd.DataFrame()).empty


def test_a_frame_ends_a_cell_whole_and_alike_each_time():
    long = pd.DataFrame({"claim": [f"<{n}> " + 30 * "word " for n in range(70)], "n": range(70)})
    long = long.assign(**{f"column {n}": range(70) for n in range(30)})
    for show in (repr, lambda frame: frame._repr_html_()):
        text = show(readable(long))
        assert "..." not in text and text.count("word") == 70 * 30 and "column 29" in text
        assert " 0x" not in text and text == show(readable(long))
    frame = FRAME.assign(split="<val>")
    assert repr(readable(frame)).endswith("\nall rows: split: <val>\nMoRe: by CRF")
    below = "</table>\n<p>all rows: split: &lt;val&gt;</p>\n<p>MoRe: by CRF</p>"
    assert readable(frame)._repr_html_().endswith(below)
    assert "&lt;69&gt;" in readable(long).to_html() and "<69>" not in readable(long).to_html()


def test_markdown_keeps_its_cells_in_their_row():
    frame = pd.DataFrame({"a": ["x|y", "two\nlines"], "b": [1, "–"]})
    assert markdown(frame) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |\n| two lines | – |"
    assert markdown(readable(FRAME)).startswith("| condition | our mIoU (%) | confusion ratio |")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("iterations", 20_000, "20,000"),
        ("seconds", 1234.5, "1,234"),
        ("rate", 0.00012, "0.00012"),
        ("scales", [1.0, 1.5, "x"], "1, 1.5, x"),
        ("made", True, "yes"),
        ("map", "lam", "LAM"),
        ("image_map", 0.923, "92.3"),
        ("value", float("nan"), "–"),
        ("value", {"a": [1]}, '{"a": [1]}'),
    ],
)
def test_values(key, value, text):
    assert cell_text(key, value) == text


def test_headings():
    assert label("training_seconds") == "training (s)" and label("memory_gb") == "memory (GB)"
    assert label("image_map", 0.9) == "image mAP (%)" and label("map", "LAM") == "map"
    assert label("our_token_map") == "our token mAP" and label("decoder_map") == "decoder map"
    assert label("paper_toco_iou", 0.5) == "paper ToCo IoU (%)" and label("iou") == "IoU"
