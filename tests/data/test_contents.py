"""Digests of files: right whatever was done to a file, and computed once where it rests."""

import hashlib
import json
import os
import time

import pytest

from more_lib.data import contents
from more_lib.data.contents import digests
from more_lib.system.files import data_folder
from tests.data.helpers import refused


@pytest.fixture
def files(tmp_path):
    """Two files that nobody has changed for a while, as far as their clock says."""
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text(path.name)
    return paths


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read, one after the other."""
    names = []
    plain = contents._digest
    monkeypatch.setattr(contents, "_digest", lambda file: names.append(file.name) or plain(file))
    return names


def test_digests_are_sha256_in_the_order_asked_for(files):
    a, b = files
    wanted = [hashlib.sha256(name.encode()).hexdigest() for name in "bab"]
    assert digests([b, a, b]) == wanted


def test_a_file_is_read_once_and_again_when_it_changed(files, read, monkeypatch):
    monkeypatch.setattr(contents, "SETTLED", -60)  # as if a minute had passed
    first = digests(files)
    assert digests(files) == first and sorted(read) == ["a", "b"]
    times = files[0].stat()
    files[0].write_text("z")  # of the same size, and set back to the same time
    os.utime(files[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digests(files)[0] == hashlib.sha256(b"z").hexdigest() and read[2:] == ["a"]
    files[1].rename(files[0])
    assert digests(files[:1]) == first[1:]


def test_what_was_changed_a_moment_ago_or_in_the_future_is_not_trusted(files, read):
    digests(files)
    digests(files)
    ahead = (time.time() + 3600) * 1e9
    os.utime(files[0], ns=(int(ahead), int(ahead)))
    digests(files[:1])
    assert len(read) == 5


@pytest.mark.parametrize("damage", ["{", '{"files": {"a": null, "b": []}}', '{"files": 3}'])
def test_damaged_notes_and_a_folder_that_cannot_be_written_cost_time_only(
    files, read, monkeypatch, tmp_path, damage
):
    monkeypatch.setattr(contents, "SETTLED", -60)
    first = digests(files)
    for notes in (data_folder() / "contents").glob("*.json"):
        if json.loads(notes.read_text())["folder"] == str(tmp_path):
            notes.write_text(damage)
    assert digests(files) == first and len(read) == 4
    (tmp_path / "in the way").touch()
    monkeypatch.setenv("MORE_DATA", str(tmp_path / "in the way"))
    assert digests(files) == first


def test_a_missing_file_is_named(tmp_path):
    with refused("gone.jpg is missing"):
        digests([tmp_path / "gone.jpg"])
