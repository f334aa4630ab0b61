"""Tables in notebooks: the same cells as HTML and as text, nothing taken for markup."""

from more_lib.runs.table_view import TableView
from more_lib.runs.tables import html_tables

ROWS = [
    {"method": "a <b>", "miou": 0.5, "seeds": 3, "where": "here"},
    {"method": "c", "miou": None, "seeds": 12, "where": "here"},
]


def test_html_holds_the_cells_and_no_markup_of_theirs():
    html = TableView(ROWS, "Table <1>")._repr_html_()
    (table,) = html_tables(html)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["a <b>", "50.0", "3"],
        ["c", "–", "12"],
    ]
    assert "<b>" not in html.replace("<p><b>Table", "") and "Table &lt;1&gt;" in html
    assert "where: here" in html  # what all rows share stands below


def test_text_is_aligned():
    title, header, first, second, note = repr(TableView(ROWS, "T")).splitlines()
    assert title == "T" and "where: here" in note
    assert first.index("50.0") + 4 == header.index("mIoU (%)") + 8 == second.index("–") + 1
