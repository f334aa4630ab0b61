"""Rows as the table that a notebook shows: HTML where a page can be drawn, text elsewhere."""

from collections.abc import Mapping, Sequence
from html import escape

from more_lib.runs.tables import Cell, Table, metric_tables


class TableView:
    """Shows rows (mappings with the same keys) as a table under a title.

    Numbers are formatted as in the report: shares in per cent, None as a dash, columns in which all
    rows agree in a note below.
    """

    def __init__(self, rows: Sequence[Mapping], title: str = "") -> None:
        self.tables = list(metric_tables(title, list(rows)))

    def _repr_html_(self) -> str:
        return "\n".join(map(_html, self.tables))

    def __repr__(self) -> str:
        return "\n\n".join(map(_text, self.tables))


def _html(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.header)
    body = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>\n" for row in table.rows)
    title = f"<p><b>{escape(table.title)}</b></p>" if table.title else ""
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    return f"{title}<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>{notes}"


def _html_cell(cell: Cell) -> str:
    side = "right" if cell.number else "left"
    return f'<td style="text-align: {side}">{escape(cell.text)}</td>'


def _text(table: Table) -> str:
    rows = [[cell.text for cell in row] for row in table.rows]
    columns = list(zip(*([list(table.header), *rows] if table.header else rows), strict=True))
    widths = [max(map(len, column)) for column in columns]
    numbers = [cell.number for cell in table.rows[0]] if table.rows else []
    lines = [
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]
    return "\n".join(filter(None, [table.title, *lines, *table.notes]))
