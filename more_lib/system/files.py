"""Where things live on disk, and how they get there whole or not at all."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from more_lib.system.errors import InputError


def data_folder() -> Path:
    """Root of everything the project makes or downloads.

    ``MORE_DATA`` when it is set, else the platform's user cache. The folder need not exist yet.
    """
    chosen = os.environ.get("MORE_DATA")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("more_lib"))


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it there when the block ends without error.

    Raises ``InputError`` when the place cannot be written or the disk is full.
    """
    path = Path(path)
    with readable_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(path.suffix, f".{path.name}.", path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; rename it to ``path`` at the end.

    An existing ``path`` is left as it is: whoever came first wins, as both made the same thing.
    Raises ``InputError`` when the place cannot be written or the disk is full.
    """
    path = Path(path)
    with readable_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        place = {"prefix": f".{path.name}.", "dir": path.parent}
        with tempfile.TemporaryDirectory(**place, ignore_cleanup_errors=True) as name:
            temporary = Path(name)
            yield temporary
            temporary.chmod(0o755)
            try:
                temporary.rename(path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise


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
def readable_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a forbidden folder into one line that says what to do."""
    closed = "the folder is not writable; set MORE_DATA to one that is"
    in_the_way = "a part of the path is a file; move it or set MORE_DATA elsewhere"
    cures = {
        errno.ENOSPC: "no space left on the disk; free some or set MORE_DATA to another disk",
        errno.EDQUOT: "your disk quota is used up; free some or set MORE_DATA elsewhere",
        errno.EROFS: "the disk is read-only; set MORE_DATA to a writable one",
        errno.EISDIR: "it is a folder; name a file",
        **dict.fromkeys((errno.EACCES, errno.EPERM), closed),
        **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), in_the_way),
    }
    try:
        yield
    except OSError as error:
        if error.errno not in cures:
            raise
        raise InputError(f"cannot write {path}: {cures[error.errno]}") from error
