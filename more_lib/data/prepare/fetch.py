"""Getting archives here whole, and unpacking them without trusting them.

A download resumes where it stopped, goes on with the next mirror where one fails, and bears its
name only once its checksum is right.
"""

import errno
import gzip
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PureWindowsPath

import requests
from pooch.hashes import file_hash, hash_algorithm, hash_matches

from more_lib.data.prepare.sources import Source
from more_lib.system.errors import InputError
from more_lib.system.files import absolute, atomic_folder, data_folder, readable_disk_errors
from more_lib.system.locks import exclusive, lock_of
from more_lib.system.progress import progress_bar

TIMEOUT = 60  # seconds without a byte
CHUNK = 2**20  # bytes
EXPANSION = 50  # an archive that grows by more is no data set; the real ones grow by 4 at most
ALWAYS_ALLOWED = 2**28  # bytes, for small archives

_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    RuntimeError,  # a zip with a password, or packed by a method that Python lacks
)

# What a name in an archive leads to that is too long, or a file's and a folder's at once.
_BAD_NAMES = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)


def downloads_folder() -> Path:
    """Where archives are kept; none is needed once its data set is prepared."""
    return data_folder() / "downloads"


def fetch(source: Source, folder: str | Path, given: str | Path | None = None) -> Path:
    """The file of ``source``, downloaded unless it is there.

    Args:
        source: a row of ``more_lib.data.prepare.sources``.
        folder: where downloads go; the file keeps its name.
        given: an archive or a folder that the user has: taken as it is, without a download.

    A download that was cut off is kept as ``.<name>.part`` and resumed. Bytes of a wrong size or
    checksum are thrown away.

    Raises ``InputError`` when ``given`` does not exist, when a file in ``folder`` has another
    checksum, and when no address works: it lists each with its reason, and the place where a file
    fetched by hand is found.
    """
    if given is not None:
        given = absolute(given)
        if not given.exists():
            raise InputError(f"{given} does not exist: give the path of {source.file}, or of the "
                             "folder unpacked from it")  # fmt: skip
        return given
    path = absolute(folder) / source.file
    with readable_disk_errors(path):
        if not path.exists():
            with exclusive(lock_of(path), f"downloads {path.name}"):
                if not path.exists():
                    _download(source, path)
                    return path
        size = path.stat().st_size
        if size != source.size or not hash_matches(path, source.checksum):
            raise InputError(
                f"{path} ({size:,} bytes) is not the published file ({source.size:,} bytes, "
                "or another checksum): remove it to download it again"
            )
        return path


def fetch_plan(source: Source, folder: str | Path) -> str:
    """What ``fetch`` with the same arguments would do, in one line. Touches nothing."""
    path = absolute(folder) / source.file
    if path.exists():
        return f"take {path}, once its checksum is verified"
    size, data_set = f"{source.size / 1e9:.2f} GB", source.data_set
    return (
        f"download {source.urls[0]} ({size}; {source.holds}; mirrors: {len(source.urls) - 1}) to "
        f"{path}. {data_set.name}: {data_set.licence} ({data_set.homepage})"
    )


def extract(
    archive: str | Path, folder: str | Path, members: Callable[[str], bool] | None = None
) -> Path:
    """Unpack a tar, compressed or not, or a zip into ``folder``; whole or not at all.

    ``members`` is asked with each file's name in the archive which to unpack; None takes all.
    An existing ``folder`` is taken for the work of an earlier call and left as it is.

    Raises ``InputError`` for an archive that is missing, damaged or of another kind, that holds an
    absolute path, one with ``..``, a link or a device, that grows beyond ``EXPANSION`` times its
    size, and that has nothing to unpack.
    """
    archive, folder = absolute(archive), absolute(folder)
    if not folder.exists():
        if not archive.is_file():
            raise InputError(f"the archive {archive} is missing")
        with exclusive(lock_of(folder), f"unpacks {archive.name}"):
            if not folder.exists():
                _unpack(archive, folder, members)
    return folder


def _unpack(archive: Path, folder: Path, members: Callable[[str], bool] | None) -> None:
    allowed = max(ALWAYS_ALLOWED, EXPANSION * archive.stat().st_size)
    with atomic_folder(folder) as temporary, _named_damage(archive):
        written = 0
        with progress_bar(description=f"unpacking {archive.name}", unit="B") as bar:
            for name, size, unpack in _files(archive):
                if members is not None and not members(name):
                    continue
                inside = PureWindowsPath(name)  # splits at both kinds of slash and knows drives
                if not inside.parts or inside.anchor or ".." in inside.parts:
                    raise InputError(f"{archive} holds {name!r}, which leads out of its folder: "
                                     "get the archive from its publisher")  # fmt: skip
                if unpack is None:
                    raise InputError(f"{archive} holds the link or device {name!r}, which no data "
                                     "set needs: get the archive from its publisher")  # fmt: skip
                written += size
                if written > allowed:
                    raise InputError(f"{archive} unpacks to over {allowed / 1e9:.1f} GB, far too "
                                     "much for its size: get it from its publisher")  # fmt: skip
                unpack(path=temporary)
                bar.update(size)
        if not any(temporary.iterdir()):
            raise InputError(f"{archive} holds none of the files it should: is it another archive?")


def check_counts(
    counts: Mapping[str, int], expected: Mapping[str, int], where: Path, partial: bool | None = None
) -> None:
    """Raise ``InputError`` that names every one of ``counts`` which is not the expected one.

    ``partial`` is the user's choice to go on, which then prints them; None where there is none.
    """
    off = ", ".join(
        f"{name} has {count:,} instead of {expected[name]:,}"
        for name, count in counts.items()
        if count != expected[name]
    )
    if off and partial:
        print(f"partial data: of {where}, {off}")
    elif off:
        way = "remove it and prepare it again" if partial is None else "go on by --partial"
        raise InputError(f"{where} is not complete: {off}: restore it from its archive, or {way}")


def _download(source: Source, path: Path) -> None:
    """Get the file from the first address that gives it; it has its name once it is verified."""
    part, reasons = path.with_name(f".{path.name}.part"), []
    path.parent.mkdir(parents=True, exist_ok=True)
    for url in source.urls:
        try:
            _resume(source, part, url)
            if not hash_matches(part, source.checksum):
                sent = file_hash(part, hash_algorithm(source.checksum))
                part.unlink()
                raise ValueError(f"sent a file with checksum {sent}")
            part.replace(path)
            return
        except (requests.RequestException, ValueError) as error:
            reasons.append(f"{url} ({_short(error)})")
    raise InputError(
        f"{source.file} could not be downloaded from {'; '.join(reasons)}. Try again later (what "
        f"has arrived is kept), or get the file ({source.size / 1e9:.2f} GB) by other means from "
        f"{source.data_set.homepage} and put it at {path}"
    )


def _resume(source: Source, part: Path, url: str) -> None:
    """Go on with ``part``, which outlives a broken download, to the size it should have.

    A connection that breaks is taken up again for as long as each brings something.
    """
    if _arrived(part) > source.size:
        part.unlink()
    while True:
        before = _arrived(part)
        try:
            _receive(source, part, url)
            break
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            if _arrived(part) <= before:
                raise
    size = _arrived(part)
    if size != source.size:
        part.unlink()
        raise ValueError(f"sent {size:,} bytes instead of {source.size:,}")


def _receive(source: Source, part: Path, url: str) -> None:
    """Append to the partial file what it lacks."""
    start = _arrived(part)
    if start == source.size:
        return
    # The bytes as they are stored: of what is packed for the way, ranges mean nothing.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()  # longer than the file there: start again elsewhere
        response.raise_for_status()
        # A server without ranges answers 200 and sends the file from its beginning.
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        offered = int(response.headers.get("Content-Length", source.size))
        if not resumed and offered != source.size:  # a page, which must not cost the rest
            raise ValueError(f"offers {offered:,} bytes instead of {source.size:,}")
        bar = progress_bar(total=source.size, description=source.file, unit="B")
        with part.open("ab" if resumed else "wb") as file, bar:
            bar.update(file.tell())
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > source.size:
                    break


def _arrived(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


_NOTES = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class _Member(tarfile.TarInfo):
    """Refuses long names and notes of a size that fills the memory: tarfile reads them whole."""

    def _proc_member(self, opened):
        if self.type in _NOTES and self.size > CHUNK:
            raise tarfile.HeaderError(f"a header of {self.size:,} bytes")
        return super()._proc_member(opened)


def _is_tar(archive: Path) -> bool:
    try:
        tarfile.open(archive, tarinfo=_Member).close()
    except tarfile.TarError:
        return False
    return True


def _files(archive: Path) -> Iterator[tuple[str, int, Callable[..., object] | None]]:
    """Name, size and a function that unpacks it into a folder, of each file in the archive.

    The function takes ``path=``, the folder, and is None for links and devices. Folders come with
    their files.
    """
    with archive.open("rb") as file:
        if not any(file.read(512)):  # tarfile would look through gigabytes of zeros for an end
            raise InputError(f"{archive} is empty or begins with zeros: fetch it again")
    # A tar may end with a zip that it holds, so it is asked first.
    if _is_tar(archive):
        if not hasattr(tarfile, "data_filter"):
            raise InputError(f"{archive}: unpacking a tar safely needs Python 3.11.4 or newer")
        with tarfile.open(archive, tarinfo=_Member) as opened:
            for item in opened:
                if not item.isdir():
                    unpack = partial(opened.extract, item, filter="data") if item.isreg() else None
                    yield item.name, item.size, unpack
            while opened.fileobj.read(CHUNK):  # to the end, where a compressed stream's checksum is
                pass
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for item in opened.infolist():
                if not item.is_dir():
                    kind = stat.S_IFMT(item.external_attr >> 16)  # 0 where none was recorded
                    unpack = partial(opened.extract, item) if kind in (0, stat.S_IFREG) else None
                    yield item.filename, item.file_size, unpack
    else:
        raise InputError(f"{archive} is neither a tar nor a zip archive: was it cut short?")


@contextmanager
def _named_damage(archive: Path) -> Iterator[None]:
    """Say which archive it is that cannot be unpacked."""
    try:
        yield
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, *_BAD_NAMES):
            raise  # the disk's fault
        cure = "remove it and fetch it again"
        raise InputError(f"{archive} cannot be unpacked ({_short(error)}): {cure}") from error


def _short(error: Exception) -> str:
    """The gist of an error, without the layers that it came through."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"{response.status_code} {response.reason}"
    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT} s"
    text = " ".join(str(error).split()) or type(error).__name__
    from_system = re.search(r"\[Errno -?\d+\] ([^)'\"]+)", text)  # requests wraps it thrice
    return from_system[1] if from_system else text.split(". ")[0]
