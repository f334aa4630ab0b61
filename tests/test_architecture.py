"""The house: ten rooms, arrows one way, nothing in a circle, and modules that fit in a head."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "more_lib"

# What each room may import, beside itself: the rooms below it, but for what its line leaves out.
BELOW = {
    "system": set(),
    "recipes": {"system"},
    "data": {"recipes", "system"},
    "method": {"recipes", "system"},  # the paper knows no data set
    "training": {"method", "data", "recipes", "system"},
    "figures": {"method", "data", "recipes", "system"},
    "evaluation": {"training", "figures", "method", "data", "recipes", "system"},
}
BELOW["paper"] = {"evaluation", *BELOW["evaluation"]}
BELOW["runs"] = {"paper", *BELOW["paper"]}
BELOW["cli"] = {"runs", *BELOW["runs"]}

MODULES = {
    ".".join(("more_lib", *file.relative_to(LIBRARY).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): file
    for file in sorted(LIBRARY.rglob("*.py"))
}
SOURCES = [*MODULES.values(), *sorted((ROOT / "data_scripts").glob("*.py"))]


def imports(file: Path) -> Iterator[str]:
    """Modules of the library that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names if item.name.startswith("more_lib"))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively: name the module in full"
            if (node.module or "").startswith("more_lib"):
                for item in node.names:
                    inner = f"{node.module}.{item.name}"
                    yield inner if inner in MODULES else node.module


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_the_library_holds_ten_rooms_and_four_files():
    there = {path.name for path in LIBRARY.iterdir() if path.name != "__pycache__"}
    files = {"__init__.py", "__main__.py", "py.typed", "README.md"}
    assert there == {*BELOW, *files} and len(BELOW) == 10


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in BELOW])
def test_arrows_point_down(module):
    for target in imports(MODULES[module]):
        other = room(target)
        allowed = other == room(module) or other in BELOW[room(module)] or target == "more_lib"
        assert allowed, f"{MODULES[module]} imports {target}: {room(module)} stands below {other}"


def test_no_module_imports_itself_in_a_circle():
    graph = {name: set(imports(file)) - {name} for name, file in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports run in a circle: {' → '.join(error.args[1])}")


def test_recipes_are_read_without_the_heavy_packages():
    heavy = ("torch", "numpy", "timm", "pooch", "pycocotools", "sklearn", "matplotlib")
    code = f"import sys, more_lib.recipes; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
