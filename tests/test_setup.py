"""Set-up: the files that describe it agree, and make does what its help says."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import more_lib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [
    Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines
]
CONSTRAINTS = (ROOT / "constraints.txt").read_text().splitlines()
PINNED = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in CONSTRAINTS}


def test_constraints_are_versions_only_and_name_nothing_twice():
    for line in CONSTRAINTS:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
    assert len(PINNED) == len(CONSTRAINTS)
    assert len({canonicalize_name(item.name) for item in DIRECT}) == len(DIRECT)
    assert CONSTRAINTS == sorted(CONSTRAINTS, key=str.lower)


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_every_direct_dependency_is_pinned_above_its_lower_bound(requirement):
    bounds = list(requirement.specifier)
    assert [bound.operator for bound in bounds] == [">="]
    assert requirement.specifier.contains(PINNED[canonicalize_name(requirement.name)])


def test_constraints_pin_all_that_an_installation_of_record_holds():
    needed = _closure(Requirement("more-lib[dev,classroom]"))
    installed = {name: metadata.version(name) for name in needed}
    direct = [canonicalize_name(item.name) for item in DIRECT]
    if any(installed.get(name, PINNED[name]) != PINNED[name] for name in direct):
        pytest.skip("this installation is not the one of record")
    assert {name: PINNED.get(name) for name in installed} == installed


def test_conda_environment_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, by_pip = environment["dependencies"]
    name, _, versions = python.partition(" ")
    assert (name, pip, environment["channels"]) == ("python", "pip", ["conda-forge"])
    assert SpecifierSet(versions) == SpecifierSet(PROJECT["requires-python"])
    # The package itself, by which conda users get pyproject's dependencies and no second list.
    assert by_pip == {"pip": ["--constraint constraints.txt", "--editable .[dev,classroom]"]}


@pytest.mark.slow
def test_every_import_is_a_declared_dependency():
    # The last one need not be installed.
    homes = {**metadata.packages_distributions(), "pydensecrf": ["pydensecrf2"]}
    optional = [*EXTRAS["crf"], *EXTRAS["log"]]  # functions that import them say what is missing
    declared = [Requirement(line) for line in [*PROJECT["dependencies"], *optional]]
    runtime = {canonicalize_name(requirement.name) for requirement in declared}
    for file in [*(ROOT / "more_lib").rglob("*.py"), *(ROOT / "data_scripts").glob("*.py")]:
        for module in _imported(file) - set(sys.stdlib_module_names) - {"more_lib"}:
            packages = {canonicalize_name(home) for home in homes[module]}
            assert packages & runtime, f"{file.name} imports {module}"


def test_every_file_beside_the_code_is_installed_with_it():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    patterns = tool["setuptools"]["package-data"]["more_lib"]
    package = ROOT / "more_lib"
    for file in package.rglob("*"):
        relative = file.relative_to(package).as_posix()
        if file.is_file() and file.suffix not in (".py", ".pyc"):
            assert any(fnmatch(relative, pattern) for pattern in patterns), relative


def test_citation_and_changelog_name_the_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["version"] == more_lib.__version__ == metadata.version("more-lib")
    assert citation["license"] == PROJECT["license"] == "MIT"
    (paper,) = citation["references"]
    assert paper["title"].startswith("MoRe: Class Patch Attention Needs Regularization")
    assert paper["authors"][0]["family-names"] == "Yang"
    assert paper["url"] == PROJECT["urls"]["Documentation"] == "https://arxiv.org/abs/2412.11076"

    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.*?)\]", changes, re.M)[:2] == ["Unreleased", more_lib.__version__]


class Checkout:
    """The Makefile in a folder of its own, where a small script stands in for Python.

    It notes its arguments, and ``-m venv`` puts a copy of it where the environment's would be.
    """

    INHERITED = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON", "PROFILE", "FAST")  # by make test

    def __init__(self, parent: Path):
        self.folder = parent / "check out"  # with a space, as some paths have
        self.python, self.notes = parent / "python", parent / "calls"
        self.script = (
            f'#!/bin/sh\necho "$*" >> "{self.notes}"\n'
            'if [ "$2" = venv ]; then mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; fi\n'
        )
        self.python.write_text(self.script)
        self.python.chmod(0o755)
        (self.folder / "notebooks").mkdir(parents=True)
        (self.folder / "notebooks/00_first.ipynb").touch()
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.folder)

    def make(self, *arguments: str) -> tuple[subprocess.CompletedProcess, list[str]]:
        """Run make with the stand-in; how it ended, and what the stand-in was called with."""
        self.notes.write_text("")
        environment = {name: os.environ[name] for name in os.environ.keys() - self.INHERITED}
        command = ["make", *arguments, f"PYTHON={self.python}"]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )
        return done, self.notes.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    return Checkout(tmp_path)


def test_help_is_the_default_and_names_every_target(checkout):
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    known = "help reproduce check test bench reliability lab explore clean"
    assert set(targets) == set(known.split())
    text = checkout.make()[0].stdout
    assert text == checkout.make("help")[0].stdout
    assert all(f"make {target}  " in text for target in targets)


def test_set_up_happens_once_and_again_when_the_pins_change(checkout):
    done, calls = checkout.make("reproduce")
    assert done.returncode == 0, done.stderr
    install = (
        "-m pip install -qq --disable-pip-version-check -c constraints.txt -e .[dev,classroom]"
    )
    extra = install.replace("dev,classroom", "crf")
    assert calls[-3:] == [install, extra, "-m more_lib reproduce --profile mini"]
    assert "-m venv --clear .venv" in calls

    assert checkout.make("reproduce", "PROFILE=voc")[1] == ["-m more_lib reproduce --profile voc"]

    newer = (checkout.folder / ".venv/.installed").stat().st_mtime + 5
    os.utime(checkout.folder / "constraints.txt", (newer, newer))
    _, calls = checkout.make("reproduce")
    assert install in calls and not any("venv" in call for call in calls)


def test_without_a_compiler_only_pydensecrf2_is_left_out(checkout):
    checkout.python.write_text(checkout.script + 'case "$*" in *crf*) exit 1;; esac\n')
    done, calls = checkout.make("reproduce")
    assert done.returncode == 0 and "Without pydensecrf2" in done.stdout
    assert calls[-1] == "-m more_lib reproduce --profile mini"


def test_a_failed_installation_is_not_taken_for_done(checkout):
    checkout.python.write_text(checkout.script + 'if [ "$3" = install ]; then exit 1; fi\n')
    done, calls = checkout.make("lab")
    assert done.returncode != 0 and not any("jupyterlab" in call for call in calls)
    (checkout.folder / ".venv/bin/python").write_text(checkout.script)
    done, calls = checkout.make("lab")
    assert done.returncode == 0 and calls[-1] == "-m jupyterlab notebooks"


def test_checks_then_runs_the_tests_then_the_notebooks(checkout):
    done, calls = checkout.make("test")
    assert done.returncode == 0, done.stderr
    *checks, tests, notebooks = calls[-5:]
    assert [call.split()[1] for call in checks] == ["ruff", "ruff", "mypy"]
    parallel = "-n auto --maxprocesses 8 --dist loadfile -p no:nbval -p no:anyio"
    assert tests == f"-m pytest -q {parallel} tests"
    assert notebooks.startswith("-m pytest -q --nbval-lax --nbval-current-env")
    assert notebooks.endswith(" notebooks")
    *_, check, tests = checkout.make("test", "FAST=1")[1]
    assert "mypy" in check and tests.endswith("-m not slow and not gpu and not reliability tests")
    assert checkout.make("test", "FAST=0")[1][-2:] == calls[-2:]  # as without it


def test_reliability_is_measured_when_asked_and_at_night(checkout):
    assert checkout.make("reliability")[1][-1] == "-m pytest -q -m reliability tests/reliability"
    night = yaml.safe_load((ROOT / ".github/workflows/nightly.yml").read_text())
    (job,) = night["jobs"].values()
    assert "make reliability" in [step.get("run") for step in job["steps"]]
    assert night[True]["schedule"] and "push" not in night[True]  # YAML takes the key on for true
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert options["addopts"].endswith("-m 'not reliability'")


def test_a_fault_in_the_style_ends_the_test(checkout):
    checkout.python.write_text(checkout.script + 'case "$*" in *ruff*) exit 1;; esac\n')
    done, calls = checkout.make("test")
    assert done.returncode != 0 and not any("pytest" in call for call in calls)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 1", "error: no Python 3.11 or 3.12 among: "),
        ('case "$2" in *ensurepip*) exit 1;; esac', "apt install python3-venv"),
        ("", "error: notebooks/ holds no notebook"),
    ],
)
def test_what_is_missing_is_said_in_one_line(checkout, script, message):
    (checkout.folder / "notebooks/00_first.ipynb").unlink()
    checkout.python.write_text(f"#!/bin/sh\n{script}\n" if script else checkout.script)
    done, _ = checkout.make("test")
    assert done.returncode == 2 and message in done.stderr


def test_clean_keeps_runs(checkout):
    checkout.make("reproduce")
    for folder in ("runs", "more_lib/__pycache__", "tests", "data_scripts"):
        (checkout.folder / folder).mkdir(parents=True)
    done, _ = checkout.make("clean")
    assert done.returncode == 0, done.stderr
    left = {path.name for path in checkout.folder.iterdir()}
    assert "runs" in left and ".venv" not in left
    assert not (checkout.folder / "more_lib/__pycache__").exists()


def test_the_workflow_runs_the_two_commands_on_both_pythons_and_the_check_elsewhere():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    ran = {name: [step.get("run") for step in job["steps"]] for name, job in jobs.items()}
    assert {"make test", "make reproduce"} <= set(ran["linux"]) and "make check" in ran["elsewhere"]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert jobs["elsewhere"]["strategy"]["matrix"]["os"] == ["macos-latest", "windows-latest"]


def test_continuous_integration_runs_the_two_commands_from_anywhere(tmp_path):
    fake = tmp_path / "make"
    fake.write_text('#!/bin/sh\necho "$PWD $*"\n')
    fake.chmod(0o755)
    for installer in ("sudo", "apt-get"):  # where no browser is, none is to be installed by a test
        (tmp_path / installer).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / installer).chmod(0o755)
    command = [shutil.which("bash"), str(ROOT / ".ci/run")]
    search = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=tmp_path, env=search, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"{ROOT} test\n{ROOT} reproduce\n"
    fake.write_text("#!/bin/sh\nexit 3\n")
    assert subprocess.run(command, cwd=tmp_path, env=search).returncode == 3


def _imported(file: Path) -> set[str]:
    """First names of the modules that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


def _closure(requirement: Requirement, found: dict[str, set[str]] | None = None) -> set[str]:
    """Names of the installed packages that ``requirement`` brings, itself left out."""
    found = {} if found is None else found
    name = canonicalize_name(requirement.name)
    new = {"", *requirement.extras} - found.get(name, set())
    found.setdefault(name, set()).update(new)
    lines = metadata.requires(name) or [] if new else []
    for item in map(Requirement, lines):
        if item.marker is None or any(item.marker.evaluate({"extra": extra}) for extra in new):
            _closure(item, found)
    return found.keys() - {"more-lib"}
