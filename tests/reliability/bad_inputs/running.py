"""Runs a command in a process that was forked with the library loaded, and watches it."""

import json
import os
import resource
import runpy
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import NamedTuple

from more_lib.cli.commands import app
from more_lib.system.errors import clear_errors
from more_lib.system.files import CHECKOUT
from tests.data.helpers import SCRIPTS, annotation
from tests.reliability.bad_inputs.building import mask, picture, write
from tests.reliability.forks import FORK, start_server
from tests.runs.helpers import whole_run

SECONDS = 10  # of computing; other programs may keep a machine busy
PATIENCE = 20  # seconds of any kind, after which a command is stopped
MOST_MEMORY = 2e9  # bytes
_STOP = 6 * 2**30  # bytes of memory of its own, beyond which a process gets no more
SMALL = """\
data: {crop_size: 48}
backbone: {name: mini_w48, decoder_width: 8}
optimizer: {iterations: 1, batch_size: 2, warmup_iterations: 0, precision: fp32}
evaluation: {scales: [1.0]}
loss: {dense_energy: 0}
"""
PHOTOS = {"a": ("cat", (0, 1)), "b": ("dog", (0, 2)), "c": ("cat;dog", (0, 1, 2)), "d": ("", (0,))}
VOC = {"v1": ("cat", (0, 8)), "v2": ("dog", (0, 12)), "v3": ("cat", (0, 8))}


class Ended(NamedTuple):
    """How a command ended: exit status (negative for a signal), and what it printed and took."""

    status: int | None  # None where it was stopped after ``PATIENCE``
    out: str
    err: str
    seconds: float  # of computing
    memory: int  # bytes at its peak, of the largest of its processes


def template(place: Path) -> Path:
    """What most commands see: two trees of data, a small recipe, a network, and a whole run."""
    start_server()
    write("small.yaml", SMALL)(place)
    for name, (_, values) in PHOTOS.items():
        picture(f"photos/images/{name}.jpg")(place)
        mask(f"photos/masks/{name}.png", *values)(place)
    rows = [f"{name}.jpg,{classes}\n" for name, (classes, _) in PHOTOS.items()]
    write("photos/labels.csv", "image,classes\n" + "".join(rows))(place)
    write("photos/splits/train.txt", "a\nb\nc\n")(place)
    write("photos/splits/val.txt", "c\nd\n")(place)
    for name, (classes, values) in VOC.items():
        picture(f"voc/JPEGImages/{name}.jpg")(place)
        mask(f"voc/SegmentationClass/{name}.png", *values)(place)
        write(f"voc/Annotations/{name}.xml", annotation(classes))(place)
    write("voc/ImageSets/Segmentation/train.txt", "v1\nv2\n")(place)
    write("voc/ImageSets/Segmentation/val.txt", "v2\nv3\n")(place)
    whole_run(place / "run")
    done = run("train --recipe small.yaml --data photos --folder model", place, patience=300)
    assert done.status == 0, done.err
    return place


def copied(original: Path, place: Path) -> Path:
    """A copy of the template whose network was trained on the copy's photographs."""
    shutil.copytree(original, place, symlinks=True)
    recipe = place / "model/recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(original), str(place)))
    return place


def run(command: str, place: Path, patience: float = PATIENCE) -> Ended:
    """Run ``more_lib`` with these words, or what they begin with, in a folder.

    That is a data script, or ``notebook 08 name=text ...``: its cells, with these parameters.
    """
    # What the process reports lies beside the folder, which is to stay as it was.
    report = place.with_name(f"{place.name}-report")
    report.mkdir(exist_ok=True)
    process = FORK.Process(target=_child, args=(shlex.split(command), place, report))
    process.start()
    process.join(patience)
    if stopped := process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    said = [(report / name).read_text(errors="replace") for name in ("out", "err")]
    usage = report / "usage"
    used = json.loads(usage.read_text()) if usage.is_file() else (0, 0)
    return Ended(None if stopped else process.exitcode, *said, *used)


def _child(words: list[str], place: Path, report: Path) -> None:
    os.setsid()  # so that all it starts can be stopped with it
    os.chdir(place)
    os.environ |= {"MORE_DATA": str(place / "data"), "MORE_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    resource.setrlimit(resource.RLIMIT_DATA, (_STOP, _STOP))
    for number, name in enumerate(("out", "err"), 1):
        with (report / name).open("w") as file:
            os.dup2(file.fileno(), number)
    try:
        if words[0].endswith(".py"):
            sys.argv = words
            runpy.run_path(str(SCRIPTS / words[0]), run_name="__main__")
        elif words[0] == "notebook":
            clear_errors(_run_cells)(*words[1:])
        else:
            app(words, prog_name="python -m more_lib")
    finally:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        seconds = sum(each.ru_utime + each.ru_stime for each in used)
        memory = 1024 * max(each.ru_maxrss for each in used)
        (report / "usage").write_text(json.dumps([seconds, memory]))


def _run_cells(number: str, *parameters: str) -> None:
    (file,) = (CHECKOUT / "notebooks").glob(f"{number}_*.ipynb")
    names: dict[str, object] = {}
    for cell in json.loads(file.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            if "parameters" in cell["metadata"].get("tags", []):
                names |= dict(text.split("=", 1) for text in parameters)
