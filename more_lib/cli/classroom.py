"""``python -m more_lib classroom``: what a lecturer does, before and after class."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

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


@command("new course")
def new(course: Annotated[Path, Argument(metavar="COURSE", help="A folder to make.")]) -> None:
    """Make a course folder for nbgrader.

    It holds nbgrader's configuration, a header that every notebook begins with, and all exercises
    as assignments in source/. nbgrader (`pip install nbgrader`) goes on from there.
    """
    from more_lib.classroom.course import new_course

    typer.echo(new_course(course))


@command("grade submitted --output grades")
def grade(
    folder: Annotated[Path, Argument(metavar="FOLDER", help="A folder for each student.")],
    output: Annotated[Path, Option(metavar="FOLDER", help="Where grades go.")] = Path("grades"),
    timeout: Annotated[
        float, Option(min=1, max=86400, metavar="S", help="For a cell; ten times it for all.")
    ] = 60,
    memory: Annotated[
        int, Option(min=1000, metavar="MB", help="Addresses of a process; torch takes 3500.")
    ] = 8000,
    jobs: Annotated[int, Option(min=0, metavar="N", help="At a time; 0: half the cores.")] = 0,
    resume: Annotated[
        bool, Option("--resume", help="Go on in --output: grade what is new.")
    ] = False,
) -> None:
    """Grade submitted notebooks without a server.

    Runs every FOLDER/STUDENT/NOTEBOOK.ipynb, or FOLDER/STUDENT/ASSIGNMENT/NOTEBOOK.ipynb as in
    nbgrader's submitted/, under the tests of notebooks/exercises, hidden ones included, and writes
    grades.csv and a page for each student. A submission is somebody else's program. On Linux with
    user namespaces it has no network, sees no other submission and can write to a scratch folder
    alone; elsewhere a line says that it runs with your rights: then grade in a container, as
    notebooks/exercises/README.md says.
    """
    from more_lib.classroom.gradebook import grade as grade_all
    from more_lib.classroom.sandbox import Limits

    jobs = jobs or max((os.cpu_count() or 2) // 2, 1)
    changed = grade_all(folder, output, Limits(timeout, memory), jobs, resume)
    typer.echo(f"grades: {output / 'grades.csv'}")
    if changed:
        print(f"error: while they ran, somebody changed {', '.join(changed)}", file=sys.stderr)
        raise typer.Exit(1)


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
