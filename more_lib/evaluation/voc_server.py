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
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from more_lib.data import open_tree
from more_lib.data.images import PALETTE
from more_lib.evaluation.masks import SplitImages, check_protocols, evaluation_mode, segment
from more_lib.evaluation.protocols import Protocol
from more_lib.recipes.classes import VOC_CLASSES
from more_lib.recipes.loading import fingerprint
from more_lib.system.devices import best_device
from more_lib.system.errors import InputError
from more_lib.system.files import atomic_file
from more_lib.system.processes import Shards
from more_lib.system.progress import progress_bar

if TYPE_CHECKING:
    from more_lib.training.cache import Trained

RESULTS = "results/VOC2012/Segmentation/comp5_test_cls"
ARCHIVES = (".tgz", ".tar.gz")


def export_voc(trained: "Trained", protocol: Protocol, destination: str | Path) -> int:
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
    strange = [name for name in tree.classes if name not in VOC_CLASSES]
    if strange:
        raise InputError(
            f"the class {strange[0]!r} is not VOC's, whose test server takes no other: write masks "
            "of these images by `predict`"
        )
    if destination.exists():
        raise InputError(f"{destination} is there already: delete it, or name another")
    ids, shards = tree.ids(protocol.split), Shards()
    key = fingerprint([asdict(protocol), recipe.masks.lam_similarity, ids, _network(trained)])
    unfinished = destination.with_name(f".{destination.name}.{key}.unfinished")
    _write_masks(trained, protocol, shards, ids, unfinished / RESULTS)
    shards.gather(None)
    if shards.is_main:
        _finish(unfinished, ids, destination)
    shards.gather(None)
    return len(ids)


def _write_masks(
    trained: "Trained", protocol: Protocol, shards: Shards, ids: Sequence[str], folder: Path
) -> None:
    """This process's masks that are not there yet."""
    recipe, tree = trained.recipe, open_tree(trained.recipe.data)
    missing = [name for name in shards.of(ids) if not (folder / f"{name}.png").is_file()]
    voc_id = np.array([0, *(VOC_CLASSES.index(name) + 1 for name in tree.classes)], np.uint8)
    images = SplitImages(tree, missing, labels=protocol.labels == "true", masks=False)
    bar = progress_bar(total=len(missing), description="masks", shown=shards.is_main)
    with evaluation_mode(trained.model, best_device()) as place, bar:
        batches = segment(trained.model, recipe, [protocol], images, place)
        with closing(batches):
            for batch in batches:
                for image_id, mask in zip(batch.ids, batch.predictions[0], strict=True):
                    picture = Image.fromarray(voc_id[mask.cpu().numpy()])
                    picture.putpalette(PALETTE.tobytes())
                    with atomic_file(folder / f"{image_id}.png") as temporary:
                        picture.save(temporary)
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


def _network(trained: "Trained") -> str:
    """What tells this network from others."""
    return trained.record["weights_sha256"]
