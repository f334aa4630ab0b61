"""What is here, what is missing, what each missing part costs and how to get it.

Each check looks at one thing and returns rows; ``report`` puts them on one screen. Nothing is
downloaded, written or trained.
"""

import os
import platform
import shutil
import sys
import timeit
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from textwrap import TextWrapper
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

    def lines(self) -> list[str]:
        """The row in lines of ``WIDTH``, the cost below the detail; long paths stay whole."""
        head = f"  {self.status:<8} {self.name:<13} "
        indent = " " * len(head)
        text = TextWrapper(WIDTH, head, indent, break_long_words=False, break_on_hyphens=False)
        detail, text.initial_indent = text.wrap(self.detail), indent
        return detail + text.wrap(self.cost)


def report() -> str:
    """Everything found, as plain text that fits one screen.

    When packages are missing or broken the rest cannot be looked at and is left out.
    """
    sections = {"Python and packages": [python(), *packages(), *frameworks()]}
    if all(row.status != "missing" for row in sections["Python and packages"]):
        from more_lib.recipes import PROFILES

        sections["Machine"] = [processor(), accelerator(), cache()]
        sections["Data"] = _joined(map(data, PROFILES.values()))
        sections["Weights"] = _joined(map(weights, PROFILES.values()))
    sections["Optional"] = [*extras(), git()]
    lines = [f"MoRe kit {__version__}: what is here, and what each missing part costs"]
    for title, rows in sections.items():
        lines += ["", title, *(line for row in rows for line in row.lines())]
    return "\n".join(lines)


def python() -> Row:
    """The interpreter, which has to be one that the project is made for."""
    detail = f"{platform.python_version()} in {sys.prefix}"
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Row("Python", "ok", detail)
    return Row("Python", "note", detail, "only 3.11 and 3.12 are tested: make PYTHON=python3.11")


def packages() -> list[Row]:
    """The packages that every part needs: those that are missing or too old, if any are."""
    needed = _requirements()
    if not needed:
        cost = "without it: notebooks cannot import more_lib; `pip install -e .` (or make) does it"
        return [Row("more_lib", "missing", "not installed in this Python", cost)]
    cost = "without it: nothing runs; `pip install -e .`"
    rows = [Row(each.name, "missing", fault, cost) for each in needed if (fault := _fault(each))]
    return rows or [Row("packages", "ok", f"all {len(needed)} that pyproject.toml asks for")]


def frameworks() -> list[Row]:
    """Whether PyTorch, torchvision and timm import, which needs versions made for each other."""
    names = ("torch", "torchvision", "timm", "accelerate")
    for name in names:
        try:
            import_module(name)
        except Exception as error:  # torchvision raises RuntimeError when torch does not match it
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            cost = "without it: nothing runs; `pip install -c constraints.txt -e .` brings a fit"
            return [Row(name, "missing", f"does not import: {reason}", cost)]
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
    parent = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        cost = "without it: no data, no training; set MORE_DATA to a folder you can write"
        return Row("data folder", "missing", f"{folder} cannot be written", cost)
    free = shutil.disk_usage(parent).free
    detail = f"{folder}, {free / 1e9:.0f} GB free"
    if free >= LITTLE_SPACE:
        return Row("data folder", "ok", detail)
    cost = "data or training may not fit; free some, or set MORE_DATA to another disk"
    return Row("data folder", "note", detail, cost)


def data(recipe) -> Row:
    """Whether the images of a profile's ``Recipe`` are where training would look for them."""
    from more_lib.data import split_file, tree_root

    name, section = f"profile {recipe.profile}", recipe.data
    root = tree_root(section)
    names = dict.fromkeys((section.train_split, section.val_split))
    splits = [split_file(section, split) for split in names]
    absent = [path for path in splits if not path.is_file()]
    if not absent:
        counts = ", ".join(f"{len(path.read_text().split())} {path.stem}" for path in splits)
        return Row(name, "ok", f"{root}: {counts}")
    if section.dataset == "emoji" and not section.root and not root.exists():
        cost = "nothing lost: the first run makes it, in about a minute"
        return Row(name, "note", "EmojiVOC is not made yet", cost)
    cure = "say where it is: data.root=FOLDER"
    if section.dataset in ("voc", "coco", "pets") and not section.root:
        script = f"data_scripts/prepare_{section.dataset}.py"
        cure = f"`python {script}` fetches it or takes yours; else {cure}"
    return Row(name, "missing", f"no {absent[0]}", f"without it: does not run; {cure}")


def weights(recipe) -> Row:
    """Whether the pretrained backbone of a profile's ``Recipe`` is on this machine."""
    from more_lib.method.backbones import MINI_WIDTHS, backbone_file, downloaded_weights

    title, name, own = f"profile {recipe.profile}", recipe.backbone.name, recipe.backbone.weights
    file = backbone_file(name, own) or downloaded_weights(name)
    if file is None:
        cost = "downloaded at first use; without network: backbone.weights=FILE.safetensors"
        return Row(title, "missing", f"{name} is not in timm's cache", cost)
    if file.is_file():
        return Row(title, "ok", f"{name}: {file.name}, {file.stat().st_size / 1e6:.1f} MB")
    ships = name in MINI_WIDTHS and not own
    cure = f"data_scripts/pretrain_mini_vit.py --backbone {name} makes it" if ships else "check it"
    return Row(title, "missing", f"{name}: no {file}", f"without it: does not run; {cure}")


def extras() -> list[Row]:
    """Packages that only some uses need."""
    losses = {
        "crf": "no dense CRF of whole photographs on a CPU",
        "log": "no `train --tensorboard`",
        "dev": "`make test` does not run",
    }
    rows = []
    for extra, loss in losses.items():
        name, needed = f"extra {extra}", _requirements(extra)
        faults = ", ".join(f"{each.name} {fault}" for each in needed if (fault := _fault(each)))
        cost = f"without it: {loss}; `pip install -e .[{extra}]`"
        if faults or not needed:
            rows.append(Row(name, "missing", faults or "not installed", cost))
        else:
            rows.append(Row(name, "ok", ", ".join(each.name for each in needed)))
    return rows


def git() -> Row:
    """Git, which tells each run which commit it came from."""
    if program := shutil.which("git"):
        return Row("git", "ok", program)
    return Row("git", "missing", "not found", "without it: run manifests name no commit")


def _joined(rows: Iterable[Row]) -> list[Row]:
    """Rows of profiles that look for the same thing as one row."""
    joined: dict[str, Row] = {}
    for row in rows:
        first = joined.get(row.detail)
        name = f"{first.name}, {row.name.removeprefix('profile ')}" if first else row.name
        joined[row.detail] = replace(first or row, name=name)
    return list(joined.values())


def _requirements(extra: str = "") -> list[Requirement]:
    """What more_lib needs, or what one of its extras adds; empty where it is not installed."""
    with suppress(metadata.PackageNotFoundError):
        every = [Requirement(line) for line in metadata.requires("more-lib") or []]
        wanted = [item for item in every if bool(item.marker) == bool(extra)]
        return [item for item in wanted if not extra or item.marker.evaluate({"extra": extra})]
    return []


def _fault(requirement: Requirement) -> str:
    """What is wrong with an installed package; nothing when it satisfies ``requirement``."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return "not installed"
    fits = requirement.specifier.contains(version, prereleases=True)
    return "" if fits else f"is {version}, not {requirement.specifier}"


def _matrix_seconds(dtype) -> float:
    """The fastest of a few square matrix products."""
    import torch

    matrix = torch.ones(512, 512, dtype=dtype)
    return min(timeit.repeat(lambda: matrix @ matrix, number=1, repeat=5))
