"""The paper's claims, each with its number, what this run shows, and a verdict (notebook 07).

A verdict follows from numbers by the rule that its line states; nobody decides it. With several
seeds a difference counts when it is no smaller than the standard deviations of both sides together,
with one when it has the right sign: then it is an indication, and says so. A point is the least
that counts, and 0.01 of what is no percentage: what a table's digits do not show is no difference.
A lower confusion ratio does not count when it leaves out more classes, those without a hit.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import ge, gt, le, lt

import numpy as np
import pandas as pd

from more_lib.paper.published import published
from more_lib.paper.trials import MISSED, SCORES, over_seeds, with_spread

VERDICT_COLUMNS = ("claim", "paper", "ours", "verdict", "protocol")
SHOWN, NOT_SHOWN, NOT_RUN = VERDICTS = ("shown", "not shown", "not run here")
LEAST = 0.01
_BETTER = {"higher": gt, "lower": lt, "at least": ge, "at most": le}


def verdicts(
    found: Mapping,
    costs: Mapping,
    separation: Mapping,
    plain: Mapping | pd.Series | None = None,
    methods: Mapping | None = None,
) -> pd.DataFrame:
    """One row a claim in ``VERDICT_COLUMNS``, all of them text.

    found: what ``measurement.measure`` gives. costs: of each condition, as for ``tables.table5``.
    separation: silhouette of the class tokens by condition (Figure 5); may be empty. plain: LAM's
    scores of ``ablation.plain``, if that was trained (Figure 3). methods: a record of the study
    ``methods``, for the claims about ToCo, DuPL and MCTformer+: by its seeds alone, MoRe's too.
    """
    known = evidence(found, costs, separation, plain, methods)
    protocols = {"maps": found["map_protocol"], "split": f"{found['dataset']} {found['split']}"}
    protocols["voc"], protocols["coco"] = "paper-val on VOC 2012", "paper-val on COCO 2014"
    protocols["training"] = "profile voc on a GPU"
    protocols["methods"] = (methods or {}).get("protocol", "study methods")
    protocols["methods_split"] = protocols["methods"].split(",")[0]
    if f"more on {found['dataset']}" in known.index:
        protocols[found["dataset"]] = found["protocols"]["paper-val"]["protocol"]
    if "more training" in known.index:
        protocols["training"] = costs["more"]["device"]
    rows = [judge(claim, known, protocols) for _, claim in published("claims").iterrows()]
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)


def judge(claim: pd.Series, known: pd.DataFrame, protocols: Mapping[str, str]) -> tuple[str, ...]:
    """A claim's ``VERDICT_COLUMNS`` by the one rule for all: ``NOT_RUN`` if a number is missing.

    claim: a row of ``published/claims.csv``: that of ``known`` the row ``after`` is ``better`` than
    the row ``before``, in each of ``scores`` (by spaces). ``ours`` is how this run's numbers are
    put, before's scores, then after's, and for LAM the token mAP of both; ``protocol`` is filled in
    from ``protocols``.
    """
    scores, protocol = claim["scores"].split(), claim["protocol"].format(**protocols)
    pair = known.reindex([claim["before"], claim["after"]])
    before, after = pair.reindex(columns=scores).to_numpy(float)
    gain = (after - before).round(9)  # 0.21 - 0.20 is a whole point
    if np.isnan(gain).any():
        return claim["claim"], claim["paper"], NOT_RUN, NOT_RUN, protocol
    spread = pair.reindex(columns=[f"{score}_std" for score in scores]).to_numpy(float)
    holds = _holds(claim["better"], gain, np.hypot(*np.nan_to_num(spread)))
    texts = [
        with_spread(row, score) if score in SCORES else row[score]
        for _, row in pair.iterrows()
        for score in scores
    ]
    ours = claim["ours"].format(*texts)
    missed = pair[MISSED].fillna(0)  # older records did not count them
    if scores == ["confusion_ratio"] and missed.iloc[1] > missed.iloc[0]:
        holds, ours = False, ours + "; classes without a hit {:g} → {:g}".format(*missed)
    if claim["after"].endswith("LAM"):  # of tokens that do not know their class it says little
        known_by = pair.apply(with_spread, axis=1, args=("token_map",)).drop_duplicates()
        ours += "; token mAP " + (" → ".join(known_by[known_by != "–"]) or "–")
    if not pd.isna(pair["seeds"].iloc[1]):
        seeds = pair["seeds"].min()  # a difference rests on the side that has fewer
        protocol += f"; {seeds:.0f} seeds" if seeds > 1 else "; one seed: an indication"
    verdict = SHOWN if holds else NOT_SHOWN
    return claim["claim"], claim["paper"], ours, verdict, protocol


def _holds(better: str, gain: np.ndarray, noise: np.ndarray) -> bool:
    """Whether each gain is on the claim's side, and beyond the noise where it has to be."""
    if better == "as well":
        return bool((gain >= -LEAST).all())
    least = LEAST if better in ("higher", "lower") else 0.0  # "at least" has its allowance
    return bool((_BETTER[better](gain, 0) & (abs(gain) >= np.maximum(noise, least))).all())


def evidence(
    found: Mapping,
    costs: Mapping,
    separation: Mapping,
    plain: Mapping | pd.Series | None = None,
    methods: Mapping | None = None,
) -> pd.DataFrame:
    """All that claims are judged by: a row a condition and what was measured, ``more LAM``.

    Those of the study ``methods`` are called as ``recorded toco CAM``, ``recorded more tokens``.
    Arguments as of ``verdicts``. The paper's own numbers are in it where this run may be held to
    them: mIoU, half a point allowed, on its data; time and memory of a whole training on a GPU.
    """
    rows: dict[str, Mapping] = {"as many wrong as right": {"precision": 0.5}}
    if plain is not None:
        rows["plain LAM"] = dict(plain)
    tokens = {f"{name} tokens": value for name, value in separation.items()}
    for name, each in (methods or {}).get("tokens", {}).items():
        tokens[f"recorded {name} tokens"] = each["separation"][0]
    rows |= {name: {"silhouette": value, "seeds": 1} for name, value in tokens.items()}
    number = {"voc": 0.764, "coco": 0.474}.get(found["dataset"])
    scored = found["protocols"].get("paper-val")
    if number and scored and scored["split"] == "val":
        name = found["dataset"]
        rows |= {f"paper on {name}": {"miou": number - 0.005}, f"more on {name}": scored}
    cost = costs.get("more")
    whole = (found["dataset"], (cost or {}).get("iterations"), (cost or {}).get("batch_size"))
    if cost and whole == ("voc", 20_000, 4) and "cuda" in cost["device"]:
        limits = {"minutes": 372, "peak_memory_gb": 12.1}
        rows |= {"paper's training": limits, "more training": {key: cost[key] for key in limits}}
    columns = [*SCORES, *(f"{score}_std" for score in SCORES), "seeds", MISSED]
    columns += ["silhouette", "minutes", "peak_memory_gb"]
    ablation = found["ablation"]
    ablation = ablation.set_index(ablation["condition"] + " " + ablation["map"])
    others = pd.DataFrame.from_dict(rows, orient="index")
    beside = over_seeds((methods or {}).get("rows", []))
    beside = beside.set_index("recorded " + beside["trial"] + " " + beside["map"])
    tables = (ablation, others, beside)
    return pd.concat([each.reindex(columns=columns).astype(float) for each in tables])


def verdict_counts(verdicts: pd.DataFrame | Sequence[Mapping]) -> str:
    """How many claims came to which verdict: ``7 shown, 1 not shown``; "" without any."""
    counts = Counter(pd.DataFrame(verdicts, columns=["verdict"])["verdict"])
    order = dict.fromkeys([*VERDICTS, *counts])
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in order if counts[verdict])
