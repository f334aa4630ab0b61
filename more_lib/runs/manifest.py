"""What a run rests on and how far it got: ``manifest.json`` in its folder.

It names the code (git commit, digest of the library's sources), the data and weights (sha256), the
versions, device, threads, seeds and the whole recipe, then source, parameters, seconds and status
of every notebook. It is written before the first notebook runs and again after each.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path

import more_lib
from more_lib.recipes.loading import to_dict
from more_lib.recipes.schema import Recipe
from more_lib.system.files import CHECKOUT, sha256, write_json

PACKAGES = (
    "torch torchvision timm accelerate numpy scikit-learn pillow matplotlib safetensors papermill "
    "ipykernel"
)
# What every notebook's results rest on: a run is continued only where all of it is the same.
FOUNDATIONS = (
    *("recipe", "overrides", "versions", "device", "library_sha256"),
    *("data_sha256", "validation_sha256", "backbone_sha256"),
)


def new_manifest(recipe: Recipe, overrides: Sequence[str], notebooks: Sequence[dict]) -> dict:
    """The manifest of a run in which nothing has run yet.

    notebooks: ``name``, ``source_sha256`` and ``parameters`` of each, in order. Statuses: the run
    is unfinished, done or failed; a notebook is not run, done or failed.
    """
    import torch

    from more_lib import data
    from more_lib.training.cache import provenance

    return {
        "profile": recipe.profile,
        "overrides": list(overrides),
        "status": "unfinished",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "git": git_state(),
        "versions": _versions(),
        "platform": platform.platform(),
        "device": device(),
        "threads": torch.get_num_threads(),
        "seeds": {"recipe": recipe.seed},
        "library_sha256": _library_sha256(),
        **provenance(recipe),
        "validation_sha256": data.validation_fingerprint(recipe.data),
        "recipe": to_dict(recipe),
        "resumed": [],
        "notebooks": [{**notebook, "seconds": None, "status": "not run"} for notebook in notebooks],
    }


def commit_name() -> str:
    """The checkout's commit, with ``-dirty`` behind it where the code is another by now."""
    state = git_state()
    return f"{state['commit']}{'-dirty' if state['dirty'] else ''}"


def save_manifest(manifest: dict, folder: Path) -> None:
    """Add up the notebooks' time and write ``manifest.json``, whole or not at all."""
    manifest["seconds"] = round(sum(entry["seconds"] or 0 for entry in manifest["notebooks"]), 1)
    write_json(manifest, folder / "manifest.json")


def continued(folder: Path, manifest: dict) -> dict | None:
    """The manifest with which the run in ``folder`` goes on, if ``manifest`` is what it would be.

    Notebooks from the first on that are done and unchanged keep their entries; the others are
    "not run". None when the run rests on something else, when it is finished but its notebooks
    have changed since, and when ``folder`` holds no manifest of this form.
    """
    new = manifest["notebooks"]
    try:
        earlier = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        old = earlier["notebooks"]
        kept = takewhile(lambda pair: _is_done(*pair, folder), zip(old, new, strict=False))
        done = len(list(kept))
        all_unchanged = done == len(old) == len(new)
        same = all(earlier[name] == manifest[name] for name in FOUNDATIONS)
        if not same or (earlier["status"] == "done" and not all_unchanged):
            return None
        resumed = earlier["resumed"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if not all_unchanged:
        resumed = [*resumed, {"at": manifest["started"], "git": manifest["git"]}]
    notebooks = [*old[:done], *new[done:]]
    return {**earlier, "status": "unfinished", "resumed": resumed, "notebooks": notebooks}


def _is_done(before: dict, now: dict, folder: Path) -> bool:
    """Whether a notebook that ran as ``before`` need not run as ``now``."""
    given = {name: value for name, value in before["parameters"].items() if name != "out_dir"}
    same = all(before[name] == now[name] for name in ("name", "source_sha256"))
    kept = (folder / f"{before['name']}.ipynb").is_file()
    return same and kept and before["status"] == "done" and given == now["parameters"]


def git_state() -> dict[str, str | bool | None]:
    """Commit of the checkout and whether files differ from it; "unknown", None outside of one."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(CHECKOUT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with suppress(OSError, subprocess.CalledProcessError):  # no git, no repository, no commit yet
        if Path(ask("rev-parse", "--show-toplevel")).resolve() == CHECKOUT:
            return {"commit": ask("rev-parse", "HEAD"), "dirty": ask("status", "--porcelain") != ""}
    return {"commit": "unknown", "dirty": None}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "more_lib": more_lib.__version__}
    for package in PACKAGES.split():
        with suppress(importlib.metadata.PackageNotFoundError):  # then nothing used it
            versions[package] = importlib.metadata.version(package)
    return versions


def device() -> dict[str, str | int]:
    import torch

    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type
        name = torch.cuda.get_device_name(0) if kind == "cuda" else kind
        return {"type": kind, "name": name, "count": torch.accelerator.device_count()}
    name = platform.processor() or platform.machine()
    with suppress(OSError):  # Linux tells the model
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if model := re.search(r"^model name\s*:\s*(\S.*)", told, re.MULTILINE):
            name = model[1].strip()
    return {"type": "cpu", "name": name, "count": os.cpu_count() or 1}


def _library_sha256() -> str:
    """Digest of the library, profiles and tables included: of ``sha256sum``'s list of its files."""
    package = Path(more_lib.__file__).parent
    files = (file for file in package.rglob("*") if file.is_file() and file.suffix != ".pyc")
    names = sorted(file.relative_to(package).as_posix() for file in files)
    listing = "".join(f"{sha256(package / name)}  {name}\n" for name in names)
    return hashlib.sha256(listing.encode()).hexdigest()
