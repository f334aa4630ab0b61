"""Damaged files found before a long run, not in the middle of it.

The scan opens every image of a split, reads its header and looks whether the file ends as its
format ends: what cut-off downloads and copies lack. It decodes only the files that end otherwise.
So it does not find damage inside a file whose beginning and end are whole, which decoders mostly
pass over in silence, nor mask values that are no class, which the evaluation refuses.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from more_lib.data import open_tree
from more_lib.data.tree import DAMAGED_IMAGE, ImageTree, check_mask_header, image_header, unreadable
from more_lib.system.errors import InputError
from more_lib.system.files import atomic_file, data_folder
from more_lib.system.progress import progress_bar

if TYPE_CHECKING:
    from more_lib.recipes.schema import Recipe

THREADS = 16  # the disk is waited for, not the processor
TAIL = 4096  # bytes in which a format's end is looked for; cameras write notes behind it


def scan(tree: ImageTree, split: str, masks: bool = False) -> dict[str, str]:
    """What is wrong with each image of a split that has a fault, by id, in the split's order.

    A fault is an image, or with ``masks`` a mask, that is missing, no image or cut short, a mask
    whose kind or size is wrong, and labels that cannot be read. Raises ``InputError`` for a split
    that cannot be read, and with ``masks`` when there are none at all.
    """
    ids = tree.ids(split)
    if masks:
        tree.require_masks()
    with ThreadPoolExecutor(THREADS) as pool:
        faults = pool.map(lambda image_id: _fault(tree, image_id, masks), ids)
        bar = progress_bar(faults, total=len(ids), description=f"scanning {split}")
        return {image_id: fault for image_id, fault in zip(ids, bar, strict=True) if fault}


def require_readable(tree: ImageTree, split: str, masks: bool = False) -> None:
    """Raise one ``InputError`` that names every fault of a split, the first five of many.

    All of them are then in a list in the data folder, which the message names.
    """
    bad = scan(tree, split, masks)
    if bad:
        faults = list(dict.fromkeys(bad.values()))  # a missing folder is one for all images
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise InputError(
            f"{len(bad)} of {len(tree.ids(split))} images of {tree.root}, split {split}, cannot be "
            f"used (listed in {_saved(tree, split, bad)}): {'; '.join(faults[:5])}"
            f"{more}. Mend them, or go on without them: --skip-bad"
        )


def skip_bad(recipe: "Recipe", split: str, masks: bool = False) -> "Recipe":
    """The recipe with the bad files of one of its splits in ``data.skip``; prints and saves them.

    The recipe that a run keeps thus names what was left out, and the data's fingerprint covers the
    images that are left: a training without the bad files is kept apart from one with them.
    """
    tree = open_tree(recipe.data)
    bad = scan(tree, split, masks)
    if not bad:
        return recipe
    print(f"skipped {len(bad)} of {len(tree.ids(split))} images of the split {split}:")
    print("\n".join(f"  {reason}" for reason in bad.values()))
    print(f"the list is kept in {_saved(tree, split, bad)}")
    return replace(recipe, data=replace(recipe.data, skip=(*recipe.data.skip, *bad)))


def _fault(tree: ImageTree, image_id: str, masks: bool) -> str:
    try:
        tree.labels(image_id)
        size = _checked(tree.image_path(image_id))[0]
        if masks:
            path = tree.mask_path(image_id)
            mask_size, mode = _checked(path)
            check_mask_header(path, mode, mask_size, size)
    except InputError as error:
        return str(error)
    return ""


def _checked(path: Path) -> tuple[tuple[int, int], str]:
    """((W, H), mode) of an image file that looks whole; ``InputError`` for another."""
    size, mode, kind = image_header(path)
    try:
        if not _ends_well(path, kind):
            with Image.open(path) as file:
                file.load()
    except DAMAGED_IMAGE as error:
        raise unreadable(path, error) from error
    return size, mode


def _ends_well(path: Path, kind: str) -> bool:
    """Whether the file's last bytes are an end of its format; False also for other formats."""
    with path.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(max(length - TAIL, 0))
        tail = file.read()
        if kind == "WEBP":
            file.seek(4)
            return int.from_bytes(file.read(4), "little") + 8 <= length
    if kind == "PNG":
        return b"IEND" in tail
    # A thumbnail in the header has an end of its own, but before the picture's scan begins.
    return kind in ("JPEG", "MPO") and tail.rfind(b"\xff\xd9") > tail.rfind(b"\xff\xda")


def _saved(tree: ImageTree, split: str, bad: dict[str, str]) -> Path:
    path = data_folder() / "bad_files" / f"{tree.root.name}-{split}.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("".join(f"{name}\t{reason}\n" for name, reason in bad.items()))
    return path
