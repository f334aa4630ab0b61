"""README's tables, written from a run: which notebooks there are, and what the run measured.

README.md holds each table between two comments. What it is written from is kept beside the library
(``more_lib/paper/records/mini_run.json``), so that a test can render it again and compare.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from more_lib.system.errors import InputError
from more_lib.runs.manifest import CHECKOUT
from more_lib.system.files import write_json
from more_lib.paper.studies import STUDIES, Study, compared, recorded, trial_titles
from more_lib.paper.trials import SCORES, over_seeds, with_spread
from more_lib.evaluation.protocols import MAP_NAMES
from more_lib.recipes.loading import load_recipe
from more_lib.runs.recording import TRAINING_AHEAD
from more_lib.runs.report import run_title
from more_lib.paper.claims import VERDICT_COLUMNS
from more_lib.runs.reading import Run, load_run
from more_lib.system.files import atomic_file

README = CHECKOUT / "README.md"
RECORD = CHECKOUT / "more_lib" / "paper" / "records" / "mini_run.json"
BEGIN = "<!-- {block}: written by python -m more_lib report RUN --readme -->"
END = "<!-- end -->"

GOALS = {
    "00_start_here": "the problem, the data, the notation; what is real and what is mini",
    "01_vit_lam": "from attention to localization: class tokens, CAM, LAM, the artifact issue "
    "measured",
    "02_artifact_analysis": "where false activations come from, how to measure them, why curing "
    "over-smoothing does not cure them",
    "03_gcr": "Eq. 1–5 on a graph drawn by hand, then on images; paper and released code switch by "
    "switch",
    "04_lir": "Eq. 6–9: masks from CAM, the confident and the uncertain relation, when class "
    "tokens part",
    "05_training": "the recipe, the whole objective term by term and stage by stage, one step by "
    "hand, the log",
    "06_evaluation": "confusion matrix to mIoU, protocols by name, dense CRF, the ablation, "
    "thresholds, failures",
    "07_paper_tables_and_figures": "every table and figure of the paper, ours beside theirs; which "
    "claims this run shows",
    "08_your_own_images": "from a folder of images and a table of labels to masks, and how to "
    "judge them without ground truth",
}


def write_readme(folder: str | Path, readme: Path = README, record: Path = RECORD) -> Path:
    """Write README's tables, and the record they rest on, from a run; returns README's path.

    Raises ``InputError`` for a run that README cannot speak of (``extract``) and for a README
    without the comments that say where tables go.
    """
    found = extract(load_run(folder))
    if not readme.is_file():
        raise InputError(f"{readme} does not exist: --readme needs a full checkout")
    text = readme.read_text(encoding="utf-8")
    for block, table in blocks(found).items():
        text = replaced(text, block, table)
    write_json(found, record)
    with atomic_file(readme) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return readme


def extract(run: Run) -> dict:
    """What README says of a run, as JSON values.

    Raises ``InputError`` unless the run is whole: of the profile mini without changes, done, from
    committed code, with notebook 06's numbers.
    """
    manifest, git = run.manifest, run.manifest["git"]
    states = [git, *(resumed["git"] for resumed in manifest["resumed"])]
    faults = {
        f"it is of the profile {manifest['profile']}": manifest["profile"] != "mini",
        f"it changes the recipe ({' '.join(manifest['overrides'])})": manifest["overrides"] != [],
        f"it is {manifest['status']}": manifest["status"] != "done",
        "its code was not committed": any(state["dirty"] is not False for state in states),
    }
    if fault := next((fault for fault, there in faults.items() if there), ""):
        raise InputError(f"README is written from a whole run of mini, and {run.folder}: {fault}")
    try:
        measured = run.metrics["06_evaluation"]["06_evaluation"]
        (protocol,) = (r for r in measured["rows"] if (r["map"], r["labels"]) == ("lam", "true"))
        optimizer = manifest["recipe"]["optimizer"]
        return {
            "commit": git["commit"],
            "started": manifest["started"],
            "device": manifest["device"],
            "threads": manifest["threads"],
            "seeds": manifest["seeds"],
            "versions": manifest["versions"],
            "optimizer": {name: optimizer[name] for name in ("iterations", "batch_size")},
            "training": run.costs.get("05_training", {}).get("05_training", {}),
            "training_ahead": run.costs.get(TRAINING_AHEAD, {}).get("training", {}),
            "notebooks": [
                {
                    "name": entry["name"],
                    "title": run_title(run.folder / f"{entry['name']}.ipynb"),
                    "seconds": entry["seconds"],
                }
                for entry in manifest["notebooks"]
            ],
            "protocol": {
                name: protocol[name]
                for name in ("dataset", "split", "images", "scales", "threshold", "crf")
            },
            "ablation": measured["ablation"],
            "protocols": measured["protocols"],
            "verdicts": run.verdicts,
        }
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{run.folder}: metrics.json lacks what notebook 06 records for README ({error!r})"
        ) from error


def blocks(record: Mapping) -> dict[str, str]:
    """{block: Markdown} of every part of README that comes from a run."""
    return {"notebooks": notebooks(record), "results": results(record), "studies": studies()}


def replaced(text: str, block: str, content: str) -> str:
    """README's text with what stands between a block's comments replaced.

    Raises ``InputError`` unless the comments are there once.
    """
    begin = BEGIN.format(block=block)
    pattern = re.escape(begin) + r"\n.*?" + re.escape(END)
    changed, count = re.subn(pattern, lambda _: f"{begin}\n{content}\n{END}", text, flags=re.DOTALL)
    if count != 1:
        raise InputError(f"README.md has {count} times a block {begin} … {END}; it takes one")
    return changed


def notebooks(record: Mapping) -> str:
    """The table of notebooks with their minutes, and the sentence that says whose minutes."""
    rows = []
    for entry in record["notebooks"]:
        name = entry["name"]
        title = entry["title"].partition(":")[0].replace(" · ", " ") or name
        minutes = f"{entry['seconds'] / 60:.1f}"
        rows.append([f"[{title}](notebooks/{name}.ipynb)", GOALS.get(name, ""), minutes, "no"])
    table = _table(["notebook", "goal", "minutes", "needs a GPU"], rows)
    total = sum(entry["seconds"] for entry in record["notebooks"]) / 60
    ahead = record["training_ahead"]
    before = (
        f" Before them it trained {ahead['networks']} networks in {ahead['seconds'] / 60:.1f} "
        "minutes, which later runs find."
        if ahead
        else ""
    )
    return f"{table}\n\n" + _prose(
        f"Minutes of one `make reproduce` on {_hardware(record)}, with the networks "
        f"there: {total:.1f} in all.{before}"
    )


def results(record: Mapping) -> str:
    """Protocol, ablation, other protocols, and verdicts where the run has any."""
    parts = [_protocol(record), _ablation(record["ablation"]), _others(record)]
    if record["verdicts"]:
        rows = [[row[column] for column in VERDICT_COLUMNS] for row in record["verdicts"]]
        header = ["claim of the paper", "paper", "this run", "verdict", "protocol of this run"]
        parts.append(_table(header, rows))
    return "\n\n".join(parts)


def studies() -> str:
    """The recorded studies of the profile mini: what several seeds say; "" before there is any."""
    parts = []
    for name, study in STUDIES.items():
        found = recorded(name)
        if found["rows"]:
            parts += [_study_sentence(found, study), _study_table(found, study)]
    return "\n\n".join(parts)


def _study_sentence(found: Mapping, study: Study) -> str:
    return _prose(
        f"**{study.question}** {found['protocol'].replace('emoji', 'EmojiVOC')} (the decoder: no "
        f"labels, scale 1, no threshold); {found['training']}; trained on "
        f"{'; '.join(found['hardware'])}; mean ± SD over the seeds from 0 on. "
        f"Differences are against {study.reference}, seed by seed. "
        f"(`python -m more_lib study {found['study']}`)"
    )


def _study_table(found: Mapping, study: Study) -> str:
    """One row a trial: LAM's scores, and mIoU of CAM and decoder."""
    others = {
        kind: {row["trial"]: row for row in over_seeds(found["rows"]) if row["map"] == kind}
        for kind in ("CAM", "decoder")
    }
    titles = trial_titles(found["study"], load_recipe(found["profile"]))
    header = ["trained", "seeds", "LAM mIoU %", "difference", "LAM FP/TP", "CAM %", "decoder %"]
    rows = []
    for row in compared(found["rows"], study.reference):
        name = row["trial"]
        gain = with_spread(row, "miou_gain", 100, "+.1f") if "miou_gain" in row else ""
        scores = [with_spread(row, "miou", 100, ".1f"), gain]
        scores.append(with_spread(row, "confusion_ratio", 1, ".2f"))
        scores += [with_spread(others[kind][name], "miou", 100, ".1f") for kind in others]
        rows.append([titles[name], str(row["seeds"]), *scores])
    return _table(header, rows)


def _protocol(record: Mapping) -> str:
    """In one sentence, all that belongs beside the numbers of the ablation."""
    given, training = record["protocol"], record["training"]
    crf = "no CRF" if given["crf"] == "none" else f"CRF {given['crf']}"
    precision = f" in {training['precision']}" if "precision" in training else ""
    threads = f", each training on {_count(training['threads'], 'thread')}" if training else ""
    seeds = max(row["seeds"] for row in record["ablation"])
    first = record["seeds"]["recipe"]
    seed = f"seed {first}" if seeds == 1 else f"seeds {first} to {first + seeds - 1}, mean ± SD"
    return _prose(
        f"Profile mini: {given['dataset'].replace('emoji', 'EmojiVOC')} {given['split']}, "
        f"{given['images']} images; true image labels, the decoder without; scales "
        f"{_views(given['scales'])}, threshold {given['threshold']:g}, {crf}; "
        f"{record['optimizer']['iterations']} iterations of batch "
        f"{record['optimizer']['batch_size']}{precision}{threads}, {seed}; on "
        f"{_hardware(record)}, torch {record['versions']['torch']}; commit "
        f"`{record['commit'][:7]}`, {record['started'][:10]}."
    )


def _ablation(rows: Sequence[Mapping]) -> str:
    header = ["condition", "map", "seeds", "mIoU %", "precision %", "recall %"]
    header += ["confusion ratio FP/TP", "paper, Table 3"]
    return _table(
        header,
        [
            [
                row["title"],
                row["map"],
                str(row["seeds"]),
                *(_spread(row, score) for score in SCORES),
                _published(row),
            ]
            for row in rows
        ],
    )


def _spread(row: Mapping, score: str) -> str:
    """A score and, of two seeds or more, its standard deviation; shares in per cent."""
    return with_spread(row, score, *((1, ".2f") if score == "confusion_ratio" else (100, ".1f")))


def _published(row: Mapping) -> str:
    """The paper's mIoU, which is LAM's."""
    value = row["paper_voc_val_other_protocol"]
    return f"{value:g}" if value is not None and row["map"] == "LAM" else ""


def _others(record: Mapping) -> str:
    """MoRe by the protocols of published numbers."""
    crfs = {"none": "none", "released": "dense"}
    rows = [
        [
            f"`{name}`",
            MAP_NAMES[row["map"]],
            row["labels"],
            _views(row["scales"]),
            crfs.get(row["crf"], row["crf"]),
            f"{100 * row['miou']:.1f}",
        ]
        for name, row in record["protocols"].items()
    ]
    header = ["MoRe by protocol", "map", "image labels", "scales", "CRF", "mIoU %"]
    return _table(header, rows)


def _views(scales: str) -> str:
    """``1 1.5 + flip`` in words."""
    sizes, _, flip = scales.partition(" + ")
    return " and ".join(sizes.split()) + (" with flip" if flip else "")


def _prose(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _hardware(record: Mapping) -> str:
    device = record["device"]
    if device["type"] == "cpu":
        return f"{_count(device['count'], 'CPU core')} ({device['name']})"
    return f"{device['count']} × {device['name']}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars and line breaks in cells are made harmless."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_markdown, line))} |" for line in lines)


def _markdown(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
