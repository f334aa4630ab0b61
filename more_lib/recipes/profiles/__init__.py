"""The profiles: complete recipes in a YAML file each, every value with its source.

Paper means arXiv 2412.11076; released, the arguments and defaults of the authors' code as their
scripts and training logs show them; ours, chosen here. A file is written as a training's
``recipe.yaml``, but for ``base``, the profile that it changes, and classes, which are the data
set's. What neither names has the default of its section.
"""

from importlib import resources

import yaml

from more_lib.recipes.classes import CLASSES
from more_lib.recipes.schema import Recipe

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML came with it


def merged(values: dict, changes: dict) -> dict:
    """``values``, nested, with the nested ``changes`` in their place: a new dictionary."""
    copy = dict(values)
    for name, value in changes.items():
        inner = isinstance(value, dict) and isinstance(values.get(name), dict)
        copy[str(name)] = merged(values[name], value) if inner else value
    return copy


def _values(profile: str) -> dict:
    file = resources.files(__name__) / f"{profile}.yaml"
    values = yaml.load(file.read_bytes(), _LOADER)
    return merged(_values(values.pop("base")), values) if "base" in values else values


def _recipe(profile: str) -> Recipe:
    values = _values(profile)
    values["data"]["classes"] = CLASSES[values["data"]["dataset"]]
    return Recipe(**values)


_NAMES = """mini mini-released mini-plus toco dupl mctformer photos pets voc coco coco-log
toco-voc toco-coco dupl-voc dupl-coco mctformer-voc mctformer-coco"""

PROFILES: dict[str, Recipe] = {profile: _recipe(profile) for profile in _NAMES.split()}
