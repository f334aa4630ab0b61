"""Writing the plain layout that ``folder`` reads: what the preparation of COCO and pets shares."""

import csv
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from more_lib.data.folder import FolderTree
from more_lib.data.images import mask_image
from more_lib.data.prepare.fetch import downloads_folder, extract, fetch, fetch_plan
from more_lib.data.prepare.record import is_made
from more_lib.data.prepare.sources import Source
from more_lib.system.errors import InputError
from more_lib.system.files import absolute, atomic_folder
from more_lib.system.progress import progress_bar

RECORD = "prepared.json"
TASKS_A_PROCESS = 1000  # fewer masks than this are not worth a process's start


@dataclass(frozen=True)
class Item:
    """One image to write: its file, its classes in order, what its mask is painted from."""

    photograph: Path  # its stem is the image's id
    classes: tuple[str, ...]
    task: tuple  # what `paint` takes


def is_prepared(folder: Path, record: Mapping) -> bool:
    """Whether the data set of a record is in ``folder``; raises as ``is_made`` does."""
    return is_made(folder / RECORD, record, f"prepared {record['data']}")


def plan(
    parts: Mapping[str, Source], given: str | Path | None, folder: str | Path, record: Mapping
) -> list[str]:
    """What a preparation would do, a line a step. Touches nothing.

    Raises as ``obtain`` and ``is_prepared`` do.
    """
    folder = absolute(folder)
    if is_prepared(folder, record):
        return [f"nothing: {folder} is prepared"]
    if given is not None:
        obtain(parts, given)
    steps = [] if given else [fetch_plan(part, downloads_folder()) for part in parts.values()]
    place = f"in {given}" if given else f"unpacked in {downloads_folder()}"
    return [*steps, f"link the photographs {place} and write masks, labels and splits to {folder}"]


def obtain(parts: Mapping[str, Source], given: str | Path | None) -> dict[str, Path]:
    """The data set's own folders by name: in ``given``, or else downloaded and unpacked.

    Raises ``InputError`` when ``given`` is no folder, and as ``fetch`` and ``extract`` do.
    """
    if given is not None:
        given = absolute(given)
        if not given.is_dir():
            raise InputError(f"{given} is no folder: give the one that holds {' and '.join(parts)}")
        return {name: given / name for name in parts}
    downloads = downloads_folder()
    return {
        name: extract(fetch(part, downloads), downloads / f"{part.file} unpacked") / name
        for name, part in parts.items()
    }


def write_folder(
    folder: Path,
    classes: Sequence[str],
    items: Sequence[Item],
    splits: Mapping[str, Sequence[str]],
    paint: Callable[..., np.ndarray],
    record: Mapping,
) -> Path:
    """Write a data set in the plain layout, whole or not at all, and return its folder.

    Args:
        folder: where; an existing one is left as it is.
        classes: all C of them; their masks' values are 1..C.
        items: every image; photographs are linked, not copied.
        splits: ids by name of the split.
        paint: makes a mask (H, W) uint8 of what an item's ``task`` holds; runs in several
            processes where there are many.
        record: what ``is_prepared`` is to find in ``RECORD``.
    """
    with atomic_folder(folder) as root:
        for part in ("images", "masks", FolderTree.LISTS):
            (root / part).mkdir()
        tasks = [item.task for item in items]
        targets = [root / "masks" / f"{item.photograph.stem}.png" for item in items]
        saved = _in_processes(partial(_save, paint), tasks, targets)
        bar = progress_bar(saved, total=len(items), description=f"masks of {folder.name}")
        for item, _ in zip(items, bar, strict=True):
            _link(item.photograph.resolve(), root / "images" / item.photograph.name)
        with (root / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("image", "classes"))
            table.writerows((item.photograph.name, ";".join(item.classes)) for item in items)
        _write_lines(root / "classes.txt", classes)
        for split, ids in splits.items():
            _write_lines(root / FolderTree.LISTS / f"{split}.txt", ids)
        (root / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return folder


def _in_processes(work: Callable, *arguments: Sequence) -> Iterator:
    """``map`` over several processes where the work is worth their start."""
    count = min(os.cpu_count() or 1, len(arguments[0]) // TASKS_A_PROCESS)
    if count < 2:
        yield from map(work, *arguments)
        return
    # Forking a process that has threads may lock it up.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        yield from pool.map(work, *arguments, chunksize=32)


def _save(paint: Callable[..., np.ndarray], task: tuple, path: Path) -> None:
    mask_image(paint(*task)).save(path, "PNG")


def _link(source: Path, target: Path) -> None:
    """A hard link, which outlives its source's folder; across disks a symbolic one."""
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(source)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
