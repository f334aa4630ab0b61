"""What a prepared folder says of itself, so that no folder is taken for another."""

import json
from collections.abc import Mapping
from pathlib import Path

from more_lib.system.errors import InputError


def is_made(file: Path, record: Mapping, what: str) -> bool:
    """Whether a folder is there, whose ``file`` of JSON then holds at least ``record``.

    Raises ``InputError`` when the folder is none of this kind, in words ``what``, or when it was
    made otherwise.
    """
    folder = file.parent
    if not folder.exists():
        return False
    try:
        made = json.loads(file.read_text())
        differing = [key for key, value in record.items() if made[key] != value]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise InputError(
            f"{folder} exists and is no {what}; name another folder or remove it"
        ) from None
    if differing:
        key = differing[0]
        raise InputError(
            f"{folder} was prepared with {key} {made[key]}, not {record[key]}; name another folder "
            "or remove it"
        )
    return True
