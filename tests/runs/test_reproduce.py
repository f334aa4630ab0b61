import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import nbformat
import papermill
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from more_lib.paper import ablation
from more_lib.recipes.loading import load_recipe, to_dict
from more_lib.runs import manifest as manifests
from more_lib.runs import reproduce as reproduction
from more_lib.runs.recording import record_costs, record_metrics
from more_lib.runs.reproduce import ReproduceError, _train_ahead, plan, reproduce
from more_lib.system.errors import InputError

PARAMETERS = 'profile: str = "mini"  # help\noverrides: str = ""\nout_dir: str = ""'
PROVENANCE = {"data_sha256": "d" * 64, "backbone_sha256": "b" * 64}


def write_notebook(path: Path, *sources: str, parameters: str | None = PARAMETERS) -> Path:
    cells = [new_markdown_cell(f"# {path.stem}")]
    if parameters is not None:
        cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells.extend(new_code_cell(source) for source in sources)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def read(folder: Path, name: str = "manifest.json") -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def statuses(folder: Path) -> list[str]:
    return [entry["status"] for entry in read(folder)["notebooks"]]


NAMES = ["00_zeroth", "01_first", "02_second"]


@pytest.fixture(autouse=True)
def known_foundations(monkeypatch):
    """No data is made or hashed, and sources may be edited while tests run."""
    monkeypatch.setattr("more_lib.training.cache.provenance", lambda recipe: dict(PROVENANCE))
    monkeypatch.setattr("more_lib.data.validation_fingerprint", lambda data: "v" * 64)
    monkeypatch.setattr(manifests, "_library_sha256", lambda: "library")


@pytest.fixture
def executed(monkeypatch) -> SimpleNamespace:
    """Stands in for kernels: notes name, parameters and manifest, fails notebooks in ``bad``."""
    notes = SimpleNamespace(names=[], parameters=[], seen=[], bad=set())

    def execute(source, target, parameters, **_):
        notes.names.append(Path(source).stem)
        notes.parameters.append(parameters)
        notes.seen.append(statuses(Path(target).parent))
        assert Path(target).name != Path(source).name  # it has its name once it is whole
        shutil.copy(source, target)
        record_metrics(parameters.get("out_dir", ""), "counts", {"calls": len(notes.names)})
        record_costs(parameters.get("out_dir", ""), "time", {"seconds": 0.5})
        if Path(source).stem in notes.bad:
            raise RuntimeError("first line\nthe last line\n")

    monkeypatch.setattr("papermill.execute_notebook", execute)
    return notes


@pytest.fixture
def three(tmp_path) -> Path:
    for name in reversed(NAMES):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", f"print({name!r})")
    write_notebook(tmp_path / "notebooks" / "draft.ipynb", "1 / 0")
    return tmp_path / "notebooks"


@pytest.fixture
def run(executed, three, tmp_path):
    """Reproduces the three notebooks, with overrides and options as ``reproduce`` takes them."""

    def run(*overrides, profile="mini", notebooks=three, **options):
        return reproduce(profile, overrides, tmp_path / "runs", notebooks=notebooks, **options)

    return run


@pytest.fixture
def broken_off(executed, run, tmp_path) -> Path:
    """A run that failed in its last notebook, which would work now."""
    executed.bad = {"02_second"}
    with pytest.raises(ReproduceError):
        run()
    executed.bad, executed.names[:] = set(), []
    (folder,) = (tmp_path / "runs" / "mini").iterdir()
    return folder


@pytest.mark.slow
def test_real_kernels_run_fail_with_a_name_and_are_resumed(tmp_path, monkeypatch):
    root = tmp_path / "a {brace} and spaces"
    source = write_notebook(
        root / "notebooks" / "01_works.ipynb",
        "import os, pathlib\n"
        "from more_lib.runs.recording import record_metrics\n"
        "print(profile, overrides, os.environ['MORE_PROGRESS'], os.environ.get('MPLBACKEND'))\n"
        "record_metrics(out_dir, 'places', {'cwd': os.getcwd(), 'out_dir': out_dir})",
    )
    untouched = source.read_bytes()
    broken = write_notebook(source.parent / "02_breaks.ipynb", "x = 1", "raise OSError('a\\nb')")
    arguments = ("mini", ["optimizer.iterations=3"], root / "runs")
    for name, value in (("MPLBACKEND", "pdf"), ("MORE_PROGRESS", "1")):
        monkeypatch.setenv(name, value)

    with pytest.raises(ReproduceError) as failure:
        reproduce(*arguments, notebooks=source.parent)
    assert str(failure.value) == "02_breaks stopped at cell In [4]: OSError: b"
    (folder,) = (root / "runs" / "mini").iterdir()
    failed = read(folder)
    assert (failed["status"], statuses(folder)) == ("failed", ["done", "failed"])
    assert failed["notebooks"][1]["error"] == str(failure.value)
    kept = (folder / "02_breaks.ipynb").read_text()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "OSError" in kept and "This run failed." in page and "OSError: b" in page

    # Kernels got parameters, an environment of their own and the run's folder to work in.
    cells = nbformat.read(folder / "01_works.ipynb", as_version=4).cells
    backend = "module://matplotlib_inline.backend_inline"
    assert cells[-1].outputs[0].text == f"mini optimizer.iterations=3 0 {backend}\n"
    assert (os.environ["MPLBACKEND"], os.environ["MORE_PROGRESS"]) == ("pdf", "1")
    assert source.read_bytes() == untouched
    places = read(folder, "metrics.json")["01_works"]["places"]
    assert Path(places["cwd"]) == folder.resolve()
    assert Path(places["out_dir"]) == folder.resolve() / "01_works"

    write_notebook(broken, "x = 1")
    assert reproduce(*arguments, resume=True, notebooks=source.parent) == folder
    first, second = read(folder)["notebooks"]
    assert (read(folder)["status"], second["status"]) == ("done", "done")
    assert first == failed["notebooks"][0]  # skipped: not even the time
    assert "error" not in second
    assert (folder / "earlier" / "02_breaks-1.ipynb").read_text() == kept
    assert "This run failed." not in (folder / "report.html").read_text(encoding="utf-8")


def test_notebooks_run_in_order_and_then_results_are_written(executed, run, monkeypatch, capsys):
    folder = run()
    assert executed.names == NAMES
    assert executed.seen == [["done"] * count + ["not run"] * (3 - count) for count in range(3)]
    assert statuses(folder) == ["done"] * 3
    assert read(folder, "metrics.json")["02_second"] == {"counts": {"calls": 3}}
    assert read(folder, "costs.json") == {name: {"time": {"seconds": 0.5}} for name in NAMES}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" … ")[0] for line in lines[1:4]] == NAMES
    assert re.fullmatch(r"00_zeroth … \d+ s", lines[1])
    assert lines[-2].startswith(f"no RESULTS.md: {folder}: it lacks what notebooks 05, 06 and 07")
    assert lines[-1] == f"report: {folder / 'report.html'}"
    assert all((folder / f"{name}.html").is_file() for name in (*NAMES, "report"))
    monkeypatch.setattr("more_lib.runs.reproduce.write_results", lambda folder: folder / "R.md")
    folder = run()
    assert capsys.readouterr().out.splitlines()[-2] == f"results: {folder / 'R.md'}"


def test_manifest_says_what_the_run_rests_on(executed, run):
    folder = run("seed=7")
    manifest = read(folder)
    assert manifest["recipe"] == to_dict(load_recipe("mini", ["seed=7"]))
    assert (manifest["seeds"], manifest["overrides"]) == ({"recipe": 7}, ["seed=7"])
    assert {name: manifest[name] for name in PROVENANCE} == PROVENANCE
    assert manifest["versions"]["torch"] in (torch.__version__, torch.__version__.split("+")[0])
    assert manifest["threads"] == torch.get_num_threads()
    assert re.fullmatch("[0-9a-f]{40}|unknown", manifest["git"]["commit"])
    out_dir = str((folder / "00_zeroth").resolve())
    assert manifest["notebooks"][0]["parameters"] == executed.parameters[0]
    assert executed.parameters[0] == {"profile": "mini", "overrides": "seed=7", "out_dir": out_dir}


def test_the_first_failure_stops_the_run(executed, run, tmp_path, capsys):
    executed.bad = {"01_first"}
    with pytest.raises(ReproduceError, match="^01_first stopped at .*RuntimeError: the last line$"):
        run()
    (folder,) = (tmp_path / "runs" / "mini").iterdir()
    assert statuses(folder) == ["done", "failed", "not run"]
    assert list(read(folder, "metrics.json")) == ["00_zeroth"]
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {folder / 'report.html'}"


def test_a_killed_kernel_names_the_cell_it_was_in(run, monkeypatch):
    def killed(source, target, **_):
        notebook = nbformat.read(source, as_version=4)
        for cell in notebook.cells[:2]:  # the heading and the parameters had begun
            cell.metadata["papermill"] = {"start_time": "2026-01-02T03:04:05+00:00"}
        nbformat.write(notebook, target)
        raise RuntimeError("Kernel died")

    monkeypatch.setattr("papermill.execute_notebook", killed)
    with pytest.raises(ReproduceError, match=r"^00_zeroth .* In \[1\]: RuntimeError: Kernel died$"):
        run()


@pytest.mark.slow
@pytest.mark.parametrize(
    "commit, dirty, ending",
    [
        ("0123456789abcdef", False, "-0123456"),
        ("0123456789abcdef", True, "-0123456-dirty"),
        ("unknown", None, "-unknown"),
    ],
)
def test_run_folders_are_named_and_never_shared(run, tmp_path, monkeypatch, commit, dirty, ending):
    fresh = manifests.new_manifest
    known = {"git": {"commit": commit, "dirty": dirty}, "started": "2026-01-02T03:04:05+00:00"}
    monkeypatch.setattr(
        "more_lib.runs.reproduce.new_manifest", lambda *given: {**fresh(*given), **known}
    )
    folders = [run() for _ in range(3)]
    names = [folder.relative_to(tmp_path / "runs").as_posix() for folder in folders]
    first = f"mini/20260102-030405{ending}"
    assert names == [first, f"{first}-2", f"{first}-3"]


def test_two_runs_at_once_get_a_folder_each(run, tmp_path, monkeypatch):
    """The other makes its folder after this one has looked for a free name."""
    first_free = reproduction._first_free

    def overtaken(parent, names):
        place = first_free(parent, names)
        if len(list(parent.iterdir())) < 2:
            place.mkdir()
        return place

    monkeypatch.setattr(reproduction, "_first_free", overtaken)
    folder = run()
    others = [path for path in folder.parent.iterdir() if path != folder]
    assert len(others) == 2 and all(not list(path.iterdir()) for path in others)
    assert statuses(folder) == ["done"] * 3


RUNS = """
import sys, time
from pathlib import Path
from more_lib.system.locks import exclusive
with exclusive(Path(sys.argv[1]), "runs"):
    print("held", flush=True)
    time.sleep(2)
    Path(sys.argv[2]).rename(sys.argv[3])
"""


@pytest.mark.slow
def test_resume_waits_for_who_runs_there_and_goes_on_with_what_that_left(
    executed, run, broken_off, tmp_path, capsys
):
    left = shutil.copytree(broken_off, tmp_path / "left")
    manifest = read(broken_off)
    manifest["notebooks"][2] |= {"status": "done"}
    (tmp_path / "done.json").write_text(json.dumps(manifest))
    places = [broken_off / ".run.lock", tmp_path / "done.json", broken_off / "manifest.json"]
    with subprocess.Popen(
        [sys.executable, "-c", RUNS, *map(str, places)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        assert run(resume=True) == broken_off
    assert executed.names == [] and left.exists()
    assert f"waiting for another process that runs {broken_off} …" in capsys.readouterr().out
    assert not places[0].exists()


def test_paths_mean_the_folder_where_the_command_was_started(executed, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MORE_DATA", "here")
    execute, seen = papermill.execute_notebook, []

    def notes_the_environment(*given, **more):
        seen.append(os.environ["MORE_DATA"])
        execute(*given, **more)

    monkeypatch.setattr("papermill.execute_notebook", notes_the_environment)
    folder = run("data.root=my trees/a", "seed=7", "data.labels=table.csv")
    assert seen == [str(tmp_path / "here")] * 3 and os.environ["MORE_DATA"] == "here"
    given = executed.parameters[0]["overrides"].split()
    monkeypatch.chdir("/")  # where a kernel works is another folder
    recipe = load_recipe("mini", given)
    assert recipe.data.root == str(tmp_path / "my trees" / "a")
    assert recipe.data.labels == str(tmp_path / "table.csv") and recipe.seed == 7
    assert to_dict(recipe) == read(folder)["recipe"]


def test_a_finished_run_is_skipped_and_with_a_changed_notebook_not_touched(
    executed, run, three, capsys
):
    folder = run()
    before = read(folder)
    capsys.readouterr()
    assert run(resume=True) == folder
    assert capsys.readouterr().out.count("skipped: done and unchanged") == 3
    assert executed.names == NAMES
    write_notebook(three / "02_second.ipynb", "print('changed')")
    assert run(resume=True) != folder
    assert executed.names == NAMES * 2
    assert read(folder) == before


def test_resume_goes_on_from_the_first_changed_notebook(executed, run, three, broken_off):
    write_notebook(three / "01_first.ipynb", "print('changed')")
    folder = run(resume=True)
    assert executed.names == ["01_first", "02_second"]
    assert list(folder.parent.iterdir()) == [folder] == [broken_off]
    assert statuses(folder) == ["done"] * 3
    assert len(read(folder)["resumed"]) == 1
    kept = {path.name for path in (folder / "earlier").iterdir()}
    assert kept == {"01_first-1.ipynb", "01_first-1", "02_second-1.ipynb", "02_second-1"}
    assert read(folder, "metrics.json")["01_first"] == {"counts": {"calls": 1}}


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["recipe", "data", "masks", "library", "versions"])
def test_resume_needs_the_same_foundations(executed, run, broken_off, monkeypatch, changed):
    if changed == "data":
        other = {**PROVENANCE, "data_sha256": "0" * 64}
        monkeypatch.setattr("more_lib.training.cache.provenance", lambda recipe: other)
    elif changed == "masks":
        monkeypatch.setattr("more_lib.data.validation_fingerprint", lambda data: "0" * 64)
    elif changed == "library":
        monkeypatch.setattr(manifests, "_library_sha256", lambda: "another")
    elif changed == "versions":
        monkeypatch.setattr(manifests, "_versions", lambda: {"torch": "0.1"})
    assert run(*["seed=1"] * (changed == "recipe"), resume=True) != broken_off
    assert executed.names == NAMES


def test_resume_passes_over_a_folder_that_is_no_run(executed, run, tmp_path, capsys):
    folder = tmp_path / "runs" / "mini" / "99999999"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("[]")
    run(resume=True)
    assert "nothing to resume" in capsys.readouterr().out
    assert executed.names == NAMES


@pytest.mark.parametrize(
    "parameters, overrides, given, expected",
    [
        (PARAMETERS, [], {"profile": "minni"}, "minni.*mini"),
        (PARAMETERS, [], {"notebooks": "missing"}, "no notebooks.*missing"),
        (PARAMETERS, ["evaluation.scales=[1.0, 0.5]"], {}, "without spaces"),
        (PARAMETERS, ["optimizer.iteration=3"], {}, "optimizer.iteration.*optimizer.iterations"),
        (PARAMETERS, ["optimizer.iterations=many"], {}, "optimizer.iterations.*whole number"),
        ("profile: int = 3", [], {}, "02_bad.ipynb declares profile with type int.*str"),
        ("profile = 'mini'", [], {}, "02_bad.ipynb declares profile with no type.*profile: str"),
        ("profile: str = ''\nout_dir: int = 0", [], {}, "declares out_dir with type int"),
        ("profil: str = 'a'", [], {}, r"02_bad.ipynb has no parameter profile.*it has: profil\)"),
        ("profile: str = 'mini'", ["seed=1"], {}, "02_bad.ipynb has no parameter overrides"),
        (None, [], {}, "02_bad.ipynb has no parameter profile.*tag a cell"),
    ],
)
def test_arguments_and_parameters_are_checked_before_anything_runs(
    executed, run, three, tmp_path, parameters, overrides, given, expected
):
    write_notebook(three / "02_bad.ipynb", parameters=parameters)
    with pytest.raises(InputError, match=expected):
        run(*overrides, **given)
    assert not executed.names and not (tmp_path / "runs").exists()


def test_notebooks_get_only_what_they_declare(tmp_path):
    write_notebook(tmp_path / "00_small.ipynb", parameters='profile: "str" = "mini"')
    write_notebook(tmp_path / "01_more.ipynb", parameters="profile: str = ''\nmy_own: int = 3")
    write_notebook(tmp_path / "02_all.ipynb")
    small, more, every = (step.all_parameters(tmp_path) for step in plan(tmp_path, "voc"))
    assert small == more == {"profile": "voc"}
    assert every == {"profile": "voc", "overrides": "", "out_dir": str(tmp_path / "02_all")}


@pytest.mark.parametrize("content", ["", "{}", "not JSON"])
def test_a_broken_notebook_file_is_named(tmp_path, content):
    (tmp_path / "00_broken.ipynb").write_text(content)
    with pytest.raises(InputError, match="00_broken.ipynb"):
        plan(tmp_path, "mini")


def test_runs_below_a_file_is_an_error(run, tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(InputError, match="cannot make .*runs"):
        run()


def test_full_reaches_the_notebooks_that_know_it(executed, run, three):
    write_notebook(three / "04_more.ipynb", parameters=PARAMETERS + "\nfull: bool = False  # help")
    for full in (False, True):
        run(full=full)
    given = [parameters.get("full") for parameters in executed.parameters]
    assert given == [None] * 7 + [True]


def test_networks_are_trained_ahead_and_a_failure_is_left_to_the_notebook(
    monkeypatch, capsys, tmp_path
):
    trained = Mock(side_effect=[3, RuntimeError("losses {'segmentation': nan}")])
    monkeypatch.setattr("more_lib.paper.trials.train_side_by_side", trained)
    recipe = load_recipe("mini", ["seed=4"])
    for full in (False, True):
        _train_ahead(recipe, full, tmp_path)
    main, every = (call.args[0] for call in trained.call_args_list)
    assert main == [ablation.condition(recipe, name) for name in ("baseline", "lir", "more")]
    assert len(every) == 18 and {each.seed for each in every} == {4, 5, 6}
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("trained and scored: ")
    assert "failed" in second and "segmentation" in second
    cost = read(tmp_path / "training_ahead" / "costs", "training.json")
    assert cost["networks"] == 3 and cost["seconds"] >= 0
