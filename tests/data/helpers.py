"""Small images and masks, a server, and what the tests of this room ask of all of them."""

import csv
import os
import re
import runpy
import sys
import threading
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from more_lib.data.images import mask_image
from more_lib.system.errors import InputError

SCRIPTS = Path(__file__).resolve().parents[2] / "data_scripts"

WIDTH, HEIGHT = 40, 30
# How a camera stores what EXIF then notes as orientation 2, 3, ...: written out, not looked up.
LAID_DOWN = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_90 TRANSVERSE ROTATE_270"
LAID_DOWN = {n: Image.Transpose[name] for n, name in enumerate(LAID_DOWN.split(), 2)}
ROWS = {"one.jpg": "red fox;cat", "two.PNG": "cat", "three.webp": "owl", "four.jpeg": ""}


def noise(seed, width=WIDTH, height=HEIGHT):
    """A photograph that no format compresses to a few bytes."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def laid_down(image, orientation):
    """A picture as a camera stores what EXIF notes as this orientation."""
    turn = LAID_DOWN.get(orientation)
    return image if turn is None else image.transpose(turn)


def save_csv(root, rows):
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "classes"), *rows.items()])


def photos(folder):
    """A folder of four photographs of four formats: fox and cat, cat, owl, nothing."""
    (folder / "images").mkdir(parents=True)
    for seed, name in enumerate(ROWS):
        noise(seed).save(folder / "images" / name)
    save_csv(folder, ROWS)
    return folder


def annotation(*names):
    """A VOC annotation with an object of each class named."""
    objects = "".join(f"<object><name>{name}</name></object>" for name in names)
    return f"<annotation>{objects}</annotation>"


def save_mask(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask_image(values.astype(np.uint8)).save(path)


def contents(folder):
    """The bytes of every file below a folder, by its path in there."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def cut(path, count):
    """Take bytes off a file's end."""
    path.write_bytes(path.read_bytes()[:-count])


@contextmanager
def refused(*patterns):
    """The block raises an ``InputError`` of one line in which every pattern occurs."""
    with pytest.raises(InputError) as error:
        yield
    message = str(error.value)
    assert "\n" not in message
    for pattern in patterns:
        assert re.search(pattern, message), f"{pattern!r} is not in: {message}"


@contextmanager
def serving(handler):
    """The address of a server on this machine that answers as ``handler`` does."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def real_data(name):
    """A folder of real photographs in ``MORE_REAL_DATA``; without it the test is skipped."""
    folder = Path(os.environ.get("MORE_REAL_DATA") or "nowhere") / name
    return folder if folder.is_dir() else pytest.skip("needs real photographs (MORE_REAL_DATA)")


def run_script(monkeypatch, capsys, script, *options):
    """Exit status, output and errors of one of data_scripts."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, options)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    return end.value.code, *capsys.readouterr()
