"""What a recipe holds, key by key."""

from dataclasses import asdict

from more_lib.recipes.schema import Recipe


def flat(values: dict) -> dict:
    """A recipe's nested values by their keys, as overrides name them."""
    sections = {name: part for name, part in values.items() if isinstance(part, dict)}
    return {name: value for name, value in values.items() if name not in sections} | {
        f"{section}.{name}": value
        for section, part in sections.items()
        for name, value in part.items()
    }


def values_of(recipe: Recipe) -> dict:
    """Every value by its key, as an override would name it."""
    return flat(asdict(recipe))
