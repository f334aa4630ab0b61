"""Files and folders appear whole or not at all, and a bad disk is one clear line."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import Mock

import platformdirs
import pytest

from more_lib.system.errors import InputError
from more_lib.system.files import (
    absolute,
    atomic_file,
    atomic_folder,
    data_folder,
    remove_folder,
    sha256,
)


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its text, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write(temporary: Path, text: str) -> None:
    """Put something at either kind of temporary place."""
    (temporary / "part.txt" if temporary.is_dir() else temporary).write_text(text)


def written(place: Path) -> str:
    return (place / "part.txt" if place.is_dir() else place).read_text()


BOTH = pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])


@BOTH
def test_it_appears_at_the_end_of_the_block_and_nothing_else_does(atomic, tmp_path):
    place = tmp_path / "new" / "deep" / "result.txt"
    with atomic(str(place)) as temporary:
        if atomic is atomic_file:  # by whose suffix writers choose a format
            assert temporary.suffix == ".txt" and temporary.read_bytes() == b""
        write(temporary, "whole")
        assert not place.exists()
        assert temporary.parent == place.parent  # the same disk, where a rename is one step
    assert written(place) == "whole"
    assert os.listdir(place.parent) == ["result.txt"]
    assert place.stat().st_mode & 0o777 == (0o755 if place.is_dir() else 0o644)  # others may read


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()], ids=repr)
@BOTH
def test_a_block_that_fails_leaves_nothing(atomic, error, tmp_path):
    with pytest.raises(type(error)), atomic(tmp_path / "result") as temporary:
        write(temporary, "half")
        raise error
    assert os.listdir(tmp_path) == []


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path):
    file = tmp_path / "result.txt"
    file.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert tree(tmp_path) == {"result.txt": "old"}
    with atomic_file(file) as temporary:
        temporary.write_text("new")
        assert file.read_text() == "old"
    assert tree(tmp_path) == {"result.txt": "new"}


def test_a_link_stays_one_and_a_pipe_is_no_place_for_a_file(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target.name)
    with atomic_file(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink() and target.read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(InputError, match="is a pipe or a device"), atomic_file(place):
            pass
    assert (tmp_path / "pipe").is_fifo()


def test_a_folder_that_came_first_stays(tmp_path):
    """Two runs that make the same data set at once end with one of them, unmixed."""
    with atomic_folder(tmp_path / "set") as first:
        (first / "a").write_text("second's")
        with atomic_folder(tmp_path / "set") as other:
            (other / "b").write_text("first's")
    assert tree(tmp_path) == {"set/b": "first's"}


def test_two_writers_of_one_file_do_not_share_a_temporary(tmp_path):
    with atomic_file(tmp_path / "file") as one, atomic_file(tmp_path / "file") as two:
        assert one != two
        one.write_text("one")
        two.write_text("two")
    assert tree(tmp_path) == {"file": "one"}  # the outer block ends last


CURES = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "quota",
    errno.EACCES: "not writable",
    errno.EPERM: "not writable",
    errno.EROFS: "read-only",
    errno.EFBIG: "too large",
}


def fail(number: int):
    def failing(*_, **__):
        raise OSError(number, os.strerror(number))

    return failing


@pytest.mark.parametrize("number", CURES, ids=errno.errorcode.get)
@BOTH
def test_a_disk_error_while_writing_is_one_line_with_a_cure(atomic, number, tmp_path):
    advice = {tmp_path / "a": "name another place", data_folder() / "a": "set MORE_DATA to another"}
    for place, cure in advice.items():
        with pytest.raises(InputError) as caught, atomic(place) as temporary:
            write(temporary, "half")
            fail(number)()
        message = str(caught.value)
        assert str(place) in message and CURES[number] in message and "\n" not in message
        assert cure in message and ("MORE_DATA" in message) == (place.parent == data_folder())
    assert os.listdir(tmp_path) == ["more_data"] and os.listdir(data_folder()) == []


@pytest.mark.parametrize(
    "atomic, module, step",
    [
        (atomic_file, tempfile, "mkstemp"),
        (atomic_file, Path, "replace"),
        (atomic_folder, tempfile, "mkdtemp"),
        (atomic_folder, Path, "rename"),
    ],
)
def test_a_full_disk_is_told_at_every_step(atomic, module, step, tmp_path, monkeypatch):
    monkeypatch.setattr(module, step, fail(errno.ENOSPC))
    with pytest.raises(InputError, match="no space left"), atomic(tmp_path / "result") as temporary:
        write(temporary, "whole")
    assert os.listdir(tmp_path) == []


@BOTH
def test_a_file_in_the_way_of_a_folder_is_named(atomic, tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file" / "result", tmp_path / "file" / "deep" / "result"):
        with pytest.raises(InputError, match="part of the path is a file"), atomic(place):
            pytest.fail("the block must not run")
    assert tree(tmp_path) == {"file": "mine"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@BOTH
def test_a_folder_without_permission_is_named(atomic, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(InputError, match="not writable"), atomic(closed / "result"):
        pytest.fail("the block must not run")


@BOTH
def test_other_system_errors_pass_as_they_are(atomic, tmp_path):
    with pytest.raises(OSError) as caught, atomic(tmp_path / "result"):
        fail(errno.EIO)()
    assert caught.value.errno == errno.EIO
    assert os.listdir(tmp_path) == []


@BOTH
def test_a_name_may_be_as_long_as_the_disk_allows_and_no_longer(atomic, tmp_path):
    longest = tmp_path / ("n" * 200 + "." + "s" * 54)
    with atomic(longest) as temporary:
        write(temporary, "whole")
    assert written(longest) == "whole"
    with pytest.raises(InputError, match="name is too long"), atomic(f"{longest}s") as temporary:
        write(temporary, "whole")
    assert os.listdir(tmp_path) == [longest.name]


@BOTH
def test_a_link_that_leads_nowhere_is_named_and_what_the_block_misses_is_not(atomic, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in (tmp_path / "link" / "result", tmp_path / "loop" / "deep" / "result"):
        with pytest.raises(InputError, match="cannot write .*link"), atomic(place):
            pytest.fail("the block must not run")
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "result"):
        (tmp_path / "no photograph").read_bytes()
    with pytest.raises(InputError, match="is missing"), atomic(tmp_path / "a" / "b") as temporary:
        shutil.rmtree(tmp_path / "a")
        write(temporary, "whole")


KILLED = """
import os, signal, sys
from more_lib.system import files
with getattr(files, sys.argv[1])(sys.argv[2]):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@BOTH
def test_what_a_killed_process_left_goes_with_the_next_but_nothing_that_is_in_use(atomic, tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, atomic.__name__, str(tmp_path / "result")])
    (left,) = tmp_path.iterdir()
    command = [sys.executable, "-c", KILLED.replace("os.kill", "(lambda *_: 0)")]
    with atomic_file(tmp_path / "mine.txt") as mine, atomic_folder(tmp_path / "more") as more:
        assert not left.exists()
        left.mkdir()  # which no process holds
        subprocess.run([*command, atomic.__name__, str(tmp_path / "result")], check=True)
        assert mine.exists() and more.exists() and not left.exists()
    assert sorted(os.listdir(tmp_path)) == ["mine.txt", "more", "result"]


def test_the_environment_chooses_the_data_folder_or_else_it_is_the_users_cache(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("MORE_DATA", str(tmp_path / "not there yet"))
    assert data_folder() == tmp_path / "not there yet"
    assert os.listdir(tmp_path) == []  # asking makes nothing
    monkeypatch.setenv("MORE_DATA", "")
    assert data_folder() == Path(platformdirs.user_cache_dir("more_lib"))
    monkeypatch.delenv("MORE_DATA")
    assert data_folder() == Path(platformdirs.user_cache_dir("more_lib"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MORE_DATA", "~/data")
    assert data_folder() == tmp_path / "data"
    monkeypatch.setenv("MORE_DATA", "here")
    monkeypatch.chdir(tmp_path)
    assert data_folder() == absolute("here") == tmp_path / "here"
    assert absolute("~nobody-of-this-name/a") == tmp_path / "~nobody-of-this-name/a"


def test_sha256_is_the_standard_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "abc") == sha256(str(tmp_path / "abc")) == expected


def test_a_folder_is_removed_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "state").touch()
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(shutil, "rmtree", Mock(side_effect=KeyboardInterrupt))
        remove_folder(folder)
    assert not folder.exists()
    remove_folder(folder)  # which may be gone, with what was left of it
    assert list(tmp_path.iterdir()) == []
