"""Numbers as tables: JSON values and notebooks' HTML in one plain form, fit for any page."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser

FRACTIONS = ("miou", "iou", "map", "precision", "recall", "accuracy")  # shown in per cent
UNITS = {
    "seconds": "s",
    "minutes": "min",
    "hours": "h",
    "percent": "%",
    "mb": "MB",
    "gb": "GB",
    "ms": "ms",
}
ACRONYMS = ("cam", "lam", "crf", "cpu", "gpu", "gcr", "lir", "voc", "coco")
SPELLINGS = {word: word.upper() for word in ACRONYMS} | {
    "miou": "mIoU",
    "iou": "IoU",
    "lr": "learning rate",
    "toco": "ToCo",
    "dupl": "DuPL",
    "more": "MoRe",
}


@dataclass(frozen=True)
class Cell:
    """One cell of a table as text; ``share`` in [0, 1] tints it, None leaves it plain."""

    text: str
    number: bool = False
    share: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells, perhaps under a header; ``notes`` say what all rows share, or one row's."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


def metric_tables(name: str, value: object) -> Iterator[Table]:
    """Tables that show a JSON value: a list of mappings by rows, a mapping by keys.

    Keys become headers, an ending such as ``_seconds`` a unit. Numbers whose key ends in one of
    ``FRACTIONS`` are shares and shown in per cent. Columns in which all rows agree, unless they
    were measured, move to the table's notes, and so does a column named ``note``; a column of
    mappings becomes a table of its own.
    """
    if is_list_of(Mapping, value):
        yield from _row_tables(name, value)
    elif is_list_of(list, value):
        yield Table(label(name), (), [[_cell("", item) for item in row] for row in value])
    elif isinstance(value, Mapping) and is_list_of(Mapping, list(value.values())):
        yield from _row_tables(name, [{"": key, **item} for key, item in value.items()])
    elif isinstance(value, Mapping):
        scalars = {key: item for key, item in value.items() if not _is_nested(item)}
        if scalars:
            rows = [(Cell(label(key, item)), _cell(key, item)) for key, item in scalars.items()]
            yield Table(label(name), (), rows)
        for key, item in value.items():
            if key not in scalars:
                yield from metric_tables(f"{name} · {key}", item)
    else:
        yield Table(label(name), (), [(_cell(name, value),)])


def html_tables(html: str) -> list[Table]:
    """The tables in a piece of HTML, every cell as plain text."""
    reader = _TableReader()
    reader.feed(html)
    reader.close()
    tables = []
    for rows in filter(None, ([row for row in table if row] for table in reader.tables)):
        first = all(tag == "th" for tag, _ in rows[0])
        header = [" ".join(text.split()) for _, text in rows[0]] if first else []
        texts = [[" ".join(text.split()) for _, text in row] for row in rows[int(first) :]]
        body = [[Cell(text, number=_looks_like_number(text)) for text in row] for row in texts]
        tables.append(Table("", header, body))
    return tables


def _row_tables(name: str, rows: Sequence[Mapping]) -> Iterator[Table]:
    """One table of the plain columns, and one for every column of mappings, such as per class."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    nested = [key for key in columns if any(_is_nested(row.get(key)) for row in rows)]
    plain = [key for key in columns if key not in nested and key != "note"]
    shared = [
        key
        for key in plain
        if len(rows) > 1
        and not is_fraction(key, rows[0].get(key))
        and all(row.get(key) == rows[0].get(key) for row in rows)
    ]
    shown = [key for key in plain if key not in shared]
    common = " · ".join(
        f"{label(key, rows[0].get(key))}: {_cell(key, rows[0].get(key)).text}" for key in shared
    )
    notes = [f"all rows: {common}"] if common else []
    for name_of_row, row in zip(row_names(rows, shown), rows, strict=True):
        notes += [f"{name_of_row}: {row['note']}"] if row.get("note") else []
    if shown:
        header = [label(key, _first_number(rows, key)) for key in shown]
        body = [[_cell(key, row.get(key)) for key in shown] for row in rows]
        yield Table(label(name), header, body, notes)
    for key in nested:
        yield _transposed(f"{name} · {key}", key, rows, shown)


def _transposed(name: str, column: str, rows: Sequence[Mapping], shown: Sequence[str]) -> Table:
    """A column of mappings with a row for each of their keys and a column for each row."""
    names = row_names(rows, shown)
    values = [row.get(column) if isinstance(row.get(column), Mapping) else {} for row in rows]
    keys = dict.fromkeys(key for value in values for key in value)
    body = [[Cell(key), *(_cell(column, value.get(key)) for value in values)] for key in keys]
    number = next((item for value in values for item in value.values() if item is not None), None)
    return Table(label(name, number), ["", *names], body)


def row_names(rows: Sequence[Mapping], columns: Sequence[str]) -> list[str]:
    """A name for each row: its words from the first of ``columns`` that tell the rows apart.

    Numbers from 1 on when words do not.
    """
    words = [key for key in columns if all(isinstance(row.get(key), str) for row in rows)]
    for count in range(1, len(words) + 1):
        names = [
            "\u00a0· ".join(_cell(key, row[key]).text for key in words[:count]) for row in rows
        ]
        if len(set(names)) == len(rows):
            return names
    return [str(number) for number in range(1, len(rows) + 1)]


def _is_nested(value: object) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value)
    )


def is_list_of(kind: type, value: object) -> bool:
    """Whether a value is a list, not an empty one, of that kind alone."""
    return isinstance(value, list) and value != [] and all(isinstance(item, kind) for item in value)


def is_number(value: object) -> bool:
    """Whether a JSON value is a number, and not true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_fraction(key: str, value: object) -> bool:
    """Whether a number is a share in [0, 1] by its key, to be shown in per cent."""
    return is_number(value) and re.split(r"[_\W]+", key.lower())[-1] in FRACTIONS


def _first_number(rows: Iterable[Mapping], key: str) -> float | None:
    return next((row[key] for row in rows if is_number(row.get(key))), None)


def label(key: str, value: object = None) -> str:
    """A key as a heading: ``training_seconds`` as ``training (s)``, a numeric ``miou`` in %."""
    *words, last = key.split("_")
    unit = ""
    if is_fraction(key, value):
        unit, last = "%", "mAP" if last.lower() == "map" else last
    elif words and last.lower() in UNITS:
        unit, last = UNITS[last.lower()], ""
    spelled = " ".join(filter(None, [*words, last])).split(" ")
    return " ".join(SPELLINGS.get(word, word) for word in spelled) + (f" ({unit})" if unit else "")


def _cell(key: str, value: object) -> Cell:
    if value is None:
        return Cell("–", number=True)
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if is_fraction(key, value):
        return Cell(f"{100 * value:.1f}", number=True, share=min(max(value, 0.0), 1.0))
    if isinstance(value, int):
        return Cell(f"{value:,}", number=True)
    if isinstance(value, float):
        small, large = 0 < abs(value) < 0.01, abs(value) >= 1000
        return Cell(f"{value:.2g}" if small else f"{value:,.{0 if large else 2}f}", number=True)
    if isinstance(value, list) and not _is_nested(value):
        return Cell(", ".join(f"{item:g}" if is_number(item) else str(item) for item in value))
    if isinstance(value, str):
        return Cell(SPELLINGS.get(value, value))
    return Cell(json.dumps(value, ensure_ascii=False))


class _TableReader(HTMLParser):
    """Texts of the tables in a piece of HTML; markup, styles and scripts are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[tuple[str, str]]]] = []  # table, row, cell: (tag, text)
        self._open = self._muted = False

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag in ("table", "tr"):
            self._open = False  # a cell left unclosed ends here
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in ("td", "th") and self.tables and self.tables[-1]:
            self.tables[-1][-1].append((tag, ""))
            self._open = True
        self._muted = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "th", "tr", "table")
        self._muted = False

    def handle_data(self, data: str) -> None:
        if self._open and not self._muted:
            tag, text = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (tag, text + data)


def _looks_like_number(text: str) -> bool:
    return re.fullmatch(r"[-+−]?[\d.,]+(e[-+]?\d+)?\s?%?", text) is not None
