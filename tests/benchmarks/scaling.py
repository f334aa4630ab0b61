"""How time and memory grow with the number of images, of classes and with the side of a picture.

Every point is measured in a process of its own, which alone tells a peak. An activity is run once
small, so that first calls count as fixed; then its CPU seconds and the rise of the peak are taken.
Exponents are slopes of least squares through the logarithms of the larger half of the points,
where what is left of the fixed cost matters least.
"""

import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch.optim import AdamW

from more_lib.evaluation.masks import SplitImages, evaluation_mode, segment
from more_lib.evaluation.predict import own_protocol, predict
from more_lib.method.crf import dense_crf, has_lattice
from more_lib.method.model import MoRe
from more_lib.method.objective import Objective
from more_lib.recipes.loading import load_recipe
from more_lib.system.devices import held_at_most
from more_lib.system.errors import InputError
from more_lib.system.processes import cpu_seconds

QUICK = {"images": (10, 20, 40, 80), "classes": (1, 20, 80, 150), "side": (96, 144, 192, 288)}
FULL = {
    "images": (10, 100, 1_000, 10_000),
    "classes": (1, 20, 80, 150),
    "side": (96, 192, 384, 768, 1_024),
}
BASE = {"images": 8, "classes": 20, "side": 64}  # where another axis is stretched
MOST_TRAINED = 384  # side: training's dense energy takes minutes and gigabytes from here on

# What time and memory should grow by at most, and why. Tokens are side^2, attention their square,
# of which time alone has all: fused attention never stores it.
BOUNDS = {
    ("train", "images"): (1.0, 0.0),  # a step each batch, of a fixed size
    ("train", "classes"): (2.0, 2.0),  # GCR: half of the classes are neighbours of each
    ("train", "side"): (4.0, 4.0),  # attention, and the relations of patches, pairs
    ("evaluate", "images"): (1.0, 0.0),
    ("evaluate", "classes"): (2.0, 2.0),
    ("evaluate", "side"): (4.0, 2.0),
    ("predict", "images"): (1.0, 0.0),
    ("predict", "classes"): (2.0, 2.0),
    ("predict", "side"): (4.0, 2.0),
    ("crf", "images"): (1.0, 0.0),
    ("crf", "classes"): (1.0, 1.0),
    ("crf", "side"): (2.0, 2.0),  # the lattice is linear in pixels
}
SLACK = 0.25  # what a busy machine may add to an exponent


class _Tree:
    """Smooth random pictures of one side, made when they are asked for; a class in each."""

    def __init__(self, classes: int, side: int) -> None:
        self.num_classes, self.side = classes, side

    def image(self, image_id: str) -> Image.Image:
        coarse = np.random.default_rng(int(image_id)).integers(0, 256, (8, 8, 3), np.uint8)
        return Image.fromarray(coarse).resize((self.side, self.side), Image.Resampling.BICUBIC)

    def labels(self, image_id: str) -> np.ndarray:
        return np.eye(self.num_classes, dtype=np.float32)[int(image_id) % self.num_classes]


def _network(classes: int, side: int):
    names = ",".join(f"c{number}" for number in range(classes))
    changes = [f"data.classes=[{names}]", "data.dataset=folder", "data.root=x", "masks.scales=[1]"]
    changes += ["optimizer.precision=fp32", f"data.crop_size={side}", "evaluation.scales=[1]"]
    recipe = load_recipe("mini", [*changes, "backbone.name=mini_w48", "evaluation.batch_size=1"])
    torch.manual_seed(0)
    return MoRe.from_recipe(recipe, pretrained=False), recipe


def _train(images: int, classes: int, side: int) -> None:
    model, recipe = _network(classes, side)
    objective, tree = Objective(recipe), _Tree(classes, side)
    optimizer = AdamW(model.parameters(), 1e-4)
    for first in range(0, images, 2):
        ids = [str(first), str(first + 1)]
        pictures = SplitImages(tree, ids, labels=True, masks=False)  # type: ignore[arg-type]
        batch, labels = (torch.stack([item[k] for item in pictures]) for k in ("image", "labels"))
        losses = objective(model, batch, labels, model(batch), recipe.optimizer.iterations - 1)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()


def _evaluate(images: int, classes: int, side: int) -> None:
    model, recipe = _network(classes, side)
    protocol = own_protocol(recipe, "lam", crf=False)
    protocol = type(protocol)(**{**vars(protocol), "labels": "true"})
    ids = [str(number) for number in range(images)]
    pictures = SplitImages(_Tree(classes, side), ids, True, False)  # type: ignore[arg-type]
    with evaluation_mode(model, "cpu") as place:
        for _ in segment(model, recipe, [protocol], pictures, place):
            pass


def _predict(images: int, classes: int, side: int) -> None:
    model, recipe = _network(classes, side)
    tree = _Tree(classes, side)
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.png" for number in range(images)]
        for file in files:
            tree.image(file.stem).save(file, compress_level=0)
        labels = {file.name: [recipe.data.classes[0]] for file in files}
        for _ in predict(model.eval(), recipe, files, labels):
            pass


def _crf(images: int, classes: int, side: int) -> None:
    tree, scores = _Tree(classes, side), torch.rand(classes + 1, side, side)
    for number in range(images):
        dense_crf(np.asarray(tree.image(str(number))), scores, method="lattice")


ACTIVITIES: dict[str, Callable[[int, int, int], None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "crf": _crf,
}


def measure(activity: str, point: dict[str, int]) -> tuple[float, float]:
    """CPU seconds and megabytes by which memory rose at most, in this process, which is new."""
    torch.set_num_threads(1)
    run = ACTIVITIES[activity]
    run(**{**point, "images": 2, "side": 48})  # first calls
    Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten
    began, held = time.process_time(), held_at_most()
    run(**point)
    return time.process_time() - began, (held_at_most() - held) / 2**20


def exponent(sizes: list[int], costs: list[float]) -> float:
    """The slope of log cost over log size, by least squares through the larger half of the points.

    nan for fewer than two points with a cost.
    """
    points = [(n, cost) for n, cost in zip(sizes, costs, strict=True) if cost > 0]
    points = points[-max(len(sizes) - len(sizes) // 2, 2) :]
    if len(points) < 2:
        return float("nan")
    logs = np.log(points)
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def scaling(full: bool = False) -> list[dict]:
    """A row for each activity and axis: sizes, seconds, megabytes, exponents, what is allowed."""
    if not Path("/proc/self/clear_refs").exists():
        raise InputError("bench scaling needs Linux, which tells the peak of each process")
    torch.set_num_threads(1)  # before a fork
    rows, began = [], cpu_seconds()
    for (activity, axis), (bound_time, bound_memory) in BOUNDS.items():
        if activity == "crf" and not has_lattice():
            continue
        sizes = [n for n in (FULL if full else QUICK)[axis] if (activity, axis) != ("train", "side")
                 or n <= MOST_TRAINED]  # fmt: skip
        base = {**BASE, "images": 4} if axis == "side" else BASE
        points = [(activity, {**base, axis: n}) for n in sizes]
        with get_context("fork").Pool(1, maxtasksperchild=1) as pool:  # torch is imported once
            each = pool.starmap(measure, points, chunksize=1)
        seconds, megabytes = zip(*each, strict=True)
        grown = exponent(sizes, list(seconds)), exponent(sizes, list(megabytes))
        if axis == "images":  # some rise by nothing at all: megabytes an image say more
            grown = grown[0], (megabytes[-1] - megabytes[0]) / (sizes[-1] - sizes[0])
        rows.append(
            {
                "activity": activity,
                "axis": axis,
                "sizes": sizes,
                "seconds": [round(s, 3) for s in seconds],
                "megabytes": [round(m, 1) for m in megabytes],
                "time_exponent": round(grown[0], 2),
                "time_bound": bound_time,
                "memory_exponent": round(grown[1], 3),
                "memory_bound": bound_memory,
            }
        )
        print(format_row(rows[-1]), flush=True)
    print(f"{cpu_seconds() - began:.0f} s of CPU; for images, memory is MB an image, elsewhere the "
          f"exponent; > marks what exceeds its bound by {SLACK}")  # fmt: skip
    return rows


def format_row(row: dict) -> str:
    """One row as text."""
    points = ", ".join(
        f"{n}: {s:.2f} s {m:.0f} MB"
        for n, s, m in zip(row["sizes"], row["seconds"], row["megabytes"], strict=True)
    )
    marks = [
        f"{what} {row[f'{what}_exponent']:.2f} of {row[f'{what}_bound']:g}"
        f"{' >' if row[f'{what}_exponent'] > row[f'{what}_bound'] + SLACK else ''}"
        for what in ("time", "memory")
    ]
    return f"{row['activity']:9}{row['axis']:8}{marks[0]:20}{marks[1]:22}{points}"
