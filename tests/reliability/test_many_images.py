"""10,000 small images through train, evaluate and predict: nothing grows, nothing slows down."""

import json
import os
import pkgutil
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.data.helpers import save_csv
from tests.reliability import works
from tests.reliability.forks import attempt, start_server

pytestmark = pytest.mark.reliability
COUNT = int(os.environ.get("MORE_IMAGES", "10000"))
STRETCH = COUNT // 10  # images between two samples
DRAWN = 20  # overlays are drawn by Matplotlib, which takes most of the time: of every n-th image
SIDE = 40
SETTINGS = f"""backbone.name=mini_w48 data.crop_size=32 optimizer.batch_size=10
optimizer.precision=fp32 optimizer.iterations={COUNT // 10} optimizer.warmup_iterations=1
optimizer.log_every=10 loss.dense_energy=0 evaluation.batch_size=10
evaluation.scales=[1.0]""".split()
# What each command calls once an image.
CALLED = {
    "train": ("more_lib.data.voc:VocImages", "__getitem__"),
    "evaluate": ("more_lib.evaluation.masks:SplitImages", "__getitem__"),
    "predict": ("more_lib.evaluation.writing", "write_prediction"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images of a square of one of two colours on noise, masks, and all of them in both splits."""
    start_server()
    root, rng = tmp_path_factory.mktemp("many") / "data", np.random.default_rng(0)
    for part in ("images", "masks", "splits"):
        (root / part).mkdir(parents=True)
    mask, rows = np.zeros((SIDE, SIDE), np.uint8), {}
    for number in range(COUNT):
        pixels, shown = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8), number % 2
        pixels[8:24, 8:24] = (255, 0, 0) if shown else (0, 0, 255)
        mask[8:24, 8:24] = shown + 1
        Image.fromarray(pixels).save(root / f"images/{number:05d}.jpg")
        Image.fromarray(mask).save(root / f"masks/{number:05d}.png")
        rows[f"{number:05d}.jpg"] = ("blue", "red")[shown]
    save_csv(root, rows)
    (root / "classes.txt").write_text("blue\nred\n")
    for split in ("train", "val"):
        ids = "".join(f"{number:05d}\n" for number in range(COUNT))
        (root / f"splits/{split}.txt").write_text(ids)
    return root


def test_memory_files_and_pace_stay_as_they_are(folder, tmp_path, figures):
    network, options = str(tmp_path / "network"), [f"--set={each}" for each in SETTINGS]
    commands = {
        "train": ("train", "--data", str(folder), "--folder", network, *options),
        "evaluate": ("evaluate", "--checkpoint", network),
        "predict": ("predict", str(folder / "images"), "--checkpoint", network, "--output",
                    str(tmp_path / "masks")),
    }  # fmt: skip
    for name, call in commands.items():
        file = tmp_path / f"{name}.json"
        place = {"logs": tmp_path / "logs", "environment": {"MORE_DATA": str(tmp_path / "cache")}}
        done = attempt(sampled, *CALLED[name], str(file), call, **place, patience=1800)
        assert done.status == 0, done.errors
        samples = json.loads(file.read_text())
        assert len(samples) == 10, "it did not see every image once"
        first, last = samples[1], samples[-1]
        grown = last["memory"] - samples[0]["memory"]
        pace = last["seconds"] / first["seconds"]
        figures(
            f"{name}: {COUNT} images in {done.seconds:.0f} s; between images {STRETCH} and {COUNT} "
            f"memory {grown / 1e6:+.1f} MB of {last['memory'] / 1e6:.0f}, open files "
            f"{last['files'] - samples[0]['files']:+d}, processes {last['processes']}, CPU time of "
            f"the last {STRETCH} / the second: {pace:.2f}"
        )
        assert grown <= 50e6
        assert last["files"] <= samples[0]["files"] and last["processes"] == 0
        assert pace <= 1.5


def sampled(place: str, name: str, file: str, command: tuple) -> None:
    """A command, sampled after every ``STRETCH`` calls of the function ``name`` of ``place``."""
    owner = pkgutil.resolve_name(place)
    original, samples, process = getattr(owner, name), [], psutil.Process()
    seen, since = 0, time.process_time()

    def counted(*arguments, **named):
        nonlocal seen, since
        done = original(*arguments, **named)
        seen += 1
        if seen % STRETCH == 0:
            now = time.process_time()
            memory, processes = process.memory_info().rss, len(process.children())
            sample = {"seconds": now - since, "memory": memory, "processes": processes}
            samples.append({**sample, "files": process.num_fds()})
            Path(file).write_text(json.dumps(samples))
            since = now
        return done

    figure = works.writing.plot_prediction

    def drawn(prediction, *arguments):
        wanted = int(prediction.id) % DRAWN == 0
        return figure(prediction, *arguments) if wanted else _Saved(prediction.image)

    with patch.object(owner, name, counted), patch.object(works.writing, "plot_prediction", drawn):
        works.command(*command)


class _Saved:
    """An image in the place of a figure."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image

    def pixels(self) -> np.ndarray:
        return np.asarray(self.image)
