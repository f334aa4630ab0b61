"""What runs in the forks. All that is slow to import is imported here, once, by their server."""

import runpy
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from unittest.mock import patch

import accelerate
import matplotlib.backends.backend_agg
import nbconvert
import sklearn.metrics

from more_lib.cli import scoreboard
from more_lib.cli.commands import app
from more_lib.data.prepare import coco, emoji, fetch, pets
from more_lib.data.prepare.sources import DataSet, Source
from more_lib.evaluation import scoring, writing
from more_lib.runs import reproduce as runs
from more_lib.system.errors import clear_errors
from more_lib.training import cache

IMPORTED = (
    accelerate,
    matplotlib,
    nbconvert,
    sklearn,
    scoreboard,
    coco,
    emoji,
    pets,
    writing,
    cache,
)
SCRIPTS = Path(__file__).resolve().parents[2] / "data_scripts"


def command(*arguments: str) -> None:
    """``python -m more_lib`` with these arguments; evaluations note after every batch."""
    with patch.object(scoring, "SAVE_EVERY", 1):
        app(list(arguments))


def script(name: str, *arguments: str) -> None:
    """One of data_scripts."""
    sys.argv = [name, *arguments]
    runpy.run_path(str(SCRIPTS / name), run_name="__main__")


def download(url: str, checksum: str, size: int, folder: str) -> None:
    """Fetch one file; a server that says nothing for a second has stalled."""
    source = Source("file.bin", (url, url), checksum, size, "numbers", DataSet("A set", url, "any"))
    with patch.multiple(fetch, TIMEOUT=0.5, CHUNK=50_000):
        clear_errors(fetch.fetch)(source, folder)


def reproduce(notebooks: str, folder: str, *overrides: str) -> None:
    """``reproduce --resume`` of a folder of notebooks."""
    again = {"runs": folder, "resume": True, "notebooks": notebooks}
    clear_errors(runs.reproduce)("mini", overrides, **again)


def clock_jumps_back(seconds: float, work: Callable, *arguments: object) -> None:
    """Any of these, while every other look at the clock finds it ``seconds`` earlier."""
    now, looks = time.time, count()

    def past() -> float:
        return now() - seconds * (next(looks) % 2)

    with patch.multiple(time, time=past, time_ns=lambda: int(past() * 1e9)):
        work(*arguments)
