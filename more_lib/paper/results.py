"""notebooks/RESULTS.md: what a run and the recorded studies measured, each protocol once.

The page's words are in ``results.md`` beside this module. Its numbers are a run's
(``records/mini_run.json`` is of the one that is shown) and those of the recorded studies.
"""

from collections.abc import Mapping
from importlib import resources
from string import ascii_uppercase

import pandas as pd

from more_lib.evaluation.protocols import MAP_NAMES
from more_lib.paper import records, rivals
from more_lib.paper.frames import markdown
from more_lib.paper.photographs import ONE, SEVERAL
from more_lib.paper.published import published
from more_lib.paper.studies import STUDIES, compared, recorded, trial_titles
from more_lib.paper.trials import over_seeds, with_spread
from more_lib.recipes.loading import load_recipe

UNSEEDED = "430c601"  # up to it the augmentation with workers was not seeded by image
AHEAD = "\nBefore them it trained {} networks in {:.1f} minutes, which later runs find."


def render(record: Mapping) -> str:
    """The page as Markdown, from what ``runs.reading.record_of`` keeps of a run."""
    page = (resources.files(__package__) / "results.md").read_text(encoding="utf-8")
    seeds, first = max(row["seeds"] for row in record["ablation"]), record["seeds"]["recipe"]
    device, ahead = record["device"], record["training_ahead"] or ""
    notebooks = pd.DataFrame(record["notebooks"])
    cores = f"CPU core{'s' * (device['count'] != 1)} ({device['name']})"
    return page.format(
        run=record,
        seeds=f"seed {first}" if seeds == 1 else f"seeds {first} to {first + seeds - 1}, mean ± SD",
        hardware=f"{device['count']} {cores if device['type'] == 'cpu' else '× ' + device['name']}",
        ablation=_ablation(pd.DataFrame(record["ablation"])),
        protocols=_protocols(pd.DataFrame.from_dict(record["protocols"], orient="index")),
        claims=_claims(pd.DataFrame(record["verdicts"])),
        notebooks=_notebooks(notebooks),
        minutes=notebooks["seconds"].sum() / 60,
        ahead=ahead and AHEAD.format(ahead["networks"], ahead["seconds"] / 60),
        speed=_speed(records.speed()),
        splits=_splits(),
        methods=_methods(),
        **{name: _study(name) for name in STUDIES if name != "methods"},
    )


def _ablation(rows: pd.DataFrame) -> str:
    paper = rows["paper_voc_val_other_protocol"].where(rows["map"] == "LAM")
    table = {
        "condition": rows["title"],
        "map": rows["map"],
        "seeds": rows["seeds"],
        **_named(rows),
        "mIoU %": _texts(rows, "miou"),
        "precision %": _texts(rows, "precision"),
        "recall %": _texts(rows, "recall"),
        "confusion ratio FP/TP": _texts(rows, "confusion_ratio"),
        "paper, Table 3": paper.map("{:g}".format, na_action="ignore").fillna(""),
    }
    return markdown(pd.DataFrame(table))


def _protocols(rows: pd.DataFrame) -> str:
    """MoRe by the protocols of published numbers."""
    table = {
        "protocol": [f"`{name}`" for name in rows.index],
        "map": rows["map"].map(MAP_NAMES),
        "image labels": rows["labels"],
        "scales": rows["scales"],
        "CRF": rows["crf"].replace("released", "dense"),
        **_named(rows),
        "mIoU %": (100 * rows["miou"]).map("{:.2f}".format),
    }
    return markdown(pd.DataFrame(table))


def _claims(verdicts: pd.DataFrame) -> str:
    """The claims, their protocols as letters, which a list below spells out."""
    protocol, semicolon, rest = verdicts["protocol"].str.partition("; ").items()
    letters = dict(zip(protocol[1].unique(), ascii_uppercase, strict=False))
    table = verdicts.assign(protocol=protocol[1].map(letters) + semicolon[1] + rest[1])
    table = table.rename(columns={"claim": "claim of the paper", "ours": "this run"})
    legend = [f"- {letter}: {protocol}" for protocol, letter in letters.items()]
    return "\n".join([markdown(table), "\nProtocols of this run:\n", *legend])


def _notebooks(entries: pd.DataFrame) -> str:
    titles = entries["title"].str.partition(":")[0].str.replace(" · ", " ")
    minutes = (entries["seconds"] / 60).map("{:.1f}".format)
    links = "[" + titles + "](" + entries["name"] + ".ipynb)"
    return markdown(pd.DataFrame({"notebook": links, "minutes": minutes}))


def _speed(record: Mapping) -> dict:
    """A record of ``bench speed`` with its rows as "steps" and "loops"."""
    rows, device = pd.DataFrame(record["rows"]), record["device"]
    steps, loops = rows[rows["forwards"].notna()], rows[rows["share"].notna()]
    memory = steps["memory_gb"].where(steps["part"].str.endswith("whole step"))
    of_steps = {
        "step": steps["part"],
        "CPU s" if device["type"] == "cpu" else "s": steps["cpu_seconds"].map("{:.2f}".format),
        "forwards of the plain ViT": steps["forwards"].map("{:.2f}".format),
        "peak memory GB": memory.map("{:.1f}".format, na_action="ignore").fillna(""),
    }
    of_loops = {
        "against plain loops": loops["part"],
        "ours ms": (1000 * loops["seconds"]).map("{:.1f}".format),
        "times faster": (1 / loops["share"]).map("{:.1f}".format),
    }
    return {
        **record,
        "hardware": f"{device['count']} × {device['name']}",
        "steps": markdown(pd.DataFrame(of_steps)),
        "loops": markdown(pd.DataFrame(of_loops)),
    }


def _by_labels(found: Mapping) -> str:
    """Each map of a study that tells images of one class from those of several."""
    scored = over_seeds(found["rows"])
    kinds = scored["map"].str.partition(", ")
    every = scored[kinds[2] == ""]
    table = {"trained": every["trial"], "map": every["map"], "mIoU %": _texts(every, "miou")}
    table["FP/TP"] = _texts(every, "confusion_ratio")
    for title in (ONE, SEVERAL):
        of = title.removeprefix("{}, ")
        part = scored[kinds[2] == of].assign(map=kinds[0])
        part = every[["trial", "map"]].merge(part, "left", ["trial", "map"])
        table[f"{of}, mIoU %"] = _texts(part, "miou").to_numpy()
    return markdown(pd.DataFrame(table))


def _blocks(found: Mapping) -> str:
    """Long tokens and isolated activation of a backbone by block, shares in per cent."""
    units = {"outliers": (" %", 100), "largest": ("", 1), "isolated": (" %", 100)}
    columns = {
        f"{name}{unit}, {registers}": [f"{factor * row[name]:.2f}" for row in rows]
        for registers, rows in found["blocks"].items()
        for name, (unit, factor) in units.items()
    }
    blocks = range(1, 1 + len(next(iter(columns.values()))))
    return markdown(pd.DataFrame({"block": blocks, **columns}))


def _study(name: str) -> dict[str, str]:
    """A study's record, with a row a trial over its seeds as "table"."""
    study, found = STUDIES[name], recorded(name)
    rows = compared(found["rows"], study.reference).set_index("trial")
    of_map = over_seeds(found["rows"]).set_index(["map", "trial"])
    table = {
        "trained": rows.index.map(trial_titles(name, load_recipe(found["profile"]))),
        "seeds": rows["seeds"],
        **_named(rows),
        "LAM mIoU %": _texts(rows, "miou"),
        "difference": _texts(rows, "miou_gain").replace("–", ""),
        "LAM FP/TP": _texts(rows, "confusion_ratio"),
        "CAM %": _texts(of_map.loc["CAM"], "miou"),
        "decoder %": _texts(of_map.loc["decoder"], "miou"),
    }
    before = ", before the augmentation was seeded by image,"
    return found | {
        "question": study.question,
        "reference": study.reference,
        "hardware": "; ".join(found["hardware"]),
        "before": before if found["commit"] == UNSEEDED else "",
        "table": markdown(pd.DataFrame(table)),
        **({"maps": _by_labels(found), "blocks": _blocks(found)} if "blocks" in found else {}),
    }


def _methods() -> dict[str, str]:
    """The record of the study ``methods``, its tables, and the numbers that were published."""
    found, numbers = recorded("methods"), published("rivals")
    return found | {
        "question": STUDIES["methods"].question,
        "hardware": "; ".join(found["hardware"]),
        "comparison": markdown(rivals.comparison(found)),
        "costs": markdown(rivals.cost_table(found)),
        "published": markdown(numbers.assign(number=numbers["number"].map("{:.1f}".format))),
    }


def _splits() -> str:
    """The conditions' maps on val, where mini was first searched, and on dev, unseen by then."""
    found = {"val": recorded("conditions"), "dev": records.study("dev")}
    val, dev = (over_seeds(each["rows"]).set_index(["trial", "map"]) for each in found.values())
    val, dev = val.align(dev, "inner", axis=0)
    table: dict = {"condition": val.index.get_level_values(0), "map": val.index.get_level_values(1)}
    for score, title in (("miou", "mIoU"), ("image_map", "image mAP")):
        for split, values in (("val", val), ("dev", dev), ("difference", dev - val)):
            table[f"{title} %, {split}"] = (100 * values[score]).map("{:.1f}".format).to_numpy()
    return markdown(pd.DataFrame(table))


def _named(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """How well the network of each row names classes; dashes in records from before that."""
    rows = rows.reindex(columns=rows.columns.union(["image_map", "token_map"]))
    return {f"{kind} mAP %": _texts(rows, f"{kind}_map") for kind in ("image", "token")}


def _texts(rows: pd.DataFrame, score: str) -> pd.Series:
    return rows.apply(with_spread, axis=1, args=(score,))
