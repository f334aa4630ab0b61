"""One process at a time, also after a kill, and where there are no locks everybody goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from more_lib.system.locks import exclusive, lock_of

HOLD = """
import sys, time
from pathlib import Path
from more_lib.system.locks import exclusive
with exclusive(Path(sys.argv[1]), "holds it"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(path: Path, seconds: float) -> subprocess.Popen:
    """A process that holds the lock by now."""
    command = [sys.executable, "-c", HOLD, str(path), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.slow
def test_the_second_waits_for_the_first_and_says_so_once(tmp_path, capsys):
    path = tmp_path / "new" / "lock"
    first = holder(path, 2)
    with exclusive(path, "does the same"):
        assert first.wait() == 0
        assert path.exists()
    assert capsys.readouterr().out == "waiting for another process that does the same …\n"
    assert os.listdir(path.parent) == []


@pytest.mark.slow
def test_a_killed_holder_lets_go(tmp_path, capsys):
    path = tmp_path / "lock"
    first = holder(path, 600)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert path.exists()
    began = time.monotonic()
    with exclusive(path, "was killed"):
        assert time.monotonic() - began < 1
    assert capsys.readouterr().out == "" and os.listdir(tmp_path) == []


def test_what_was_put_beside_the_lock_stays_and_an_error_frees_it(tmp_path):
    path = tmp_path / "deep" / "folder" / "lock"
    with pytest.raises(KeyError), exclusive(path, "fails"):
        (path.parent / "result").write_text("whole")
        raise KeyError
    assert os.listdir(path.parent) == ["result"]
    with exclusive(path, "goes on"):
        assert path.exists()


@pytest.mark.parametrize("error", [PermissionError, OSError(38, "no locks"), OSError(30, "ro")])
def test_where_no_lock_can_be_had_the_block_runs_without(tmp_path, monkeypatch, error, capsys):
    def refuses(*_, **__):
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuses)
    with exclusive(tmp_path / "lock", "waits"):
        pass
    assert capsys.readouterr().out == ""


def test_a_place_that_cannot_be_is_left_to_who_writes_there(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "deep" / "lock", tmp_path / ("n" * 300)):
        with exclusive(path, "waits"):
            pass
    assert os.listdir(tmp_path) == ["file"]
    assert lock_of(tmp_path / "set").name == ".set.lock"


def test_several_processes_hold_it_as_one_by_the_first_of_them(tmp_path):
    class Two:
        def __init__(self, is_main):
            self.is_main, self.gathered = is_main, 0

        def gather(self, part):
            self.gathered += 1

    for is_main in (True, False):
        both = Two(is_main)
        with exclusive(tmp_path / "lock", "trains", both):
            assert (tmp_path / "lock").exists() == is_main and both.gathered == 1
