"""A run's folder as ``reproduce`` leaves it, made by hand; a page as a browser reads it."""

import json
from html.parser import HTMLParser
from pathlib import Path

import nbformat
from nbformat.v4 import new_notebook

from more_lib.recipes.loading import load_recipe, to_dict

VERDICTS = [
    {
        "claim": "GCR sharpens LAM",
        "paper": "72.1 to 76.4",
        "ours": "51.4 to 55.3",
        "verdict": "shown",
        "protocol": "mini",
    },
    {
        "claim": "CAM gains as well",
        "paper": "yes",
        "ours": "no | less",
        "verdict": "not shown",
        "protocol": "mini",
    },
    {
        "claim": "COCO",
        "paper": "47.4",
        "ours": "",
        "verdict": "not run here",
        "protocol": "",
    },
]


CLEAN = {"git": {"commit": "0123456789abcdef", "dirty": False}}


class Page(HTMLParser):
    """Tags, names of attributes, the values of src and href, and the visible text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [(name, value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        if self.tags[-1:] != ["style"]:
            self.words.append(data)


def write_run(
    folder: Path,
    executed: dict[str, list | None],
    metrics: dict | None = None,
    profile: str = "mini",
    costs: dict | None = None,
    **changes: object,
) -> Path:
    """A run with notebooks executed (their cells) or not run (None); ``changes`` its manifest."""
    recipe = load_recipe(profile)
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for name, cells in executed.items():
        ran = cells is not None
        status, seconds = ("done", 43.2) if ran else ("not run", None)
        entries.append({"name": name, "status": status, "seconds": seconds})
        if ran:
            nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
    manifest = {
        "profile": profile,
        "overrides": [],
        "status": "done",
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 125.0,
        "git": {"commit": "0123456789abcdef0123", "dirty": True},
        "versions": {"python": "3.11.7", "torch": "2.6.0"},
        "device": {"type": "cpu", "name": "x86_64", "count": 2},
        "threads": 2,
        "seeds": {"recipe": recipe.seed},
        "library_sha256": "a" * 64,
        "data_sha256": "d" * 64,
        "backbone_sha256": "b" * 64,
        "recipe": to_dict(recipe),
        "resumed": [],
        "notebooks": entries,
        **changes,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for name, value in (("metrics", metrics), ("costs", costs)):
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder
