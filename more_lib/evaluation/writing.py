"""Masks of images of your own as files (notebook 08).

The command ``predict``: ``plan_predictions`` finds all that can be wrong with images, labels and
output folder before a network is trained or asked; ``write_predictions`` then asks it.

    <folder>/masks/<id>.png       palette mask in the image's size; values as classes.csv says
    <folder>/overlays/<id>.png    the image beside the map of each class
    <folder>/maps/<id>.npz        if wanted: the maps as numbers
    <folder>/summary.csv          a row an image: classes looked for, classes found, pixels
    <folder>/classes.csv          mask value and colour of each class
    <folder>/skipped.csv          if any: the files left out, and why
    <folder>/.predictions.jsonl   what is done, for ``--resume``
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from more_lib.data.images import (
    PALETTE,
    find_images,
    image_size,
    left_out_note,
    mask_image,
    unreadable,
)
from more_lib.data.table import read_labels
from more_lib.evaluation.output import TABLES, Output, bad_name
from more_lib.evaluation.overlays import plot_prediction
from more_lib.evaluation.predict import (
    Prediction,
    class_numbers,
    labels_by_name,
    own_protocol,
    predict,
    seen_size,
)
from more_lib.evaluation.protocols import Protocol
from more_lib.evaluation.resume import Record, network_digest, read_record, settings_of
from more_lib.figures.canvas import class_colors
from more_lib.method.crf import choose_method
from more_lib.method.model import MoRe
from more_lib.recipes.classes import mask_ids
from more_lib.recipes.schema import Recipe
from more_lib.system.devices import best_device
from more_lib.system.errors import InputError, printable
from more_lib.system.files import atomic_file, sha256


@dataclass(frozen=True, eq=False)
class Plan:
    """What ``plan_predictions`` found to be possible.

    bad: why each file is left out. done: the rows of images that an earlier call has done; record:
    what else it left.
    """

    recipe: Recipe
    images: list[Path]
    output: Output
    labels: Mapping[str, Collection[str]] | None
    protocol: Protocol
    bad: Mapping[Path, str]
    done: Mapping[Path, dict]
    record: Record


def plan_predictions(
    recipe: Recipe,
    inputs: Iterable[str | Path],
    output: Output,
    labels: str | Path | None = None,
    map: str = "",
    crf: bool = False,
    skip_bad: bool = False,
) -> Plan:
    """The predictions of image files, checked; nothing is computed or written yet.

    recipe: of the network that is to be asked. inputs: image files, and folders of them; a line is
    printed of what else in these looks like an image.
    labels: CSV with the columns ``image`` (file name) and ``classes`` (separated by ;).
    map, crf: as for ``predict``.
    skip_bad: leave out the files that cannot be read, and list them in ``skipped.csv``.

    Raises ``InputError`` for what cannot be used: missing, damaged and like-named images, labels
    that do not fit, a folder of data as output, files already there, and a CRF that cannot run.
    """
    protocol, entries = own_protocol(recipe, map, crf), [Path(entry) for entry in inputs]
    paths = find_images(entries)
    for folder in entries:
        if folder.is_dir() and (note := left_out_note(folder)):
            print(printable(note))
    output.check_place(paths, recipe.data)
    named = {path: reason for path in paths if (reason := bad_name(path, output))}
    usable = [path for path in paths if path not in named]
    given = None if labels is None else _given_labels(labels, usable, recipe)
    record, done = _earlier(recipe, protocol, output, usable, given)
    bad = _unusable(paths, named, done, skip_bad)
    todo = [path for path in usable if path not in bad and path not in done]
    if crf and todo:  # possible for the largest image, it is for all
        sizes = [seen_size(image_size(path), recipe) for path in todo]
        width, height = max(sizes, key=math.prod)
        choose_method(height, width, best_device())
    images = [path for path in paths if path not in bad]
    return Plan(recipe, images, output, given, protocol, bad, done, record)


def write_predictions(plan: Plan, model: MoRe) -> list[dict]:
    """Predict, write and print a line for each image; returns their rows of the summary.

    model: trained by the plan's recipe; it is put in evaluation mode, on a GPU where there is one.
    A row has image, width, height, labels (with a map), their probabilities, classes (in the mask)
    and their pixels; the last four are tuples. Images that are done already are not computed.
    """
    recipe, output, rows = plan.recipe, plan.output, dict(plan.done)
    todo = [path for path in plan.images if path not in rows]
    record = plan.record.begin([path.stem for path in todo], network_digest(model))
    if output.resume:
        print(f"{len(rows)} of {len(plan.images)} images are done already, {len(todo)} are left")
    model = model.eval().to(best_device())
    labels = plan.labels and {path.name: plan.labels[path.name] for path in todo}
    kind, crf = plan.protocol.map, plan.protocol.crf != "none"
    each = predict(model, recipe, todo, labels, map=kind, crf=crf)
    for path in todo:
        digest = sha256(path)  # before it is read: should it change meanwhile, it is asked again
        prediction = next(each)
        write_prediction(prediction, recipe, output)
        rows[path] = _row(path, prediction, recipe.data.classes)
        record.add(path, digest, labels and labels[path.name], rows[path])
        line = _line(rows[path], prediction, recipe.data.classes)
        print(f"[{len(rows)}/{len(plan.images)}] {line}", flush=True)
    summary = [rows[path] for path in plan.images]
    asked = {path.stem for path in (*plan.images, *plan.bad)}
    _write_tables(plan, [*record.other_rows(asked), *summary])
    kinds = "masks, overlays and maps" if output.npz else "masks and overlays"
    place = printable(output.folder)
    print(f"{kinds} of {len(rows)} images, summary.csv and classes.csv: {place}")
    return summary


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
        picture = Image.fromarray(plot_prediction(prediction, recipe.data.classes).pixels())
        picture.save(temporary, format="png", compress_level=1)  # a third of the time, as small
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
    """Value of background and each class in mask files, (C + 1,) uint8: the data's own ids."""
    return np.array([0, *mask_ids(recipe.data)], dtype=np.uint8)


def _given_labels(
    table: str | Path, images: Sequence[Path], recipe: Recipe
) -> dict[str, Collection[str]]:
    """The labels of each image by its file's name; ``InputError`` that begins with the table."""
    rows = read_labels(table, recipe.data.classes)
    try:
        given = labels_by_name(images, rows)
        for path in images:
            class_numbers(path, given, recipe.data.classes)
    except InputError as error:
        raise InputError(f"{table}: {error}") from error
    return given


def _earlier(
    recipe: Recipe,
    protocol: Protocol,
    output: Output,
    images: Sequence[Path],
    labels: Mapping[str, Collection[str]] | None,
) -> tuple[Record, dict[Path, dict]]:
    """The record to go on with, and the rows of images done; ``InputError`` if none may go on."""
    if output.resume and output.force:
        raise InputError("--resume goes on and --force starts over: give one of them")
    labelled = replace(protocol, labels="true") if labels is not None else protocol
    settings = settings_of(recipe, labelled, output, mask_values(recipe).tolist())
    record, ids = Record(output, settings), [path.stem for path in images]
    if output.force:
        return record, {}
    earlier = read_record(output)
    if output.resume and earlier:
        earlier.check_settings(settings)
        record = earlier
    go_on = "go on with --resume, " if earlier and earlier.settings == settings else ""
    output.refuse_present(ids, record.images, "" if output.resume else go_on)
    return record, record.rows(images, labels)


def _unusable(
    paths: Sequence[Path], named: Mapping[Path, str], done: Collection[Path], skip_bad: bool
) -> dict[Path, str]:
    """The files to leave out, with the reasons; ``InputError`` if none may be, or none is left.

    named: those whose name is the fault. done: those that are not opened again.
    """
    bad = {**named, **unreadable([p for p in paths if p not in named and p not in done])}
    bad = {path: bad[path] for path in paths if path in bad}
    lines = [printable(f"{path} {reason}") for path, reason in bad.items()]
    more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
    listed = "; ".join(lines[:5]) + more
    if bad and not skip_bad:
        raise InputError(
            f"unusable are {len(bad)} of {len(paths)} images: {listed}. Mend them, or leave them "
            "out with --skip-bad"
        )
    if len(bad) == len(paths):
        raise InputError(f"no image is left: {listed}")
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


def _line(row: Mapping, prediction: Prediction, classes: Sequence[str]) -> str:
    """What is printed of an image: classes found, in pixels and in per cent of the image."""
    area, likely = row["width"] * row["height"], prediction.probabilities
    counts = zip(row["classes"], row["pixels"], strict=True)
    said = ", ".join(f"{name} {n} pixels ({100 * n / area:.1f} %)" for name, n in counts)
    if not prediction.asked:
        best = int(likely.argmax())
        said = f"no class looked for (likeliest: {classes[best]} {likely[best]:.2f})"
    head = f"{row['image']}, {row['width']}×{row['height']}"
    return f"{head}: {said or 'nothing exceeds the background'}"


def _write_tables(plan: Plan, rows: Sequence[Mapping]) -> None:
    classes = plan.recipe.data.classes
    legend = {
        "value": mask_values(plan.recipe),
        "class": ["background", *classes],
        "color": ["#" + bytes(color).hex() for color in class_colors(classes)],
    }
    skipped = {"image": [printable(p) for p in plan.bad], "reason": list(plan.bad.values())}
    for name, columns in zip(TABLES, (rows, legend, skipped), strict=True):
        table, file = pd.DataFrame(columns).map(_cell), plan.output.folder / name
        file.unlink(missing_ok=True)
        if not table.empty:  # unless nothing was skipped
            with atomic_file(file) as temporary:
                table.to_csv(temporary, index=False)


def _cell(value: object) -> str:
    """A value as a table has it: several are separated by ;, probabilities have four decimals."""
    values = value if isinstance(value, tuple | list) else (value,)
    return ";".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in values)
