"""Fetching and unpacking: from a server on this machine that breaks in every way."""

import gzip
import hashlib
import io
import os
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import numpy as np
import pytest

from more_lib.data.prepare import fetch as fetching
from more_lib.data.prepare.fetch import extract, fetch, fetch_plan
from more_lib.data.prepare.sources import SOURCES, DataSet, Source
from more_lib.system import locks
from tests.data.helpers import contents, refused, serving

CONTENT = np.random.default_rng(0).bytes(300_000)
SET = DataSet("A set", "http://home.invalid/", "free for all")
GONE = "http://127.0.0.1:9/file.tar"  # the discard port, where nobody listens


@pytest.fixture
def server(monkeypatch):
    """A server that ``answer(handler, start)`` speaks for; it records each request's Range."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetching, "CHUNK", 10_000)
    state = SimpleNamespace(ranges=[], answer=send)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            state.ranges.append(wanted)
            state.answer(self, int(wanted[len("bytes=") : -1]) if wanted else 0)

    with serving(Handler) as url:
        state.url = f"{url}/file.tar"
        yield state


def send(handler, start, content=CONTENT, cut=None, ranges=True):
    """``content`` from ``start`` on, of which only ``cut`` bytes get through."""
    handler.send_response(206 if start and ranges else 200)
    if start and ranges:
        end = len(content) - 1
        handler.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
    body = content[start:] if ranges else content
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[:cut])


def without_that_range(handler, start):
    handler.send_error(416) if start else send(handler, start)


def without_a_length(handler, start):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(CONTENT[:5000])


def source(*urls, content=CONTENT, checksum="sha256"):
    digest = f"{checksum}:{hashlib.new(checksum, content).hexdigest()}" if checksum else None
    return Source("file.tar", urls, digest, len(content), "numbers", SET)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("checksum", ["sha256", "md5", None])
def test_a_download_arrives_whole_and_only_once(server, tmp_path, checksum):
    wanted = source(GONE, server.url, checksum=checksum)  # mirrors are tried in turn
    path = fetch(wanted, tmp_path / "new/folder")
    assert path == tmp_path / "new/folder/file.tar" and path.read_bytes() == CONTENT
    assert fetch(wanted, path.parent) == path
    assert server.ranges == [None] and names(path.parent) == ["file.tar"]


def test_a_broken_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.answer = partial(send, cut=110_000)
    assert fetch(source(server.url), tmp_path).read_bytes() == CONTENT
    starts = [int(text[6:-1]) for text in server.ranges[1:]]
    assert server.ranges[0] is None and starts == sorted(set(starts)) and len(starts) >= 2
    assert names(tmp_path) == ["file.tar"]


def test_a_download_that_stopped_is_kept_and_resumed_by_the_next_call(server, tmp_path):
    cut = {0: 120_000}  # of what was begun nothing more
    server.answer = lambda handler, start: send(handler, start, cut=cut.get(start, 0))
    with refused("what has arrived is kept"):
        fetch(source(server.url), tmp_path)
    assert not (tmp_path / "file.tar").exists()
    arrived = (tmp_path / ".file.tar.part").read_bytes()
    assert 0 < len(arrived) <= 120_000 and CONTENT.startswith(arrived)
    server.answer = send
    server.ranges.clear()
    assert fetch(source(server.url), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(arrived)}-"]


def test_two_who_want_one_file_download_it_once(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "POLL", 0.01)

    def slowly(handler, start):
        time.sleep(0.2)
        send(handler, start)

    server.answer = slowly
    with ThreadPoolExecutor() as pool:
        files = list(pool.map(fetch, [source(server.url)] * 3, [tmp_path] * 3))
    assert files == [tmp_path / "file.tar"] * 3 and files[0].read_bytes() == CONTENT
    assert server.ranges == [None] and names(tmp_path) == ["file.tar"]
    waiting = "waiting for another process that downloads file.tar …\n"
    assert capsys.readouterr().out == 2 * waiting


def test_a_whole_archive_is_there_before_it_has_its_name(server, tmp_path, monkeypatch):
    """A kill while its checksum is taken loses nothing of it."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fetching, "hash_matches", killed)
        fetch(source(server.url), tmp_path)
    assert contents(tmp_path) == {".file.tar.part": CONTENT}
    assert fetch(source(server.url), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None]


def test_a_server_that_always_breaks_at_the_same_place_is_given_up(server, tmp_path):
    server.answer = partial(send, cut=50_000, ranges=False)
    with refused("could not be downloaded"):
        fetch(source(server.url), tmp_path)
    assert len(server.ranges) <= 3


@pytest.mark.parametrize(
    "answer, part, ranges",
    [
        (send, CONTENT, []),  # it had arrived whole
        (send, bytes(len(CONTENT) + 1), [None]),  # too long
        (send, bytes(1000), ["bytes=1000-", None]),  # other bytes, which the checksum tells
        (partial(send, ranges=False), CONTENT[:1000], ["bytes=1000-"]),  # all is sent again
        (without_that_range, CONTENT[:1000], ["bytes=1000-", None]),
    ],
)
def test_what_had_arrived_is_taken_or_forgotten(server, tmp_path, answer, part, ranges):
    (tmp_path / ".file.tar.part").write_bytes(part)
    server.answer = answer
    assert fetch(source(server.url, server.url), tmp_path).read_bytes() == CONTENT
    assert server.ranges == ranges and names(tmp_path) == ["file.tar"]


ZEROS = bytes(len(CONTENT))
PAGE = partial(send, content=b"<html>log in</html>", ranges=False)


@pytest.mark.parametrize(
    "answer, checksum, part, complaint",
    [
        (partial(send, content=ZEROS), "sha256", b"", hashlib.sha256(ZEROS).hexdigest()),
        (PAGE, None, CONTENT[:1000], "offers 19 bytes instead of 300,000"),  # and costs nothing
        (without_a_length, None, b"", "sent 5,000 bytes instead of 300,000"),
    ],
)
def test_wrong_bytes_are_not_taken(server, tmp_path, answer, checksum, part, complaint):
    if part:
        (tmp_path / ".file.tar.part").write_bytes(part)
    server.answer = answer
    with refused(complaint):
        fetch(source(server.url, checksum=checksum), tmp_path)
    assert contents(tmp_path) == ({".file.tar.part": part} if part else {})


def test_dead_links_are_listed_with_their_reasons_and_the_place_for_the_file(server, tmp_path):
    server.answer = lambda handler, start: handler.send_error(404)
    reasons = rf"{server.url} \(404.*{GONE} \(.*refused"
    with refused(reasons, f"put it at {tmp_path / 'file.tar'}", SET.homepage):
        fetch(source(server.url, GONE), tmp_path)


def test_a_file_put_there_by_hand_is_taken_if_it_is_the_right_one(tmp_path):
    (tmp_path / "file.tar").write_bytes(CONTENT)
    assert fetch(source(GONE), tmp_path) == tmp_path / "file.tar"
    for wrong in (CONTENT[:-1], bytes(len(CONTENT))):
        (tmp_path / "file.tar").write_bytes(wrong)
        with refused("is not the published file.*remove it"):
            fetch(source(GONE), tmp_path)
        assert (tmp_path / "file.tar").read_bytes() == wrong


def test_what_the_user_has_is_taken_as_it_is(tmp_path):
    assert fetch(source(GONE), tmp_path / "unused", tmp_path) == tmp_path
    assert not (tmp_path / "unused").exists()
    with refused("nowhere does not exist.*file.tar"):
        fetch(source(GONE), tmp_path, tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    tmp_path.chmod(0o500)
    with refused("cannot write .*not writable"):
        fetch(source(server.url), tmp_path)


def test_the_plan_says_what_fetch_would_do_and_touches_nothing(tmp_path):
    wanted = source(GONE, GONE)
    plan = fetch_plan(wanted, tmp_path / "new")
    for part in (GONE, "0.00 GB", "mirrors: 1", str(tmp_path / "new/file.tar"), SET.licence):
        assert part in plan
    assert not (tmp_path / "new").exists()
    (tmp_path / "file.tar").write_bytes(CONTENT)
    assert fetch_plan(wanted, tmp_path).startswith(f"take {tmp_path / 'file.tar'}")


def test_every_source_of_the_table_is_complete():
    assert len({entry.file for entry in SOURCES}) == len(SOURCES)
    for entry in SOURCES:
        algorithm, _, digest = entry.checksum.partition(":")
        assert len(digest) == {"sha256": 64, "md5": 32}[algorithm] and int(digest, 16)
        assert len(entry.urls) >= 2 and entry.size > 1e7
        for url in entry.urls:
            assert url.startswith(("http://", "https://")) and url.endswith(f"/{entry.file}")
        assert entry.data_set.homepage.startswith("http") and entry.data_set.licence


def write_tar(path, *members, mode="w"):
    """A tar of (name, content) pairs and of ready TarInfo entries."""
    with tarfile.open(path, mode) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                entry = tarfile.TarInfo(member[0])
                entry.size = len(member[1])
                archive.addfile(entry, io.BytesIO(member[1]))
    return path


def write_zip(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


WRITERS = {"tar": write_tar, "tgz": partial(write_tar, mode="w:gz"), "zip": write_zip}
GOOD = (("set/a.txt", b"one"), ("set/deep/b.txt", b"two"), ("set/c.png", b"three"))


@pytest.mark.parametrize("kind", WRITERS)
def test_archives_are_unpacked_once_and_whole_or_the_wanted_members(tmp_path, kind):
    archive = WRITERS[kind](tmp_path / "archive", *GOOD)
    folder = extract(archive, tmp_path / "out")
    assert contents(folder) == dict(GOOD)
    archive.unlink()
    assert extract(archive, folder) == folder and names(tmp_path) == ["out"]
    archive = WRITERS[kind](tmp_path / "archive", *GOOD, ("../evil.png", b""))
    folder = extract(archive, tmp_path / "part", lambda name: name.endswith(".txt"))
    assert sorted(contents(folder)) == ["set/a.txt", "set/deep/b.txt"]
    with refused("none of the files it should"):
        extract(archive, tmp_path / "other", lambda name: False)
    assert names(tmp_path) == ["archive", "out", "part"]


LEADING_OUT = ["../out.txt", "set/../../out.txt", "/tmp/out.txt", "C:\\out.txt",
               "set\\..\\..\\out.txt", "\\\\host\\share\\out.txt"]  # fmt: skip
LINK_IN_ZIP = zipfile.ZipInfo("set/link")
LINK_IN_ZIP.external_attr = 0o120777 << 16


def entry(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "kind, member, complaint",
    [
        *((kind, (name, b"evil"), "leads out of") for kind in WRITERS for name in LEADING_OUT),
        ("tar", entry("set/link", tarfile.SYMTYPE, "/etc"), "link or device 'set/"),
        ("tar", entry("set/link", tarfile.SYMTYPE, "../../.."), "link or device 'set/"),
        ("tar", entry("set/link", tarfile.LNKTYPE, "set/a.txt"), "link or device 'set/"),
        ("tar", entry("set/pipe", tarfile.FIFOTYPE), "link or device 'set/"),
        ("tar", entry("set/device", tarfile.CHRTYPE), "link or device 'set/"),
        ("zip", (LINK_IN_ZIP, "/etc/passwd"), "link or device 'set/"),
    ],
)
def test_what_leads_out_of_the_folder_is_refused(tmp_path, kind, member, complaint):
    archive = WRITERS[kind](tmp_path / "archive", *GOOD, member)
    with refused(f"archive holds .*{complaint}"):
        extract(archive, tmp_path / "out")
    assert names(tmp_path) == ["archive"]


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_an_archive_that_grows_without_bound_is_stopped(tmp_path, monkeypatch, kind):
    archive = WRITERS[kind](tmp_path / "archive", *GOOD, ("set/zeros", bytes(2_000_000)))
    extract(archive, tmp_path / "small enough")
    monkeypatch.setattr(fetching, "ALWAYS_ALLOWED", 1_000_000)
    with refused("unpacks to over 0.0 GB"):
        extract(archive, tmp_path / "out")
    assert names(tmp_path) == ["archive", "small enough"]


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_archives_are_named(tmp_path, kind):
    noise = np.random.default_rng(1).bytes(200_000)
    whole = WRITERS[kind](tmp_path / "archive", ("set/noise", noise)).read_bytes()
    flipped = bytearray(whole)
    flipped[100_000] ^= 255
    for content in (whole[:100_000], b"", b"<html>", *([bytes(flipped)] * (kind != "tar"))):
        (tmp_path / "archive").write_bytes(content)
        with refused("archive .*"):
            extract(tmp_path / "archive", tmp_path / "out")
        assert names(tmp_path) == ["archive"]
    (tmp_path / "archive").write_bytes(gzip.compress(b"no tar at all"))
    with refused("neither a tar nor a zip"):
        extract(tmp_path / "archive", tmp_path / "out")
    with refused("nowhere is missing"):
        extract(tmp_path / "nowhere", tmp_path / "out")


def test_a_tar_that_ends_with_a_zip_is_still_a_tar(tmp_path):
    inner = write_zip(tmp_path / "inner.zip", ("set/a.txt", b"inner")).read_bytes()
    archive = write_tar(tmp_path / "archive", ("set/inner.zip", inner))
    assert list(contents(extract(archive, tmp_path / "out"))) == ["set/inner.zip"]


def test_a_python_that_cannot_unpack_tars_safely_says_so(tmp_path, monkeypatch):
    archive = write_tar(tmp_path / "archive", *GOOD)
    monkeypatch.delattr(tarfile, "data_filter")
    with refused("needs Python 3.11.4"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_zeros_are_no_archive_and_are_not_looked_through(tmp_path):
    (tmp_path / "archive.tar.xz").write_bytes(b"")
    os.truncate(tmp_path / "archive.tar.xz", 2**40)
    with refused("archive.tar.xz is empty or begins with zeros: fetch it again"):
        extract(tmp_path / "archive.tar.xz", tmp_path / "out")


@pytest.mark.parametrize("others", [["a" * 300], ["a", "a/b"], ["a/b", "a"]])
def test_names_that_no_disk_can_hold_are_the_archives_fault(tmp_path, others):
    archive = WRITERS["zip"](tmp_path / "archive", *((f"set/{name}", b"x") for name in others))
    with refused("archive cannot be unpacked .*: remove it and fetch it again"):
        extract(archive, tmp_path / "out")
    assert names(tmp_path) == ["archive"]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_notes_that_fill_the_memory_are_not_read(tmp_path, kind):
    entry = tarfile.TarInfo("notes")
    entry.type, entry.size = kind, 2**40
    (tmp_path / "archive").write_bytes(entry.tobuf())
    os.truncate(tmp_path / "archive", 2**40 + 1024)
    with refused("archive is neither a tar nor a zip"):
        extract(tmp_path / "archive", tmp_path / "out")
