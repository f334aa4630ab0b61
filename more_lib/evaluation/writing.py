"""Masks as files: of images of your own (notebook 08), and for VOC's test server (notebook 06).

The command ``predict``: ``plan_predictions`` finds all that can be wrong with images, labels and
output folder before a network is trained or asked; ``write_predictions`` then asks it.

    <folder>/masks/<id>.png       palette mask in the image's size; values as classes.csv says
    <folder>/overlays/<id>.png    the image beside the map of each class
    <folder>/maps/<id>.npz        if wanted: the maps as numbers
    <folder>/summary.csv          a row an image: classes looked for, classes found, pixels
    <folder>/classes.csv          mask value and colour of each class
    <folder>/skipped.csv          if any: the files left out, and why

``export_voc``: what http://host.robots.ox.ac.uk:8080, whose ground truth is not public, takes as
one .tgz.

    results/VOC2012/Segmentation/comp5_test_cls/<id>.png    palette, VOC's ids, the image's size
"""

import gzip
import math
import shutil
import tarfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from more_lib.data import open_tree
from more_lib.data.images import PALETTE, find_images, image_size, mask_image, unreadable
from more_lib.data.table import read_labels
from more_lib.evaluation.masks import SplitImages, evaluation_mode, segment
from more_lib.evaluation.overlays import plot_prediction
from more_lib.evaluation.predict import Prediction, class_numbers, own_protocol, predict, seen_size
from more_lib.evaluation.protocols import Protocol, check_protocols
from more_lib.figures.canvas import class_colors
from more_lib.method.crf import choose_method
from more_lib.method.model import MoRe
from more_lib.recipes.classes import VOC_CLASSES
from more_lib.recipes.loading import fingerprint
from more_lib.recipes.schema import Recipe
from more_lib.system.devices import best_device
from more_lib.system.errors import InputError
from more_lib.system.files import atomic_file
from more_lib.system.processes import Shards
from more_lib.system.progress import progress_bar
from more_lib.training.cache import Trained

TABLES = ("summary.csv", "classes.csv", "skipped.csv")
RESULTS = "results/VOC2012/Segmentation/comp5_test_cls"


@dataclass(frozen=True)
class Output:
    """Where predictions go. npz: the maps as well. force: what is there is overwritten."""

    folder: Path
    npz: bool = False
    force: bool = False

    def files(self, image_id: str) -> list[Path]:
        """Mask, overlay and, if wanted, maps of one image."""
        kinds = {"masks": "png", "overlays": "png"} | ({"maps": "npz"} if self.npz else {})
        return [self.folder / kind / f"{image_id}.{ending}" for kind, ending in kinds.items()]


@dataclass(frozen=True, eq=False)
class Plan:
    """What ``plan_predictions`` found to be possible. bad: why each file is left out."""

    recipe: Recipe
    images: list[Path]
    output: Output
    labels: Mapping[str, Collection[str]] | None
    map: str
    crf: bool
    bad: Mapping[Path, str]


def plan_predictions(
    recipe: Recipe,
    inputs: Iterable[str | Path],
    output: Output,
    labels: str | Path | None = None,
    map: str = "lam",
    crf: bool = False,
    skip_bad: bool = False,
) -> Plan:
    """The predictions of image files, checked; nothing is computed or written yet.

    recipe: of the network that is to be asked. inputs: image files, and folders of them.
    labels: CSV with the columns ``image`` (file name) and ``classes`` (separated by ;).
    map, crf: as for ``predict``.
    skip_bad: leave out the files that cannot be read, and list them in ``skipped.csv``.

    Raises ``InputError`` for what cannot be used: missing, damaged and like-named images, labels
    that do not fit, files already there, and a CRF that cannot run here.
    """
    own_protocol(recipe, map, crf)
    paths = find_images(inputs)
    given = None if labels is None else read_labels(labels, recipe.data.classes)
    try:
        for path in () if given is None else paths:
            class_numbers(path, given or {}, recipe.data.classes)
    except InputError as error:
        raise InputError(f"{labels}: {error}") from error
    wanted = [file for path in paths for file in output.files(path.stem)]
    wanted += [output.folder / name for name in TABLES]
    present = [file.relative_to(output.folder).as_posix() for file in wanted if file.exists()]
    if present and not output.force:
        listed = ", ".join(present[:3]) + (" …" if len(present) > 3 else "")
        raise InputError(
            f"{output.folder} holds {len(present)} of the files to be written: {listed}; "
            "name another --output, or overwrite them with --force"
        )
    bad = _unreadable(paths, skip_bad)
    paths = [path for path in paths if path not in bad]
    if crf:  # possible for the largest image, it is for all
        sizes = [seen_size(image_size(path), recipe) for path in paths]
        width, height = max(sizes, key=math.prod)
        choose_method(height, width, best_device())
    return Plan(recipe, paths, output, given, map, crf, bad)


def write_predictions(plan: Plan, model: MoRe) -> list[dict]:
    """Predict, write and print a line for each image; returns the summary's rows.

    model: trained by the plan's recipe; it is put in evaluation mode, on a GPU where there is one.
    A row has image, width, height, labels (looked for), their probabilities, classes (in the mask)
    and their pixels; the last four are tuples.
    """
    recipe, output, rows = plan.recipe, plan.output, []
    model = model.eval().to(best_device())
    each = predict(model, recipe, plan.images, plan.labels, map=plan.map, crf=plan.crf)
    for path, prediction in zip(plan.images, each, strict=True):
        write_prediction(prediction, recipe, output)
        rows.append(_row(path, prediction, recipe.data.classes))
        line = _line(rows[-1], prediction.probabilities, recipe.data.classes)
        print(f"[{len(rows)}/{len(plan.images)}] {line}", flush=True)
    _write_tables(plan, rows)
    kinds = "masks, overlays and maps" if output.npz else "masks and overlays"
    print(f"{kinds} of {len(rows)} images, summary.csv and classes.csv: {output.folder}")
    return rows


def write_prediction(prediction: Prediction, recipe: Recipe, output: Output) -> None:
    """Write mask, overlay and, if wanted, maps of one image; what is there is overwritten.

    The npz holds ``maps`` (K, h, w) float16 in [0, 1] with their ``classes`` (K,), ``size``, the
    (H, W) to which they belong, and ``probabilities`` (C,) float32 of ``all_classes`` (C,).
    Reading it needs no pickle. Raises ``InputError`` when the folder cannot be written.
    """
    mask_file, overlay_file, *maps_file = output.files(prediction.id)
    values, palette = mask_values(recipe), PALETTE.copy()
    palette[values] = class_colors(recipe.data.classes)
    with atomic_file(mask_file) as temporary:
        mask_image(values[prediction.mask], palette).save(temporary, format="png")
    with atomic_file(overlay_file) as temporary:
        plot_prediction(prediction, recipe.data.classes).savefig(temporary, format="png")
    for file in maps_file:
        with atomic_file(file) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(
                stream,
                maps=prediction.maps.astype(np.float16),
                classes=np.array(prediction.labels, dtype=str),
                size=np.array(prediction.mask.shape),
                probabilities=prediction.probabilities,
                all_classes=np.array(recipe.data.classes, dtype=str),
            )


def mask_values(recipe: Recipe) -> np.ndarray:
    """Value of background and each class in mask files, (C + 1,) uint8.

    VOC's fixed ids on EmojiVOC and VOC 2012, as in the masks of those data sets, and 1..C in the
    order of ``data.classes`` elsewhere.
    """
    classes = recipe.data.classes
    if recipe.data.dataset in ("emoji", "voc"):
        return voc_ids(classes)
    return np.arange(len(classes) + 1, dtype=np.uint8)


def voc_ids(classes: Sequence[str]) -> np.ndarray:
    """VOC's mask values of the background and of some of its classes, (C + 1,) uint8."""
    return np.array([0, *(VOC_CLASSES.index(name) + 1 for name in classes)], dtype=np.uint8)


def _unreadable(paths: Sequence[Path], skip_bad: bool) -> dict[Path, str]:
    """The files to leave out, with the reasons; ``InputError`` if none may be, or none is left."""
    bad = unreadable(paths)
    lines = [f"{path} {reason}" for path, reason in bad.items()]
    if bad and not skip_bad:
        raise InputError(
            f"unusable are {len(bad)} of {len(paths)} images: {'; '.join(lines)}. Restore them, or "
            "leave them out with --skip-bad"
        )
    if len(bad) == len(paths):
        raise InputError(f"no image is left: {'; '.join(lines)}")
    for line in lines:
        print(f"skipped: {line}")
    return bad


def _row(path: Path, prediction: Prediction, classes: Sequence[str]) -> dict:
    probability = dict(zip(classes, prediction.probabilities.tolist(), strict=True))
    numbers, pixels = np.unique(prediction.mask[prediction.mask > 0], return_counts=True)
    return {
        "image": path.name,
        "width": prediction.image.width,
        "height": prediction.image.height,
        "labels": prediction.labels,
        "probabilities": tuple(probability[name] for name in prediction.labels),
        "classes": tuple(classes[number - 1] for number in numbers),
        "pixels": tuple(pixels.tolist()),
    }


def _line(row: Mapping, probabilities: np.ndarray, classes: Sequence[str]) -> str:
    """What is printed of an image: classes found, in pixels and in per cent of the image."""
    area, best = row["width"] * row["height"], int(probabilities.argmax())
    counts = zip(row["classes"], row["pixels"], strict=True)
    said = ", ".join(f"{name} {n} pixels ({100 * n / area:.1f} %)" for name, n in counts)
    if not row["labels"]:
        said = f"no class looked for (likeliest: {classes[best]} {probabilities[best]:.2f})"
    head = f"{row['image']}, {row['width']}×{row['height']}"
    return f"{head}: {said or 'nothing exceeds the background'}"


def _write_tables(plan: Plan, rows: Sequence[Mapping]) -> None:
    classes = plan.recipe.data.classes
    legend = {
        "value": mask_values(plan.recipe),
        "class": ["background", *classes],
        "color": ["#" + bytes(color).hex() for color in class_colors(classes)],
    }
    skipped = {"image": list(plan.bad), "reason": list(plan.bad.values())}
    for name, columns in zip(TABLES, (rows, legend, skipped), strict=True):
        table, file = pd.DataFrame(columns).map(_cell), plan.output.folder / name
        file.unlink(missing_ok=True)
        if not table.empty:  # unless nothing was skipped
            with atomic_file(file) as temporary:
                table.to_csv(temporary, index=False)


def _cell(value: object) -> str:
    """A value as a table has it: several are separated by ;, probabilities have four decimals."""
    values = value if isinstance(value, tuple) else (value,)
    return ";".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in values)


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
    check_protocols([protocol])
    destination = Path(destination).expanduser()
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
    key = fingerprint([asdict(protocol), recipe.masks.lam_similarity, ids, network])
    unfinished = destination.with_name(f".{destination.name}.{key}.unfinished")
    files = {image_id: unfinished / RESULTS / f"{image_id}.png" for image_id in ids}
    missing = [image_id for image_id in shards.of(ids) if not files[image_id].is_file()]
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
        _finish(unfinished, ids, destination)
    shards.gather(None)
    return len(ids)


def _finish(unfinished: Path, ids: Sequence[str], destination: Path) -> None:
    """From the folder of masks to the destination, in one step."""
    if not destination.name.endswith((".tgz", ".tar.gz")):
        unfinished.rename(destination)
        return
    # Without times and owners, so that the same masks give the same bytes.
    with (
        atomic_file(destination) as temporary,
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
