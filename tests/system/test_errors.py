"""Bad input ends a command in one line, whatever is in it."""

import io
import sys

import pytest

from more_lib.system.errors import InputError, clear_errors


@pytest.mark.parametrize(
    "message, line",
    [
        ("a.jpg is damaged: remove it", "a.jpg is damaged: remove it"),
        (
            "Caught InputError in worker 0.\nTraceback\nm.InputError: a.jpg is",
            "a.jpg is",
        ),
        ("a\nb.jpg is damaged", r"a\nb.jpg is damaged"),  # a line break in a file's name
        ("\udcff.jpg and \ud800 are damaged", r"\udcff.jpg and \ud800 are damaged"),
        ("kätzchen … 猫", r"k\xe4tzchen \u2026 \u732b"),  # on a terminal that knows ASCII alone
    ],
)
def test_a_command_ends_in_one_line_that_every_terminal_can_show(monkeypatch, message, line):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)

    @clear_errors
    def command():
        print(message)
        raise InputError(message)

    with pytest.raises(SystemExit) as ended:
        command()
    said = streams[1].detach().getvalue().decode("ascii")
    assert (ended.value.code, said) == (2, f"error: {line}\n")
