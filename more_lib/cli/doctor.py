"""What is here, what is missing, what each missing part costs and how to get it.

Each check looks at one thing and returns rows; ``report`` puts them on one screen. Nothing is
downloaded, written or trained.
"""

import os
import platform
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from typing import Literal

from packaging.requirements import Requirement

from more_lib import __version__
from more_lib.system.files import data_folder

WIDTH = 100
LITTLE_SPACE = 2e9  # bytes; the mini profile's data, weights and runs stay well below


@dataclass(frozen=True)
class Row:
    """One finding. ``cost`` says what does not work without the part, and the cure."""

    name: str
    status: Literal["ok", "note", "missing"]
    detail: str
    cost: str = ""


def report() -> str:
    """Everything found, as plain text that fits one screen.

    When packages are missing or broken the rest cannot be looked at and is left out.
    """
    sections = {"Python and packages": [python(), *packages(), *frameworks()]}
    if all(row.status != "missing" for row in sections["Python and packages"]):
        from more_lib.recipes.profiles import PROFILES

        recipes = PROFILES.values()
        sections["Machine"] = [processor(), accelerator(), cache()]
        sections["Data"] = _joined(data(recipe) for recipe in recipes)
        sections["Weights"] = _joined(weights(recipe) for recipe in recipes)
    sections["Optional"] = [*extras(), git()]
    lines = [f"MoRe kit {__version__}: what is here, and what each missing part costs"]
    for title, rows in sections.items():
        lines += ["", title, *_lines(rows)]
    return "\n".join(lines)


def python() -> Row:
    """The interpreter, which has to be one that the project is made for."""
    found = f"{platform.python_version()} in {sys.prefix}"
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Row("Python", "ok", found)
    return Row("Python", "note", found, "only 3.11 and 3.12 are tested: make PYTHON=python3.11")


def packages() -> list[Row]:
    """The packages that every part needs, with the versions of those that decide results."""
    try:
        needed = _requirements("")
    except metadata.PackageNotFoundError:
        cost = "without it: notebooks cannot import more_lib; `pip install -e .` (or make) does it"
        return [Row("more_lib", "missing", "not installed in this Python", cost)]
    faults = [_fault(requirement) for requirement in needed]
    rows = [
        Row(requirement.name, "missing", fault, "without it: nothing runs; `pip install -e .`")
        for requirement, fault in zip(needed, faults, strict=True)
        if fault
    ]
    return rows or [Row("packages", "ok", f"all {len(needed)} that pyproject.toml asks for")]


def frameworks() -> list[Row]:
    """Whether PyTorch, torchvision and timm import, which needs versions made for each other."""
    names = ("torch", "torchvision", "timm", "accelerate")
    for name in names:
        try:
            import_module(name)
        except Exception as error:  # torchvision raises RuntimeError when torch does not match it
            detail = f"does not import: {_first_line(error)}"
            cost = "without it: nothing runs; `pip install -c constraints.txt -e .` brings a fit"
            return [Row(name, "missing", detail, cost)]
    return [Row("versions", "ok", ", ".join(f"{name} {metadata.version(name)}" for name in names))]


def processor() -> Row:
    """CPU threads, and whether bf16 pays off on them."""
    import torch

    speedup = _matrix_seconds(torch.float32) / _matrix_seconds(torch.bfloat16)
    detail = f"{torch.get_num_threads()} threads; bf16 products at {speedup:.1f}x the speed of fp32"
    if speedup >= 0.9:
        return Row("CPU", "ok", detail)
    cost = "bf16 is only emulated: precision auto takes fp32 here, training takes twice as long"
    return Row("CPU", "note", detail, cost)


def accelerator() -> Row:
    """The GPU that training would take, if there is one."""
    import torch

    if torch.cuda.is_available():
        count, properties = torch.cuda.device_count(), torch.cuda.get_device_properties(0)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16 (take fp16)"
        return Row("GPU", "ok", f"{count} x {properties.name}, {memory}, {bf16}")
    if torch.backends.mps.is_available():
        return Row("GPU", "ok", "Apple silicon (MPS)")
    cost = "without it: profile mini runs in minutes all the same; voc would take weeks"
    return Row("GPU", "missing", "no CUDA device, no Apple silicon", cost)


def cache() -> Row:
    """The folder for data and trained weights: whether it can be written, and the space left."""
    folder = data_folder()
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        cost = "without it: no data, no training; set MORE_DATA to a folder you can write"
        return Row("data folder", "missing", f"{folder} cannot be written", cost)
    free = shutil.disk_usage(there).free
    detail = f"{folder}, {free / 1e9:.0f} GB free"
    if free < LITTLE_SPACE:
        cost = "data or training may not fit; free some, or set MORE_DATA to another disk"
        return Row("data folder", "note", detail, cost)
    return Row("data folder", "ok", detail)


def data(recipe) -> Row:
    """Whether the images of a profile's ``Recipe`` are where training would look for them."""
    from more_lib.data import split_file, tree_root

    name, section = f"profile {recipe.profile}", recipe.data
    root = tree_root(section)
    splits = [split_file(section, split) for split in _splits(section)]
    absent = [path for path in splits if not path.is_file()]
    if not absent:
        counts = ", ".join(f"{len(path.read_text().split())} {path.stem}" for path in splits)
        return Row(name, "ok", f"{root}: {counts}")
    if section.dataset == "emoji" and not section.root and not root.exists():
        detail = "EmojiVOC is not made yet"
        return Row(name, "note", detail, "nothing lost: the first run makes it, in about a minute")
    cure = "say where it is: data.root=FOLDER"
    if section.dataset in ("voc", "coco", "pets") and not section.root:
        script = f"data_scripts/prepare_{section.dataset}.py"
        cure = f"`python {script}` fetches it or takes yours; else {cure}"
    return Row(name, "missing", f"no {absent[0]}", f"without it: does not run; {cure}")


def weights(recipe) -> Row:
    """Whether the pretrained backbone of a profile's ``Recipe`` is on this machine."""
    from more_lib.method.backbones import MINI_WIDTHS, backbone_file, downloaded_weights

    name, backbone = f"profile {recipe.profile}", recipe.backbone
    file = backbone_file(backbone.name, backbone.weights)
    if file is None:
        file = downloaded_weights(backbone.name)
        if file is None:
            cost = "downloaded at first use; without network: backbone.weights=FILE.safetensors"
            return Row(name, "missing", f"{backbone.name} is not in timm's cache", cost)
    if file.is_file():
        return Row(name, "ok", f"{backbone.name}: {file.name}, {file.stat().st_size / 1e6:.1f} MB")
    own = backbone.name in MINI_WIDTHS and not backbone.weights
    script = f"data_scripts/pretrain_mini_vit.py --backbone {backbone.name}"
    cure = f"{script} makes it" if own else "check it"
    cost = f"without it: does not run; {cure}"
    return Row(name, "missing", f"{backbone.name}: no {file}", cost)


def extras() -> list[Row]:
    """Packages that only some uses need."""
    uses = {
        "crf": "without it: no dense CRF of whole photographs on a CPU",
        "log": "without it: no `train --tensorboard`",
        "dev": "without it: `make test` does not run",
    }
    return [_extra(name, without) for name, without in uses.items()]


def git() -> Row:
    """Git, which tells each run which commit it came from."""
    found = shutil.which("git")
    if found:
        return Row("git", "ok", found)
    return Row("git", "missing", "not found", "without it: run manifests name no commit")


def _joined(rows: Iterable[Row]) -> list[Row]:
    """Rows of profiles that look for the same thing as one row."""
    found: dict[str, Row] = {}
    for row in rows:
        first = found.setdefault(row.detail, row)
        if first is not row:
            name = f"{first.name}, {row.name.removeprefix('profile ')}"
            found[row.detail] = replace(first, name=name)
    return list(found.values())


def _extra(extra: str, without: str) -> Row:
    try:
        needed = _requirements(extra)
    except metadata.PackageNotFoundError:
        needed = []
    faults = [f"{item.name} {fault}" for item in needed if (fault := _fault(item))]
    cost = f"{without}; `pip install -e .[{extra}]`"
    if faults or not needed:
        return Row(f"extra {extra}", "missing", ", ".join(faults) or "not installed", cost)
    return Row(f"extra {extra}", "ok", ", ".join(item.name for item in needed))


def _requirements(extra: str) -> list[Requirement]:
    """What more_lib itself needs, or with ``extra`` what that extra adds."""
    every = [Requirement(line) for line in metadata.requires("more-lib") or []]
    if not extra:
        return [item for item in every if item.marker is None or item.marker.evaluate()]
    chosen = [item for item in every if item.marker is not None and not item.marker.evaluate()]
    return [item for item in chosen if item.marker.evaluate({"extra": extra})]


def _fault(requirement: Requirement) -> str:
    """What is wrong with an installed package; nothing when it satisfies ``requirement``."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return "not installed"
    fits = requirement.specifier.contains(version, prereleases=True)
    return "" if fits else f"is {version}, not {requirement.specifier}"


def _splits(section) -> Iterable[str]:
    return dict.fromkeys((section.train_split, section.val_split))


def _matrix_seconds(dtype, size: int = 512, tries: int = 5) -> float:
    """The fastest of a few square matrix products."""
    import torch

    matrix = torch.ones(size, size, dtype=dtype)
    return min(_timed(lambda: matrix @ matrix) for _ in range(tries))


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _lines(rows: Iterable[Row]) -> list[str]:
    lines = []
    for row in rows:
        head = f"  {row.status:<8} {row.name:<13} "
        lines += _wrapped(row.detail, head)
        if row.cost:
            lines += _wrapped(row.cost, " " * len(head))
    return lines


def _wrapped(text: str, head: str) -> list[str]:
    """``text`` after ``head`` in lines of ``WIDTH``; long paths stay whole."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
