"""``python -m more_lib classroom``: what a lecturer does, before and after class."""

from collections.abc import Callable

import typer

from more_lib.system.errors import clear_errors
from more_lib.system.usage import Group

app = typer.Typer(
    cls=Group,
    help="Prepare a class, hand out exercises and grade them; `notebooks/exercises` says how.",
    no_args_is_help=True,
)


def command(example: str) -> Callable:
    """As in ``more_lib.cli.commands``: help from the docstring, one line for an ``InputError``."""
    register = app.command(epilog=f"Example:\n\npython -m more_lib classroom {example}")
    return lambda function: register(clear_errors(function))
