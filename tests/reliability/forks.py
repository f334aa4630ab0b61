"""Commands as processes that start at once, and can be killed or refused room at any moment.

A server process imports torch and the library once; every attempt is a fork of it, leads a group of
its own, and is watched by an audit hook that counts how often it is about to change a file.
"""

import ctypes
import errno
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from pathlib import Path
from unittest.mock import patch

import psutil

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 180  # seconds after which an attempt hangs, and 15 for what it started
CREATING = {"os.mkdir", "os.link", "os.symlink"}
CHANGING = CREATING | {"os.rename", "os.remove", "os.rmdir", "os.truncate", "os.chmod"}
NEVER = sys.maxsize
FORK = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Attempt:
    """How a command ended: exit status (-9: killed), seconds, changes of files, what it said."""

    status: int
    seconds: float
    changes: int
    output: str
    errors: str

    def check_refused(self) -> None:
        """It ended in status 2 with one line that says why, the last."""
        complaints = [line for line in self.errors.splitlines() if line.startswith("error: ")]
        last = self.errors.strip().splitlines()[-1:]
        assert self.status == 2 and complaints == last, self.errors[-3000:]
        assert "Traceback" not in self.errors, self.errors[-3000:]


@dataclass(frozen=True)
class Trouble:
    """What befalls an attempt. A kill by time, or right after a change of a file has begun.

    after: seconds until the kill. at: the change (from 1) that brings it. full: the creation of a
    file (from 1) from which on the disk is full. bound: root obeys permissions as others do.
    """

    after: float | None = None
    at: int = NEVER
    full: int = NEVER
    bound: bool = False


CALM = Trouble()


def start_server() -> None:
    """Import what every attempt needs; nothing is computed, so that the server has one thread."""
    FORK.set_forkserver_preload(["pytest", "tests.reliability.works"])
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with patch.dict(os.environ, threads, PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1"):
        forkserver.ensure_running()


def attempt(
    work: Callable[..., None],
    *arguments: object,
    logs: Path,
    trouble: Trouble = CALM,
    environment: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
) -> Attempt:
    """Run ``work``, a function of a module, in a fork of the server until it ends or is killed.

    Fails when it hangs, or when a process that it started outlives it.
    """
    logs.mkdir(parents=True, exist_ok=True)
    ours, theirs = FORK.Pipe(duplex=False)
    given = (work, arguments, str(logs), trouble, dict(environment or {}), theirs)
    process = FORK.Process(target=_begin, args=given)
    process.start()
    theirs.close()
    assert ours.recv() == "begun"
    started, changes, left = time.monotonic(), 0, []
    limit = patience if trouble.after is None else trouble.after
    hangs = not connection.wait([ours], limit) and trouble.after is None
    try:
        changes = ours.recv() if ours.poll() else None  # None: it is to be killed now
    except EOFError:  # it died without a word
        changes = 0
    if changes is None:
        family = psutil.Process(process.pid)
        left = family.children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
    process.join(PATIENCE)
    seconds = time.monotonic() - started
    _, alive = psutil.wait_procs(left, timeout=15)
    said, errors = ((logs / name).read_text(errors="replace") for name in ("out", "err"))
    assert not hangs, f"it hangs:\n{said[-2000:]}\n{errors[-2000:]}"
    alive = [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]  # init's to collect
    assert not alive, f"processes outlive the one that started them: {alive}"
    return Attempt(process.exitcode, seconds, changes or 0, said, errors)


def _begin(
    work: Callable[..., None],
    arguments: tuple,
    logs: str,
    trouble: Trouble,
    environment: dict[str, str],
    pipe: connection.Connection,
) -> None:
    import torch

    os.setsid()
    for name, stream in (("out", 1), ("err", 2)):
        os.dup2(os.open(f"{logs}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream)
    os.environ.update(environment)
    torch.set_num_threads(1)
    if trouble.bound:
        _obey_permissions()
    count = {"changes": 0, "created": 0}

    def watch(event: str, details: tuple) -> None:
        creates = event in CREATING
        if event == "open":
            creates = isinstance(details[2], int) and details[2] & os.O_CREAT
        if not creates and event not in CHANGING:
            return
        if not isinstance(details[0], str | bytes) or os.fsdecode(details[0]).startswith("/dev/"):
            return
        count["changes"] += 1
        if count["changes"] == trouble.at:
            pipe.send(None)  # and goes on, while the kill is on its way
        count["created"] += bool(creates)
        if creates and count["created"] >= trouble.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), details[0])

    pipe.send("begun")
    sys.addaudithook(watch)
    try:
        work(*arguments)
    finally:
        pipe.send(count["changes"])


def _obey_permissions() -> None:
    """Give up root's capabilities, by which it reads and writes whatever it wants."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")
