"""Masks for VOC's test server, whose ground truth is not public (notebook 06).

    results/VOC2012/Segmentation/comp5_test_cls/<id>.png    palette, VOC's ids, the image's size

The server, http://host.robots.ox.ac.uk:8080, takes these files as one .tgz.
"""

import gzip
import shutil
import tarfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from more_lib.data import open_tree
from more_lib.data.images import mask_image
from more_lib.evaluation.masks import SplitImages, evaluation_mode, segment
from more_lib.evaluation.protocols import Protocol, check_protocols
from more_lib.evaluation.writing import voc_ids
from more_lib.recipes.classes import VOC_CLASSES
from more_lib.recipes.loading import fingerprint
from more_lib.system.devices import best_device
from more_lib.system.errors import InputError
from more_lib.system.files import atomic_file
from more_lib.system.processes import Shards
from more_lib.system.progress import progress_bar
from more_lib.training.cache import Trained

RESULTS = "results/VOC2012/Segmentation/comp5_test_cls"
ARCHIVES = (".tgz", ".tar.gz")


def export_voc(trained: Trained, protocol: Protocol, destination: str | Path) -> int:
    """Write the mask of every image of ``protocol.split`` as VOC's test server wants them.

    Neither masks are read nor, unless the protocol takes true labels, annotations. Under
    `accelerate launch` every process must call this; each writes its share. What a killed export
    had written is used again: it waits in a hidden folder beside the destination.

    Args:
        destination: an archive by its ending ``.tgz`` or ``.tar.gz``, else a folder to hold
            ``results``; complete or not there. The same masks give the same archive, byte for byte.

    Returns the number of images. Raises ``InputError`` when the destination is there already, for
    classes that are not VOC's, and as ``segment`` does.
    """
    check_protocols([protocol])
    destination = Path(destination).expanduser()
    recipe, tree = trained.recipe, open_tree(trained.recipe.data)
    for name in tree.classes:
        if name not in VOC_CLASSES:
            raise InputError(
                f"the class {name!r} is not VOC's, whose test server takes no other: write masks "
                "of these images by `predict`"
            )
    if destination.exists():
        raise InputError(f"{destination} is there already: delete it, or name another")
    ids, shards = tree.ids(protocol.split), Shards()
    network = trained.record["weights_sha256"]
    key = fingerprint([asdict(protocol), recipe.masks.lam_similarity, ids, network])
    unfinished = destination.with_name(f".{destination.name}.{key}.unfinished")
    _write_masks(trained, protocol, shards, unfinished / RESULTS)
    shards.gather(None)
    if shards.is_main:
        _finish(unfinished, ids, destination)
    shards.gather(None)
    return len(ids)


def _write_masks(trained: Trained, protocol: Protocol, shards: Shards, folder: Path) -> None:
    """This process's masks that are not there yet."""
    recipe, tree = trained.recipe, open_tree(trained.recipe.data)
    mine = shards.of(tree.ids(protocol.split))
    missing = [name for name in mine if not (folder / f"{name}.png").is_file()]
    values = voc_ids(tree.classes)
    images = SplitImages(tree, missing, labels=protocol.labels == "true", masks=False)
    bar = progress_bar(total=len(missing), description="masks", shown=shards.is_main)
    with evaluation_mode(trained.model, best_device()) as place, bar:
        with closing(segment(trained.model, recipe, [protocol], images, place)) as batches:
            for batch in batches:
                for image_id, mask in zip(batch.ids, batch.predictions[0], strict=True):
                    with atomic_file(folder / f"{image_id}.png") as temporary:
                        mask_image(values[mask.cpu().numpy()]).save(temporary)
                bar.update(len(batch.ids))


def _finish(unfinished: Path, ids: Sequence[str], destination: Path) -> None:
    """From the folder of masks to the destination, in one step."""
    if not destination.name.endswith(ARCHIVES):
        unfinished.rename(destination)
        return
    with atomic_file(destination) as temporary:
        # Without times and owners, so that the same masks give the same bytes.
        with (
            temporary.open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for image_id in ids:
                path = unfinished / RESULTS / f"{image_id}.png"
                entry = tarfile.TarInfo(f"{RESULTS}/{image_id}.png")
                entry.size = path.stat().st_size
                with path.open("rb") as mask:
                    archive.addfile(entry, mask)
    shutil.rmtree(unfinished)
