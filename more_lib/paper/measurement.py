"""What a run can set beside the paper's tables: measured once, as plain data (notebook 07).

``measure`` trains (or loads) the networks of the ablation and scores them by the protocols of the
published numbers. ``tables`` and ``claims`` read nothing else.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from more_lib.evaluation.protocols import map_protocol, named_protocols
from more_lib.evaluation.results import rows
from more_lib.evaluation.scoring import evaluate_or_load, evaluate_protocols
from more_lib.method.crf import has_lattice
from more_lib.paper import ablation
from more_lib.recipes.schema import Recipe
from more_lib.training.cache import Trained, train_or_load

NAMED = ("paper-val", "decoder-val", "decoder-log", "lam-log", "cam-log")
PSEUDO_LABELS = ("lam-train", "lam-train-crf", "cam-train", "cam-train-crf")


def measure(
    recipe: Recipe,
    names: Sequence[str] = ablation.MAIN,
    seeds: Sequence[int] = (0,),
    train_split: bool = False,
) -> dict:
    """Every score that Tables 1 to 4 ask for.

    names, seeds: conditions of the ablation, and the seeds of their trainings. Scores that one
    network gives (protocols, classes) are those of the first seed. train_split: score the pseudo
    labels on the training images, as the paper's Table 1 does. Else on the validation images, which
    costs less; their protocol says which it was.

    "protocols" and "pseudo_labels" hold rows by protocol name, as ``results.rows`` gives them, but
    without those that need a CRF where none can run. "ablation" is the frame of ``ablation.run``,
    "classes" has each condition's IoU and confusion ratio by class, LAM with true labels.
    """
    recipe = replace(recipe, seed=seeds[0])
    trained = {name: train_or_load(ablation.condition(recipe, name)) for name in names}
    more = trained["more"]
    return {
        "profile": recipe.profile,
        "dataset": recipe.data.dataset,
        "split": recipe.data.val_split,
        "backbone": recipe.backbone.name,
        "map_protocol": map_protocol(recipe, "lam", "true").describe(),
        "protocols": _named(more, NAMED),
        "pseudo_labels": _named(more, PSEUDO_LABELS, "" if train_split else recipe.data.val_split),
        "ablation": ablation.run(recipe, names, seeds),
        "classes": {name: _classes(network) for name, network in trained.items()},
    }


def costs(trained: Trained) -> dict:
    """What a training took, from its record: for Table 5, and never the same twice.

    minutes, peak_memory_gb (GPU memory, or what the process held of main memory), device, threads,
    precision, iterations, batch_size, parameters (of the whole network).
    """
    record, optimizer = trained.record, trained.recipe.optimizer
    kept = ("peak_memory_gb", "device", "threads", "precision", "iterations", "processes")
    return {
        "minutes": round(record["seconds"] / 60, 2),
        "milliseconds_an_iteration": round(1000 * record["seconds"] / record["iterations"], 1),
        **{name: record.get(name) for name in kept},  # older trainings noted less
        "batch_size": optimizer.batch_size,
        "parameters": sum(each.numel() for each in trained.model.parameters()),
    }


def can_refine() -> bool:
    """Whether dense CRF can run over a whole split here: by pydensecrf2, or on a GPU."""
    return has_lattice() or torch.cuda.is_available()


def _named(trained: Trained, names: Sequence[str], split: str = "") -> dict[str, dict]:
    known = named_protocols(names, trained.recipe, split)
    wanted = {name: each for name, each in known.items() if each.crf == "none" or can_refine()}
    found = zip(wanted.items(), evaluate_protocols(trained, list(wanted.values())), strict=True)
    return {
        name: {**rows(evaluation).to_dict("records")[0], "protocol": protocol.describe()}
        for (name, protocol), evaluation in found
    }


def _classes(trained: Trained) -> dict[str, dict[str, float | None]]:
    """IoU and confusion ratio of every class, background first; None where there is no value."""
    result = evaluate_or_load(trained).result("lam")
    scores = {score: getattr(result.scores, score) for score in ("iou", "confusion_ratio")}
    table = pd.DataFrame(scores, index=["background", *result.classes])
    return table.astype(object).where(np.isfinite(table), None).to_dict("index")
