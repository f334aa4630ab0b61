"""Commands whose wrong usage ends as bad input does: in one line on stderr and exit status 2."""

import sys
from collections.abc import Callable

from typer import Abort, BadParameter, Typer
from typer.core import TyperCommand, TyperGroup

from more_lib.system.errors import clear_errors

_UsageError = BadParameter.__base__  # which typer does not export itself


class _OneLine:
    """Says what is wrong, and where help is, instead of a command's whole usage."""

    def main(self, args=None, **options):
        words = sys.argv[1:] if args is None else list(args)
        if "" in words:  # a path would mean the folder that we are in
            before = " ".join(words[: words.index("")])
            cure = "is a variable of the shell unset?"
            print(f"error: an empty word comes after {before!r}; {cure}", file=sys.stderr)
            sys.exit(2)
        try:
            status = super().main(words, **options | {"standalone_mode": False})
        except Abort:
            sys.exit(130)
        except _UsageError as error:
            message = error.format_message()
            where = f"{error.ctx.command_path} --help" if error.ctx else "--help"
            is_help = "\n" in message  # what a command prints that was given nothing at all
            line = message if is_help else f"error: {message.rstrip('.')}; see `{where}`"
            print(line, file=sys.stderr)
            sys.exit(2)
        sys.exit(status or 0)


class Group(_OneLine, TyperGroup):
    """Several commands in one, as ``typer.Typer(cls=...)`` takes it."""


class Command(_OneLine, TyperCommand):
    """A single command, as ``Typer.command(cls=...)`` takes it."""


def run(main: Callable) -> None:
    """Run a script's function with the options of the command line; ends the process."""
    app = Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(cls=Command)(clear_errors(main))
    app()
