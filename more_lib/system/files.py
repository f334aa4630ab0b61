"""Where things live on disk, and how they get there whole or not at all."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import platformdirs
from filelock import lock_descriptor

import more_lib
from more_lib.system.errors import InputError

CHECKOUT = Path(more_lib.__file__).resolve().parents[1]  # or site-packages, without notebooks
_TEMPORARY = ".more_lib-"  # what names of files and folders begin with until they are whole


def absolute(path: str | Path) -> Path:
    """The path from the root, ``~`` expanded: it means the same wherever a process works."""
    # Path's own expanduser fails where there is no such user.
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111


def data_folder() -> Path:
    """Root of everything the project makes or downloads, an absolute path.

    ``MORE_DATA`` when it is set, else the platform's user cache. The folder need not exist yet.
    """
    return absolute(os.environ.get("MORE_DATA") or platformdirs.user_cache_dir("more_lib"))


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it there when the block ends without error.

    It has the suffix of ``path``; of a link, what it leads to is replaced. Raises ``InputError``
    when the place cannot be written, is a pipe or a device, or the disk is full.
    """
    path = Path(path)
    with readable_disk_errors(path):
        path = path.resolve() if path.is_symlink() and path.exists() else path
        special = path.exists() and not (path.is_file() or path.is_dir())
    if special:
        raise InputError(f"cannot write {path}: it is a pipe or a device; name a file")
    suffix = path.suffix if len(os.fsencode(path.suffix)) < 32 else ""  # names have 255 bytes

    def make(folder: Path) -> str:
        handle, name = tempfile.mkstemp(suffix, _TEMPORARY, folder)
        os.close(handle)
        return name

    with readable_disk_errors(path), _temporary(path.parent, make) as temporary:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; rename it to ``path`` at the end.

    An existing ``path`` is left as it is: whoever came first wins, as both made the same thing.
    Raises ``InputError`` when the place cannot be written or the disk is full.
    """
    path = Path(path)

    def make(folder: Path) -> str:
        return tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder)

    with readable_disk_errors(path), _temporary(path.parent, make) as temporary:
        yield temporary
        temporary.chmod(0o755)
        try:
            temporary.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


@contextmanager
def _temporary(folder: Path, make: Callable[[Path], str]) -> Iterator[Path]:
    """Something new in ``folder``, locked, so that ``_sweep`` knows that it is in use."""
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    while True:
        temporary = Path(make(folder))
        held = _locked(temporary, blocking=True)
        if temporary.exists():  # not swept before it was locked
            break
        _close(held)
    try:
        yield temporary
    finally:
        _remove(temporary)
        _close(held)


@cache
def _sweep(folder: Path) -> None:
    """Remove, once in this process, what killed processes left half-written in ``folder``."""
    for left in folder.glob(f"{_TEMPORARY}*"):
        held = _locked(left, blocking=False)
        if held is not None:
            _remove(left)
        _close(held)


def _locked(path: Path, blocking: bool) -> int | None:
    """A descriptor with the file's or folder's lock; None where it is another's, or cannot be."""
    descriptor = None
    with suppress(OSError):  # the disk knows no locks: nothing is swept there
        descriptor = os.open(path, os.O_RDONLY)
        if lock_descriptor(descriptor, blocking=blocking):
            return descriptor
    _close(descriptor)
    return None


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink() if not path.is_dir() else shutil.rmtree(path)


def remove_folder(path: Path) -> None:
    """Remove a folder, if it is there, so that a kill leaves no part of it under its name."""
    hidden = path.with_name(f"{_TEMPORARY}{path.name}")
    _remove(hidden)
    with suppress(OSError):
        path.rename(hidden)
    _remove(hidden)


def write_json(value: object, path: Path) -> None:
    """Write JSON for people to read as well; nan and inf are refused (``ValueError``)."""
    with atomic_file(path) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def sha256(path: str | Path) -> str:
    """Hex digest of one file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def readable_disk_errors(path: str | Path) -> Iterator[None]:
    """Turn a full disk or a forbidden folder into one line that says what to do."""
    inside = absolute(path).is_relative_to(data_folder())
    elsewhere = "set MORE_DATA to another folder" if inside else "name another place"
    closed = f"the folder is not writable; {elsewhere}"
    in_the_way = f"a part of the path is a file or a broken link; move it, or {elsewhere}"
    nowhere = f"a folder of the path is missing or a link leads nowhere; mend it, or {elsewhere}"
    cures = {
        errno.ENOSPC: f"no space left on the disk; free some, or {elsewhere}",
        errno.EDQUOT: f"your disk quota is used up; free some, or {elsewhere}",
        errno.EFBIG: f"the file is too large for the disk or your limits; {elsewhere}",
        errno.EROFS: f"the disk is read-only; {elsewhere}",
        errno.EISDIR: "it is a folder; name a file",
        errno.ENAMETOOLONG: f"the name is too long for the disk; shorten it, or {elsewhere}",
        **dict.fromkeys((errno.EACCES, errno.EPERM), closed),
        **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), in_the_way),
        **dict.fromkeys((errno.ENOENT, errno.ELOOP), nowhere),
    }
    try:
        yield
    except OSError as error:
        missing = Path(os.fsdecode(error.filename or ""))  # what the block reads may be so, too
        ours = missing in (Path(path), *Path(path).parents) or missing.name.startswith(_TEMPORARY)
        if error.errno not in cures or (error.errno == errno.ENOENT and not ours):
            raise
        raise InputError(f"cannot write {path}: {cures[error.errno]}") from error
