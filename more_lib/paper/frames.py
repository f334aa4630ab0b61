"""How a frame is shown to a reader: headers spelled out, shares in per cent, a dash for nothing.

Notebook 07 ends cells with ``readable``, the report prints its HTML, RESULTS.md its ``markdown``.
"""

import json
import re
from html import escape

import pandas as pd

FRACTIONS = ("miou", "iou", "map", "precision", "recall", "accuracy")  # shown in per cent
UNITS = {"seconds": "s", "minutes": "min", "hours": "h", "mb": "MB", "gb": "GB", "ms": "ms"}
UNITS["percent"] = "%"
SPELLINGS = {word.lower(): word for word in "CAM LAM CRF CPU GPU GCR LIR VOC COCO".split()}
SPELLINGS |= {word.lower(): word for word in "mIoU IoU ToCo DuPL MoRe".split()}
SPELLINGS["lr"] = "learning rate"


class Readable(pd.DataFrame):
    """A frame of text that shows itself whole, its notes below: nothing is cut or left out."""

    def to_html(self, *args, **kwargs) -> str:
        with pd.option_context("display.max_colwidth", None):
            return super().to_html(*args, **kwargs)

    def _repr_html_(self) -> str:
        return "\n".join([self.to_html(), *(f"<p>{escape(n)}</p>" for n in self.attrs["notes"])])

    def __repr__(self) -> str:
        return "\n".join([self.to_string(), *self.attrs["notes"]])


def readable(frame: pd.DataFrame) -> Readable:
    """The frame as text, its first column as the index, fit to end a notebook's cell.

    Columns whose name ends in one of ``FRACTIONS`` hold shares and are shown in per cent, an ending
    of ``UNITS`` becomes a unit. A column ``note``, and columns in which all of several rows agree,
    leave the table, unless they hold shares: ``attrs["notes"]``, shown below, has them in words, as
    "all rows: seeds: 1 · split: val", then each row's note.
    """
    heads = {key: label(key, next(filter(is_number, frame[key]), None)) for key in frame}
    texts = {key: [cell_text(key, value) for value in frame[key]] for key in frame}
    shared = [key for key in frame if key != "note" and _is_shared(frame[key])]
    table, kept = Readable(), [key for key in frame if key not in (*shared, "note")]
    if kept or shared:
        name, *others = kept or shared
        cells = list(zip(*(texts[key] for key in others), strict=True))
        columns = pd.Index([heads[key] for key in others], name=heads[name])
        table = Readable(cells, index=texts[name], columns=columns)
    same = " · ".join(f"{heads[key]}: {texts[key][0]}" for key in shared)
    noted = zip(table.index, frame["note"], strict=True) if "note" in frame else ()
    rows = [f"{name}: {note}" for name, note in noted if not pd.isna(note) and note]
    table.attrs["notes"] = [f"all rows: {same}", *rows] if same else rows
    return table


def markdown(frame: pd.DataFrame) -> str:
    """A frame of text as a Markdown table; bars and line breaks in its cells are made harmless.

    The index is shown where its column has a name, as ``readable`` gives it one.
    """
    if frame.columns.name:
        frame = frame.rename_axis(index=frame.columns.name, columns=None).reset_index()
    lines = [list(frame.columns), ["---"] * frame.shape[1], *frame.itertuples(index=False)]
    cells = ([" ".join(str(cell).replace("|", "\\|").split()) for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def label(key: str, value: object = None) -> str:
    """A key as a heading: ``training_seconds`` as ``training (s)``, a numeric ``miou`` in %."""
    *words, last = key.split("_")
    unit = ""
    if is_fraction(key, value):
        unit = "%"
    elif words and last.lower() in UNITS:
        unit, last = UNITS[last.lower()], ""
    if last.lower() == "map" and (unit or {"image", "token"} & set(words)):  # with a value or not
        last = "mAP"
    spelled = " ".join(filter(None, [*words, last])).split(" ")
    return " ".join(SPELLINGS.get(word, word) for word in spelled) + (f" ({unit})" if unit else "")


def cell_text(key: str, value: object) -> str:
    """A value as its cell shows it; its key says whether a number is a share."""
    if isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value):
        return ", ".join(f"{item:g}" if is_number(item) else str(item) for item in value)
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    if pd.isna(value):
        return "–"
    if pd.api.types.is_bool(value):
        return "yes" if value else "no"
    if is_fraction(key, value):
        return f"{100 * value:.1f}"
    if pd.api.types.is_integer(value):
        return f"{value:,}"
    if is_number(value):
        small, large = 0 < abs(value) < 0.01, abs(value) >= 1000
        return f"{value:.2g}" if small else f"{value:,.{0 if large else 2}f}"
    return SPELLINGS.get(str(value), str(value))


def is_number(value: object) -> bool:
    """Whether a value is a number, not missing, and not true or false."""
    return pd.api.types.is_number(value) and not pd.api.types.is_bool(value) and not pd.isna(value)


def is_fraction(key: str, value: object) -> bool:
    """Whether a number is a share by its key, its gain or deviation, to be shown in per cent."""
    name = re.sub(r"(_gain)?(_std)?$", "", key.lower())
    return is_number(value) and re.split(r"[_\W]+", name)[-1] in FRACTIONS


def _is_shared(column: pd.Series) -> bool:
    """Whether all of two rows or more agree, and none is a share."""
    agree = len(column) > 1 and len(set(map(str, column))) == 1
    return agree and not any(is_fraction(column.name, value) for value in column)
