"""A case, and what its input is built of: each builder changes the folder that the command sees."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

Build = Callable[[Path], object]


class Case(NamedTuple):
    """A row of the table: what is wrong, the command, its input, and what the one line says."""

    name: str
    command: str
    build: Build
    said: tuple[str, ...]


def case(name: str, command: str, build: Build | None, *said: str) -> Case:
    """``build`` makes the input in a copy of the template; None leaves that as it is."""
    return Case(name, command, build or (lambda place: None), said)


def write(path: str, content: str | bytes) -> Build:
    """A file of this content, in the place of what may be there."""

    def build(place: Path) -> None:
        gone(path)(place)
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return build


def change(path: str, old: str, new: str) -> Build:
    """The text with one part in place of another."""

    def build(place: Path) -> None:
        before = (place / path).read_text()
        assert old in before
        (place / path).write_text(before.replace(old, new))

    return build


def cut(path: str, share: float = 0.5) -> Build:
    """A file that ends after a share of its bytes."""

    def build(place: Path) -> None:
        whole = (place / path).read_bytes()
        (place / path).write_bytes(whole[: int(share * len(whole))])

    return build


def gone(path: str) -> Build:
    """Nothing there."""

    def build(place: Path) -> None:
        target = place / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    return build


def folder(path: str) -> Build:
    """An empty folder, in the place of what may be there."""
    return several(gone(path), lambda place: (place / path).mkdir(parents=True))


def link(path: str, target: str) -> Build:
    return several(gone(path), lambda place: (place / path).symlink_to(target))


def fifo(path: str) -> Build:
    """A pipe into which nobody writes: who opens it waits."""
    return several(gone(path), lambda place: os.mkfifo(place / path))


def sparse(path: str, size: int) -> Build:
    """A file of zeros that takes no space on disk."""
    return several(write(path, b""), lambda place: os.truncate(place / path, size))


def copy(source: str, path: str) -> Build:
    return lambda place: shutil.copy(place / source, place / path)


def picture(path: str, size: tuple[int, int] = (48, 40), mode: str = "RGB") -> Build:
    """An image of one colour; its format is that of the name's ending."""

    def build(place: Path) -> None:
        gone(path)(place)
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, 1 if mode != "RGB" else (200, 60, 60)).save(place / path)

    return build


def mask(path: str, *values: int, size: tuple[int, int] = (48, 40)) -> Build:
    """A grey mask with the values in stripes from left to right."""

    def build(place: Path) -> None:
        width, height = size
        stripes = np.array(values, np.uint8).repeat(-(-width // len(values)))[:width]
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.tile(stripes, (height, 1))).save(place / path)

    return build


def several(*builds: Build) -> Build:
    def build(place: Path) -> None:
        for each in builds:
            each(place)

    return build
