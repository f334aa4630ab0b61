"""The paper's Tables 1 to 5, each with the released log and this run beside it (notebook 07).

Pure: ``published`` numbers and what ``measurement`` found in, frames out, shares as fractions,
missing where nothing was printed, logged or run. A difference to the paper is given on VOC 2012
alone: on other images it would mean nothing. Beside each score of this run stands how well the
network's classifier and its class tokens name the classes of those images.
"""

from collections.abc import Mapping
from math import nan

import pandas as pd

from more_lib.paper.ablation import CONDITIONS
from more_lib.paper.claims import NOT_RUN
from more_lib.paper.published import published
from more_lib.paper.trials import with_spread

NAMING = ("image_map", "token_map")
OURS = ("miou", *NAMING, "protocol")
LOGGED = {"decoder-log": "decoder", "lam-log": "LAM", "cam-log": "CAM"}


def table1(found: Mapping) -> pd.DataFrame:
    """Pseudo labels on training images: LAM or CAM with true labels (seed), then CRF (mask)."""
    paper, ours = published("table1"), _by_name(found["pseudo_labels"], *OURS)
    table = paper[["method", "stage", "supervision", "network"]].rename(columns={"stage": "stages"})
    for stage in ("seed", "mask"):
        table[f"paper_{stage}_miou"] = _share(paper[f"{stage}_miou"])
    seed = table["method"].map({"MoRe-LAM": "lam-train", "MoRe-CAM": "cam-train"})
    for stage, name in (("seed", seed), ("mask", seed + "-crf")):
        table[f"our_{stage}_miou"] = mine = name.map(ours["miou"])
        theirs = table[f"paper_{stage}_miou"]
        table[f"difference_{stage}_miou"] = _difference(found, mine, theirs, "train")
    for score in NAMING:
        table[f"our_{score}"] = seed.map(ours[score])
    protocol = seed.map(ours["protocol"]).fillna(NOT_RUN)
    refined = "; mask: background 1 - largest map, CRF"
    protocol += table["our_mask_miou"].notna().map({True: refined, False: ""})
    table["protocol"] = protocol.where(seed.notna(), "")
    return table


def table2(found: Mapping) -> pd.DataFrame:
    """Segmentation: the paper's mIoU on its three splits, the released logs', and this run's.

    The released logs score maps with true labels and the decoder at one scale, both without CRF:
    each of this run's rows is of the same protocol as the published number beside it.
    """
    paper = published("table2").rename(columns={"stage": "stages"})
    table = paper[["method", "stages", "network"]].copy()
    for place in ("voc_val", "voc_test", "coco_val"):
        table[f"{place}_miou"] = _share(paper[place])
    voc, coco = (_share(published(f"{name}_log_scores").iloc[-1]) for name in ("voc", "coco"))
    logs = pd.DataFrame(
        {
            "method": f"released log, {kind}",
            "network": "ViT-B",
            "voc_val_miou": voc[f"{kind.lower()}_miou"],
            "coco_val_miou": coco[f"{kind.lower()}_miou"],
            "protocol": f"{name}, where the log ends",
        }
        for name, kind in LOGGED.items()
    )
    more = table.set_index("method").loc["MoRe", "voc_val_miou"]
    logged = dict(zip(LOGGED, logs["voc_val_miou"], strict=True))
    theirs = pd.Series({"paper-val": more, "decoder-val": nan} | logged)
    ours = _by_name(found["protocols"], *OURS).reindex(theirs.index)
    runs = pd.DataFrame(
        {
            "method": "MoRe, this run, " + theirs.index,
            "network": found["backbone"],
            "our_miou": ours["miou"],
            **{f"our_{score}": ours[score] for score in NAMING},
            "difference_miou": _difference(found, ours["miou"], theirs, "val"),
            "protocol": ours["protocol"].fillna(NOT_RUN),
        }
    )
    columns = [*table, *(name for name in runs if name not in table)]
    table = pd.concat([table, logs, runs], ignore_index=True)[columns]
    return table.fillna({"stages": "single", "protocol": ""})


def table3(found: Mapping) -> pd.DataFrame:
    """The ablation: precision, recall and mIoU of LAM, and what each row gains on the baseline.

    Gains can be set beside the paper's in sign and order, also on other images. Differences cannot,
    even on VOC: the paper does not print the protocol, and its 76.4 took CRF and seven scales.
    """
    scores = ["precision", "recall", "miou"]
    rows = published("conditions").set_index("condition")["paper"]
    paper = published("table3").set_index("condition").reindex(rows).set_axis(rows.index)
    ours = _lam(found, [*scores, "miou_std", "confusion_ratio", "seeds", *NAMING])
    ours = ours.reindex(CONDITIONS)
    table = pd.DataFrame({"condition": {name: each.title for name, each in CONDITIONS.items()}})
    table[[f"paper_{score}" for score in scores]] = _share(paper[scores])
    logged = _share(published("voc_log_scores")["lam_miou"]).iloc[-1]
    table["released_log_miou"] = pd.Series({"more": logged})
    table[[f"our_{score}" for score in scores]] = ours[scores]
    table["our_deviation_of_miou"] = ours["miou_std"]
    table["paper_gain_miou"] = _share(paper["miou"] - paper.loc["baseline", "miou"])
    table["our_gain_miou"] = ours["miou"] - ours.loc["baseline", "miou"]
    table["seeds"] = ours["seeds"].astype("Int64")
    table["our_confusion_ratio"] = ours["confusion_ratio"]
    table[[f"our_{score}" for score in NAMING]] = ours[[*NAMING]]
    return table.reset_index(drop=True)


def table4(found: Mapping) -> pd.DataFrame:
    """IoU and confusion ratio by class: ToCo, DuPL and MoRe as printed, baseline and MoRe here.

    The paper prints seven classes of VOC and the average over all; classes that neither prints nor
    holds are left out. The run's are LAM's with true labels, of classes those of the first seed.
    """
    paper, named = published("table4").set_index("class"), []
    means = _lam(found, ["miou", "confusion_ratio", "seeds", *NAMING])
    classes = [name for name in found["classes"].get("more", {}) if name != "background"]
    names = dict.fromkeys([*paper.index.drop("average"), *classes, "average"])
    table = pd.DataFrame(index=pd.Index(names, name="class"))
    for method in ("toco", "dupl", "more"):
        table[f"paper_{method}_iou"] = _share(paper[f"{method}_iou"])
        table[f"paper_{method}_confusion"] = paper[f"{method}_confusion"]
    for name in ("baseline", "more"):
        ours = _by_name(found["classes"].get(name, {}), "iou", "confusion_ratio").astype(float)
        if name in means.index:
            ours.loc["average"] = means.loc[name, ["miou", "confusion_ratio"]].array
            image, token = (with_spread(means.loc[name], score) for score in NAMING)
            several = f", of {seeds:.0f} seeds" if (seeds := means.loc[name, "seeds"]) > 1 else ""
            named.append(f"our {name}{several}: image mAP % {image}, token mAP % {token}")
        table[f"our_{name}_iou"] = ours["iou"]
        table[f"our_{name}_confusion"] = ours["confusion_ratio"]
    table["note"] = pd.Series({"average": "; ".join(named)})
    return table.reset_index()


def table5(costs: Mapping[str, Mapping]) -> pd.DataFrame:
    """Minutes and memory of a training: as printed for one RTX 3090, and of this run's networks.

    costs: what ``measurement.costs`` says of each condition, by name.
    """
    paper = published("table5").assign(where="paper, Table 5: VOC 2012, one RTX 3090")
    paper["ms_an_iteration"] = paper["method"].map({"MoRe": 945.0})
    columns = ["method", "minutes", "memory_gb", "ms_an_iteration", "parameters", "where"]
    # Objects, so that whole numbers stay whole beside missing ones and fractions.
    table = paper.reindex(columns=columns).astype(object)
    for name, cost in costs.items():
        threads = f", threads: {cost['threads']}" if cost["device"].startswith("cpu") else ""
        table.loc[len(table)] = [
            f"this run: {CONDITIONS[name].title}",
            cost["minutes"],
            cost["peak_memory_gb"],
            cost["milliseconds_an_iteration"],
            cost["parameters"],
            f"{cost['device']}{threads}, {cost['precision']}: "
            f"{cost['iterations']} iterations of {cost['batch_size']}",
        ]
    return table


def _by_name(rows: Mapping[str, Mapping], *columns: str) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns)


def _lam(found: Mapping, columns: list[str]) -> pd.DataFrame:
    """LAM's rows of the ablation by condition."""
    rows = found["ablation"]
    return rows[rows["map"] == "LAM"].set_index("condition").reindex(columns=columns)


def _share(per_cent: pd.Series) -> pd.Series:
    return (per_cent / 100).round(6)


def _difference(found: Mapping, ours: pd.Series, theirs: pd.Series, split: str) -> pd.Series:
    """Ours minus the paper's where it was measured on the paper's images, else missing."""
    measured = {"val": "protocols", "train": "pseudo_labels"}[split]
    splits = {row["split"] for row in found[measured].values()}
    alike = found["dataset"] == "voc" and splits == {split}
    return ours - theirs if alike else ours * nan
