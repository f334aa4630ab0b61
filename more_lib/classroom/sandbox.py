"""Somebody else's cells in a kernel of their own, within limits of time, memory, output and reach.

``confined`` says how far this system can shut a kernel in, ``run`` runs one notebook's cells. Both
start this file as a program, which therefore imports nothing heavy and nothing of the library:

- ``sandbox.py run JOB RESULT`` is a process (and a process group) for each notebook. It starts the
  kernel, hands it one cell after the other, counts what comes back and keeps little of it.
- ``sandbox.py jail ...`` becomes the kernel, inside new Linux namespaces that `unshare` made: it
  sees no network and none of our processes, may write to its scratch folder alone, finds masters,
  submissions and grades empty, and cannot undo any of that, for it has given up all capabilities.

Without such namespaces (macOS, most containers) a kernel still has its scratch folder, an empty
environment and the limits, but is a process of yours: it can read and write what you can.
"""

import asyncio
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any, NamedTuple

NAMESPACES = "--user --map-root-user --mount --net --ipc --pid --fork --kill-child --mount-proc"
REPORT = "application/vnd.more-lib.attempt"  # what a check displays for us
OUTPUT = 4_000_000  # characters of output that a cell may have, reports included
RESULT = 64_000_000  # bytes of a result that are read
NOTEBOOK = 10  # times the time of a cell
START, GRACE = 60.0, 5.0  # seconds that a kernel has to start, and an interrupted cell to end
RESTARTS = 3
NOTHING = {"status": "not run", "said": "", "reports": [], "stuck": False}


class Limits(NamedTuple):
    """seconds: of a cell; a notebook has ten times that. megabytes: of a process's addresses."""

    seconds: float
    megabytes: int


class Scratch(NamedTuple):
    """Where kernels may write, a folder of ``kernels`` each; ours lie beside it.

    hidden: folders that a jailed kernel finds empty. jail: whether kernels are jailed.
    """

    kernels: Path
    ours: Path
    hidden: Sequence[Path]
    jail: bool

    def prefix(self, folder: Path) -> list[str]:
        """What a command begins with that is to run in the jail."""
        hidden = [str(path) for path in (*self.hidden, self.ours) if path.is_dir()]
        own = [sys.executable, "-I", __file__, "jail", str(folder), *hidden]
        return ["unshare", *NAMESPACES.split(), "--", *own, "--"] if self.jail else []


def why_not_jailed(scratch: Scratch) -> str:
    """Why kernels cannot be shut in on this system; "" where they can: it was tried."""
    if not shutil.which("unshare"):
        return "there is no `unshare`"
    folder = scratch.kernels / "trial"
    folder.mkdir()
    words = [*scratch._replace(jail=True).prefix(folder), sys.executable, "-I", "-c", "print(1)"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
    folder.rmdir()
    return "" if done.stdout == "1\n" else (done.stderr.strip().splitlines() or ["it ended"])[-1]


async def run(
    name: str, cells: Sequence[str], limits: Limits, scratch: Scratch, environment: Mapping
) -> list[dict[str, Any]]:
    """What each cell came to; an empty list where even the process that watches them died.

    name: a new one for a folder. environment: all of the kernel's, but for HOME and TMPDIR.
    Of each cell: ``status``, one of ok, error, late, flood, died and not run; what an error
    ``said``; the checks' ``reports``; ``stuck``, whether the kernel was of no more use after it.
    """
    folder = scratch.kernels / name
    job, result = (scratch.ours / f"{name}.{ending}" for ending in ("job", "result"))
    folder.mkdir()
    home = str(scratch.kernels if scratch.jail else folder)
    start = [*scratch.prefix(folder), sys.executable, "-m", "ipykernel_launcher"]
    job.write_text(json.dumps({"cells": list(cells), "limits": limits, "start": start}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", __file__, "run", str(job), str(result)),
        cwd=folder, start_new_session=True, env={**environment, "HOME": home, "TMPDIR": home},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with suppress(TimeoutError):
            most = NOTEBOOK * limits.seconds + (RESTARTS + 1) * (START + 2 * GRACE)
            await asyncio.wait_for(process.wait(), most)
        if not result.is_file() or result.stat().st_size > RESULT:
            return []
        return json.loads(result.read_text(encoding="utf-8"))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


# What follows runs in the process of one notebook.


def _run(job: dict) -> list[dict]:
    """Run the cells in order; after one that took the kernel with it, again without it."""
    seconds, megabytes = job["limits"]
    _limit(megabytes)
    end, count = time.monotonic() + NOTEBOOK * seconds, len(job["cells"])
    done: dict[int, dict] = {}
    for number in range(RESTARTS + 1):
        kernel = _Kernel(job["start"], number)
        try:
            stuck = not kernel.answers
            for index in range(count):
                left = min(seconds, end - time.monotonic())
                if stuck or left <= 0:
                    break
                if not done.get(index, {}).get("stuck"):
                    done[index] = kernel.execute(job["cells"][index], left)
                    stuck = done[index]["stuck"]
        finally:
            kernel.close()
        if not stuck:
            break
    return [done.get(index, NOTHING) for index in range(count)]


def _limit(megabytes: int) -> None:
    """Bound this process and all that it starts; be told of all of them, on Linux."""
    import resource

    amounts = {"AS": megabytes * 2**20, "FSIZE": 2**30, "CORE": 0}
    for name, amount in amounts.items():
        with suppress(AttributeError, ValueError, OSError):  # macOS has no limit of addresses
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (amount, amount))
    _linux(
        "prctl", 36, 1, 0, 0, 0
    )  # PR_SET_CHILD_SUBREAPER: a child whose parent ends becomes ours


class _Kernel:
    """A started kernel and our end of its sockets, which are files in the working folder."""

    def __init__(self, start: list[str], number: int) -> None:
        from jupyter_client.connect import write_connection_file

        self.file, none = f"kernel-{number}.json", subprocess.DEVNULL
        write_connection_file(self.file, transport="ipc", ip=f"socket-{number}")
        words = [*start, "-f", self.file, "--HistoryManager.enabled=False"]
        self.process = subprocess.Popen(words, stdin=none, stdout=none, stderr=none)
        self.client, self.answers = self._connected()

    def _connected(self) -> tuple[Any, bool]:
        """A client, and whether the kernel was heard on both of its channels."""
        import zmq
        from jupyter_client import BlockingKernelClient

        context = zmq.Context()
        context.setsockopt(zmq.MAXMSGSIZE, 4 * OUTPUT)  # what is larger closes the channel
        context.setsockopt(zmq.RCVHWM, 16)
        client = BlockingKernelClient(context=context, connection_file=self.file)
        client.load_connection_file()
        client.start_channels(hb=False, stdin=False)
        end = time.monotonic() + START
        while time.monotonic() < end and self.process.poll() is None:
            client.kernel_info()
            with suppress(Empty):
                client.iopub_channel.get_msg(timeout=0.5)
                return client, True
        return client, False

    def execute(self, source: str, seconds: float) -> dict[str, Any]:
        """What a cell came to, as ``run`` says."""
        ask = self.client.execute(source, allow_stdin=False)
        done, size, reply, idle = {**NOTHING, "status": "ok", "reports": []}, 0, {}, False
        end = time.monotonic() + seconds
        while not (reply and idle):
            if self.process.poll() is not None:
                return {**done, "status": "died", "stuck": True}
            if message := _next(self.client.iopub_channel, ask, 0.2):
                size += len(str(message))
                idle |= message.get("execution_state") == "idle"
                report = message.get("data", {}).get(REPORT)
                done["reports"] += [report] if report and size <= OUTPUT else []
            if message := _next(self.client.shell_channel, ask, 0):
                reply, end = message, time.monotonic() + GRACE
            late = time.monotonic() > end
            if late and (reply or done["status"] != "ok"):
                break  # interrupted in vain, or too large an output closed the channel
            if (late or size > OUTPUT) and done["status"] == "ok":
                done["status"], end = "late" if late else "flood", time.monotonic() + GRACE
                self._interrupt()
        if reply and not idle:
            done["status"] = "flood"
            self.client.stop_channels()
            self.client, self.answers = self._connected()
        if done["status"] == "ok" and reply["status"] != "ok":
            said = ": ".join(str(reply.get(part, "")) for part in ("ename", "evalue"))
            return {**done, "status": "error", "said": said[:500]}
        return {**done, "stuck": not (reply and self.answers)}

    def _interrupt(self) -> None:
        """By a message: the kernel may be where no signal of ours gets."""
        message = self.client.session.msg("interrupt_request", {})
        self.client.control_channel.send(message)

    def close(self) -> None:
        """End the kernel and whatever it started."""
        import psutil

        self.client.stop_channels()
        for _ in range(3):  # for those that fork meanwhile
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    process.kill()
        self.process.wait()


def _next(channel: Any, ask: str, seconds: float) -> dict:
    """The content of a channel's next message if it answers ``ask``; else nothing."""
    try:
        message = channel.get_msg(timeout=seconds)
        return message["content"] if message["parent_header"].get("msg_id") == ask else {}
    except (Empty, ValueError, LookupError, TypeError, AttributeError):  # none, or no message
        return {}


# What follows becomes a kernel, in namespaces of its own.


def _jail(folder: str, hidden: list[str], words: list[str]) -> None:
    """Become ``words``, with nothing to write to but ``folder``, which takes its parent's place."""
    own = str(Path(folder).parent)
    _read_only("/", True)
    for path in hidden:  # the last holds the empty folder itself
        _bind(f"{hidden[-1]}/empty", path)
    _bind(folder, own)
    _read_only(own, False)
    os.chdir(own)
    os.setsid()  # or a kill of its whole group would reach those outside
    for capability in range(64):
        with suppress(OSError):  # there are fewer
            _linux(
                "prctl", 24, capability, 0, 0, 0
            )  # PR_CAPBSET_DROP: none is left after the next line
    _linux("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    os.execvp(words[0], words)


def _bind(source: str, target: str) -> None:
    _linux("mount", source.encode(), target.encode(), None, 4096, None)  # MS_BIND


def _read_only(path: str, on: bool) -> None:
    """A mount, or with ``on`` it and all below it, by ``mount_setattr``: Linux 5.12."""
    change = (ctypes.c_uint64 * 4)(int(on), int(not on), 0, 0)
    _linux("syscall", 442, -100, path.encode(), 0x8000 if on else 0, change, ctypes.sizeof(change))


def _linux(name: str, *args: Any) -> None:
    """A call of the C library that only Linux has; raises ``OSError`` where it fails."""
    library = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    if getattr(library, name)(*words) == -1:
        raise OSError(ctypes.get_errno(), name)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        outcome = _run(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
        Path(sys.argv[3]).write_text(json.dumps(outcome), encoding="utf-8")
    else:
        dash = sys.argv.index("--")
        _jail(sys.argv[2], sys.argv[3:dash], sys.argv[dash + 1 :])
