"""VOC 2012 and SBD made one tree: the 10,582 images of ``train_aug``, each with a mask.

SBD (Hariharan et al., 2011) segments 11,355 photographs of VOC. The field trains on all images
that VOC or SBD segment, VOC's validation images left out:

    train_aug = (VOC train + SBD) without VOC val

To a tree in VOC's layout this adds the list ``ImageSets/Segmentation/train_aug.txt`` and the
folder ``SegmentationClassAug``: VOC's own masks where it has them, SBD's elsewhere. Training needs
only the list; the masks score pseudo labels.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from more_lib.data.images import mask_image
from more_lib.data.prepare.fetch import check_counts, downloads_folder, extract, fetch, fetch_plan
from more_lib.data.prepare.sources import SBD_BENCHMARK, VOC_TRAINVAL, Source
from more_lib.data.voc import AUGMENTED, VocTree
from more_lib.recipes.classes import VOC_CLASSES
from more_lib.system.errors import InputError
from more_lib.system.files import absolute, atomic_file, atomic_folder, readable_disk_errors
from more_lib.system.progress import progress_bar

COUNTS = {"train": 1464, "val": 1449, "test": 1456, "train_aug": 10582}
"""Images of each split of the segmentation task."""

LISTS = VocTree.LISTS
FOLDERS = ("JPEGImages", "Annotations", "SegmentationClass")

Step = tuple[str, Callable[[], object]]
"""Something to be done, in words and as a function."""


def steps(
    root: str | Path,
    voc: str | Path | None = None,
    sbd: str | Path | None = None,
    with_sbd: bool = True,
) -> list[Step]:
    """What is still to be done until ``root`` is a tree in VOC 2012 layout. Does nothing itself.

    Args:
        root: the tree to make; one that is there is completed in place.
        voc: a VOC 2012 folder, which is linked, not copied, and left as it is; or its archive.
            None downloads it.
        sbd: SBD's folder or archive, or those of a ready SegmentationClassAug. None downloads SBD.
        with_sbd: False for VOC's own 1,464 training images alone.

    Raises ``InputError`` for a ``voc`` or ``sbd`` that does not exist, for a folder that holds
    something else, and for a ``root`` in use.
    """
    root = Path(os.path.realpath(absolute(root)))  # what is unpacked is renamed on its own disk
    downloads = downloads_folder()
    voc, sbd = (absolute(given) if given else None for given in (voc, sbd))
    for source, given in ((VOC_TRAINVAL, voc), (SBD_BENCHMARK, sbd)):
        if given:
            fetch(source, downloads, given)  # only makes sure that it exists
    if sbd and sbd.is_dir():
        _mask_files(sbd)  # likewise
    todo, tree = [], root
    if not _is_tree(root):
        if root.is_mount():
            raise InputError(f"{root} is a mount point, which nothing can be renamed to: name a "
                             "folder in it")  # fmt: skip
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            absent = [part for part in (*FOLDERS, LISTS) if not (root / part).is_dir()]
            raise InputError(
                f"{root} is in use and no VOC 2012 tree: it lacks {', '.join(absent)}; move it "
                "away, or name another root"
            )
        if voc and voc.is_dir():
            tree = find_voc(voc)
            todo.append((f"link the folders of {tree} into {root}", partial(_link, tree, root)))
        else:
            archive = voc or _fetched(VOC_TRAINVAL, todo)
            todo.append((f"unpack {archive} to {root}", partial(_unpack, archive, root)))
    augmented = (root / AUGMENTED).is_dir() and (root / LISTS / "train_aug.txt").is_file()
    if with_sbd and not augmented:
        has_masks = (tree / AUGMENTED).is_dir()
        masks = root if has_masks else sbd or _fetched(SBD_BENCHMARK, todo)
        words = f"write {AUGMENTED} and train_aug.txt into {root}, from {masks}"
        todo.append((words, partial(_augment, root, masks)))
    return todo


def check(
    root: str | Path, with_sbd: bool = True, counts: Mapping[str, int] = COUNTS
) -> dict[str, int]:
    """Number of images of each split of a complete tree; ``counts`` are those it should have.

    Every image needs a photograph, an annotation and a mask. Of test, whose images VOC gives on
    request, only the list is counted, and only if it is there.

    Raises ``InputError`` that names the splits of a wrong size, or files that are missing.
    """
    tree = VocTree(root)
    splits = {name: tree.ids(name) for name in ("train", "val", "train_aug")[: 2 + with_sbd]}
    sizes = {name: len(ids) for name, ids in splits.items()}
    if (tree.root / LISTS / "test.txt").is_file():
        sizes["test"] = len(tree.ids("test"))
    check_counts(sizes, counts, tree.root)
    files = {folder: _stems(tree.root / folder) for folder in FOLDERS}
    for split, ids in splits.items():
        if split == "train_aug":  # the last
            files["SegmentationClass"] |= _stems(tree.root / AUGMENTED)
        for folder, stems in files.items():
            missing = [image_id for image_id in ids if image_id not in stems]
            if missing:
                raise InputError(
                    f"{tree.root / folder} lacks {missing[0]} and {len(missing) - 1:,} more images "
                    f"of {split}: restore the folder from its archive"
                )
    return sizes


def find_voc(folder: str | Path) -> Path:
    """The VOC 2012 tree at ``folder`` or where its archive puts one below; else ``InputError``."""
    folder = absolute(folder)
    for place in (folder, folder / "VOC2012", folder / "VOCdevkit" / "VOC2012"):
        if _is_tree(place):
            return place
    raise InputError(f"{folder} holds no VOC 2012 tree ({', '.join(FOLDERS)}, {LISTS}): name the "
                     "folder VOCdevkit/VOC2012, or its archive")  # fmt: skip


def sbd_mask(path: str | Path) -> np.ndarray:
    """One of SBD's ``cls/<id>.mat`` as a mask, (H, W) uint8: 0 background, 1..20 VOC's classes.

    Raises ``InputError`` for a file that is missing, damaged or no SBD mask.
    """
    try:
        read = loadmat(path, variable_names=["GTcls"], squeeze_me=True, struct_as_record=False)
        mask = np.asarray(read["GTcls"].Segmentation)
    except Exception as error:  # scipy lets through whatever a damaged file leads to
        raise InputError(f"{path} is no readable SBD mask ({error}): fetch SBD again") from error
    is_mask = mask.ndim == 2 and mask.dtype.kind in "iu"
    if not is_mask or not ((0 <= mask) & (mask <= len(VOC_CLASSES))).all():
        raise InputError(f"{path} holds no (H, W) mask of the classes 0..{len(VOC_CLASSES)}: is it "
                         "SBD's cls folder?")  # fmt: skip
    return mask.astype(np.uint8)


def _is_tree(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in (*FOLDERS, LISTS))


def _fetched(source: Source, todo: list[Step]) -> Path:
    """Where an archive will be after the step that this adds to ``todo``."""
    folder = downloads_folder()
    todo.append((fetch_plan(source, folder), partial(fetch, source, folder)))
    return folder / source.file


def _link(tree: Path, root: Path) -> None:
    """Make ``root`` a tree of links to the folders of another: no space taken, nothing touched."""
    with atomic_folder(root) as temporary:
        for folder in (*FOLDERS, AUGMENTED):
            if (tree / folder).is_dir():
                (temporary / folder).symlink_to((tree / folder).resolve())
        # The lists are copied, as train_aug joins them.
        (temporary / LISTS).mkdir(parents=True)
        for file in (tree / LISTS).glob("*.txt"):
            shutil.copyfile(file, temporary / LISTS / file.name)


def _unpack(archive: Path, root: Path) -> None:
    """Unpack what segmentation needs of VOC's archive; its folder VOC2012 becomes ``root``."""
    parts = [f"VOC2012/{part}/" for part in (*FOLDERS, LISTS)]
    with atomic_folder(root) as temporary:
        unpacked = temporary / "unpacked"
        extract(archive, unpacked, lambda name: any(part in name for part in parts))
        try:
            tree = find_voc(unpacked)
        except InputError as error:
            raise InputError(str(error).replace(str(unpacked), str(archive))) from error
        for folder in tree.iterdir():
            folder.rename(temporary / folder.name)
        shutil.rmtree(unpacked)


def _augment(root: Path, source: Path) -> None:
    """Add SegmentationClassAug and the list of ``train_aug`` to a tree, unless they are there."""
    with (
        readable_disk_errors(root),
        tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as scratch,
    ):
        if source.is_file():  # without SBD's photographs, which are VOC's
            source = extract(source, f"{scratch}/sbd", lambda name: "/img/" not in f"/{name}")
        masks = _mask_files(source)
        tree = VocTree(root)
        train, val = set(tree.ids("train")), set(tree.ids("val"))
        if not (root / AUGMENTED).is_dir():
            _write_masks(root, masks, train | val | masks.keys())
        path = root / LISTS / "train_aug.txt"
        if not path.is_file():
            with atomic_file(path) as file:
                ids = sorted((train | masks.keys()) - val)
                file.write_text("".join(f"{image_id}\n" for image_id in ids))


def _mask_files(source: Path) -> dict[str, Path]:
    """The mask file of each image id, in SBD's folder or in a ready SegmentationClassAug."""
    for place in (source, source / "dataset", source / "benchmark_RELEASE" / "dataset"):
        if (place / "cls").is_dir():
            return {file.stem: file for file in (place / "cls").glob("[!.]*.mat")}
    for place in (source / AUGMENTED, source):
        masks = {file.stem: file for file in place.glob("[!.]*.png")}
        if masks:
            return masks
    raise InputError(f"{source} holds neither SBD (dataset/cls) nor {AUGMENTED}: name the folder "
                     f"unpacked from {SBD_BENCHMARK.file}, or the archive")  # fmt: skip


def _write_masks(root: Path, masks: Mapping[str, Path], ids: Iterable[str]) -> None:
    """Fill SegmentationClassAug: VOC's own masks first, then PNGs, or SBD's as palette PNGs."""
    with atomic_folder(root / AUGMENTED) as folder:
        for image_id in progress_bar(sorted(ids), description=AUGMENTED):
            own = root / "SegmentationClass" / f"{image_id}.png"
            file = own if own.is_file() else masks.get(image_id, own)
            if file.suffix == ".mat":
                mask_image(sbd_mask(file)).save(folder / own.name)
            elif file.is_file():
                shutil.copyfile(file, folder / own.name)
            else:
                raise InputError(f"{file} is missing: restore SegmentationClass from its archive")


def _stems(folder: Path) -> set[str]:
    """Names without their endings; one look at the folder instead of one for each file."""
    return {file.stem for file in folder.iterdir()} if folder.is_dir() else set()
