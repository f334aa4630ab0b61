"""What a recipe holds, key by key."""

from dataclasses import asdict

import pandas as pd

from more_lib.recipes.schema import Recipe


def flat(values: dict) -> dict:
    """A recipe's nested values by their keys, as overrides name them."""
    return pd.json_normalize(values).to_dict("records")[0]


def values_of(recipe: Recipe) -> dict:
    """Every value by its key, as an override would name it."""
    return flat(asdict(recipe))
