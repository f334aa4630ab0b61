"""``python -m more_lib classroom``: what a lecturer does, before and after class."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

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
