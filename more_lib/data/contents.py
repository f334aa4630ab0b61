"""What files hold, as digests: computed once, then known again by what the disk says of the file.

Keys of kept networks and scores rest on these, so that they change with the data itself.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from more_lib.data.images import readable
from more_lib.system.devices import say
from more_lib.system.errors import InputError
from more_lib.system.files import data_folder, sha256, write_json
from more_lib.system.progress import progress_bar

THREADS = 16  # the disk is waited for, not the processor
SETTLED = 2.0  # seconds: a file changed since may change again and show the same times
LONG = 3.0  # seconds of hashing that deserve a word


def digests(paths: Iterable[Path]) -> list[str]:
    """sha256 of each file, in the order given.

    A file is read once. Its digest is remembered in the data folder by its folder, name, size,
    inode, and times of modification and of change, to the nanosecond: the last of these nobody can
    set back. Where the data folder cannot be written, everything is read each time.

    Raises ``InputError`` for a file that is missing or cannot be read.
    """
    paths = list(paths)
    found: dict[Path, str] = {}
    by_folder = sorted(dict.fromkeys(paths), key=lambda path: path.parent)
    for folder, files in groupby(by_folder, key=lambda path: path.parent):
        found |= _in_folder(folder.absolute(), list(files))
    return [found[path] for path in paths]


def _in_folder(folder: Path, files: Sequence[Path]) -> dict[Path, str]:
    name = hashlib.sha256(str(folder).encode(errors="surrogateescape")).hexdigest()[:16]
    notes, known = data_folder() / "contents" / f"{name}.json", {}
    with suppress(OSError, ValueError, TypeError):  # none yet, or damaged: they are only remembered
        known = dict(json.loads(notes.read_text())["files"])
    known = {name: note for name, note in known.items() if isinstance(note, list)}
    with ThreadPoolExecutor(THREADS) as pool:
        stamps = dict(zip(files, pool.map(_stamp, files), strict=True))
        new = [file for file in files if known.get(file.name, [])[:-1] != stamps[file]]
        if not new:
            return {file: known[file.name][-1] for file in files}
        started, clock = time.monotonic(), time.time_ns()
        bar = progress_bar(pool.map(_digest, new), total=len(new), description="reading files once")
        made = dict(zip(new, bar, strict=True))
    seconds = time.monotonic() - started
    if seconds > LONG:
        say(f"read {len(new)} files of {folder} once, to know them again: {seconds:.0f} s")
    settled = {
        file.name: [*stamps[file], digest]
        for file, digest in made.items()
        if max(stamps[file][2:]) < clock - SETTLED * 1e9  # also while the clock is behind
    }
    with suppress(InputError, ValueError):  # read-only, full, or names that are no text
        if settled:
            write_json({"folder": str(folder), "files": known | settled}, notes)
    return {file: made[file] if file in made else known[file.name][-1] for file in files}


def _stamp(file: Path) -> list[int]:
    with readable(file):
        stat = file.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _digest(file: Path) -> str:
    with readable(file):
        return sha256(file)
