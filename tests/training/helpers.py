"""Recipes that train within a second, and what came of them."""

import json
from pathlib import Path

import torch
from torch import Tensor

from more_lib.data.prepare import emoji
from more_lib.method.backbones import mini_vit
from more_lib.recipes.loading import load_recipe
from more_lib.recipes.schema import Recipe
from more_lib.system.weights import save_weights
from more_lib.training import Trained
from tests import method
from tests.recipes.helpers import values_of as values_of

SHAPES = "voc_state_dict_shapes.json"


def small_recipe(folder: Path, *overrides: str, train: int = 8, val: int = 4) -> Recipe:
    """Batches of two of an EmojiVOC tree in ``folder``, on a random backbone; no dense energy."""
    tree = emoji.prepare(folder / "tree", train=train, val=val, dev=1)
    weights = folder / "backbone.safetensors"
    torch.manual_seed(0)
    save_weights(mini_vit(), weights)
    quick = "optimizer.batch_size=2 optimizer.precision=fp32 loss.dense_energy=0".split()
    start = [f"data.root={tree}", f"backbone.weights={weights}", *quick]
    return load_recipe("mini", [*start, *overrides])


def log_of(trained: Trained) -> list[dict]:
    """The log without what no two runs share."""
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in trained.log()]


def same_weights(one: Trained, two: Trained) -> bool:
    ours, theirs = one.model.state_dict(), two.model.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def assert_close_for_most(ours: dict, theirs: dict, tolerance: float) -> None:
    """Weights: AdamW's first steps are signs of gradients, and some have none but rounding (the
    bias of the keys), so that a minority of each tensor may differ."""
    for name, value in ((n, v) for n, v in ours.items() if v.numel()):
        assert (value - theirs[name]).abs().median() < tolerance, name


def small_released_weights(classes: int) -> dict[str, Tensor]:
    """A narrow network's random weights under the released checkpoint's keys."""
    shapes = json.loads((Path(method.__file__).parent / "golden" / SHAPES).read_text())
    narrow = {768: 64, 2304: 192, 3072: 256, 512: 8, 20: classes, 21: classes + 1}
    narrow |= {24: classes + 4, 220: classes + 200}
    sizes = {name: [narrow.get(size, size) for size in shape] for name, shape in shapes.items()}
    torch.manual_seed(0)
    return {name: 0.1 * torch.randn(size) for name, size in sizes.items()}
