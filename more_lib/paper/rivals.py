"""MoRe beside ToCo, DuPL and MCTformer+: the study ``methods`` (notebook 10; Figures 4 and 5).

One backbone, the same images, augmentation, rates and length; every method's maps and decoder by
one rule. A record also keeps what the figures need, a few small maps, masks and tokens: they can be
drawn where nobody has trained the rivals.
"""

import base64
import io
import json
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from more_lib.data import open_tree
from more_lib.data.transforms import evaluation_transform
from more_lib.data.voc import VocImages
from more_lib.evaluation.masks import drawn_maps
from more_lib.evaluation.protocols import MAP_NAMES, map_protocol
from more_lib.method.methods import method_of
from more_lib.paper import ablation, figure_rows
from more_lib.paper.token_map import Separation, TokenMap, present_tokens, token_map
from more_lib.paper.trials import over_seeds, score_trained, with_spread
from more_lib.recipes.loading import changed, load_recipe, to_dict
from more_lib.recipes.profiles import PROFILES
from more_lib.recipes.schema import Recipe
from more_lib.system.devices import best_device
from more_lib.training.cache import Trained, train_or_load
from more_lib.training.step_cost import bench_step, forwards

TITLES = {
    "baseline": "baseline",
    "more": "MoRe",
    "toco": "ToCo",
    "dupl": "DuPL",
    "dupl, student 2": "DuPL, second student",
    "mctformer": "MCTformer+",
}
RIVALS = ("toco", "dupl", "mctformer")
TOKENS = ("baseline", "mctformer", "more")  # whose class tokens stand for classes
PICTURES = 5  # images that are drawn
AMONG = 100  # the first of val, among which a rule takes them
SIDE = 48  # pixels of a recorded map: four to a patch of mini's


def trials(recipe: Recipe) -> dict[str, Recipe]:
    """MoRe's baseline and MoRe by a recipe, and the rivals by their profiles of its size.

    What the recipe sets otherwise than its profile, the rivals' are set to, too.
    """
    usual, now = (to_dict(each) for each in (PROFILES[recipe.profile], recipe))
    changes = [
        f"{section}.{key}={json.dumps(value)}"
        for section, values in now.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value != usual[section][key]
    ]
    size = "" if recipe.profile == "mini" else f"-{recipe.profile}"
    rivals = {name: load_recipe(f"{name}{size}", changes) for name in RIVALS}
    return ablation.trials(recipe, ("baseline", "more")) | rivals


def score_methods(name: str, trained: Trained) -> list[dict]:
    """``trials.score_trained``'s rows of all maps that a method draws, a second student's apart."""
    maps = drawn_maps(trained.recipe)
    rows = score_trained(name, trained, maps)
    if method_of(trained.recipe).students > 1:
        second = replace(trained, recipe=changed(trained.recipe, ["evaluation.student=2"]))
        rows += score_trained(f"{name}, student 2", second, maps)
    return rows


def beside(recipe: Recipe) -> dict:
    """What a record of ``methods`` holds beside its rows: costs, pictures, tokens, of one seed."""
    recipes = trials(recipe)
    trained = {name: train_or_load(each) for name, each in recipes.items()}
    return {
        "costs": {name: _costs(each, recipes[name]) for name, each in trained.items()},
        "pictures": _pictures(trained),
        "tokens": {name: _tokens(trained[name]) for name in TOKENS},
    }


def _costs(trained: Trained, recipe: Recipe) -> dict:
    """A training's CPU minutes, and its step's size, in a process of its own: memory adds up."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        step = pool.submit(_step, recipe).result()
    return {"cpu_minutes": round(trained.record["cpu_seconds"] / 60, 2), **step}


def _step(recipe: Recipe) -> dict:
    torch.set_num_threads(1)
    cost = bench_step(recipe, "fp32", repeats=20)  # of five, the same step differed by a fifth
    return {
        "memory_gb": cost.memory_gb,
        "parameters": cost.parameters,
        "forwards": round(forwards(cost)["whole step"], 2),
        "encoded": [round(times, 2) for times in cost.encoded],
    }


def _pictures(trained: Mapping[str, Trained]) -> dict:
    """Maps of one class and masks of some images: the rows that ``figure_rows`` takes by MoRe."""
    own, device = trained["more"], best_device()
    recipe = own.recipe
    ious = figure_rows.image_ious(
        own.model, recipe, map_protocol(recipe, "lam", "true"), AMONG, device
    )
    rows = figure_rows.representative(ious, PICTURES)
    batch = figure_rows.square_batch(recipe, rows)
    classes = figure_rows.largest_class(batch["mask"], len(recipe.data.classes))
    found: dict = {"ids": batch["id"], "classes": classes, "maps": {}, "masks": {}}
    for name, each in trained.items():
        maps = figure_rows.localize(each.model, each.recipe, batch["image"], device)
        found["maps"][name] = {
            kind: [_packed(255 * values[n, c].numpy()) for n, c in enumerate(classes)]
            for kind, values in maps.items()
        }
        kind = method_of(each.recipe).maps[0]
        protocol = map_protocol(each.recipe, kind, "none" if kind == "decoder" else "true")
        masks = figure_rows.segmentations(each.model, each.recipe, protocol, rows, device)
        found["masks"][name] = [_packed(mask.numpy(), whole=True) for mask in masks]
    return found


def _tokens(trained: Trained) -> dict:
    recipe = trained.recipe
    images = VocImages(
        open_tree(recipe.data), recipe.data.val_split, evaluation_transform(recipe.data.crop_size)
    )
    loader = DataLoader(Subset(images, range(min(AMONG, len(images)))), 25)
    laid_out = token_map(present_tokens(trained.model, loader, best_device()))
    return {
        "points": laid_out.points.round(2).tolist(),
        "classes": laid_out.classes.tolist(),
        "separation": list(laid_out.separation),
    }


class Shown(NamedTuple):
    """What the figures draw of a record: P images of the validation split, by their ids.

    classes: (P,) the class 0..C-1 whose maps are shown. maps: by method and kind, a (SIDE, SIDE)
    float map in [0, 1] an image. masks: by method, of its own map: (H, W) uint8 an image.
    """

    ids: list[str]
    classes: list[int]
    maps: dict[str, dict[str, list[np.ndarray]]]
    masks: dict[str, list[np.ndarray]]


def shown(found: Mapping) -> Shown:
    """The pictures of a record of ``methods``."""
    pictures = found["pictures"]
    return Shown(
        pictures["ids"],
        pictures["classes"],
        {
            name: {kind: [_unpacked(each) / 255 for each in maps] for kind, maps in kinds.items()}
            for name, kinds in pictures["maps"].items()
        },
        {name: list(map(_unpacked, masks)) for name, masks in pictures["masks"].items()},
    )


def token_maps(found: Mapping) -> dict[str, TokenMap]:
    """The class tokens of a record of ``methods`` in the plane, by method."""
    return {
        name: TokenMap(
            np.array(each["points"], np.float32),
            np.array(each["classes"]),
            Separation(*each["separation"]),
        )
        for name, each in found["tokens"].items()
    }


def _packed(values: np.ndarray, whole: bool = False) -> str:
    """(H, W) of 0..255 as a PNG in base64: a mask as it is, a map brought to ``SIDE``."""
    image, written = Image.fromarray(values.round().astype(np.uint8)), io.BytesIO()
    if not whole:
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    image.save(written, "png", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def _unpacked(text: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))))


def comparison(found: Mapping) -> pd.DataFrame:
    """A row a method: its best map and its decoder over seeds, against MoRe's, and what it costs.

    The best map is that of the largest mean mIoU, the first of equals and the decoder aside;
    differences are seed by seed. Columns are text, as in the page of results; a dash for nothing.
    """
    rows = pd.DataFrame(found["rows"])
    rows["kind"] = np.where(rows["map"] == MAP_NAMES["decoder"], "decoder", "map")
    names = ["trial", "map"]
    means = rows[rows["kind"] == "map"].groupby(names, sort=False)["miou"].mean()
    best = pd.MultiIndex.from_frame(rows[names]).isin(means.groupby("trial").idxmax())
    rows = rows[(rows["kind"] == "decoder") | best]
    reference = rows[rows["trial"] == "more"].set_index(["kind", "seed"])["miou"]
    pairs = pd.MultiIndex.from_frame(rows[["kind", "seed"]])
    gain = rows["miou"] - reference.reindex(pairs).to_numpy()
    rows = rows.assign(miou_gain=gain.where(rows["trial"] != "more"))
    scores = ["miou", "precision", "recall", "confusion_ratio", "image_map", "token_map"]
    table = over_seeds(rows, [*scores, "miou_gain"]).set_index("trial")
    decoder = table[table["map"] == MAP_NAMES["decoder"]]
    table = table[table["map"] != MAP_NAMES["decoder"]]
    text = {score: table.apply(with_spread, axis=1, args=(score,)) for score in table.columns[2:]
            if not score.endswith("_std")}  # fmt: skip
    decoded = {
        score: decoder.apply(with_spread, axis=1, args=(score,)).reindex(table.index).fillna("–")
        for score in ("miou", "miou_gain")
    }
    return pd.DataFrame(
        {
            "method": table.index.map(TITLES),
            "best map": table["map"],
            "mIoU %": text["miou"],
            "against MoRe": text["miou_gain"],
            "precision %": text["precision"],
            "recall %": text["recall"],
            "FP/TP": text["confusion_ratio"],
            "image mAP %": text["image_map"],
            "token mAP %": text["token_map"],
            "decoder mIoU %": decoded["miou"],
            "decoder against MoRe": decoded["miou_gain"],
        }
    ).reset_index(drop=True)


def cost_table(found: Mapping) -> pd.DataFrame:
    """A row a method: what its training and its step cost."""
    rows = [
        {
            "method": TITLES[name],
            "CPU minutes": cost["cpu_minutes"],
            "peak memory GB": cost["memory_gb"],
            "parameters M": round(cost["parameters"] / 1e6, 2),
            "a step in forwards": round(cost["forwards"], 1),
            "batches encoded, with gradient": cost["encoded"][0],
            "without": cost["encoded"][1],
        }
        for name, cost in found["costs"].items()
    ]
    return pd.DataFrame(rows)
