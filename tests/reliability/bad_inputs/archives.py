"""Archives that lead out of their folder, grow without end, are cut short or are none."""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.reliability.bad_inputs.building import (
    Build,
    Case,
    case,
    cut,
    fifo,
    several,
    sparse,
    write,
)

TAR, ZIP, INSIDE = "bad.tar.gz", "bad.zip", "VOCdevkit/VOC2012/JPEGImages"


def tarred(fill: Callable[[tarfile.TarFile], object]) -> Build:
    def build(place: Path) -> None:
        with tarfile.open(place / TAR, "w:gz") as archive:
            fill(archive)

    return build


def zipped(fill: Callable[[zipfile.ZipFile], object]) -> Build:
    def build(place: Path) -> None:
        with zipfile.ZipFile(place / ZIP, "w", zipfile.ZIP_DEFLATED) as archive:
            fill(archive)

    return build


def add(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Callable:
    """Puts one entry into a tar."""

    def fill(archive: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.size = kind, target, 3 * (kind == tarfile.REGTYPE)
        archive.addfile(entry, io.BytesIO(b"bad"))

    return fill


def put(name: str, mode: int = 0) -> Callable:
    """Puts one entry into a zip."""

    def fill(archive: zipfile.ZipFile) -> None:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        archive.writestr(entry, "/etc/passwd")

    return fill


def of_voc(name: str, file: str, build: Build, *said: str) -> Case:
    """An archive given as VOC's."""
    command = f"prepare_voc.py --voc {file} --no-sbd --root out"
    return case(f"archive, {name}", command, build, file, *said)


def bomb(place: Path) -> None:
    """2 GB of zeros in 2 MB."""
    with gzip.open(place / TAR, "wb", compresslevel=1) as packed:
        entry = tarfile.TarInfo(f"{INSIDE}/a.jpg")
        entry.size = 2**31
        packed.write(entry.tobuf())
        for _ in range(2**31 // 2**24):
            packed.write(bytes(2**24))


def zip_bomb(place: Path) -> None:
    """A header that says 100 GB, with what packs a little of it."""
    zipped(lambda archive: archive.writestr(f"{INSIDE}/a.jpg", bytes(10**6)))(place)
    content = bytearray((place / ZIP).read_bytes())
    start = content.rindex(b"PK\x01\x02")
    content[start + 24 : start + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    (place / ZIP).write_bytes(content)


def zip_damage(place: Path) -> None:
    """A byte that the checksum disagrees with."""
    zipped(lambda archive: archive.writestr(f"{INSIDE}/a.jpg", "some photograph" * 50))(place)
    content = bytearray((place / ZIP).read_bytes())
    content[80] ^= 0xFF
    (place / ZIP).write_bytes(content)


def locked(place: Path) -> None:
    """A zip whose entry says that it has a password."""
    zipped(put(f"{INSIDE}/a.jpg"))(place)
    content = bytearray((place / ZIP).read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    (place / ZIP).write_bytes(content)


def both(archive: tarfile.TarFile) -> None:
    """A file, and another below it."""
    add(f"{INSIDE}/a")(archive)
    add(f"{INSIDE}/a/b.jpg")(archive)


def notes(place: Path) -> None:
    """2 GB of notes on the first file, in 9 MB."""
    with gzip.open(place / TAR, "wb", compresslevel=1) as packed:
        entry = tarfile.TarInfo("notes")
        entry.type, entry.size = tarfile.XHDTYPE, 2**31
        packed.write(entry.tobuf())
        for _ in range(2**31 // 2**24):
            packed.write(bytes(2**24))


OUT, LINK = "leads out of its folder", "link or device"
DOWNLOADED = "data/downloads/VOCtrainval_11-May-2012.tar"

CASES = [
    of_voc("a path out of the folder", TAR, tarred(add(f"{INSIDE}/../../../../x")), OUT),
    of_voc("an absolute path", TAR, tarred(add(f"/tmp/{INSIDE}/x.jpg")), OUT),
    of_voc("a link out of the folder", TAR, tarred(add(f"{INSIDE}/a", tarfile.SYMTYPE, "/")), LINK),
    of_voc("a hard link", TAR, tarred(add(f"{INSIDE}/a", tarfile.LNKTYPE, "/etc/passwd")), LINK),
    of_voc("a device", TAR, tarred(add(f"{INSIDE}/a", tarfile.CHRTYPE)), LINK),
    of_voc("a pipe", TAR, tarred(add(f"{INSIDE}/a", tarfile.FIFOTYPE)), LINK),
    of_voc("a name of 300 letters", TAR, tarred(add(f"{INSIDE}/{'a' * 300}.jpg")), "name"),
    of_voc("a file that is a folder too", TAR, tarred(both)),
    of_voc("nothing of VOC", TAR, tarred(add("photos/a.jpg")), "another archive"),
    of_voc("nothing at all", TAR, tarred(lambda archive: None), "another archive"),
    of_voc("a part of VOC", TAR, tarred(add(f"{INSIDE}/a.jpg")), "holds no VOC 2012 tree"),
    of_voc("2 GB in 2 MB", TAR, bomb, "unpacks to over"),
    of_voc("2 GB of notes", TAR, notes, "archive"),
    of_voc("cut short", TAR, several(tarred(add(f"{INSIDE}/a.jpg")), cut(TAR, 0.7))),
    of_voc("packed damage", TAR, write(TAR, b"\x1f\x8b\x08" + bytes(200)), "tar"),
    of_voc("text", TAR, write(TAR, "404 not found"), "neither a tar nor a zip"),
    of_voc("empty", TAR, write(TAR, b""), "fetch it again"),
    of_voc("zeros", TAR, sparse(TAR, 2**30), "fetch it again"),
    of_voc("a pipe for an archive", TAR, fifo(TAR), "archive"),
    of_voc("half a stream", TAR, write(TAR, zlib.compress(bytes(10**6))[:50]), "archive"),
    of_voc("a zip's path out of the folder", ZIP, zipped(put(f"{INSIDE}/../../../../x")), OUT),
    of_voc("a zip's absolute path", ZIP, zipped(put(f"/tmp/{INSIDE}/x.jpg")), OUT),
    of_voc("a zip's drive", ZIP, zipped(put(f"C:\\{INSIDE}/x.jpg")), OUT),
    of_voc("a zip's link", ZIP, zipped(put(f"{INSIDE}/a.jpg", 0o120777)), LINK),
    of_voc("a zip that says too much", ZIP, zip_bomb, "unpacks to over"),
    of_voc("a zip with a password", ZIP, locked, "password"),
    of_voc("a zip of a wrong checksum", ZIP, zip_damage, "fetch it again"),
    case(
        "download, another size",
        "prepare_voc.py --no-sbd --root out",
        write(DOWNLOADED, "another file"),
        DOWNLOADED,
        "12 bytes",
        "remove it",
    ),
    case(
        "download, a folder in its place",
        "prepare_voc.py --no-sbd --root out",
        write(f"{DOWNLOADED}/x", "x"),
        DOWNLOADED,
    ),
    case(
        "download, a file in the way",
        "prepare_voc.py --no-sbd --root out",
        write("data/downloads", "x"),
        "data/downloads",
        "file",
    ),
    case(
        "SBD's archive, text",
        "prepare_voc.py --voc voc --sbd bad.tar.gz --root voc",
        write(TAR, "404"),
        TAR,
        "neither a tar nor a zip",
    ),
]
