"""Recipes that train within a second, and what a recipe holds, key by key."""

from pathlib import Path

import torch

from more_lib.data.prepare import emoji
from more_lib.method.backbones import mini_vit
from more_lib.recipes.loading import load_recipe, to_dict
from more_lib.recipes.schema import Recipe
from more_lib.system.weights import save_weights


def small_recipe(folder: Path, *overrides: str) -> Recipe:
    """Batches of two on 8 images of an EmojiVOC tree in ``folder``, from a random backbone."""
    tree = emoji.prepare(folder / "tree", train=8, val=4)
    torch.manual_seed(0)
    save_weights(mini_vit(), folder / "backbone.safetensors")
    return load_recipe(
        "mini",
        [
            f"data.root={tree}",
            f"backbone.weights={folder / 'backbone.safetensors'}",
            "optimizer.batch_size=2",
            "optimizer.precision=fp32",
            "loss.dense_energy=0",
            *overrides,
        ],
    )


def values_of(recipe: Recipe) -> dict:
    """Every value by its key, as an override would name it."""
    return {
        f"{section}.{name}": value
        for section, fields in to_dict(recipe).items()
        if isinstance(fields, dict)
        for name, value in fields.items()
    }
