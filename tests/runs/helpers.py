"""A run's folder as ``reproduce`` leaves it, made by hand; a page as a browser reads it."""

import base64
import json
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from nbformat.v4 import new_markdown_cell, new_notebook

from more_lib.paper.records import mini_run
from more_lib.recipes.loading import load_recipe, to_dict

PNG = base64.encodebytes(b"\x89PNG\r\n\x1a\n" + bytes(90)).decode()  # notebooks break the lines
MANIFEST = json.loads((Path(__file__).parent / "manifest.json").read_text())
VERDICTS = [
    {"claim": claim, "paper": paper, "ours": ours, "verdict": verdict, "protocol": protocol}
    for claim, paper, ours, verdict, protocol in (
        ("GCR sharpens LAM", "72.1 to 76.4", "51.4 to 55.3", "shown", "mini"),
        ("CAM gains as well", "yes", "no | less", "not shown", "mini"),
        ("COCO", "47.4", "", "not run here", ""),
    )
]
MEASURED = {  # what RESULTS.md takes from notebook 06
    "rows": [
        {"map": "cam", "labels": "true"},
        {"map": "lam", "labels": "true", **mini_run()["protocol"], "miou": 0.25},
    ],
    "ablation": mini_run()["ablation"],
    "protocols": mini_run()["protocols"],
}


class Page:
    """Tags, names of attributes, the values of src and href, and the visible text of a page."""

    def __init__(self, path: Path) -> None:
        self.source = path.read_text(encoding="utf-8")
        soup = BeautifulSoup(self.source, "html.parser")
        self.tags = [element.name for element in soup.find_all()]
        found = [item for element in soup.find_all() for item in element.attrs.items()]
        self.attributes = {name for name, _ in found}
        self.links = [(name, value) for name, value in found if name in ("src", "href")]
        self.text = " ".join(soup.get_text(" ").split())  # without styles

    def assert_still(self) -> None:
        """No script runs, no style or frame is fetched, and no picture but those within."""
        assert not {"script", "link", "iframe", "object"} & set(self.tags)
        assert not {"onerror", "onclick"} & self.attributes
        assert "url(" not in self.source and "@import" not in self.source
        assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in self.source
        assert self.tags.count("meta") == 4  # those of the page alone
        assert all(value.startswith("data:") for name, value in self.links if name == "src")


def write_run(
    folder: Path,
    executed: dict[str, list | None],
    metrics: dict | None = None,
    profile: str = "mini",
    costs: dict | None = None,
    **changes: object,
) -> Path:
    """A run with notebooks executed (their cells) or not run (None); ``changes`` its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for name, cells in executed.items():
        entries.append({"name": name, "status": "not run", "seconds": None})
        if cells is not None:
            entries[-1] |= {"status": "done", "seconds": 43.2}
            nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
    recipe = load_recipe(profile)
    manifest = {**MANIFEST, "profile": profile, "seeds": {"recipe": recipe.seed}}
    manifest |= {"recipe": to_dict(recipe), "notebooks": entries, **changes}
    recorded = {"manifest": manifest, "metrics": metrics, "costs": costs}
    for name, value in recorded.items():
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


def whole_run(folder: Path, without: tuple[str, ...] = (), **changes: object) -> Path:
    """A committed run with all that RESULTS.md says, but for the notebooks ``without``."""
    record = mini_run()
    metrics = {"06_evaluation": {"06_evaluation": MEASURED}}
    metrics["07_paper"] = {"verdicts": record["verdicts"]}
    metrics = {name: value for name, value in metrics.items() if name not in without}
    costs = {"05_training": {"05_training": record["training"]}}
    costs["training_ahead"] = {"training": record["training_ahead"]}
    cells = [new_markdown_cell("intro\n\n# 06 · *Evaluation*: what?")]
    changes = {"git": {"commit": "0123456789abcdef", "dirty": False}, **changes}
    executed = {"06_evaluation": cells, "08_own": None}
    return write_run(folder, executed, metrics, costs=costs, **changes)
