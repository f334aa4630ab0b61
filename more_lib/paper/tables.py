"""The paper's Tables 1 to 5, each with the released log and this run beside it (notebook 07).

Pure: ``published`` numbers and what ``measurement`` found in, rows out, shares as fractions,
None where nothing was printed, logged or run. A difference to the paper is given on VOC 2012 alone:
on other images it would mean nothing.
"""

from collections.abc import Mapping, Sequence

from more_lib.paper.ablation import CONDITIONS
from more_lib.paper.claims import NOT_RUN
from more_lib.paper.published import published

PAPER_CONDITIONS = {  # rows of the paper's Table 3
    "baseline": "baseline ViT-B",
    "without_cre": "without CRE",
    "without_ure": "without URE",
    "lir": "without GCR",
    "more": "MoRe",
}


def table1(found: Mapping) -> list[dict]:
    """Pseudo labels on training images: LAM or CAM with true labels (seed), then CRF (mask)."""
    rows = [
        {
            "method": row["method"],
            "stages": row["stage"],
            "supervision": row["supervision"],
            "network": row["network"],
            "paper_seed_miou": _share(row["seed_miou"]),
            "paper_mask_miou": _share(row["mask_miou"]),
        }
        for row in published("table1")
    ]
    for row in rows:
        kind = {"MoRe-LAM": "lam", "MoRe-CAM": "cam"}.get(row["method"])
        ours = found["pseudo_labels"] if kind else {}
        for stage, name in (("seed", f"{kind}-train"), ("mask", f"{kind}-train-crf")):
            score = ours.get(name, {}).get("miou")
            row[f"our_{stage}_miou"] = score
            row[f"difference_{stage}_miou"] = _difference(
                found, score, row[f"paper_{stage}_miou"], "train"
            )
        row["protocol"] = _protocol(ours, kind) if kind else ""
    return rows


def table2(found: Mapping) -> list[dict]:
    """Segmentation: the paper's mIoU on its three splits, the released logs', and this run's.

    The released logs score maps with true labels and the decoder at one scale, both without CRF:
    each of this run's rows is of the same protocol as the published number beside it.
    """
    rows = [
        {
            "method": row["method"],
            "stages": row["stage"],
            "network": row["network"],
            **{
                f"{place}_miou": _share(row[place]) for place in ("voc_val", "voc_test", "coco_val")
            },
            "our_miou": None,
            "difference_miou": None,
            "protocol": "",
        }
        for row in published("table2")
    ]
    more = next(row for row in rows if row["method"] == "MoRe")
    voc, coco = published("voc_log_scores")[-1], published("coco_log_scores")[-1]
    logged = {
        "decoder-log": ("released log, decoder", voc["decoder_miou"], coco["decoder_miou"]),
        "lam-log": ("released log, LAM", voc["lam_miou"], coco["lam_miou"]),
        "cam-log": ("released log, CAM", voc["cam_miou"], coco["cam_miou"]),
    }
    for name, (title, on_voc, on_coco) in logged.items():
        rows.append(_log_row(title, on_voc, on_coco, name))
    ours = {"paper-val": more["voc_val_miou"], "decoder-val": None}
    ours |= {name: _share(value) for name, (_, value, _) in logged.items()}
    for name, there in ours.items():
        measured = found["protocols"].get(name)
        rows.append(
            {
                "method": f"MoRe, this run, {name}",
                "stages": "single",
                "network": found["backbone"],
                "voc_val_miou": None,
                "voc_test_miou": None,
                "coco_val_miou": None,
                "our_miou": measured["miou"] if measured else None,
                "difference_miou": _difference(found, (measured or {}).get("miou"), there, "val"),
                "protocol": measured["protocol"] if measured else NOT_RUN,
            }
        )
    return rows


def table3(found: Mapping) -> list[dict]:
    """The ablation: precision, recall and mIoU of LAM, and what each row gains on the baseline.

    Gains can be set beside the paper's in sign and order, also on other images.
    """
    paper = {row["condition"]: row for row in published("table3")}
    ours = {row["condition"]: row for row in found["ablation"] if row["map"] == "LAM"}
    log = published("voc_log_scores")[-1]
    paper_base, our_base = (paper["baseline ViT-B"]["miou"], _value(ours, "baseline", "miou"))
    rows = []
    for name, condition in CONDITIONS.items():
        there = paper.get(PAPER_CONDITIONS.get(name, ""), {})
        mine = ours.get(name, {})
        row = {"condition": condition.title}
        for score in ("precision", "recall", "miou"):
            row[f"paper_{score}"] = _share(there.get(score))
        row["released_log_miou"] = _share(log["lam_miou"]) if name == "more" else None
        for score in ("precision", "recall", "miou"):
            row[f"our_{score}"] = mine.get(score)
        row["our_deviation_of_miou"] = mine.get("miou_std")
        row["paper_gain_miou"] = _share(_minus(there.get("miou"), paper_base))
        row["our_gain_miou"] = _minus(mine.get("miou"), our_base)
        row["difference_miou"] = _difference(found, mine.get("miou"), row["paper_miou"], "val")
        row["seeds"] = mine.get("seeds")
        row["our_confusion_ratio"] = mine.get("confusion_ratio")
        rows.append(row)
    return rows


def table4(found: Mapping) -> list[dict]:
    """IoU and confusion ratio by class: ToCo, DuPL and MoRe as printed, baseline and MoRe here.

    The paper prints seven classes of VOC and the average over all; classes that neither prints nor
    holds are left out. The run's are LAM's with true labels.
    """
    paper = {row["class"]: row for row in published("table4")}
    here = {name: found["classes"].get(name, {}) for name in ("baseline", "more")}
    names = [name for name in here["more"] if name != "background"]
    means = {name: _class_means(found["ablation"], name) for name in here}
    rows = []
    for name in dict.fromkeys([*(n for n in paper if n != "average"), *names, "average"]):
        row = {"class": name}
        for method in ("toco", "dupl", "more"):
            printed = paper.get(name, {})
            row[f"paper_{method}_iou"] = _share(printed.get(f"{method}_iou"))
            row[f"paper_{method}_confusion"] = printed.get(f"{method}_confusion")
        for condition in ("baseline", "more"):
            mine = means[condition] if name == "average" else here[condition].get(name, {})
            row[f"our_{condition}_iou"] = mine.get("iou")
            row[f"our_{condition}_confusion"] = mine.get("confusion_ratio")
        rows.append(row)
    return rows


def table5(costs: Mapping[str, Mapping]) -> list[dict]:
    """Minutes and memory of a training: as printed for one RTX 3090, and of this run's networks.

    costs: what ``measurement.costs`` says of each condition, by name.
    """
    rows = [
        {
            "method": row["method"],
            "minutes": round(row["minutes"]),
            "memory_gb": row["memory_gb"],
            "ms_an_iteration": 945.0 if row["method"] == "MoRe" else None,
            "parameters": None,
            "where": "paper, Table 5: VOC 2012, one RTX 3090",
        }
        for row in published("table5")
    ]
    for name, cost in costs.items():
        threads = f", threads: {cost['threads']}" if cost["device"].startswith("cpu") else ""
        rows.append(
            {
                "method": f"this run: {CONDITIONS[name].title}",
                "minutes": cost["minutes"],
                "memory_gb": cost["peak_memory_gb"],
                "ms_an_iteration": cost["milliseconds_an_iteration"],
                "parameters": cost["parameters"],
                "where": f"{cost['device']}{threads}, {cost['precision']}: "
                f"{cost['iterations']} iterations of {cost['batch_size']}",
            }
        )
    return rows


def _log_row(title: str, voc: float, coco: float, protocol: str) -> dict:
    return {
        "method": title,
        "stages": "single",
        "network": "ViT-B",
        "voc_val_miou": _share(voc),
        "voc_test_miou": None,
        "coco_val_miou": _share(coco),
        "our_miou": None,
        "difference_miou": None,
        "protocol": f"{protocol}, where the log ends",
    }


def _class_means(rows: Sequence[Mapping], condition: str) -> dict:
    for row in rows:
        if (row["condition"], row["map"]) == (condition, "LAM"):
            return {"iou": row["miou"], "confusion_ratio": row["confusion_ratio"]}
    return {}


def _protocol(rows: Mapping[str, Mapping], kind: str) -> str:
    """The seed's protocol, and what is different in the mask's."""
    seed, mask = rows.get(f"{kind}-train"), rows.get(f"{kind}-train-crf")
    said = seed["protocol"] if seed else NOT_RUN
    return f"{said}; mask: background 1 - largest map, CRF" if mask else said


def _share(per_cent: float | None) -> float | None:
    return None if per_cent is None else round(per_cent / 100, 6)


def _value(rows: Mapping[str, Mapping], name: str, score: str) -> float | None:
    return rows.get(name, {}).get(score)


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _difference(
    found: Mapping, ours: float | None, theirs: float | None, split: str
) -> float | None:
    """Ours minus the paper's where it was measured on the paper's images, else None."""
    measured = {"val": "protocols", "train": "pseudo_labels"}[split]
    splits = {row["split"] for row in found[measured].values()}
    return _minus(ours, theirs) if found["dataset"] == "voc" and splits == {split} else None
