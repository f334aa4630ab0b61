"""One process at a time: who comes second waits, and a process that is killed lets go."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from more_lib.system.devices import say
from more_lib.system.processes import Shards

POLL = 0.5  # seconds between two looks whether the other has done


def lock_of(path: Path) -> Path:
    """The file beside ``path`` to hold while that is made."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def exclusive(path: Path, doing: str, together: Shards | None = None) -> Iterator[None]:
    """Hold the file ``path`` while the block runs; another process that wants it waits.

    Prints once whom it waits for. The system holds the lock and frees it when its process ends,
    however it ends. The file is gone afterwards, and so are folders that were made for it and
    stayed empty. Where it cannot be had, as in a folder that may not be written or on a network
    disk without locks, the block runs without it.

    doing: what the holder does, as "trains mini-0123". together: processes that all come here and
    hold it as one; the block begins in none before the first of them has the lock.
    """
    with _held(path, doing) if together is None or together.is_main else nullcontext():
        if together:
            together.gather(None)  # which waits for days, where a barrier gives up
        yield


@contextmanager
def _held(path: Path, doing: str) -> Iterator[None]:
    missing = [folder for folder in path.parents if not folder.exists()]
    lock = FileLock(path, mode=0o666, fallback_to_soft=False)  # soft locks outlive who is killed
    with suppress(OSError):
        _acquire(lock, path, doing)
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                path.unlink()  # before it is free: who waits for it then notices, and makes another
            lock.release()
        for folder in missing:
            with suppress(OSError):  # it is not empty, as a rule
                folder.rmdir()


def _acquire(lock: FileLock, path: Path, doing: str) -> None:
    waits = False
    while not lock.is_locked:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=waits, poll_interval=POLL)
        except FileNotFoundError:
            continue  # the other took the folder with it
        except Timeout:
            say(f"waiting for another process that {doing} …")
            waits = True
