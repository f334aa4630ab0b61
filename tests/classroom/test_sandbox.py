"""Limits and reach of somebody else's cells: of time, memory, output, files, processes, names."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from more_lib.classroom import sandbox

pytestmark = pytest.mark.slow


@pytest.fixture(params=["jail", "open"])
def scratch(request, tmp_path):
    kernels, ours, secret = (tmp_path / name for name in ("kernels", "ours", "secret"))
    for folder in (kernels, ours, ours / "empty", secret):
        folder.mkdir()
    (secret / "master.ipynb").write_text("solution")
    made = sandbox.Scratch(kernels, ours, [secret], jail=False)
    if request.param == "open":
        return made
    if why := sandbox.why_not_jailed(made):
        pytest.skip(f"no namespaces here: {why}")
    return made._replace(jail=True)


def run(scratch, cells, seconds=20.0, megabytes=4000):
    environment = {"PATH": os.environ["PATH"], "MORE_DATA": "/data"}
    limits = sandbox.Limits(seconds, megabytes)
    return asyncio.run(sandbox.run("1", cells, limits, scratch, environment))


def test_errors_floods_and_the_end_of_a_kernel_cost_their_own_cell_alone(scratch):
    cells = {
        "x = 1": "ok",
        "1 / 0": "error",
        "print('y' * 10**8)": "flood",
        "assert x == 1": "ok",
        "while True: print('z' * 1000)": "flood",
        "a = bytearray(10**10)": "error",
        "from IPython.display import publish_display_data as show\n"
        f"show({{'{sandbox.REPORT}': 'report'}})\nassert x == 1": "ok",
        "import os; os._exit(1)": "died",
        "assert x == 1 ": "ok",
    }
    done = run(scratch, list(cells))
    assert [each["status"] for each in done] == list(cells.values())
    assert [each["said"] for each in done if each["said"]] == [
        "ZeroDivisionError: division by zero",
        "MemoryError: ",
    ]
    assert [each["reports"] for each in done if each["reports"]] == [["report"]]
    assert not list(scratch.kernels.iterdir())


def test_a_loop_is_interrupted_and_one_that_will_not_be_is_killed(scratch):
    stubborn = """
import time
while True:
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        print("no")
"""
    began = time.monotonic()
    cells = ["x = 1", "while True: time.sleep(1)", "import time\ntime.sleep(99)", stubborn, "x"]
    done = run(scratch, cells, seconds=6)
    assert [each["status"] for each in done] == ["ok", "error", "late", "late", "ok"]
    assert done[3]["stuck"] and not done[2]["stuck"]
    assert time.monotonic() - began < 10 * 6 + 2 * sandbox.START


def test_a_kernel_sees_a_few_names_and_an_empty_folder(scratch, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "12345")
    names = "PATH HOME TMPDIR MORE_DATA LC_CTYPE MPLBACKEND PAGER GIT_PAGER TERM CLICOLOR"
    own = "FORCE_COLOR CLICOLOR_FORCE PYDEVD_USE_FRAME_EVAL JPY_SESSION_NAME"
    look = f"""
import os
from pathlib import Path
assert set(os.environ) <= set('{names} {own}'.split()), set(os.environ)
assert os.getcwd() == os.environ['HOME'] and Path.home() == Path.cwd()
assert all(name.startswith(('kernel-', 'socket-', '.')) for name in os.listdir()), os.listdir()
Path('mine').write_text('kept'); assert Path('mine').read_text() == 'kept'
"""
    (done,) = run(scratch, [look])
    assert done["said"] == "" and done["status"] == "ok"


def test_in_jail_nothing_else_can_be_written_read_or_undone(scratch, tmp_path):
    if not scratch.jail:
        pytest.skip("nothing is promised outside of the jail")
    outside, secret = tmp_path / "outside", scratch.hidden[0]
    undo = f"mount -o remount,rw / ; mount -o remount,bind,rw / ; umount {secret}"
    nested = f"unshare -Urm sh -c 'mount -o remount,bind,rw / ; umount {secret} ; touch {outside}'"
    tries = {
        f"open({str(outside)!r}, 'w')": "Read-only file system",
        f"open({str(secret / 'master.ipynb')!r})": "No such file",
        f"import os; assert os.listdir({str(secret)!r}) == os.listdir({str(scratch.ours)!r})": "",
        f"import subprocess; subprocess.run({undo!r} + ';' + {nested!r}, shell=True)": "",
        f"open({str(outside)!r}, 'w') ": "Read-only file system",
        f"assert os.listdir({str(secret)!r}) == []": "",
        "import socket; socket.create_connection(('127.0.0.1', 22), 2)": "Network is unreachable",
        "assert [name for name in os.listdir('/proc') if name.isdigit()] == ['1']": "",
        "os.kill(0, 0)": "",
    }
    done = run(scratch, list(tries))
    for each, (source, says) in zip(done, tries.items(), strict=True):
        assert says in each["said"] if says else each["status"] == "ok", (source, each)
    assert not outside.exists()


def test_what_it_started_ends_with_it(scratch):
    mark = f"more-{os.getpid()}-{time.time_ns()}"
    start = f"""
import os, subprocess, sys
for own in (True, False):
    words = [sys.executable, '-c', 'import time; time.sleep(300)', '{mark}']
    subprocess.Popen(words, start_new_session=own)
if os.fork() == 0:
    os.setsid()
    os.execv(sys.executable, words)
"""
    (done,) = run(scratch, [start])
    assert done["status"] == "ok"
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark in _text(path)]
    assert left == []


def _text(path):
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
