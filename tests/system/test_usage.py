"""Wrong usage of a script ends in one line; help, interruption and success end as they should."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import pytest
from typer import Option

from more_lib.system.errors import InputError
from more_lib.system.usage import run


def main(size: Annotated[int, Option(min=3)] = 5) -> None:
    """Make something."""
    if size == 4:
        raise InputError("size is 4: give another")
    if size == 8:
        Path(300 * "n").stat()
    if size == 6:
        raise KeyboardInterrupt
    print(f"size {size}")


@pytest.mark.parametrize(
    ("words", "status", "out", "error"),
    [
        ("", 0, "size 5\n", ""),
        ("--size 7", 0, "size 7\n", ""),
        ("--size 2", 2, "", "error: Invalid value for '--size'"),
        ("--size x", 2, "", "error: Invalid value for '--size'"),
        ("--length 3", 2, "", "error: No such option: --length"),
        ("extra", 2, "", "error: Got unexpected extra argument"),
        ("--size ''", 2, "", "error: an empty word comes after '--size'"),
        ("--size 4", 2, "", "error: size is 4: give another"),
        ("--size 8", 2, "", f"error: {300 * 'n'}: File name too long; name another place"),
        ("--size 6", 130, "", ""),
    ],
)
def test_a_script_ends_in_one_line(words, status, out, error, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make.py", *shlex.split(words)])
    with pytest.raises(SystemExit) as end:
        run(main)
    said = capsys.readouterr()
    assert (end.value.code, said.out) == (status, out)
    assert said.err.startswith(error) and said.err.count("\n") == bool(error)
    assert ("--help`" in said.err) == error.startswith(("error: Inv", "error: No", "error: Got"))


def test_help_stays_whole(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make.py", "--help"])
    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == 0 and "Make something." in capsys.readouterr().out
