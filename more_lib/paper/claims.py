"""The paper's claims, each with its number, what this run shows, and a verdict (notebook 07).

A verdict follows from numbers by the rule that its line states; nobody decides it. With several
seeds a difference counts when it exceeds the standard deviations of both sides together, with one
when it has the right sign: then it is an indication, and says so.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import hypot

from more_lib.paper.trials import with_spread

VERDICT_COLUMNS = ("claim", "paper", "ours", "verdict", "protocol")
SHOWN, NOT_SHOWN, NOT_RUN = VERDICTS = ("shown", "not shown", "not run here")

SHORT = {"lir": "LIR", "more": "MoRe", "without_cre": "without CRE", "without_ure": "without URE"}


def verdicts(
    found: Mapping,
    costs: Mapping[str, Mapping],
    separation: Mapping[str, float],
    plain: Mapping | None = None,
) -> list[dict[str, str]]:
    """One row a claim: claim, paper, ours, verdict, protocol, all of them text.

    Args:
        found: what ``measurement.measure`` gives.
        costs: of each condition, as for ``tables.table5``.
        separation: silhouette of the class tokens by condition (Figure 5); may be empty.
        plain: LAM's scores of ``ablation.plain``, if that was trained (Figure 3).
    """
    lam = {row["condition"]: row for row in found["ablation"] if row["map"] == "LAM"}
    more = {row["map"]: row for row in found["ablation"] if row["condition"] == "more"}
    base = {row["map"]: row for row in found["ablation"] if row["condition"] == "baseline"}
    where = found["map_protocol"]
    decoder = where.replace(", LAM, true image labels", ", decoder, no image labels").split(
        ", scales"
    )[0]
    return [
        _artifacts(
            "A plain ViT's class tokens look at patches that mean nothing: more wrong than right",
            "Figure 1, no number",
            "plain",
            plain,
            where,
        ),
        _artifacts(
            "Patch-token contrast does not cure it: still more wrong than right",
            "Figure 3, no number",
            "baseline",
            lam.get("baseline"),
            where,
        ),
        _step("LIR lifts LAM", lam, "baseline", "lir", "41.6 → 72.1", where),
        _step("GCR lifts LAM further", lam, "lir", "more", "72.1 → 76.4", where),
        _step("CRE is what LIR rests on", lam, "without_cre", "more", "65.0 → 76.4", where),
        _step("URE adds to it", lam, "without_ure", "more", "74.4 → 76.4", where),
        _step(
            "MoRe's LAM has less false activation",
            lam,
            "baseline",
            "more",
            "FP/TP 0.22, ToCo 0.32",
            where,
            score="confusion_ratio",
        ),
        _step(
            "LAM localizes as well as CAM",
            {"CAM": more.get("CAM"), "LAM": more.get("LAM")},
            "CAM",
            "LAM",
            "pseudo labels 76.9 CAM, 77.0 LAM",
            f"{where}; CAM by the same protocol",
        ),
        _step(
            "The decoder gains from MoRe",
            {"baseline": base.get("decoder"), "more": more.get("decoder")},
            "baseline",
            "more",
            "released log: 72.1, no baseline",
            f"{decoder}, scale 1, no CRF",
        ),
        _tokens(separation, where),
        _segmentation(found),
        _cost(costs),
    ]


def verdict_counts(verdicts: Sequence[Mapping]) -> str:
    """How many claims came to which verdict: ``7 shown, 1 not shown``; "" without any."""
    counts = Counter(row["verdict"] for row in verdicts)
    known = [verdict for verdict in VERDICTS if counts[verdict]]
    others = [verdict for verdict in counts if verdict not in VERDICTS]
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in [*known, *others])


def _artifacts(
    claim: str, paper: str, name: str, row: Mapping | None, where: str
) -> dict[str, str]:
    ratio = (row or {}).get("confusion_ratio")
    ours = NOT_RUN if ratio is None else f"FP/TP {name} {_text(row, 'confusion_ratio')}"
    return _row(claim, paper, ours, None if ratio is None else ratio > 1, where, row)


def _step(
    claim: str,
    rows: Mapping[str, Mapping | None],
    before: str,
    after: str,
    paper: str,
    where: str,
    score: str = "miou",
) -> dict[str, str]:
    """A claim that ``after`` is better than ``before``: higher, or for confusion lower."""
    first, second = rows.get(before), rows.get(after)
    if not first or not second or None in (first[score], second[score]):
        return _row(claim, paper, NOT_RUN, None, where, None)
    gain = second[score] - first[score]
    noise = hypot(*(row.get(f"{score}_std") or 0.0 for row in (first, second)))
    better = -gain > noise if score == "confusion_ratio" else gain > noise
    names = [SHORT.get(name, name) for name in (before, after)]
    unit = "FP/TP " if score == "confusion_ratio" else ""
    ours = f"{unit}{names[0]} {_text(first, score)} → {names[1]} {_text(second, score)}"
    return _row(claim, paper, ours, better, where, second)


def _tokens(separation: Mapping[str, float], where: str) -> dict[str, str]:
    there = "baseline" in separation and "more" in separation
    return _row(
        "MoRe's class tokens separate better by class",
        "Figure 5, no number",
        f"silhouette {separation['baseline']:.2f} → {separation['more']:.2f}" if there else NOT_RUN,
        separation["more"] > separation["baseline"] if there else None,
        f"{where.split(', LAM')[0]}, tokens of the classes present, cosine distance",
        {},
    )


def _segmentation(found: Mapping) -> dict[str, str]:
    numbers = {"voc": 0.764, "coco": 0.474}
    row = found["protocols"].get("paper-val")
    here = row is not None and found["dataset"] in numbers and row["split"] == "val"
    return _row(
        "76.4 mIoU on VOC val, 47.4 on COCO val",
        "76.4, 47.4 (75.0 on VOC test)",
        f"{100 * row['miou']:.1f}" if here else NOT_RUN,
        row["miou"] >= numbers[found["dataset"]] - 0.005 if here else None,
        row["protocol"] if here else "paper-val on VOC 2012 or COCO 2014",
        {} if here else None,
    )


def _cost(costs: Mapping[str, Mapping]) -> dict[str, str]:
    cost = costs.get("more")
    here = cost is not None and cost["iterations"] == 20_000 and "cuda" in cost["device"]
    ours = f"{cost['minutes']:.0f} min, {cost['peak_memory_gb']:.1f} GB" if here else NOT_RUN
    return _row(
        "A training takes 372 minutes and 12.1 GB",
        "372 min, 12.1 GB, one RTX 3090",
        ours,
        cost["minutes"] <= 372 and cost["peak_memory_gb"] <= 12.1 if here else None,
        cost["device"] if here else "profile voc on a GPU",
        {} if here else None,
    )


def _row(
    claim: str, paper: str, ours: str, holds: bool | None, where: str, row: Mapping | None
) -> dict[str, str]:
    seeds = (row or {}).get("seeds")
    counted = ""
    if seeds and holds is not None:
        counted = f"; {seeds} seeds" if seeds > 1 else "; one seed: an indication"
    verdict = NOT_RUN if holds is None else SHOWN if holds else NOT_SHOWN
    return {
        "claim": claim,
        "paper": paper,
        "ours": ours,
        "verdict": verdict,
        "protocol": where + counted,
    }


def _text(row: Mapping, score: str) -> str:
    in_per_cent = score != "confusion_ratio"
    return with_spread(row, score, *((100, ".1f") if in_per_cent else (1, ".2f")))
