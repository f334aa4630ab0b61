"""What is killed: each command on small data, what it leaves, and how far it had come."""

import csv
import hashlib
import json
import random
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import nbformat
import numpy as np
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from tests.data.helpers import noise
from tests.reliability import works
from tests.reliability.forks import CALM, Attempt, Trouble, attempt

SETTINGS = """backbone.name=mini_w48 optimizer.batch_size=2 optimizer.precision=fp32
optimizer.iterations=12 optimizer.checkpoint_every=2 optimizer.log_every=1
schedule.segmentation=4 loss.dense_energy=0 evaluation.batch_size=4""".split()
SCORES = """from more_lib.evaluation.scoring import evaluate_or_load
from more_lib.recipes import load_recipe
from more_lib.runs.recording import record_metrics
from more_lib.training import train_or_load
evaluation = evaluate_or_load(train_or_load(load_recipe(profile, overrides.split())))
scores = {f"{r.protocol.map}, {r.protocol.labels}": r.matrix.tolist() for r in evaluation.results}
record_metrics(out_dir, "scores", scores)"""
COUNTS = """from more_lib.runs.recording import record_metrics
record_metrics(out_dir, "count", {"overrides": len(overrides.split())})"""
CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Unreliable(BaseHTTPRequestHandler):
    """Serves ``CONTENT`` slowly; unless honest it may stall, cut, lie about sizes or ranges."""

    honest, rng = True, random.Random(0)

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "bytes=0-")
        start, whole = int(asked[len("bytes=") : -1]), len(CONTENT)
        how = (
            "honest"
            if self.honest
            else self.rng.choice("honest cut stall short long range".split())
        )
        size = whole - start + {"short": -100_000, "long": 100_000}.get(how, 0)
        sent = CONTENT[0 if how == "range" else start :]
        if how in ("cut", "stall"):
            sent = sent[: self.rng.randrange(len(sent) + 1)]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(max(size, 0)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        with suppress(OSError):  # its client was killed
            self.end_headers()
            for place in range(0, len(sent), 100_000):
                self.wfile.write(sent[place : place + 100_000])
                time.sleep(0.01)
            time.sleep(1 if how == "stall" else 0)

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Scene:
    """What activities start from, made once: EmojiVOC in small, a trained network, notebooks.

    url: of a server of ``CONTENT``.
    """

    root: Path
    url: str
    overrides: list[str] = field(default_factory=list)

    def build(self) -> "Scene":
        tree = ["--folder", str(self.root / "tree"), "--train", "8", "--val", "24"]
        self.run(works.script, "make_emoji_voc.py", *tree)
        self.overrides = [f"data.root={self.root / 'tree'}", *SETTINGS]
        self.run(works.command, "train", "--folder", str(self.network), *self.options)
        shutil.rmtree(self.network / "checkpoints")
        for name, source in (("00_scores", SCORES), ("01_count", COUNTS)):
            _write_notebook(self.root / f"notebooks/{name}.ipynb", source)
        _write_coco(self.root / "coco")
        _write_pets(self.root / "pets")
        return self

    @property
    def network(self) -> Path:
        return self.root / "network"

    @property
    def options(self) -> list[str]:
        return [text for override in self.overrides for text in ("--set", override)]

    def run(self, work: Callable, *arguments: str) -> None:
        """Run what must succeed for the scene to be."""
        done = attempt(
            work, *arguments, logs=self.root / "logs", environment=_environment(self.root)
        )
        assert done.status == 0, done.output + done.errors


@dataclass(frozen=True)
class Activity:
    """A command in a folder of its own, to be given again until it is done.

    call: the work and its arguments for a folder. begin: what the folder holds at first.
    kept: what is done, of which a kill must take nothing away.
    """

    call: Callable[[Scene, Path], tuple]
    begin: Callable[[Scene, Path], None] = lambda scene, folder: None
    kept: Callable[[Path], set] = lambda folder: set()

    def start(self, scene: Scene, folder: Path) -> Path:
        """A fresh folder."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.begin(scene, folder)
        return folder

    def attempt(self, scene: Scene, folder: Path, trouble: Trouble = CALM) -> Attempt:
        work, *arguments = self.call(scene, folder)
        place = {"logs": folder.parent / "logs", "environment": _environment(folder)}
        return attempt(work, *arguments, **place, trouble=trouble)


def _environment(folder: Path) -> dict[str, str]:
    return {"MORE_DATA": str(folder / "cache"), "JUPYTER_RUNTIME_DIR": str(folder / ".jupyter")}


def _train(scene: Scene, folder: Path) -> tuple:
    place = ["--folder", str(folder / "network"), "--resume"]
    return works.command, "train", *place, *scene.options


def _train_in_cache(scene: Scene, folder: Path) -> tuple:
    return works.command, "train", *scene.options


def _trained(folder: Path) -> set:
    return {
        step
        for path in folder.rglob("iteration_*")
        if not path.parent.name.startswith(".")
        for step in range(int(path.name.removeprefix("iteration_")) + 1)
    }


def _with_network(scene: Scene, folder: Path) -> None:
    shutil.copytree(scene.network, folder / "network")


def _evaluate(scene: Scene, folder: Path) -> tuple:
    files = ["--checkpoint", str(folder / "network"), "--json", str(folder / "scores.json")]
    return works.command, "evaluate", *files


def _counted(folder: Path) -> set:
    if list((folder / "network").glob("evaluation-*.json")):
        return set(range(24))
    notes = [np.load(path)["logits"] for path in (folder / "network").glob("evaluation-*.npz")]
    return {number for note in notes for number in range(len(note))}


def _predict(scene: Scene, folder: Path) -> tuple:
    images = sorted(map(str, (scene.root / "tree/JPEGImages").glob("train_*")))
    options = ["--checkpoint", str(scene.network), "--output", str(folder / "masks"), "--resume"]
    return works.command, "predict", *images, *options


def _predicted(folder: Path) -> set:
    """Masks that have an overlay, with their times: none is written twice."""
    overlays = {path.name for path in folder.glob("masks/overlays/[!.]*.png")}
    masks = [path for path in folder.glob("masks/masks/*.png") if path.name in overlays]
    return {(path.name, path.stat().st_mtime_ns) for path in masks}


def _coco(scene: Scene, folder: Path) -> tuple:
    place = ["--coco", str(scene.root / "coco"), "--folder", str(folder / "made"), "--partial"]
    return works.script, "prepare_coco.py", *place


def _pets(scene: Scene, folder: Path) -> tuple:
    place = ["--pets", str(scene.root / "pets"), "--folder", str(folder / "made"), "--partial"]
    return works.script, "prepare_pets.py", *place


def _emoji(scene: Scene, folder: Path) -> tuple:
    size = ["--train", "6", "--val", "2"]
    return works.script, "make_emoji_voc.py", "--folder", str(folder / "made"), *size


def _fetch(scene: Scene, folder: Path) -> tuple:
    checksum = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    return works.download, f"{scene.url}/file.bin", checksum, len(CONTENT), str(folder)


def _reproduce(scene: Scene, folder: Path) -> tuple:
    return works.reproduce, str(scene.root / "notebooks"), str(folder / "runs"), *scene.overrides


def _ran(folder: Path) -> set:
    manifests = [json.loads(path.read_bytes()) for path in folder.glob("runs/mini/*/manifest.json")]
    entries = [entry for manifest in manifests for entry in manifest["notebooks"]]
    return {entry["name"] for entry in entries if entry["status"] == "done"}


ACTIVITIES = {
    "train": Activity(_train, kept=_trained),
    "train in the cache": Activity(_train_in_cache, kept=_trained),
    "evaluate": Activity(_evaluate, begin=_with_network, kept=_counted),
    "predict": Activity(_predict, kept=_predicted),
    "prepare COCO": Activity(_coco),
    "prepare pets": Activity(_pets),
    "prepare EmojiVOC": Activity(_emoji),
    "fetch": Activity(_fetch),
    "reproduce": Activity(_reproduce, kept=_ran),
}


# What no two runs share: times, places, the moment of a start.
def _log(path: Path) -> object:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def _record(path: Path) -> object:
    record = json.loads(path.read_text())
    return {key: record[key] for key in ("weights_sha256", "data_sha256", "iterations")}


def _manifest(path: Path) -> object:
    manifest = json.loads(path.read_text())
    statuses = [entry["status"] for entry in manifest["notebooks"]]
    return manifest["status"], statuses


def _notebook(path: Path) -> object:
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    return len(notebook["cells"])


def _page(path: Path) -> object:
    assert path.read_text().rstrip().endswith("</html>")
    return "page"


def _note(path: Path) -> object:
    with np.load(path) as arrays:  # refuses what is cut short
        return [arrays[name].shape for name in arrays]


def _costs(path: Path) -> object:
    return sorted(json.loads(path.read_text()))


def _tables(path: Path) -> object:
    return list(csv.reader(path.read_text().splitlines()))


VARYING = {
    "log.jsonl": _log,
    "record.json": _record,
    "manifest.json": _manifest,
    "costs.json": _costs,
}
BY_ENDING = {".ipynb": _notebook, ".html": _page, ".npz": _note}
ASIDE = "^cache/contents/|/earlier/"
GROWING = (
    r"(log\.jsonl|manifest\.json|\.ipynb|\.html|\.npz)$"  # whole at any time, not yet the same
)


def visible(folder: Path) -> list[Path]:
    """Files under names of their own, not under a hidden, temporary one."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if not any(p[0] == "." for p in path.relative_to(folder).parts)]


def name_of(path: Path, folder: Path) -> str:
    """A file's path in its folder, whatever the time at which its run began."""
    parts = path.relative_to(folder).parts
    return "/".join("run" if part[:8].isdecimal() and "-" in part else part for part in parts)


def content(path: Path) -> object:
    """What a file says, but for times and places; it raises where a file is half-written."""
    read = VARYING.get(path.name) or BY_ENDING.get(path.suffix)
    if read and "made" not in path.parts:
        return read(path)
    if path.parent.name.startswith("iteration_"):  # its digest says whether it is whole
        state = (path.parent / "state.pt").read_bytes()
        assert (path.parent / "sha256").read_text() == hashlib.sha256(state).hexdigest()
        return "checkpoint"
    if path.suffix == ".json":
        json.loads(path.read_bytes())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def result(folder: Path) -> dict[str, object]:
    """All that an activity left, file by file.

    But not digests of contents, which are remembered by time, nor notebooks that a kill cut short.
    """
    files = {name_of(path, folder): path for path in visible(folder)}
    compared = {name: path for name, path in files.items() if not re.search(ASIDE, name)}
    return {name: content(path) for name, path in compared.items()}


def check_whole(folder: Path, expected: dict[str, object]) -> None:
    """Whatever stands under a final name is what an uninterrupted run leaves there.

    A prepared folder is there with all of its files, or not at all.
    """
    for path in visible(folder):
        name = name_of(path, folder)
        try:
            found = content(path)
        except Exception as error:
            raise AssertionError(f"{name} is half-written: {error!r}") from error
        growing = re.search(f"{GROWING}|{ASIDE}", name) and "made" not in path.parts
        if found != "checkpoint" and not growing:
            assert found == expected.get(name), f"{name} is not what a whole run leaves"
    if (folder / "made").exists():
        there = {name for name in map(str, expected) if name.startswith("made/")}
        assert there <= {name_of(path, folder) for path in visible(folder)}


def _write_notebook(path: Path, source: str) -> None:
    path.parent.mkdir(exist_ok=True)
    declared = 'profile: str = "mini"\noverrides: str = ""\nout_dir: str = ""'
    parameters = new_code_cell(declared, metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [parameters, new_code_cell(source)]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


def _write_coco(folder: Path) -> None:
    from more_lib.data.prepare.coco import CATEGORY_IDS
    from more_lib.recipes.classes import COCO_CLASSES

    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, COCO_CLASSES, strict=True)]
    for split in ("train2014", "val2014"):
        (folder / split).mkdir()
        images, annotations = [], []
        for number in range(1, 7):
            name = f"{split}_{number}.jpg"
            noise(number).save(folder / split / name)
            images.append({"id": number, "file_name": name, "width": 40, "height": 30})
            corners = [[2, 2, 9 + number, 2, 9 + number, 20, 2, 20]]
            shape = {"segmentation": corners, "area": 18 * (7 + number), "iscrowd": 0}
            shape |= {"id": number, "image_id": number, "bbox": [2, 2, 7 + number, 18]}
            annotations.append({**shape, "category_id": 17})
        whole = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(whole))


def _write_pets(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "annotations/trimaps").mkdir(parents=True)
    trimap = Image.fromarray(np.arange(1200).reshape(30, 40).astype(np.uint8) % 3 + 1)
    for split, numbers in (("trainval", range(1, 8)), ("test", range(8, 11))):
        lines = [f"Bengal_{number} 6 1 2\n" for number in numbers]
        (folder / f"annotations/{split}.txt").write_text("".join(lines))
        for number in numbers:
            noise(number).save(folder / f"images/Bengal_{number}.jpg")
            trimap.save(folder / f"annotations/trimaps/Bengal_{number}.png")
