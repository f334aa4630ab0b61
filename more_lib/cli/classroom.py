"""``python -m more_lib classroom``: what a lecturer does, before and after class."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from more_lib.cli import options as give
from more_lib.system.errors import clear_errors
from more_lib.system.usage import Group

_Pack = Annotated[Path, typer.Argument(metavar="FILE", help="The archive, as more.tar.")]
_Notebooks = Annotated[list[Path] | None, typer.Argument(metavar="[NOTEBOOK...]")]
_Slides = Annotated[Path, give.Folder("--output", help="Where the slides go.")]
_Reveal = Annotated[
    Path | None, give.Folder(help="A copy of reveal.js, as npm's package, to show them by.")
]

app = typer.Typer(
    cls=Group,
    help="Prepare a class, hand out exercises and grade them; `notebooks/exercises` says how.",
    no_args_is_help=True,
)


def command(example: str) -> Callable:
    """As in ``more_lib.cli.commands``: help from the docstring, one line for an ``InputError``."""
    register = app.command(epilog=f"Example:\n\npython -m more_lib classroom {example}")
    return lambda function: register(clear_errors(function))


@command("pack more.tar")
def pack(file: _Pack, profile: give.Profile = "mini") -> None:
    """Write data, networks and scores to one archive.

    All that the notebooks of a profile download, make, train and score. They run first, where no
    run in runs/ is up to date, as by `reproduce --resume`. `unpack` puts it elsewhere, so that
    nobody trains in class.
    """
    from more_lib.classroom import packing
    from more_lib.runs.reproduce import ReproduceError

    try:
        packed = packing.pack(file, profile)
    except ReproduceError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    size = sum(size for size, _ in packed.files.values()) / 1e6
    typer.echo(f"{len(packed.networks)} networks, {len(packed.files)} files, {size:.0f} MB: {file}")


@command("unpack more.tar")
def unpack(file: _Pack) -> None:
    """Put what `pack` wrote into the data folder.

    Everything is checked before anything is in its place; what is there and equal is kept, and what
    differs is refused by name.
    """
    from more_lib.classroom import packing
    from more_lib.system.files import data_folder

    done = packing.unpack(file)
    for name in done.written:
        typer.echo(f"unpacked {name}")
    typer.echo(f"in {data_folder()}: {len(done.written)} written, {len(done.kept)} kept")


@command("slides notebooks/01_vit_lam.ipynb --output slides")
def slides(
    notebooks: _Notebooks = None, output: _Slides = Path("slides"), reveal: _Reveal = None
) -> None:
    """Make slides of notebooks' pictures and key cells.

    A file of HTML for each executed notebook, all numbered ones by default, that any browser shows
    without network: arrows turn, s shows the notes, printing makes a PDF.
    """
    from more_lib.classroom.slides import write_slides

    for path in write_slides(notebooks or [], output, reveal):
        typer.echo(path)
