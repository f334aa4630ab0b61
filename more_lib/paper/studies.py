"""Studies: many trainings that answer one question, too long for a first look, so recorded.

``python -m more_lib study variants`` trains what the cache lacks and prints the answer; notebook 07
shows it. What our machines found is kept in ``records`` with its protocol and hardware.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import NamedTuple

import pandas as pd

from more_lib.evaluation.protocols import map_protocol
from more_lib.method.model import MoRe
from more_lib.method.weight_files import MINI_WIDTHS
from more_lib.paper import ablation, photographs, records, rivals, switches, trials
from more_lib.paper.trials import SCORES, Rows, with_spread
from more_lib.recipes.loading import changed, training_fingerprint
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError
from more_lib.training.cache import Trained, train_or_load


class Study(NamedTuple):
    """A question, the trainings that answer it, and which one the others are held against."""

    question: str
    trials: Callable[[Recipe], dict[str, Recipe]]
    reference: str
    rows: Callable[[str, Trained], list[dict]] = trials.score_trained  # of a trial's network
    beside: Callable[[Recipe], dict] = lambda recipe: {}  # what the record holds besides its rows
    profile: str = "mini"  # that it is about


def backbones(recipe: Recipe) -> dict[str, Recipe]:
    """Baseline and MoRe on the recipe's backbone, cut after fewer of its blocks, and narrower ones.

    A half, two thirds, all: for ViT-B 6, 8 and 12 blocks. The auxiliary classifier stays at the
    third block from the end. Of a shipped backbone also the narrower ones, pretrained alike.
    """
    encoder = MoRe.from_recipe(recipe, pretrained=False).encoder
    blocks, width = len(encoder.blocks), encoder.embed_dim
    depths = sorted({max(blocks // 2, 3), max(2 * blocks // 3, 3), blocks})
    sizes = {(depth, width): [f"backbone.depth={depth}"] for depth in depths}
    sizes[blocks, width] = []  # as it is, whether the recipe cuts it or not
    if recipe.backbone.name in MINI_WIDTHS and not recipe.backbone.weights:
        narrower = {name: each for name, each in MINI_WIDTHS.items() if each < width}
        sizes |= {(blocks, each): [f"backbone.name={name}"] for name, each in narrower.items()}
    return {
        f"{name}, {depth} blocks of {width}": changed(ablation.condition(recipe, name), overrides)
        for (depth, width), overrides in sizes.items()
        for name in ("baseline", "more")
    }


# Of the recipe mini-plus, each with what leaves it out: the value of mini.
PARTS = {
    "maps along edges": "evaluation.refinement=none",
    "labels of LAM and CAM": "masks.decoder_map=cam",
    "smaller crops": "data.crop_scale=[0.5,1.0]",
    "stronger contrast": "loss.patch_token_contrast=0.3",
    "faster heads": "optimizer.head_lr_factor=10.0",
    "the window's centre": "lir.token=corner",
}


def parts(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe mini-plus, then without each of its parts alone, then without all: mini, and mini
    with the one part that needs no training."""
    alone = {f"without {name}": changed(recipe, back.split()) for name, back in PARTS.items()}
    none = replace(changed(recipe, " ".join(PARTS.values()).split()), profile="mini")
    refined = changed(none, [f"evaluation.refinement={recipe.evaluation.refinement}"])
    return {"mini-plus": recipe, **alone, "mini": none, "mini with maps along edges": refined}


STUDIES = {
    "conditions": Study(
        "What is each part of the method worth (paper, Table 3)?",
        lambda recipe: ablation.trials(recipe, list(ablation.CONDITIONS)),
        "more",
    ),
    "variants": Study(
        "Which differences between paper and released code matter?",
        switches.trials,
        "release",
        profile="mini-released",
    ),
    "plus": Study(
        "What is each part of the recipe mini-plus worth?", parts, "mini-plus", profile="mini-plus"
    ),
    "backbones": Study("Do the effects hold on other backbones?", backbones, "baseline"),
    "methods": Study(
        "How does MoRe fare beside ToCo, DuPL and MCTformer+?",
        rivals.trials,
        "more",
        rivals.score_methods,
        rivals.beside,
    ),
    "photographs": Study(
        "Do they hold on photographs of your own?",
        photographs.trials,
        "baseline",
        photographs.score_by_labels,
        lambda recipe: {"blocks": photographs.by_block(recipe)},
        "photos",
    ),
}


def run_study(
    name: str, recipe: Recipe, seeds: Sequence[int], train: bool = True, commit: str = "unknown"
) -> dict:
    """Train (or load) and score every trial with every seed; what was found, fit for JSON.

    ``train=False`` takes what the cache holds and trains nothing. Rows are as of
    ``trials.score_each``; beside them stand recipe, protocol, hardware of the trainings, and
    ``commit``, the checkout's. Raises ``InputError`` for an unknown study and for nothing to score.
    """
    study = _study(name)
    recipes = study.trials(recipe)
    seeded = trials.with_seeds(recipes.values(), seeds)
    if train:
        trials.train_side_by_side(seeded)
    rows, hardware, backbones = [], set(), set()
    for trial, each in zip(cycle(recipes), seeded, strict=False):
        if train or trials.is_trained(each):
            trained = train_or_load(each)
            rows += study.rows(trial, trained)
            spent = trained.record
            backbones.add(spent["backbone_sha256"])
            threads = f"{spent['threads']} thread{'s' * (spent['threads'] > 1)}"
            hardware.add(f"{spent['device']}, {threads}, {spent['precision']}")
    if not rows:
        raise InputError(f"study {name}: none of its networks is trained; leave --trained-only out")
    where = map_protocol(recipe, "lam", "true")
    refined = ", maps refined by PAR" * (where.refinement == "par")
    return {
        "study": name,
        "profile": recipe.profile,
        "commit": commit,
        "training_fingerprint": training_fingerprint(photographs.anybodys(recipe)),
        "backbones_sha256": sorted(backbones),
        "protocol": f"{where.dataset} {where.split}, true image labels, scales {where.views}, "
        f"threshold {where.threshold:g}, no CRF{refined}",
        "training": f"{recipe.optimizer.iterations} iterations of {recipe.optimizer.batch_size}",
        "hardware": sorted(hardware),
        **(study.beside(recipe) if train or all(map(trials.is_trained, recipes.values())) else {}),
        "rows": rows,
    }


def recorded(name: str) -> dict:
    """What was found on our machines, as ``run_study`` gave it; empty rows before there is any."""
    _study(name)
    return records.study(name) or {"study": name, "rows": []}


def trial_titles(name: str, recipe: Recipe) -> dict[str, str]:
    """What each trial of a study is, in words, by its name."""
    if name == "methods":
        return rivals.TITLES
    if name in ("conditions", "photographs"):
        further = {key: title for key, (title, _) in photographs.FURTHER.items()}
        return {key: each.title for key, each in ablation.CONDITIONS.items()} | further
    titles = {key: key for key in _study(name).trials(recipe)}
    if name == "variants":
        titles["release"] = "as released"
        for key, row in switches.switches(recipe).items():
            titles[key] = f"{row.topic}: {row.released} → {row.paper}"
    return titles


def format_study(found: Mapping) -> str:
    """The answer as text: protocol and hardware, then a line a trial, LAM's scores over seeds.

    Before them: how well the classifier (image mAP) and the class tokens (token mAP) name classes.
    """
    study = _study(found["study"])
    lines = [study.question, f"{found['protocol']}; {found['training']}"]
    lines += [f"trained on: {each}" for each in found["hardware"]]
    if found["study"] == "methods":  # whose best map is not always LAM
        tables = rivals.comparison(found), rivals.cost_table(found)
        return "\n".join([*lines, *(table.to_string(index=False) for table in tables)])
    table = compared(found["rows"], study.reference)
    width = table["trial"].str.len().max()
    heads = "".join(f"{head:>13}" for head in ("image mAP %", "token mAP %", "mIoU %", "confusion"))
    lines.append(f"{'LAM':{width}}  seeds{heads}   against {study.reference}")
    for _, row in table.iterrows():
        shown = ["image_map", "token_map", "miou", "confusion_ratio", "miou_gain"]
        shown = shown[:-1] if pd.isna(row["miou_gain"]) else shown
        scores = "".join(f"{with_spread(row, score):>13}" for score in shown)
        lines.append(f"{row['trial']:{width}}{row['seeds']:7}{scores}")
    return "\n".join(lines)


def compared(rows: Rows, reference: str, kind: str = "LAM") -> pd.DataFrame:
    """One map's rows over seeds, each held against the trial ``reference`` seed by seed.

    A trial called ``name, size`` is held against the reference of its own size. Columns are those
    of ``over_seeds``, then ``miou_gain`` and ``confusion_ratio_gain``: the mean of the differences
    and, with two seeds or more, their deviation as ``..._std``; missing for the reference itself
    and where it lacks a seed. Networks of one seed share data order and heads, so differences
    within a seed are less noisy than those of means.
    """
    scored = pd.DataFrame(rows, columns=["trial", "seed", "map", *SCORES])
    scored = scored[scored["map"] == kind].astype(dict.fromkeys(SCORES, float)).drop_duplicates()
    against = scored["trial"].astype(str).str.replace("^[^,]*", reference, n=1, regex=True)
    pairs = pd.MultiIndex.from_arrays([against, scored["seed"]])
    base = scored.set_index(["trial", "seed"]).reindex(pairs)
    gained = ["miou", "confusion_ratio"]
    gains = scored[gained] - base[gained].to_numpy()
    gains = gains.where(scored["trial"] != against).add_suffix("_gain")
    return trials.over_seeds(scored.join(gains), [*SCORES, *gains])


def _study(name: str) -> Study:
    if name not in STUDIES:
        raise InputError(f"study {name!r} is unknown; there are: {', '.join(STUDIES)}")
    return STUDIES[name]
