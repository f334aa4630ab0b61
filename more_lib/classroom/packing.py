"""``pack`` and ``unpack``: data, networks and scores in one archive: nobody trains in class.

A pack is a tar file of plain files. Its first member, ``manifest.json``, says by which versions it
was made, and lists every other in order with its size and sha256. ``unpack`` takes nothing that it
does not list there: no link, no device, no path out of the data folder, no byte more.
"""

import hashlib
import json
import re
import tarfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from more_lib import __version__
from more_lib.data import tree_root, validation_fingerprint
from more_lib.data.contents import SETTLED, digests
from more_lib.data.images import readable
from more_lib.evaluation.scoring import SCORING_VERSION
from more_lib.paper import ablation
from more_lib.paper.trials import is_trained
from more_lib.recipes.loading import changed, from_dict, load_recipe, to_dict
from more_lib.recipes.schema import Recipe
from more_lib.runs.reproduce import reproduce
from more_lib.system.errors import InputError
from more_lib.system.files import absolute, atomic_file, atomic_folder, data_folder
from more_lib.training.cache import TRAINING_VERSION, cached_folder

FORMAT = 1
OURS = [__version__, FORMAT, TRAINING_VERSION, SCORING_VERSION]
MANIFEST = "manifest.json"
MOST_BYTES = 2**26  # of the manifest; mini's has 2 MB
SECOND_BACKBONE = "backbone.depth=4"  # Figure 3's, by default, in notebook 07
KEPT = ("record.json", "recipe.yaml", "log.jsonl", "model.safetensors", "evaluation-*.json")


class Manifest(BaseModel):
    """A pack's first member. files: size and sha256 by the path in the data folder, in order."""

    model_config = ConfigDict(extra="forbid")

    format: int
    kit: str
    training: int
    scoring: int
    recipe: dict
    networks: list[str]  # their folders in ``trained``
    files: dict[str, tuple[NonNegativeInt, str]]


class Unpacked(NamedTuple):
    """What ``unpack`` wrote, and what was there already: paths of trees in the data folder."""

    written: list[str]
    kept: list[str]


def networks(recipe: Recipe) -> dict[str, Recipe]:
    """The recipes of all networks that the notebooks ask for, by name; MoRe's is ``recipe``."""
    second = changed(ablation.condition(recipe, "baseline"), [SECOND_BACKBONE])
    return {**ablation.trials(recipe), "plain": ablation.plain(recipe), "second": second}


def pack(file: str | Path, profile: str, runs: str | Path = "runs") -> Manifest:
    """Write data set, networks and scores of a profile's notebooks to ``file``; what is in it.

    The notebooks run first, if no run in ``runs`` is up to date (``reproduce``): only they know
    what they score. The same content gives the same bytes. Weights that timm downloads are not in
    it; mini's come with the kit.

    Raises ``InputError`` for a file that is there or cannot be written, and for data outside the
    data folder, and what ``reproduce`` raises.
    """
    file, root, recipe = absolute(file), data_folder(), load_recipe(profile)
    if file.exists():
        raise InputError(f"{file} exists: move it, or name another file")
    if recipe.data.root:
        raise InputError(f"a pack holds data of MORE_DATA, and profile {profile} has its elsewhere")
    reproduce(profile, runs=runs, resume=True)
    wanted = networks(recipe)
    if missing := [name for name, each in wanted.items() if not is_trained(each)]:
        raise InputError(
            f"the network {missing[0]!r} is gone since the notebooks ran: move {runs}/{profile} "
            "away, then pack again"
        )
    folders = list(dict.fromkeys(cached_folder(each) for each in wanted.values()))
    data = (path for path in tree_root(recipe.data).rglob("*") if path.is_file())
    paths = sorted(path for path in data if "/." not in path.relative_to(root).as_posix())
    paths += sorted(path for folder in folders for kept in KEPT for path in folder.glob(kept))
    sums = zip(paths, digests(paths), strict=True)
    manifest = Manifest(
        format=FORMAT,
        kit=__version__,
        training=TRAINING_VERSION,
        scoring=SCORING_VERSION,
        recipe=json.loads(json.dumps(to_dict(recipe))),
        networks=[folder.name for folder in folders],
        files={path.relative_to(root).as_posix(): (path.stat().st_size, s) for path, s in sums},
    )
    with atomic_file(file) as temporary, tarfile.open(temporary, "w") as tar:
        text = manifest.model_dump_json().encode()
        _add(tar, MANIFEST, len(text), BytesIO(text))
        for name, (size, _) in manifest.files.items():
            with (root / name).open("rb") as content:
                _add(tar, name, size, content)
    return manifest


def unpack(file: str | Path) -> Unpacked:
    """Put a pack's data set, networks and scores into the data folder, where notebooks find them.

    Everything is written and checked beside its place first; then each tree is renamed. A tree that
    is there with the same files is kept. Afterwards every network is looked up once, by its key, so
    that the data are known and no notebook has to read them all.

    Raises ``InputError`` for a pack of another version, one that is cut or changed (it names the
    member), a tree that is there and differs, and a disk that is full or cannot be written.
    """
    file, root = absolute(file), data_folder()
    with readable(file, ": give one that `classroom pack` wrote"):
        stream = file.open("rb")
    try:
        with stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            manifest, recipe = _read_manifest(tar, file)
            trees = dict.fromkeys(_tree_of(name) for name in manifest.files)
            kept = [tree for tree in trees if (root / tree).exists()]
            _require_equal(root, manifest, kept)
            with ExitStack() as stack:
                places = {
                    tree: stack.enter_context(atomic_folder(root / tree))
                    for tree in trees
                    if tree not in kept
                }
                _extract(tar, manifest, places, file)
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{file} is no pack, or is cut: get it anew ({error})") from error
    if places:
        time.sleep(SETTLED)  # what changed a moment ago is not remembered
    if missing := [name for name, each in networks(recipe).items() if not is_trained(each)]:
        raise InputError(
            f"{file} is of another state of the kit, which does not find its network "
            f"{missing[0]!r}: pack and unpack by the same commit"
        )
    validation_fingerprint(recipe.data)
    return Unpacked(list(places), kept)


def _add(tar: tarfile.TarFile, name: str, size: int, content: BinaryIO) -> None:
    member = tarfile.TarInfo(name)  # of no user, no time
    member.size = size
    tar.addfile(member, content)


def _tree_of(name: str) -> str:
    """The tree that a file belongs to: ``EmojiVOC-v2-seed0``, or ``trained/mini-0123``."""
    parts = name.split("/")
    return "/".join(parts[: 2 if parts[0] == "trained" else 1])


def _read_manifest(tar: tarfile.TarFile, file: Path) -> tuple[Manifest, Recipe]:
    """The manifest and the recipe in it, both checked, names of files included."""
    member = tar.next()
    if member is None or member.name != MANIFEST or not 0 < member.size <= MOST_BYTES:
        raise InputError(f"{file} is no pack of this kit: it does not begin with {MANIFEST}")
    try:
        content = json.loads(_stream(tar, member).read(member.size))
        theirs = [content[key] for key in ("kit", "format", "training", "scoring")]
        recipe = None
        if theirs[1:] == OURS[1:]:
            manifest = Manifest(**content)
            recipe = from_dict(manifest.recipe)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file}: its {MANIFEST} is damaged ({reason}): get it anew") from error
    if recipe is None:
        each = "kit {}, pack {}, training {}, scoring {}".format
        versions = f"{each(*theirs)}; here {each(*OURS)}"
        raise InputError(f"{file} is of another version ({versions}): pack it anew with this kit")
    allowed = {tree_root(recipe.data).name, *(f"trained/{name}" for name in manifest.networks)}
    for name in manifest.files:
        parts = name.split("/")
        plain = all(re.fullmatch(r"[^.\\/:\0-\x1f][^\\/:\0-\x1f]*", part) for part in parts)
        if recipe.data.root or not plain or _tree_of(name) not in allowed or name in allowed:
            raise InputError(f"{file}: {name!r} may not be in a pack: get it from whom you trust")
    return manifest, recipe


def _stream(tar: tarfile.TarFile, member: tarfile.TarInfo) -> BinaryIO:
    if member.type != tarfile.REGTYPE:  # links and devices have other types
        raise InputError(f"{member.name} is no plain file: get the pack from whom you trust")
    return tar.extractfile(member)


def _require_equal(root: Path, manifest: Manifest, kept: Iterable[str]) -> None:
    """Raise ``InputError`` that names a file of a tree that is there and differs."""
    kept = set(kept)
    names = [name for name in manifest.files if _tree_of(name) in kept]
    missing = [name for name in names if not (root / name).is_file()]
    here = [] if missing else digests(root / name for name in names)
    differing = [n for n, found in zip(names, here, strict=False) if found != manifest.files[n][1]]
    for name in [*missing, *differing][:1]:
        what = "is missing there" if missing else "differs"
        tree = root / _tree_of(name)
        raise InputError(f"{tree} is there, but {root / name} {what}: move {tree} away, then again")


def _extract(tar: tarfile.TarFile, manifest: Manifest, places: dict[str, Path], file: Path) -> None:
    """Write the members of trees that have a place; check all, in the manifest's order."""
    for name, (size, digest) in manifest.files.items():
        tree = _tree_of(name)
        damaged = InputError(f"{file} is cut or changed at {name}: get it anew")
        try:
            member = tar.next()
            if member is None or (member.name, member.size) != (name, size):
                raise damaged
            content, found = _stream(tar, member), hashlib.sha256()
            with ExitStack() as stack:
                target = places.get(tree)
                if target:
                    target /= name.removeprefix(f"{tree}/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target = stack.enter_context(target.open("xb"))
                while chunk := content.read(2**20):
                    found.update(chunk)
                    if target:
                        target.write(chunk)
        except (tarfile.TarError, EOFError) as error:
            raise damaged from error
        if found.hexdigest() != digest:
            raise damaged
    if (more := tar.next()) is not None:
        raise InputError(f"{file} holds {more.name}, which its manifest lacks: get it anew")
