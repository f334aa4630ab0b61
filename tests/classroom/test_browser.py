"""Notebooks 01 and 09 in a real browser, under JupyterLab and under Voilà, by hand and mouse.

Copies run on a small tree and networks of two iterations, in a folder of their own.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from PIL import Image

from more_lib.figures.explorer import WIDTH
from more_lib.recipes import load_recipe
from more_lib.training import train
from tests.training.helpers import small_recipe

ROOT = Path(__file__).resolve().parents[2]
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
)
NOTEBOOKS = ("01_vit_lam.ipynb", "09_explorer.ipynb")
PATIENCE = 300_000  # milliseconds; on idle cores a hundredth does, on busy ones it may not
# nbgrader's own pages want a course, and JupyterLab's news the net: neither is there.
NBGRADER = ("formgrader", "validate_assignment", "assignment_list", "course_list")
WITHOUT = ["@jupyter/nbgrader", "@jupyterlab/apputils-extension:announcements"]

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
VOILA = re.search(r"-m (voila .*?) notebooks/09_explorer.ipynb", MAKEFILE)[1]  # as `make explore`

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome to drive: install one"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with copies of the notebooks, set to what trains in a second, and a picture."""
    place = tmp_path_factory.mktemp("browser")
    recipe = small_recipe(place, train=16, val=24)
    values = f"data.root={recipe.data.root} backbone.weights={recipe.backbone.weights}"
    quick = "optimizer.batch_size=2 optimizer.iterations=2 loss.dense_energy=0"
    own = [*values.split(), *quick.split(), "toco.head=[16,8,32]"]
    train(load_recipe("toco", own), place / "mine")
    (place / "notebooks").mkdir()
    for name in NOTEBOOKS:
        book = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))
        for cell in book["cells"]:
            if "parameters" in cell["metadata"].get("tags", []):
                cell["source"] = "".join(cell["source"]) + f'\noverrides = "{values} {quick}"\n'
            if cell["cell_type"] == "code":
                cell["outputs"], cell["execution_count"] = [], None
        (place / "notebooks" / name).write_text(json.dumps(book), encoding="utf-8")
    Image.linear_gradient("L").convert("RGB").save(place / "mine.png")
    (place / "broken.png").write_bytes((place / "mine.png").read_bytes()[:60])
    return place


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab(place):
    settings = place / "settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}')  # all cells are in the page
    options = ["--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={place / 'notebooks'}"]
    with served(place, ["jupyterlab", "--allow-root", *options]) as address:
        yield address


@pytest.fixture(scope="module")
def voila(place):
    with served(place, [*VOILA.split(), str(place / "notebooks")]) as address:
        yield address


@contextmanager
def served(place, command):
    """The address, to be completed by a path, of a server with a token and settings of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port, token = free.getsockname()[1], secrets.token_hex(16)
    config = place / "config"
    (config / "labconfig").mkdir(parents=True, exist_ok=True)
    off = dict.fromkeys(WITHOUT, True)
    (config / "labconfig/page_config.json").write_text(json.dumps({"disabledExtensions": off}))
    off = {f"nbgrader.server_extensions.{name}": False for name in NBGRADER}
    off = {"ServerApp": {"jpserver_extensions": off}}
    (config / "jupyter_server_config.json").write_text(json.dumps(off))
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTERLAB_SETTINGS_DIR": "settings"}
    folders |= {"JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    folders |= {"JUPYTER_DATA_DIR": "jupyter", "IPYTHONDIR": "ipython", "MORE_DATA": "more_data"}
    environment = os.environ | {name: str(place / folder) for name, folder in folders.items()}
    environment |= {"MORE_PROGRESS": "1", "PYTHONPATH": str(ROOT)}
    environment |= {"OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    environment.pop("MPLBACKEND", None)
    command = [sys.executable, "-m", *command, "--no-browser", f"--port={port}"]
    command += (
        [f"--Voila.token={token}"] if "voila" in command else [f"--IdentityProvider.token={token}"]
    )
    log = place / f"{command[2]}.log"
    with log.open("wb") as written:
        server = subprocess.Popen(
            command, env=environment, cwd=place, stdout=written, stderr=written
        )
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/?token={token}") or server.poll())
        assert server.poll() is None, f"{command[2]} did not start: {log.read_text()[-2000:]}"
        yield lambda path: f"http://127.0.0.1:{port}/{path}?token={token}"
    finally:
        server.terminate()
        server.wait(20)


def answers(address):
    try:
        return urlopen(address, timeout=5).status == 200
    except (URLError, OSError):
        return False


def wait_until(holds, seconds=PATIENCE / 1000):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


@contextmanager
def page_at(browser, address):
    """A page whose console must stay without errors; what it showed is kept if the test fails."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(PATIENCE)
    faults = []
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    # Voilà's page asks for a font from elsewhere: what is not ours is there, and empty.
    page.route(
        lambda url: not url.startswith(("http://127.0.0.1", "blob:", "data:")),
        lambda route: route.fulfill(status=200, content_type="text/css", body=""),
    )
    try:
        page.goto(address)
        yield page
        assert not faults, f"the console shows {faults}"
    except Exception as error:
        kept = Path(tempfile.mkdtemp(prefix="more-browser-")) / "page.png"
        page.screenshot(path=kept)
        raise AssertionError(f"{error}\nthe page is kept in {kept}; console: {faults}") from error
    finally:
        page.close()


def keep(page, name):
    """Something to look at, in the folder that MORE_SCREENSHOTS names, if it does."""
    if folder := os.environ.get("MORE_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{page.url.split('/')[3]}-{name}.png")


def run_all(page, name):
    """Run all cells of a notebook that JupyterLab has opened; none may fail."""
    shown = "window.jupyterapp?.shell.currentWidget"
    page.wait_for_function(f"{shown}?.context?.path === '{name}' && {shown}.sessionContext.isReady")
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function("""() => {
        const cells = [...window.jupyterapp.shell.currentWidget.content.model.cells];
        return cells.every(cell => cell.type !== 'code' || cell.executionCount);
    }""")
    assert not page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count()


def turn(page, name, key="ArrowRight"):
    """Turn the slider of this name by a key."""
    page.locator(f".widget-slider:has-text('{name}') .noUi-handle").first.press(key)


def upload(page, file, seen):
    """Choose a file behind the button, in the window that it opens, until the page has ``seen``.

    More than once, as a reader would: on busy cores JupyterLab once left an upload unanswered.
    """
    from playwright.sync_api import TimeoutError as TooLate

    for patience in (PATIENCE / 5, PATIENCE / 5, PATIENCE):
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="your picture").click()
        chooser.value.set_files(file)
        with suppress(TooLate):
            return seen.wait_for(timeout=patience)
    raise AssertionError(f"{file} was handed over three times, and nothing was seen of it")


def source(image):
    return image.evaluate("image => image.src")


def check_browse(page):
    """Notebook 01: its slider draws another picture."""
    image = page.locator("img.widget-image").first
    image.scroll_into_view_if_needed()
    before = source(image)
    turn(page, "position")
    wait_until(lambda: image.count() and source(image) != before)
    keep(page, "01")


def check_explorer(page, place):
    """Notebook 09: slider, click, uploads good and bad, saving, a training of one's own."""
    row, pinned = page.locator("img[alt^='MoRe ·']"), page.locator("img[alt^='baseline ·']")
    row.scroll_into_view_if_needed()
    wait_until(lambda: row.evaluate("image => image.naturalWidth") == WIDTH)
    assert pinned.count() == 1 and "threshold 0.50" in row.get_attribute("alt")
    keep(page, "09-first")

    before = source(row)
    turn(page, "threshold")
    wait_until(lambda: "threshold 0.51" in row.get_attribute("alt"))
    assert source(row) != before and "threshold 0.50" in pinned.get_attribute("alt")

    before, box = source(row), row.bounding_box()
    row.click(position={"x": 0.02 * box["width"], "y": 0.5 * box["height"]})
    wait_until(lambda: source(row) != before)
    column = page.locator(".widget-text:has-text('column') input")
    assert column.input_value() == "1"
    before = source(row)
    column.fill("3")
    column.press("Enter")
    wait_until(lambda: source(row) != before)

    before = source(row)
    upload(page, place / "broken.png", page.get_by_text("broken.png cannot be read"))
    assert source(row) == before
    upload(page, place / "mine.png", page.locator("img[alt^='MoRe ·'][alt*='mine.png']"))
    wait_until(lambda: "mine.png" in pinned.get_attribute("alt"))
    assert not page.get_by_text("broken.png cannot be read").count()

    with page.expect_download() as saving:
        page.get_by_role("button", name="save as PNG").click()
    saved = Image.open(BytesIO(Path(saving.value.path()).read_bytes()))
    assert saved.format == "PNG" and saved.width == WIDTH

    folder = page.locator("input[placeholder^='folder']")
    button = page.get_by_role("button", name="LAM", exact=True)
    assert button.count() == 1
    folder.fill(str(place / "mine"))
    folder.press("Enter")
    row = page.locator("img[alt^='mine · decoder']")
    wait_until(lambda: row.count() == 1 and row.evaluate("image => image.naturalWidth") == WIDTH)
    assert button.count() == 0 and pinned.count() == 1
    page.get_by_role("button", name="auxiliary CAM").click()
    page.locator("img[alt^='mine · auxiliary CAM']").wait_for()
    keep(page, "09-last")


def test_jupyterlab_runs_notebook_01_and_its_slider(browser, lab, place):
    with page_at(browser, lab(f"lab/workspaces/one/tree/{NOTEBOOKS[0]}")) as page:
        run_all(page, NOTEBOOKS[0])
        check_browse(page)


def test_jupyterlab_runs_the_explorer(browser, lab, place):
    with page_at(browser, lab(f"lab/workspaces/two/tree/{NOTEBOOKS[1]}")) as page:
        run_all(page, NOTEBOOKS[1])
        check_explorer(page, place)


def test_voila_serves_notebook_01_and_its_slider(browser, voila, place):
    with page_at(browser, voila(f"voila/render/{NOTEBOOKS[0]}")) as page:
        check_browse(page)


def test_voila_serves_the_explorer_alone_on_one_screen(browser, voila, place):
    with page_at(browser, voila(f"voila/render/{NOTEBOOKS[1]}")) as page:
        check_explorer(page, place)
        lower = page.locator("img[alt^='baseline ·']").bounding_box()
        assert lower["y"] + lower["height"] <= 800
        assert not page.get_by_text("Learning objectives").is_visible()
