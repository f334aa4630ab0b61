"""From image files to a folder of masks, overlays and maps (notebook 08): the command ``predict``.

All that can be wrong with images, labels and output folder is found before the first image is
computed.

    <folder>/masks/<id>.png       palette mask in the image's size; values as classes.csv says
    <folder>/overlays/<id>.png    the image beside the map of each class
    <folder>/maps/<id>.npz        if wanted: the maps as numbers
    <folder>/summary.csv          a row an image: classes looked for, classes found, pixels
    <folder>/classes.csv          mask value and colour of each class
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from more_lib.data.folder import read_labels
from more_lib.data.images import PALETTE, find_images, image_size, unreadable
from more_lib.evaluation.overlays import plot_prediction
from more_lib.evaluation.predict import Prediction, check_map, class_indices, predict, seen_size
from more_lib.figures.canvas import class_colors
from more_lib.method.crf import choose_method
from more_lib.method.model import MoRe
from more_lib.recipes.classes import VOC_CLASSES
from more_lib.recipes.loading import load_recipe, saved_recipe
from more_lib.recipes.schema import Recipe
from more_lib.system.devices import best_device
from more_lib.system.errors import InputError
from more_lib.system.files import atomic_file
from more_lib.training.cache import load_trained, train_or_load

TABLES = ("summary.csv", "classes.csv", "skipped.csv")


def predict_files(
    inputs: Iterable[str | Path],
    folder: str | Path,
    *,
    checkpoint: str | Path | None = None,
    overrides: Sequence[str] = (),
    labels: str | Path | None = None,
    map: str = "lam",
    crf: bool = False,
    npz: bool = False,
    force: bool = False,
    skip_bad: bool = False,
) -> list[dict]:
    """Predict image files into ``folder`` and print a line for each; returns the summary's rows.

    Args:
        inputs: image files, and folders of them.
        checkpoint: a folder that ``train`` wrote; without one, the network of the profile mini,
            which is trained first if need be. overrides: changes to its recipe's evaluation.
        labels: CSV with the columns ``image`` (file name) and ``classes`` (separated by ;).
        map, crf: as for ``predict``. npz: write the maps as well.
        force: overwrite. skip_bad: leave out the files that cannot be read, and list them in
            ``skipped.csv``.

    Raises ``InputError`` for what cannot be used, before anything is computed or written: missing,
    damaged and like-named images, labels that do not fit, and files already there.
    """
    folder = Path(folder)
    paths = find_images(inputs)
    recipe = saved_recipe(checkpoint, overrides) if checkpoint else load_recipe("mini", overrides)
    check_map(map)
    given = None if labels is None else _given(Path(labels), paths, recipe)
    if not force:
        _refuse_existing(folder, [path.stem for path in paths], npz)
    bad = _unreadable(paths, skip_bad)
    paths = [path for path in paths if path not in bad]
    if crf:
        _check_crf(paths, recipe)
    if not checkpoint:
        print("no --checkpoint: profile mini, which has seen emoji glyphs and no photograph")
    model = _model(recipe, checkpoint)
    rows = []
    for path, prediction in zip(
        paths, predict(model, recipe, paths, given, map=map, crf=crf), strict=True
    ):
        write_prediction(prediction, folder, recipe, npz)
        rows.append(_row(path, prediction, recipe.data.classes))
        print(f"[{len(rows)}/{len(paths)}] {_line(rows[-1], prediction, recipe)}", flush=True)
    _write_tables(folder, rows, bad, recipe)
    kinds = "masks, overlays and maps" if npz else "masks and overlays"
    print(f"{kinds} of {len(rows)} images, summary.csv and classes.csv: {folder}")
    return rows


def write_prediction(
    prediction: Prediction, folder: str | Path, recipe: Recipe, npz: bool = False
) -> None:
    """Write mask, overlay and, if wanted, maps of one image; what is there is overwritten.

    The npz holds ``maps`` (K, h, w) float16 in [0, 1] with their ``classes`` (K,), ``size``, the
    (H, W) to which they belong, and ``probabilities`` (C,) float32 of ``all_classes`` (C,).
    Reading it needs no pickle. Raises ``InputError`` when the folder cannot be written.
    """
    mask_file, overlay_file, maps_file = _files(Path(folder), prediction.id)
    values = np.array([0, *mask_values(recipe)], dtype=np.uint8)
    mask, palette = Image.fromarray(values[prediction.mask]), PALETTE.copy()
    palette[values] = class_colors(recipe.data.classes)
    mask.putpalette(palette.tobytes())
    with atomic_file(mask_file) as temporary:
        mask.save(temporary, format="png")
    with atomic_file(overlay_file) as temporary:
        plot_prediction(prediction, recipe.data.classes).savefig(temporary, format="png")
    if npz:
        with atomic_file(maps_file) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                maps=prediction.maps.astype(np.float16),
                classes=np.array(prediction.labels, dtype=str),
                size=np.array(prediction.mask.shape),
                probabilities=prediction.probabilities,
                all_classes=np.array(recipe.data.classes, dtype=str),
            )


def mask_values(recipe: Recipe) -> list[int]:
    """Value of each of the C classes in mask files.

    VOC's fixed ids on EmojiVOC and VOC 2012, as in the masks of those data sets, and 1..C in the
    order of ``data.classes`` elsewhere.
    """
    classes = recipe.data.classes
    if recipe.data.dataset in ("emoji", "voc"):
        return [VOC_CLASSES.index(name) + 1 for name in classes]
    return list(range(1, len(classes) + 1))


def _files(folder: Path, image_id: str) -> tuple[Path, Path, Path]:
    kinds = (("masks", "png"), ("overlays", "png"), ("maps", "npz"))
    mask, overlay, maps = (folder / kind / f"{image_id}.{ending}" for kind, ending in kinds)
    return mask, overlay, maps


def _given(file: Path, paths: Sequence[Path], recipe: Recipe) -> Mapping[str, Sequence[str]]:
    """The labels file's entries, fit for every image."""
    labels = read_labels(file)
    for path in paths:
        try:
            class_indices(path, labels, recipe.data.classes)
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
    return labels


def _refuse_existing(folder: Path, ids: Sequence[str], npz: bool) -> None:
    wanted = [file for image_id in ids for file in _files(folder, image_id)[: 2 + npz]]
    there = [file for file in [*wanted, *(folder / name for name in TABLES)] if file.exists()]
    if there:
        raise InputError(
            f"{folder} holds {len(there)} of the files to be written: {_listed(there, folder)}; "
            "name another --output, or overwrite them with --force"
        )


def _listed(files: Sequence[Path], folder: Path) -> str:
    names = [file.relative_to(folder).as_posix() for file in files[:3]]
    return ", ".join(names) + (" …" if len(files) > 3 else "")


def _unreadable(paths: Sequence[Path], skip_bad: bool) -> dict[Path, str]:
    """The files to leave out, with the reasons; ``InputError`` if none may be, or none is left."""
    bad = unreadable(paths)
    if not bad:
        return bad
    lines = [f"{path} {reason}" for path, reason in bad.items()]
    if not skip_bad:
        raise InputError(
            f"unusable are {len(bad)} of {len(paths)} images: {'; '.join(lines)}. Restore them, or "
            "leave them out with --skip-bad"
        )
    if len(bad) == len(paths):
        raise InputError(f"no image is left: {'; '.join(lines)}")
    for line in lines:
        print(f"skipped: {line}")
    return bad


def _check_crf(paths: Sequence[Path], recipe: Recipe) -> None:
    """Raise ``InputError`` where the dense CRF of the largest image cannot be computed."""
    sizes = [seen_size(image_size(path), recipe) for path in paths]
    width, height = max(sizes, key=math.prod)
    choose_method(height, width, best_device())


def _model(recipe: Recipe, checkpoint: str | Path | None) -> MoRe:
    trained = load_trained(checkpoint, recipe) if checkpoint else train_or_load(recipe)
    return trained.model.eval().to(best_device())


def _row(path: Path, prediction: Prediction, classes: Sequence[str]) -> dict:
    """An image's row of the summary; several values of a cell are separated by ;."""
    counts = np.bincount(prediction.mask.ravel(), minlength=len(classes) + 1)[1:]
    found = [index for index, count in enumerate(counts) if count]
    probability = dict(zip(classes, prediction.probabilities, strict=True))
    height, width = prediction.mask.shape
    return {
        "image": path.name,
        "width": width,
        "height": height,
        "labels": ";".join(prediction.labels),
        "probabilities": ";".join(f"{probability[name]:.4f}" for name in prediction.labels),
        "classes": ";".join(classes[index] for index in found),
        "pixels": ";".join(str(counts[index]) for index in found),
    }


def _line(row: Mapping, prediction: Prediction, recipe: Recipe) -> str:
    """What is printed of an image: classes found, in pixels and in per cent of the image."""
    head = f"{row['image']}, {row['width']}×{row['height']}: "
    if row["classes"]:
        area = row["width"] * row["height"]
        pairs = zip(row["classes"].split(";"), map(int, row["pixels"].split(";")), strict=True)
        return head + ", ".join(f"{name} {n} pixels ({100 * n / area:.1f} %)" for name, n in pairs)
    if prediction.labels:
        return f"{head}nothing exceeds the background"
    best = int(prediction.probabilities.argmax())
    likeliest = f"{recipe.data.classes[best]} {prediction.probabilities[best]:.2f}"
    return f"{head}no class looked for (likeliest: {likeliest})"


def _write_tables(
    folder: Path, rows: Sequence[Mapping], bad: Mapping[Path, str], recipe: Recipe
) -> None:
    classes, values = ("background", *recipe.data.classes), [0, *mask_values(recipe)]
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in class_colors(recipe.data.classes)]
    legend = [
        {"value": value, "class": name, "color": color}
        for value, name, color in zip(values, classes, colors, strict=True)
    ]
    skipped = [{"image": str(path), "reason": reason} for path, reason in bad.items()]
    for name, table in zip(TABLES, (rows, legend, skipped), strict=True):
        if not table:  # nothing was skipped
            (folder / name).unlink(missing_ok=True)
            continue
        with atomic_file(folder / name) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
