"""README's tables: rendered from a run, and in step with the record that is stored."""

import json
import re
from pathlib import Path

import pytest
from nbformat.v4 import new_markdown_cell
from tests.runs.helpers import VERDICTS, write_run

from more_lib.paper.records import mini_run
from more_lib.runs import readme
from more_lib.runs.reading import load_run
from more_lib.system.errors import InputError

ROOT = Path(__file__).parents[2]
ROWS = [
    {"condition": "baseline", "title": "baseline", "map": "LAM", "seeds": 1, "miou": 0.257,
     "precision": 0.361, "recall": 0.49, "confusion_ratio": 7.652,
     "paper_voc_val_other_protocol": 41.6},
    {"condition": "gcr", "title": "GCR without LIR", "map": "CAM", "seeds": 1, "miou": 0.5,
     "precision": 0.6, "recall": 0.7, "confusion_ratio": None,
     "paper_voc_val_other_protocol": None},
]  # fmt: skip
SPREAD = {f"{score}_std": 0.0123 for score in ("miou", "precision", "recall", "confusion_ratio")}
PROTOCOL = {"map": "lam", "labels": "true", "dataset": "emoji", "split": "val", "images": 400,
            "scales": "1 1.5 + flip", "threshold": 0.5, "crf": "none", "miou": 0.25}  # fmt: skip
PAPER_VAL = {**PROTOCOL, "labels": "predicted", "crf": "released", "miou": 0.55014}
DECODER = {**PROTOCOL, "map": "decoder", "labels": "none", "scales": "1", "miou": 0.4078}
MEASURED = {
    "rows": [{**PROTOCOL, "map": "cam"}, PROTOCOL],
    "ablation": ROWS,
    "protocols": {"paper-val": PAPER_VAL, "decoder-log": DECODER},
}
CLEAN = {"git": {"commit": "0123456789abcdef", "dirty": False}}


def whole_run(folder, measured=MEASURED, verdicts=(), **changes):
    cells = [new_markdown_cell("# 06 · Evaluation: what does it mean?")]
    metrics = {"06_evaluation": {"06_evaluation": measured}}
    if verdicts:
        metrics["07_paper"] = {"verdicts": list(verdicts)}
    costs = {
        "05_training": {"05_training": {"precision": "fp32", "threads": 1}},
        "training_ahead": {"training": {"networks": 3, "seconds": 522.0}},
    }
    executed = {"06_evaluation": cells}
    return write_run(folder, executed, metrics, costs=costs, **{**CLEAN, **changes})


def rendered(folder) -> dict[str, str]:
    return readme.blocks(readme.extract(load_run(folder)))


def test_readme_is_in_step_with_the_stored_record():
    """Write both with ``python -m more_lib report RUN --readme``."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for block, content in readme.blocks(mini_run()).items():
        assert readme.replaced(text, block, content) == text, f"README's {block} are out of step"


def test_every_notebook_has_a_goal_and_every_link_a_notebook():
    names = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert names <= readme.GOALS.keys()
    linked = re.findall(r"\(notebooks/([\w]+)\.ipynb\)", (ROOT / "README.md").read_text())
    assert linked and set(linked) <= names


def test_the_notebook_table_has_goals_and_minutes(tmp_path):
    goal = readme.GOALS["06_evaluation"]
    table, minutes = rendered(whole_run(tmp_path))["notebooks"].split("\n\n")
    assert table.splitlines()[0] == "| notebook | goal | minutes | needs a GPU |"
    assert table.splitlines()[2] == (
        f"| [06 Evaluation](notebooks/06_evaluation.ipynb) | {goal} | 0.7 | no |"
    )
    assert " ".join(minutes.split()) == (
        "Minutes of one `make reproduce` on 2 CPU cores (x86_64), with the networks there: 0.7 in "
        "all. Before them it trained 3 networks in 8.7 minutes, which later runs find."
    )


def test_results_of_one_seed(tmp_path):
    protocol, table, others = rendered(whole_run(tmp_path))["results"].split("\n\n")
    assert " ".join(protocol.split()) == (
        "Profile mini: EmojiVOC val, 400 images; true image labels, the decoder without; scales "
        "1 and 1.5 with flip, threshold 0.5, no CRF; 420 iterations of batch 8 in fp32, each "
        "training on 1 thread, seed 0; on 2 CPU cores (x86_64), torch 2.6.0; commit "
        "`0123456`, 2026-01-02."
    )
    assert table.splitlines()[2:] == [
        "| baseline | LAM | 1 | 25.7 | 36.1 | 49.0 | 7.65 | 41.6 |",
        "| GCR without LIR | CAM | 1 | 50.0 | 60.0 | 70.0 | – |  |",
    ]
    assert others.splitlines()[2:] == [
        "| `paper-val` | LAM | predicted | 1 and 1.5 with flip | dense | 55.0 |",
        "| `decoder-log` | decoder | none | 1 | none | 40.8 |",
    ]


def test_results_of_several_seeds_have_their_spread(tmp_path):
    rows = [{**row, **SPREAD, "seeds": 3} for row in ROWS]
    text = rendered(whole_run(tmp_path, {**MEASURED, "ablation": rows}))["results"]
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 100
    assert "seeds 0 to 2, mean ± SD" in " ".join(text.split())
    assert "| baseline | LAM | 3 | 25.7 ± 1.2 | 36.1 ± 1.2 | 49.0 ± 1.2 | 7.65 ± 0.01 |" in text


def test_verdicts_end_the_results_and_cannot_break_the_table(tmp_path):
    table = rendered(whole_run(tmp_path, verdicts=VERDICTS))["results"].split("\n\n")[-1]
    assert table.splitlines()[0].startswith("| claim of the paper | paper | this run |")
    assert "| GCR sharpens LAM | 72.1 to 76.4 | 51.4 to 55.3 | shown | mini |" in table
    assert "no \\| less" in table and len(table.splitlines()) == 2 + len(VERDICTS)


def test_readme_and_record_are_written_together(tmp_path):
    run = whole_run(tmp_path / "run")
    page, record = tmp_path / "README.md", tmp_path / "record.json"
    marks = {block: readme.BEGIN.format(block=block) for block in readme.blocks(mini_run())}
    page.write_text(
        "# Kit\n"
        f"{marks['notebooks']}\nformer\n{readme.END}\nby hand\n"
        f"{marks['results']}\n\n{readme.END}\n{marks['studies']}\n{readme.END}\nend\n"
    )
    assert readme.write_readme(run, page, record) == page
    first = page.read_text()
    assert "former" not in first and "by hand" in first and first.endswith("end\n")
    assert "06 Evaluation" in first and "paper-val" in first
    for block, content in readme.blocks(json.loads(record.read_text())).items():
        assert readme.replaced(first, block, content) == first
    readme.write_readme(run, page, record)
    assert page.read_text() == first


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"profile": "pets"}, "of the profile pets"),
        ({"overrides": ["seed=3", "a.b=1"]}, r"changes the recipe \(seed=3 a.b=1\)"),
        ({"status": "failed"}, "it is failed"),
        ({"status": "unfinished"}, "it is unfinished"),
        ({"git": {"commit": "0123", "dirty": True}}, "not committed"),
        ({"git": {"commit": "unknown", "dirty": None}}, "not committed"),
        ({"resumed": [{"at": "", "git": {"commit": "0123", "dirty": True}}]}, "not committed"),
        ({"measured": {}}, "lacks what notebook 06 records"),
        ({"measured": {**MEASURED, "rows": []}}, "lacks what notebook 06 records"),
    ],
)
def test_a_run_that_readme_cannot_speak_of_is_refused(tmp_path, changes, expected):
    page = tmp_path / "README.md"
    page.write_text("untouched")
    with pytest.raises(InputError, match=expected):
        readme.write_readme(whole_run(tmp_path / "run", **changes), page, tmp_path / "record.json")
    assert page.read_text() == "untouched" and not (tmp_path / "record.json").exists()


@pytest.mark.parametrize("times", [0, 2])
def test_a_readme_without_its_comments_is_left_alone(tmp_path, times):
    page = tmp_path / "README.md"
    block = f"{readme.BEGIN.format(block='notebooks')}\n{readme.END}\n"
    page.write_text(before := block * times)
    with pytest.raises(InputError, match=f"has {times} times a block .*notebooks"):
        readme.write_readme(whole_run(tmp_path / "run"), page, tmp_path / "record.json")
    assert page.read_text() == before and not (tmp_path / "record.json").exists()
    with pytest.raises(InputError, match="needs a full checkout"):
        readme.write_readme(tmp_path / "run", tmp_path / "no.md", tmp_path / "record.json")
