"""The one error that means "your input, not our code"."""

import errno
import functools
import io
import os
import sys
import unicodedata
from collections.abc import Callable

# Of the place that was named, never of the code, wherever a path is first looked at.
_PLACES = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EROFS, errno.ENOSPC)


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: it names the file or field, says what is wrong and what to do.
    The command line prints it and exits with status 2.
    """


def printable(path: object) -> str:
    """A path as text that can be printed and saved: what is no UTF-8 or no letter as ``\\xff``.

    A name that this changes cannot stand in lists and tables.
    """
    text = os.fsencode(str(path)).decode("utf-8", "backslashreplace")
    return "".join(repr(c)[1:-1] if unicodedata.category(c) == "Cc" else c for c in text)


def clear_errors(command: Callable) -> Callable:
    """Let a command end on an ``InputError`` with its one line on stderr and exit status 2.

    What the terminal cannot show, as a file's name that is no UTF-8, is printed with backslashes.
    """

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return command(*args, **kwargs)
        except InputError as error:
            # From a loader's worker process the message arrives wrapped in its traceback.
            line = r"\n".join(str(error).rpartition("InputError: ")[2].strip().splitlines())
        except OSError as error:
            if error.errno not in _PLACES or not error.filename:
                raise
            line = f"{os.fsdecode(error.filename)}: {error.strerror}; name another place"
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(2) from None

    return wrapped
