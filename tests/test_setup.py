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
    assert CONSTRAINTS == sorted(CONSTRAINTS, key=str.lower)


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_every_direct_dependency_is_pinned_above_its_lower_bound(requirement):
    bounds = list(requirement.specifier)
    assert [bound.operator for bound in bounds] == [">="]
    assert requirement.specifier.contains(PINNED[canonicalize_name(requirement.name)])


def test_constraints_pin_all_that_an_installation_of_record_holds():
    needed = _closure(Requirement("more-lib[dev]"))
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
    assert by_pip == {"pip": ["--constraint constraints.txt", "--editable .[dev]"]}


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


class TestMake:
    """The Makefile in a copy, where a small script stands in for Python."""

    @pytest.fixture
    def checkout(self, tmp_path):
        if shutil.which("make") is None:
            pytest.skip("make is not installed")
        folder = tmp_path / "check out"  # with a space, as some paths have
        (folder / "notebooks").mkdir(parents=True)
        (folder / "notebooks/00_first.ipynb").touch()
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        return folder

    @pytest.fixture
    def python(self, tmp_path):
        """Notes its arguments in ``calls``; ``-m venv`` puts a copy of it where Python would be."""
        script = tmp_path / "python"
        script.write_text(
            "#!/bin/sh\n"
            f'echo "$*" >> "{tmp_path}/calls"\n'
            'if [ "$2" = venv ]; then mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; fi\n'
        )
        script.chmod(0o755)
        return script

    def test_help_is_the_default_and_names_every_target(self, checkout):
        makefile = (ROOT / "Makefile").read_text()
        targets = re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()
        assert set(targets) == {"help", "reproduce", "check", "test", "lab", "clean"}
        text = _make(checkout).stdout
        assert text == _make(checkout, "help").stdout
        for target in targets:
            assert f"make {target}  " in text

    def test_set_up_happens_once_and_again_when_the_pins_change(self, checkout, python, tmp_path):
        first = _make(checkout, "reproduce", f"PYTHON={python}")
        assert first.returncode == 0, first.stderr
        install = "-m pip install -qq --disable-pip-version-check -c constraints.txt -e .[dev]"
        extra = install.replace("dev", "crf")
        assert _calls(tmp_path)[-3:] == [install, extra, "-m more_lib reproduce --profile mini"]
        assert "-m venv --clear .venv" in _calls(tmp_path)

        (tmp_path / "calls").unlink()
        _make(checkout, "reproduce", "PROFILE=voc", f"PYTHON={python}")
        assert _calls(tmp_path) == ["-m more_lib reproduce --profile voc"]

        (tmp_path / "calls").unlink()
        newer = (checkout / ".venv/.installed").stat().st_mtime + 5
        os.utime(checkout / "constraints.txt", (newer, newer))
        _make(checkout, "reproduce", f"PYTHON={python}")
        assert install in _calls(tmp_path)
        assert not any("venv" in call for call in _calls(tmp_path))

    def test_without_a_compiler_only_pydensecrf2_is_left_out(self, checkout, python, tmp_path):
        python.write_text(python.read_text() + 'case "$*" in *crf*) exit 1;; esac\n')
        result = _make(checkout, "reproduce", f"PYTHON={python}")
        assert result.returncode == 0 and "Without pydensecrf2" in result.stdout
        assert _calls(tmp_path)[-1] == "-m more_lib reproduce --profile mini"

    def test_a_failed_installation_is_not_taken_for_done(self, checkout, python, tmp_path):
        script = python.read_text()
        python.write_text(script + 'if [ "$3" = install ]; then exit 1; fi\n')
        assert _make(checkout, "lab", f"PYTHON={python}").returncode != 0
        assert not any("jupyterlab" in call for call in _calls(tmp_path))
        (checkout / ".venv/bin/python").write_text(script)
        assert _make(checkout, "lab", f"PYTHON={python}").returncode == 0
        assert _calls(tmp_path)[-1] == "-m jupyterlab notebooks"

    def test_checks_then_runs_the_tests_then_the_notebooks(self, checkout, python, tmp_path):
        assert _make(checkout, "test", f"PYTHON={python}").returncode == 0
        *checks, tests, notebooks = _calls(tmp_path)[-5:]
        assert [call.split()[1] for call in checks] == ["ruff", "ruff", "mypy"]
        assert tests == "-m pytest -q -n auto --maxprocesses 8 --dist loadfile tests"
        assert notebooks.startswith("-m pytest -q --nbval-lax --nbval-current-env")
        assert notebooks.endswith(" notebooks")
        _make(checkout, "test", "FAST=1", f"PYTHON={python}")
        *_, check, tests = _calls(tmp_path)
        assert "mypy" in check and tests.endswith("-m not slow and not gpu tests")

    def test_a_fault_in_the_style_ends_the_test(self, checkout, python, tmp_path):
        python.write_text(python.read_text() + 'case "$*" in *ruff*) exit 1;; esac\n')
        assert _make(checkout, "test", f"PYTHON={python}").returncode != 0
        assert not any("pytest" in call for call in _calls(tmp_path))

    @pytest.mark.parametrize(
        ("script", "message"),
        [
            ("exit 1", "error: no Python 3.11 or 3.12 among: "),
            ('case "$2" in *ensurepip*) exit 1;; esac', "apt install python3-venv"),
            ("", "error: notebooks/ holds no notebook"),
        ],
    )
    def test_what_is_missing_is_said_in_one_line(self, checkout, python, script, message):
        (checkout / "notebooks/00_first.ipynb").unlink()
        python.write_text(f"#!/bin/sh\n{script}\n" if script else python.read_text())
        result = _make(checkout, "test", f"PYTHON={python}")
        assert result.returncode == 2 and message in result.stderr

    def test_clean_keeps_runs(self, checkout, python):
        _make(checkout, "reproduce", f"PYTHON={python}")
        (checkout / "runs").mkdir()
        for folder in ("more_lib/__pycache__", "tests", "data_scripts"):
            (checkout / folder).mkdir(parents=True)
        result = _make(checkout, "clean")
        assert result.returncode == 0, result.stderr
        left = {path.name for path in checkout.iterdir()}
        assert "runs" in left and ".venv" not in left
        assert not (checkout / "more_lib/__pycache__").exists()


def test_the_workflow_runs_the_two_commands_on_both_pythons_and_the_check_elsewhere():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    ran = {name: [step.get("run") for step in job["steps"]] for name, job in jobs.items()}
    assert {"make test", "make reproduce"} <= set(ran["linux"]) and "make check" in ran["elsewhere"]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert jobs["elsewhere"]["strategy"]["matrix"]["os"] == ["macos-latest", "windows-latest"]


def test_continuous_integration_runs_the_two_commands_from_anywhere(tmp_path):
    fake = tmp_path / "make"
    fake.write_text(f'#!/bin/sh\necho "$PWD $*" >> "{tmp_path}/calls"\n')
    fake.chmod(0o755)
    search = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    command = [shutil.which("bash"), str(ROOT / ".ci/run")]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PATH": search}, check=True)
    assert _calls(tmp_path) == [f"{ROOT} test", f"{ROOT} reproduce"]

    fake.write_text("#!/bin/sh\nexit 3\n")
    failed = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PATH": search})
    assert failed.returncode == 3


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    inherited = (
        "MAKEFLAGS",
        "MFLAGS",
        "MAKELEVEL",
        "PYTHON",
        "PROFILE",
        "FAST",
    )  # make test runs this
    environment = {name: text for name, text in os.environ.items() if name not in inherited}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def _calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def _imported(file: Path) -> set[str]:
    """First names of the modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    return names


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
