"""Commands as processes that start at once, and can be killed or refused room at any moment.

A server process imports torch and the library once; every attempt is a fork of it, leads a group of
its own, and is watched by an audit hook that counts how often it is about to change a file. Linux.
"""

import ctypes
import errno
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from pathlib import Path
from types import FrameType
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
    """What befalls an attempt.

    after: seconds until it is killed. at: the change of a file (from 1), as when it is opened to be
    written, right after which it is. full: the file or folder (from 1) that is made, or opened to
    be written, when the disk becomes full; it stays so. bound: root obeys permissions as others do.
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
    clean = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with patch.dict(os.environ, threads | clean):
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
    started, changes = time.monotonic(), 0
    limit = patience if trouble.after is None else trouble.after
    ended = connection.wait([ours], limit)
    with suppress(EOFError):  # it was killed and counts no more
        changes = ours.recv() if ended else 0
    if not ended:
        with suppress(ProcessLookupError):  # it was faster
            os.killpg(process.pid, signal.SIGKILL)
    process.join(PATIENCE)
    seconds = time.monotonic() - started
    said, errors = ((logs / name).read_text(errors="replace") for name in ("out", "err"))
    assert ended or trouble.after is not None, f"it hangs:\n{said[-2000:]}\n{errors[-2000:]}"
    left = psutil.wait_procs(_started_in(environment or {}), timeout=15)[1]
    left = [each for each in left if each.status() != psutil.STATUS_ZOMBIE]  # init's to collect
    assert not left, f"processes outlive the one that started them: {left}"
    return Attempt(process.exitcode, seconds, changes, said, errors)


def _started_in(environment: Mapping[str, str]) -> list[psutil.Process]:
    """Processes of which this environment says that an attempt started them, such as kernels."""
    found = []
    for each in psutil.process_iter() if environment else ():
        with suppress(psutil.Error):
            if environment.items() <= each.environ().items():
                found.append(each)
    return found


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

    def die(frame: FrameType, *_: object) -> None:
        if frame.f_code is not watch.__code__:
            os.killpg(0, signal.SIGKILL)

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
            sys.setprofile(die)  # at the next step after this one
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
