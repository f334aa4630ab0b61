"""From one command to a report: every notebook in order, into a folder that says how it arose.

A run is ``runs/<profile>/<UTC time>-<commit>[-dirty]/``. It holds the executed notebooks, each also
as a page, what each measured in ``<notebook>/metrics/`` and ``<notebook>/costs/``, all of that in
``metrics.json`` and ``costs.json``, ``manifest.json`` (the code, data, weights, versions, device,
seeds and parameters behind it), ``report.html`` and, where notebook 06 ran, ``RESULTS.md``.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import papermill

from more_lib.recipes.loading import load_recipe, placed
from more_lib.recipes.schema import Recipe
from more_lib.runs.manifest import continued, new_manifest, save_manifest
from more_lib.runs.recording import TRAINING_AHEAD, collected, record_costs
from more_lib.runs.report import duration, write_report, write_results
from more_lib.system.errors import InputError
from more_lib.system.files import CHECKOUT, atomic_file, data_folder, sha256, write_json
from more_lib.system.locks import exclusive
from more_lib.system.processes import cpu_seconds

logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what matters is raised or printed here


class ReproduceError(RuntimeError):
    """A notebook failed. One line: the notebook, the cell and the last line of the error."""


class Step(NamedTuple):
    """A notebook to run: where it is, what it is given, whether it records metrics."""

    path: Path
    parameters: dict[str, str | bool]  # without out_dir, which is known once the run's folder is
    records_metrics: bool

    @property
    def name(self) -> str:
        return self.path.stem

    def all_parameters(self, folder: Path) -> dict[str, str | bool]:
        """What the notebook gets in the run ``folder``, ``out_dir`` included if it takes one."""
        if not self.records_metrics:
            return self.parameters
        return {**self.parameters, "out_dir": str((folder / self.name).resolve())}


def reproduce(
    profile: str,
    overrides: Sequence[str] = (),
    runs: str | Path = "runs",
    resume: bool = False,
    full: bool = False,
    notebooks: str | Path | None = None,
) -> Path:
    """Run every notebook with ``profile`` and write the report; returns the run's folder.

    Args:
        profile, overrides: as for ``load_recipe``; each notebook gets them as ``profile`` and,
            joined by spaces, ``overrides``, with paths from the root.
        runs: where run folders go; an existing one is never overwritten.
        resume: continue the newest run of the profile that is unfinished, or finished with the
            notebooks as they are now, if its code, recipe, data, weights and versions are today's.
            Notebooks that are done and unchanged are skipped up to the first that is not. A run
            that another process is at is waited for.
        full: notebooks that declare ``full: bool`` get it: the whole ablation, over three seeds.
        notebooks: folder whose ``NN_*.ipynb`` run in order of name; the checkout's by default.

    Raises ``InputError`` before anything runs (unknown profile, recipe key or notebook parameter,
    a wrong type, no notebooks, an unwritable folder) and ``ReproduceError`` when a notebook fails:
    the run stops there, keeps the broken notebook and still writes manifest, metrics and report.
    """
    recipe = load_recipe(profile, overrides)
    overrides = placed(overrides, recipe)
    steps = plan(Path(notebooks or CHECKOUT / "notebooks"), profile, overrides, full)
    entries = [
        {"name": step.name, "source_sha256": sha256(step.path), "parameters": step.parameters}
        for step in steps
    ]
    manifest = new_manifest(recipe, overrides, entries)
    with _run_folder(Path(runs) / profile, manifest, resume) as (folder, manifest):
        save_manifest(manifest, folder)
        print(f"{len(steps)} notebooks into {folder}", flush=True)
        if notebooks is None:
            _train_ahead(recipe, full, folder)
        failure = _run_all(steps, manifest, folder)
        _conclude(manifest, folder, failure)
    if failure:
        raise ReproduceError(failure)
    return folder


def _conclude(manifest: dict, folder: Path, failure: str) -> None:
    """Write what the whole run came to: status, metrics, costs, report and results."""
    manifest["status"] = "failed" if failure else "done"
    save_manifest(manifest, folder)
    done = [entry["name"] for entry in manifest["notebooks"] if entry["status"] == "done"]
    write_json(collected(folder, "metrics", done), folder / "metrics.json")
    write_json(collected(folder, "costs", [TRAINING_AHEAD, *done]), folder / "costs.json")
    report = write_report(folder)
    try:
        print(f"results: {write_results(folder)}", flush=True)
    except InputError as error:  # the notebooks whose numbers it shows did not all run
        print(f"no RESULTS.md: {error}", flush=True)
    print(f"report: {report}", flush=True)


def _train_ahead(recipe: Recipe, full: bool, folder: Path) -> None:
    """What the notebooks would train one after the other, at once where that is faster."""
    from more_lib.paper import ablation, trials

    started, busy = time.perf_counter(), cpu_seconds()
    names, seeds = (ablation.CONDITIONS, 3) if full else (ablation.MAIN, 1)
    chosen = range(recipe.seed, recipe.seed + seeds)
    wanted = trials.with_seeds(ablation.trials(recipe, list(names)).values(), chosen)
    try:
        if networks := trials.train_side_by_side(wanted):
            seconds = round(time.perf_counter() - started, 1)
            costs = {"networks": networks, "seconds": seconds}
            costs["cpu_seconds"] = round(cpu_seconds() - busy, 1)
            record_costs(folder / TRAINING_AHEAD, "training", costs)
            print(f"trained and scored: {duration(seconds)}", flush=True)
    except (InputError, RuntimeError) as error:  # the notebook that needs it shows it with its cell
        print(f"training ahead failed, notebooks train instead: {error}", flush=True)


def plan(
    notebooks: Path, profile: str, overrides: Sequence[str] = (), full: bool = False
) -> list[Step]:
    """The notebooks of a folder in order, each with its parameters, all of them checked.

    A notebook must declare ``profile: str`` in its cell tagged ``parameters``, and
    ``overrides: str`` when there are any; ``out_dir: str`` is given to those that declare it, and
    so is ``full: bool``. Raises ``InputError`` that names the notebook and the parameter.
    """
    paths = sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise InputError(f"no notebooks NN_name.ipynb in {notebooks}: run from a full checkout")
    for override in overrides:
        if len(override.split()) != 1:
            raise InputError(f"override {override!r}: notebooks take it without spaces, as a=[1,2]")
    return [_step(path, profile, " ".join(overrides), full) for path in paths]


def _step(path: Path, profile: str, overrides: str, full: bool) -> Step:
    try:
        inspected = papermill.inspect_notebook(_papermill_path(path))
    except Exception as error:  # whatever a broken file sets off: it is no usable notebook
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is no notebook papermill can read: {reason}") from error
    # Names with their annotations, "None" without one.
    declared = {name: parameter["inferred_type_name"] for name, parameter in inspected.items()}
    parameters: dict[str, str | bool] = {"profile": profile}
    if overrides or "overrides" in declared:
        parameters["overrides"] = overrides
    if full and "full" in declared:
        parameters["full"] = True
    step = Step(path, parameters, records_metrics="out_dir" in declared)
    for name, value in step.all_parameters(path.parent).items():
        wanted, given = type(value).__name__, declared.get(name)
        if given is None:
            others = ", ".join(declared) or "none; tag a cell 'parameters'"
            raise InputError(
                f"{path.name} has no parameter {name}, which this run sets: "
                f"declare {name}: {wanted} (it has: {others})"
            )
        if given != wanted:
            kind = "no type" if given == "None" else f"type {given}"
            raise InputError(
                f"{path.name} declares {name} with {kind}, this run gives a {wanted}: "
                f"write {name}: {wanted} = …"
            )
    return step


def _run_all(steps: Sequence[Step], manifest: dict, folder: Path) -> str:
    """Run what is not done, keeping the manifest current; the failure in one line, or ""."""
    for step, entry in zip(steps, manifest["notebooks"], strict=True):
        if entry["status"] == "done":
            print(f"{step.name} … skipped: done and unchanged", flush=True)
            continue
        print(f"{step.name} … ", end="", flush=True)
        entry["parameters"] = step.all_parameters(folder)
        started, busy = time.monotonic(), cpu_seconds()
        with _kernel_environment():
            failure = _run_one(step, folder)
        entry["seconds"] = round(time.monotonic() - started, 1)
        entry["cpu_seconds"] = round(cpu_seconds() - busy, 1)
        entry |= {"status": "failed", "error": failure} if failure else {"status": "done"}
        save_manifest(manifest, folder)
        print(f"{'failed after ' if failure else ''}{duration(entry['seconds'])}", flush=True)
        if failure:
            return failure
    return ""


def _run_one(step: Step, folder: Path) -> str:
    """Execute one notebook into the run's folder; how it failed in one line, or ""."""
    target = folder / f"{step.name}.ipynb"
    for left in filter(Path.exists, (target, folder / step.name)):  # by a run that is resumed
        (folder / "earlier").mkdir(exist_ok=True)
        names = (f"{left.stem}-{number}{left.suffix}" for number in count(1))
        left.rename(_first_free(folder / "earlier", names))
    with atomic_file(target) as temporary:  # papermill writes it anew after every cell
        return _execute(step, folder, temporary)


def _execute(step: Step, folder: Path, target: Path) -> str:
    """Execute one notebook of a run into ``target``; how it failed in one line, or ""."""
    try:
        papermill.execute_notebook(
            _papermill_path(step.path),
            _papermill_path(target),
            parameters=step.all_parameters(folder),
            kernel_name="python3",  # this very Python, whatever the notebook was saved with
            language="python",
            progress_bar=False,
            extra_arguments=["--log-level=ERROR"],  # no warning at every start
            cwd=str(folder.resolve()),  # a stray relative path must not litter the checkout
        )
    except Exception as error:  # a cell's error has its name; the kernel was killed, the disk full
        if not target.stat().st_size:  # it did not come to begin
            shutil.copyfile(step.path, target)
        name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
        cell = getattr(error, "exec_count", None) or _cells_started(target)
        lines = [line.strip() for line in str(value).splitlines() if line.strip()]
        return f"{step.name} stopped at cell In [{cell}]: {name}: {lines[-1] if lines else ''}"
    return ""


def _cells_started(notebook: Path) -> int:
    """How many code cells began to run, which is the number of the last one."""
    cells = json.loads(notebook.read_bytes())["cells"]
    code = [cell["metadata"].get("papermill", {}) for cell in cells if cell["cell_type"] == "code"]
    return sum(bool(timing.get("start_time")) for timing in code)


@contextmanager
def _kernel_environment() -> Iterator[None]:
    """Variables that kernels inherit: no redrawn bars, inline figures, the library that asks.

    A relative ``MORE_DATA`` would mean another folder where they work.
    """
    before = dict(os.environ)
    os.environ.pop("MPLBACKEND", None)  # the kernel then chooses its own, which keeps figures
    os.environ["MORE_DATA"] = str(data_folder())
    os.environ["MORE_PROGRESS"] = "0"
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # a debugger's warning on every start
    if (CHECKOUT / "pyproject.toml").is_file():  # not site-packages
        paths = [str(CHECKOUT), before.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _papermill_path(path: Path) -> str:
    """An absolute path whose braces papermill does not take for a template."""
    return str(path.resolve()).replace("{", "{{").replace("}", "}}")


@contextmanager
def _run_folder(parent: Path, manifest: dict, resume: bool) -> Iterator[tuple[Path, dict]]:
    """The run's folder, which no other process runs in meanwhile, and its manifest to begin with.

    resume: the newest to go on with, if there is one.
    """
    for folder in sorted(parent.glob("*/"), reverse=True) if resume else ():
        if continued(folder, manifest):
            with _alone(folder):
                if goes_on := continued(folder, manifest):  # also with what another made of it
                    print(f"resuming {folder}", flush=True)
                    yield folder, goes_on
                    return
    if resume:
        print(f"nothing to resume in {parent}: starting anew", flush=True)
    folder = _new_folder(parent, manifest)
    with _alone(folder):
        yield folder, manifest


def _alone(folder: Path) -> AbstractContextManager[None]:
    return exclusive(folder / ".run.lock", f"runs {folder}")


def _new_folder(parent: Path, manifest: dict) -> Path:
    """Make the run's folder: a new one, even for a second run within the same second."""
    git, started = manifest["git"], datetime.fromisoformat(manifest["started"])
    name = f"{started:%Y%m%d-%H%M%S}-{git['commit'][:7]}{'-dirty' if git['dirty'] else ''}"
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            with suppress(FileExistsError):  # by another process in this very moment, too
                folder = _first_free(parent, names)
                folder.mkdir()
                return folder
    except OSError as error:  # a file stands where a parent should be, no rights, a full disk
        reason = f"{error.strerror}; choose another folder for runs"
        raise InputError(f"cannot make a run's folder in {parent}: {reason}") from error


def _first_free(parent: Path, names: Iterable[str]) -> Path:
    """The first of ``names`` in a folder that nothing has yet."""
    return next(path for path in map(parent.joinpath, names) if not path.exists())
