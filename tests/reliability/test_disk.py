"""A disk that is full at any write, a cache that cannot be written, a clock that jumps back."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.reliability import works
from tests.reliability.activities import ACTIVITIES, check_whole, result
from tests.reliability.forks import Attempt, Trouble, attempt

pytestmark = pytest.mark.reliability
COMMANDS = [
    name for name in ACTIVITIES if name != "reproduce"
]  # of its kernels' writes none is seen
STEPS = 12


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_is_full_at_any_file_ends_in_one_line(name, scene, tmp_path, figures):
    """At the first file that is created, at the second, … until the command needs no more."""
    activity = ACTIVITIES[name]
    folder = activity.start(scene, tmp_path / "place")
    assert activity.attempt(scene, folder).status == 0
    expected = result(folder)
    activity.start(scene, folder)
    for number in count(1):
        done = activity.attempt(scene, folder, Trouble(full=number))
        if done.status == 0:
            break
        check_stopped(done, folder, expected)
    assert number > 1 and result(folder) == expected
    figures(f"{name}: the disk full {number - 1} times, at another file each, one line each")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_fills_up_ends_in_one_line(name, scene, tmp_path, figures):
    """On a disk that has room for none, a twelfth, two twelfths … of what is needed."""
    activity, stopped = ACTIVITIES[name], 0
    folder = activity.start(scene, tmp_path / "place")
    before = _used(folder)
    assert activity.attempt(scene, folder).status == 0
    expected, needed = result(folder), _used(folder) - before
    shutil.rmtree(folder)
    with small_disk(folder) as resize:
        activity.begin(scene, folder)
        for step in count():
            resize(before + needed * step // STEPS + 4096)
            done = activity.attempt(scene, folder)
            if done.status == 0:
                break
            check_stopped(done, folder, expected)
            stopped += 1
        assert stopped >= STEPS / 2 and result(folder) == expected
    figures(f"{name}: a disk in memory full {stopped} times, one line each")


def check_stopped(done: Attempt, folder: Path, expected: dict) -> None:
    """It said why in one line, and left nothing half-written."""
    done.check_refused()
    assert re.search("no space left|quota", done.errors), done.errors
    check_whole(folder, expected)


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[int], None]]:
    """A disk in memory, mounted at a folder, and what changes its size; only root may mount."""

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "test", str(folder)]
        subprocess.run(command, check=True, capture_output=True)

    folder.mkdir(parents=True)
    try:
        mount("size=1g")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a small disk")
    try:
        yield lambda size: mount(f"remount,size={size}")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _used(folder: Path) -> int:
    """Bytes in whole pages, as a disk in memory counts them."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(-(-size // 4096) * 4096 for size in sizes)


def test_a_cache_that_cannot_be_written_is_read_and_said_to_be_closed(scene, tmp_path, figures):
    place = {"logs": tmp_path / "logs", "environment": {"MORE_DATA": str(tmp_path / "cache")}}
    evaluate = (works.command, "evaluate", *scene.options)
    assert attempt(*evaluate, **place).status == 0  # trains as well
    images = str(scene.root / "tree/JPEGImages/train_00000.jpg")
    predict = (works.command, "predict", images, "--output", str(tmp_path / "masks"))
    reading = [
        (works.command, "train", *scene.options),
        evaluate,
        (*predict, *scene.options),
    ]
    writing = [
        (works.command, "train", *scene.options, "--set", "seed=1"),
        (*evaluate, "--set", "evaluation.threshold=0.4"),
        (works.script, "make_emoji_voc.py", "--train", "2", "--val", "1"),
    ]
    before = _closed(tmp_path / "cache", True)
    try:
        for call in reading:
            done = attempt(*call, **place, trouble=Trouble(bound=True))
            assert done.status == 0, (call, done.errors)
        for call in writing:
            attempt(*call, **place, trouble=Trouble(bound=True)).check_refused()
    finally:
        assert _closed(tmp_path / "cache", False) == before
    figures(
        f"read-only cache: {len(reading)} commands ran from it, {len(writing)} said so in one line"
    )


def _closed(folder: Path, closed: bool) -> list[Path]:
    """Take or give the right to write in a folder; returns what is in it."""
    paths = sorted(folder.rglob("*"))
    for path in (folder, *paths):
        directory = path.is_dir()
        path.chmod({(True, True): 0o555, (True, False): 0o755}.get((directory, closed), 0o644))
    return paths


@pytest.mark.parametrize("name", COMMANDS)
def test_a_clock_that_jumps_back_changes_no_result(name, scene, tmp_path, figures):
    activity = ACTIVITIES[name]
    folder = activity.start(scene, tmp_path / "place")
    assert activity.attempt(scene, folder).status == 0
    expected = result(folder)
    activity.start(scene, folder)
    place = {"logs": tmp_path / "logs", "environment": {"MORE_DATA": str(folder / "cache")}}
    done = attempt(works.clock_jumps_back, 86_400.0, *activity.call(scene, folder), **place)
    assert done.status == 0, done.errors
    assert result(folder) == expected
    figures(f"{name}: the same by a clock that jumps back a day")
