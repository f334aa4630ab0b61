"""The output folder of ``predict``: what goes there, and where it may not be.

Masks become a data set's truth by where they lie, and a prediction that is its own truth scores
100 %. So nothing is written into a folder of data, forced or not.
"""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from more_lib.data import tree_root
from more_lib.data.images import image_files
from more_lib.recipes.schema import DataRecipe
from more_lib.system.errors import InputError, printable

TABLES = ("summary.csv", "classes.csv", "skipped.csv")
KINDS = ("masks", "overlays", "maps")
MOST_BYTES = 255  # of a file's name, on the file systems in use

_PICTURES = ("images", "JPEGImages")
_TRUTH = ("masks", "SegmentationClass", "SegmentationObject")
_DATA = (*_PICTURES, *_TRUTH[1:], "Annotations", "ImageSets", "splits", "labels.csv", "classes.txt")


@dataclass(frozen=True)
class Output:
    """Where predictions go. npz: the maps as well.

    force: what is there is overwritten. resume: what an earlier call did is kept, and the rest
    done; without either nothing may be there.
    """

    folder: Path
    npz: bool = False
    force: bool = False
    resume: bool = False

    def files(self, image_id: str) -> list[Path]:
        """Mask, overlay and, if wanted, maps of one image."""
        endings = ("png", "png", "npz")[: 3 if self.npz else 2]
        each = zip(KINDS, endings, strict=False)
        return [self.folder / kind / f"{image_id}.{ending}" for kind, ending in each]

    def refuse_present(self, ids: Iterable[str], own: Collection[str], cure: str) -> None:
        """Raise ``InputError`` for files that would be overwritten, but for those of ``own`` ids.

        Where there are such ids, the tables are theirs, too. cure: what else can be done.
        """
        wanted = [file for name in ids if name not in own for file in self.files(name)]
        wanted += [] if own else [self.folder / name for name in TABLES]
        present = [file.relative_to(self.folder).as_posix() for file in wanted if file.exists()]
        if present and not self.force:
            listed = ", ".join(present[:3]) + (" …" if len(present) > 3 else "")
            raise InputError(
                f"{printable(self.folder)} holds {len(present)} of the files to be written: "
                f"{printable(listed)}; name another --output, {cure}or overwrite them with --force"
            )

    def check_place(self, images: Iterable[Path], data: DataRecipe) -> None:
        """Raise ``InputError`` where the folder cannot be written, or is one of data.

        images: what is to be predicted. data: the recipe's, which may lie elsewhere. Links count
        as what they point to.
        """
        folder = _real(self.folder)
        if _longest(folder.parts) > MOST_BYTES:
            raise InputError(f"--output {self.folder} has a name that is too long: shorten it")
        place = next(path for path in (folder, *folder.parents) if path.exists())
        if self.folder.is_symlink() and not self.folder.exists():
            raise InputError(f"--output {self.folder} is a link that leads nowhere; name a folder")
        if not place.is_dir():
            raise InputError(f"--output {self.folder}: {place} is a file; name a folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise InputError(f"--output {self.folder}: {place} is not writable; name another")
        if reason := self._truth(folder, set(images), data):
            raise InputError(
                f"--output {printable(self.folder)} {reason}: predictions would be taken for data, "
                "also with --force; name a folder of their own"
            )

    def _truth(self, folder: Path, images: set[Path], data: DataRecipe) -> str:
        """Why the masks would be taken for data; "" if they would not."""
        if found := _signs_of_data(folder):
            return f"is a folder of data (it holds {found})"
        given = {path.parent for path in images} | {_real(path).parent for path in images}
        given = {_real(folder) for folder in given}
        roots = given | {path.parent for path in given if path.name in _PICTURES}
        roots.add(_real(tree_root(data)))
        if folder in roots:
            return "is a folder of data"
        truth = {_real(root / name): root for root in roots for name in _TRUTH}
        named = self.folder.absolute()
        for inner in (folder, *folder.parents, named, *named.parents):
            part = inner.name in (*_PICTURES, *_TRUTH)
            if inner in truth or (part and _signs_of_data(inner.parent, inner.name)):
                return f"lies in {printable(inner)}, a part of a folder of data"
        for target in (_real(self.folder / kind) for kind in KINDS):
            if target in truth:
                return f"leads to {printable(target)}, the masks of {printable(truth[target])}"
            if target in given:
                return f"leads to {printable(target)}, where the images are"
        return ""


def bad_name(path: Path, output: Output) -> str:
    """What is wrong with the name of an image's file, or ""."""
    if printable(path.name) != path.name:
        return "has a name that is no text in UTF-8: rename the file"
    longest = _longest(file.name for file in output.files(path.stem))
    if longest > MOST_BYTES:
        return f"has a name too long for its mask or maps ({longest} bytes): rename the file"
    return ""


def _signs_of_data(folder: Path, but: str = "") -> str:
    """What shows that a folder is one of data, leaving out ``but``; "" if nothing does."""
    signs = (name for name in _DATA if name != but and (folder / name).exists())
    found = next(signs, "")
    if not found and folder.is_dir():
        found = next((path.name for path in image_files(folder)), "")
    return printable(found)


def _real(path: Path) -> Path:
    """Where a path leads, links followed but for those that run in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path.absolute()


def _longest(names: Iterable[str]) -> int:
    return max(len(os.fsencode(name)) for name in names)
