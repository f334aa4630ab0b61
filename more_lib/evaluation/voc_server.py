"""Masks for VOC's test server, whose ground truth is not public (notebook 06).

http://host.robots.ox.ac.uk:8080 takes them as one .tgz:

    results/VOC2012/Segmentation/comp5_test_cls/<id>.png    palette, VOC's ids, the image's size
"""

import gzip
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from more_lib.data import open_tree
from more_lib.data.contents import digests
from more_lib.data.images import mask_image
from more_lib.data.tree import ImageTree
from more_lib.evaluation.masks import SplitImages, evaluation_mode, segment
from more_lib.evaluation.protocols import Protocol, check_protocols
from more_lib.recipes.classes import VOC_CLASSES
from more_lib.recipes.loading import fingerprint
from more_lib.system.devices import best_device
from more_lib.system.errors import InputError
from more_lib.system.files import absolute, atomic_file, atomic_folder, readable_disk_errors
from more_lib.system.locks import exclusive, lock_of
from more_lib.system.processes import Shards
from more_lib.system.progress import progress_bar
from more_lib.training.cache import Trained

RESULTS = "results/VOC2012/Segmentation/comp5_test_cls"


def export_voc(trained: Trained, protocol: Protocol, destination: str | Path) -> int:
    """Write the mask of every image of ``protocol.split`` as VOC's test server wants them.

    Neither masks are read nor, unless the protocol takes true labels, annotations. Under
    `accelerate launch` every process must call this; each writes its share. What a killed export
    had written is used again: it waits in a hidden folder beside the destination.

    destination: an archive by its ending ``.tgz`` or ``.tar.gz``, else a folder to hold
        ``results``; complete or not there. The same masks give the same archive, byte for byte.

    Returns the number of images. Raises ``InputError`` when the destination is there already, for
    classes that are not VOC's, and as ``segment`` does.
    """
    destination = absolute(destination)
    with exclusive(lock_of(destination), f"writes {destination.name}", Shards()):
        return _export(trained, protocol, destination)


def _export(trained: Trained, protocol: Protocol, destination: Path) -> int:
    check_protocols([protocol])
    model, recipe, tree = trained.model, trained.recipe, open_tree(trained.recipe.data)
    if strange := [name for name in tree.classes if name not in VOC_CLASSES]:
        raise InputError(
            f"the class {strange[0]!r} is not VOC's, whose test server takes no other: write masks "
            "of these images by `predict`"
        )
    if destination.exists():
        raise InputError(f"{destination} is there already: delete it, or name another")
    ids, shards = tree.ids(protocol.split), Shards()
    network = trained.record["weights_sha256"]
    key = fingerprint([protocol.key, recipe.masks.lam_similarity, tree.classes, network])
    unfinished = destination.with_name(f".{destination.name}.{key}.unfinished")
    files = {id: unfinished / name for id, name in _part_names(tree, ids, protocol).items()}
    missing = [image_id for image_id in shards.of(ids) if not files[image_id].is_file()]
    with readable_disk_errors(destination):  # before hours of masks
        unfinished.mkdir(parents=True, exist_ok=True)
    images = SplitImages(tree, missing, labels=protocol.labels == "true", masks=False)
    with (
        evaluation_mode(model, best_device()) as place,
        closing(segment(model, recipe, [protocol], images, place)) as batches,
        progress_bar(total=len(missing), description="masks", shown=shards.is_main) as bar,
    ):
        for batch in batches:
            masks = voc_ids(tree.classes)[batch.predictions[0].cpu().numpy()]
            for image_id, mask in zip(batch.ids, masks, strict=True):
                with atomic_file(files[image_id]) as temporary:
                    mask_image(mask).save(temporary)
            bar.update(len(batch.ids))
    shards.gather(None)
    if shards.is_main:
        _finish(files, destination)
        shutil.rmtree(unfinished)
    shards.gather(None)
    return len(ids)


def voc_ids(classes: Sequence[str]) -> np.ndarray:
    """VOC's mask values of the background and of some of its classes, (C + 1,) uint8."""
    return np.array([0, *(VOC_CLASSES.index(name) + 1 for name in classes)], dtype=np.uint8)


def _part_names(tree: ImageTree, ids: Sequence[str], protocol: Protocol) -> dict[str, str]:
    """By image id, where an unfinished export keeps its mask: by all that the mask rests on."""
    labels = [tree.labels(i).tolist() if protocol.labels == "true" else None for i in ids]
    pictures = digests(tree.image_path(image_id) for image_id in ids)
    parts = zip(ids, pictures, labels, strict=True)
    return {part[0]: f"{fingerprint(part)}.png" for part in parts}


def _finish(files: Mapping[str, Path], destination: Path) -> None:
    """From the masks of an unfinished export to the destination, in one step."""
    if not destination.name.endswith((".tgz", ".tar.gz")):
        with atomic_folder(destination) as folder:
            (folder / RESULTS).mkdir(parents=True)
            for image_id, file in files.items():
                shutil.copyfile(file, folder / RESULTS / f"{image_id}.png")
        return
    # Without times and owners, so that the same masks give the same bytes.
    with (
        atomic_file(destination) as temporary,
        temporary.open("wb") as stream,
        gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for image_id, file in files.items():
            entry = tarfile.TarInfo(f"{RESULTS}/{image_id}.png")
            entry.size = file.stat().st_size
            with file.open("rb") as mask:
                archive.addfile(entry, mask)
