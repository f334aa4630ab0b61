"""How a recipe's values are checked, and said to be wrong: one line that names the key."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import wraps
from reprlib import Repr
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from more_lib.system.errors import InputError

T = TypeVar("T")

_TYPES = {
    "bool_type": "be true or false",
    "int_type": "be a whole number",
    "float_type": "be a finite number",
    "string_type": "be text; quote it if it is",
    "tuple_type": "be a list, as [a, b]",
}


@dataclass_transform(frozen_default=True)
def section(part: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass whose values are checked and converted when it is built.

    So it is by ``dataclasses.replace`` too. Raises ``InputError`` for the first value that is
    wrong, an unknown key and a missing one.
    """
    config = ConfigDict(extra="forbid", validate_default=True)
    checked: Any = dataclass(frozen=True, config=config)(part)
    init = checked.__init__

    @wraps(init)
    def build(self: object, /, *args: object, **values: object) -> None:
        try:
            init(self, *args, **values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InputError(_complaint(first, checked)) from None

    checked.__init__ = build
    return checked


def nearest(name: str, known: Iterable[str]) -> str:
    """A guess at what was meant, to put behind "is unknown"; "" where nothing is near."""
    folded = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1)
    return f": did you mean {folded[close[0]]}?" if close else ""


def _complaint(error: ErrorDetails, part: type) -> str:
    """One line about one of pydantic's errors in a recipe or section."""
    above, kind = part.__name__.removesuffix("Recipe").lower(), error["type"]
    key = ".".join(map(str, (above, *error["loc"]))).removeprefix(".")
    if kind in ("unexpected_keyword_argument", "invalid_key"):
        return _unknown(key, _keys(part, above))
    key = re.sub(r"\.(\d+)$", r"[\1]", key)  # an item of a list
    if kind == "missing":
        return f"the recipe lacks {key}: give a value"
    if kind == "dataclass_type":
        inside = [known for known in _keys(part, above) if known.rpartition(".")[0] == key]
        error["msg"] = f"It should be a section of: {', '.join(inside)}"
    allowed = re.sub(r"^(Value error, )?\w+ should ", "", _TYPES.get(kind, error["msg"]))
    return f"{key} is {_shown(error['input'])}: it must {allowed}"


def _shown(value: object) -> str:
    """A value as Python writes it, cut where it is long or nested: YAML's aliases grow fast."""
    short = Repr()
    short.maxlevel, short.maxlist, short.maxdict = 2, 20, 20
    short.maxstring = short.maxother = short.maxlong = 60
    return short.repr(value)


def _unknown(key: str, keys: list[str]) -> str:
    """``key`` is none of ``keys``: the one of that name in another section, or else the nearest."""
    section_of = key.rpartition(".")[0]
    beside = [known for known in keys if known.rpartition(".")[0] == section_of]
    same_name = [known for known in keys if known.rpartition(".")[2] == key]
    guess = (
        f": did you mean {same_name[0]}?"
        if same_name
        else nearest(key, beside if section_of else keys)
    )
    if key in keys:  # with its dots, in a file
        guess = f": write {key.replace('.', ': with ')} below it, indented"
    return f"recipe key {key!r} is unknown{guess} (here are: {', '.join(beside)})"


def _keys(part: type, path: str) -> list[str]:
    """Every key of a recipe or section as an override names it."""
    keys = []
    for field in fields(part):
        keys.append(f"{path}.{field.name}".removeprefix("."))
        if isinstance(field.type, type) and is_dataclass(field.type):
            keys += _keys(field.type, keys[-1])
    return keys
