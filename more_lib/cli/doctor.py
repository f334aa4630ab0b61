"""What is here, what is missing, what each missing part costs and how to get it.

Each check looks at one thing; nothing is downloaded, written or trained.
"""

import os
import shutil
import sys
import timeit
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from textwrap import TextWrapper
from typing import Literal

from packaging.requirements import Requirement

from more_lib import __version__
from more_lib.system.errors import InputError
from more_lib.system.files import data_folder

WIDTH = 100
LITTLE_SPACE = 2e9  # bytes; the mini profile's data, weights and runs stay well below


@dataclass(frozen=True)
class Row:
    """One finding. ``cost``, shown unless all is ok: what does not work so, and the cure."""

    name: str
    status: Literal["ok", "note", "missing"]
    detail: str
    cost: str = ""

    def lines(self) -> list[str]:
        """The row in lines of ``WIDTH``, the cost below the detail; long paths stay whole."""
        head, own = f"  {self.status:<8} {self.name:<13} ", []
        if len(head) > WIDTH / 3:  # the names of many profiles: a line of their own
            head, own = 25 * " ", [head.rstrip()]
        indent = len(head) * " "
        text = TextWrapper(WIDTH, head, indent, break_long_words=False, break_on_hyphens=False)
        detail, text.initial_indent = own + text.wrap(self.detail), indent
        return detail if self.status == "ok" else detail + text.wrap(self.cost)


def report() -> str:
    """Everything found, on one screen; without the packages the rest cannot be looked at."""
    sections = {"Python and packages": [python(), *packages(), *frameworks()]}
    if all(row.status != "missing" for row in sections["Python and packages"]):
        sections["Machine"] = [processor(), accelerator(), cache()]
        sections["Data"] = for_profiles(data)
        sections["Weights"] = for_profiles(weights)
    sections["Optional"] = extras()
    lines = [f"MoRe kit {__version__}: what is here, and what each missing part costs"]
    for title, rows in sections.items():
        lines += ["", title, *(line for row in rows for line in row.lines())]
    return "\n".join(lines)


def python() -> Row:
    """The interpreter, which has to be one that the project is made for."""
    status = "ok" if (3, 11) <= sys.version_info[:2] <= (3, 12) else "note"
    cost = "only 3.11 and 3.12 are tested: make PYTHON=python3.11"
    return Row("Python", status, f"{sys.version.split()[0]} in {sys.prefix}", cost)


def packages() -> list[Row]:
    """The packages that every part needs: those that are missing or too old, if any are."""
    faults = _faults()
    if not faults:
        cost = "without it: notebooks cannot import more_lib; `pip install -e .` (or make) does it"
        return [Row("more_lib", "missing", "not installed in this Python", cost)]
    cost = "without it: nothing runs; `pip install -e .`"
    rows = [Row(name, "missing", fault, cost) for name, fault in faults.items() if fault]
    return rows or [Row("packages", "ok", f"all {len(faults)} that pyproject.toml asks for")]


def frameworks() -> list[Row]:
    """Whether PyTorch imports, and torchvision was made for it; the others that depend on both."""
    looks = {"torch": import_module, "torchvision": _load_operators}
    looks |= dict.fromkeys(("timm", "accelerate"), metadata.version)
    for name, look in looks.items():
        try:
            look(name)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            cost = "without it: nothing runs; `pip install -c constraints.txt -e .` brings a fit"
            return [Row(name, "missing", f"cannot be used: {reason}", cost)]
    return [Row("versions", "ok", ", ".join(f"{name} {metadata.version(name)}" for name in looks))]


def _load_operators(name: str) -> None:
    """Raise where torchvision's operators are not of this torch; to import all takes seconds."""
    import torch

    for item in map(Requirement, metadata.requires(name) or []):
        if item.name == "torch" and not item.specifier.contains(metadata.version("torch")):
            raise InputError(f"it is made for torch{item.specifier}")
    for library in Path(find_spec(name).origin).parent.glob("_C*"):
        torch.ops.load_library(library)
    torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)


def processor() -> Row:
    """CPU threads, and whether bf16 pays off on them."""
    import torch

    from more_lib.system.devices import resolved_precision

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other on a busy machine
    matrices = [torch.ones(512, 512, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    fp32, bf16 = (min(timeit.repeat(lambda m=m: m @ m, number=1, repeat=5)) for m in matrices)
    torch.set_num_threads(threads)
    speedup = fp32 / bf16
    detail = f"{threads} threads; bf16 products at {speedup:.1f}x the speed of fp32"
    auto = resolved_precision("auto")
    cost = f"bf16 gains nothing on this CPU, training takes twice as long; precision auto: {auto}"
    return Row("CPU", "ok" if speedup >= 0.9 else "note", detail, cost)


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
    places = (folder, *folder.absolute().parents)
    parent = next(each for each in places if each.exists() or each.is_symlink())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        cost = "without it: no data, no training; set MORE_DATA to a folder you can write"
        return Row("data folder", "missing", f"{folder} cannot be written", cost)
    free = shutil.disk_usage(parent).free
    status = "ok" if free >= LITTLE_SPACE else "note"
    cost = "data or training may not fit; free some, or set MORE_DATA to another disk"
    return Row("data folder", status, f"{folder}, {free / 1e9:.0f} GB free", cost)


def for_profiles(look: Callable) -> list[Row]:
    """What ``data`` or ``weights`` finds for each profile; those with the same share a row."""
    from more_lib.recipes import PROFILES

    names: dict[Row, str] = {}
    for name, recipe in PROFILES.items():
        row = look(recipe)
        names[row] = f"{names[row]}, {name}" if row in names else f"profile {name}"
    return [replace(row, name=name) for row, name in names.items()]


def data(recipe) -> Row:
    """Whether the images of a profile's ``Recipe`` are where training would look for them."""
    from more_lib.data import split_file, tree_root
    from more_lib.data.tree import read_lines

    section, root = recipe.data, tree_root(recipe.data)
    names = dict.fromkeys((section.train_split, section.val_split))
    splits = [split_file(section, split) for split in names]
    absent = [path for path in splits if not path.is_file()]
    if not absent:
        try:
            counts = ", ".join(f"{len(read_lines(path))} {path.stem}" for path in splits)
        except InputError as error:
            return Row("data", "missing", str(error), "without it: does not run")
        return Row("data", "ok", f"{root}: {counts}")
    if section.dataset == "emoji" and not section.root and not root.exists():
        cost = "nothing lost: the first run makes it, in about a minute"
        return Row("data", "note", "EmojiVOC is not made yet", cost)
    cure = "say where it is: data.root=FOLDER"
    if section.dataset == "emoji" and not section.root:
        cure = f"remove {root}: the next run makes it anew"
    if section.dataset in ("voc", "coco", "pets") and not section.root:
        script = f"data_scripts/prepare_{section.dataset}.py"
        cure = f"`python {script}` fetches it or takes yours; else {cure}"
    return Row("data", "missing", f"no {absent[0]}", f"without it: does not run; {cure}")


def weights(recipe) -> Row:
    """Whether the pretrained backbone of a profile's ``Recipe`` is on this machine."""
    from more_lib.method.weight_files import MINI_WIDTHS, backbone_file, downloaded_file

    name, own = recipe.backbone.name, recipe.backbone.weights
    file = backbone_file(name, own) or downloaded_file(f"timm/{name}")
    if file is None:
        cost = "downloaded at first use; without network: backbone.weights=FILE.safetensors"
        return Row("weights", "missing", f"{name} is not in timm's cache", cost)
    if file.is_file():
        return Row("weights", "ok", f"{name}: {file.name}, {file.stat().st_size / 1e6:.1f} MB")
    ships = name in MINI_WIDTHS and not own
    cure = f"data_scripts/pretrain_mini_vit.py --backbone {name} makes it" if ships else "check it"
    return Row("weights", "missing", f"{name}: no {file}", f"without it: does not run; {cure}")


def extras() -> list[Row]:
    """What only some uses need: packages, and git, which tells a run its commit."""
    losses = {
        "crf": "no dense CRF of whole photographs on a CPU",
        "log": "no `train --tensorboard`",
        "dev": "`make test` does not run",
        "classroom": "no nbgrader course, no `make explore`",
    }
    rows = []
    for extra, loss in losses.items():
        found = _faults(extra)
        wrong = [f"{name} {fault}" for name, fault in found.items() if fault]
        status = "missing" if wrong or not found else "ok"
        detail = ", ".join(wrong or found) or "not installed"
        cost = f"without it: {loss}; `pip install -e .[{extra}]`"
        rows.append(Row(f"extra {extra}", status, detail, cost))
    program = shutil.which("git")
    cost = "without it: run manifests name no commit"
    return [*rows, Row("git", "ok" if program else "missing", program or "not found", cost)]


def _faults(extra: str = "") -> dict[str, str]:
    """What is wrong with each package that more_lib needs, or that an extra adds; "" if nothing."""
    faults = {}  # none where more_lib itself is not installed
    with suppress(metadata.PackageNotFoundError):
        for item in map(Requirement, metadata.requires("more-lib") or []):
            if item.marker.evaluate({"extra": extra}) if item.marker else not extra:
                faults[item.name] = "not installed"
                with suppress(metadata.PackageNotFoundError):
                    version = metadata.version(item.name)
                    fits = item.specifier.contains(version, prereleases=True)
                    faults[item.name] = "" if fits else f"is {version}, not {item.specifier}"
    return faults
