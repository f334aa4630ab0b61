"""A recipe is everything that decides a result; a profile is a recipe with a name.

Values come from a profile, then a YAML file, then single overrides. Each is checked when its
section is built, so a recipe that exists is a valid one. Notebook 05 §1 reads one aloud.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from more_lib.recipes.profiles import PROFILES, merged
from more_lib.recipes.schema import METHODS, Recipe
from more_lib.recipes.validation import nearest
from more_lib.system.errors import InputError
from more_lib.system.files import absolute

_MOST_BYTES = 2**20  # of a recipe's file

_ADDED = """data.crop data.padding data.grey data.blur data.strong data.views backbone.depth
backbone.token_start backbone.frozen_blocks backbone.freeze_position backbone.drop_path lir.fill_up
masks.picture masks.spread loss.token_readout optimizer.accumulate optimizer.token_parameters
optimizer.late_terms optimizer.decayed optimizer.decay optimizer.final_ratio optimizer.lr_every
dupl.fall_from dupl.discrepancy_from evaluation.refinement
evaluation.student""".split()
"""Fields that came after networks had been stored: unset, they leave fingerprints as they were."""

_SECTIONS = "data backbone graph lir masks energy loss schedule optimizer evaluation".split()


def load_recipe(
    profile: str, overrides: Iterable[str] = (), file: str | Path | None = None
) -> Recipe:
    """The recipe of ``profile``, changed by a YAML file, then by overrides.

    Args:
        profile: a key of ``PROFILES``.
        overrides: texts such as ``optimizer.iterations=10``; the value is YAML, so a list is
            ``evaluation.scales=[1.0, 0.5]``.
        file: YAML with the recipe's own nesting; it need only name what it changes. The whole
            recipe of a training means what it meant then (``saved_recipe``).

    Raises ``InputError`` for an unknown profile or key (naming the nearest that exists), a wrong
    type, a value out of range, and a file that cannot be read.
    """
    if profile not in PROFILES:
        guess, known = nearest(profile, PROFILES), ", ".join(PROFILES)
        raise InputError(f"profile {profile!r} is unknown{guess} (profiles: {known})")
    recipe = PROFILES[profile]
    if file is not None:
        changes = _read_yaml(absolute(file))
        older = _older() if _is_whole(changes) else []
        try:
            recipe = _updated(recipe, [*older, changes])
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
    return changed(recipe, overrides)


def saved_recipe(folder: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe that a training kept in its folder, whatever its profile, changed by overrides.

    Fields that it does not name because they came later have the value that it was trained with.
    Raises what ``load_recipe`` raises.
    """
    file = Path(folder) / "recipe.yaml"
    content = _read_yaml(file)
    profile = str(content.get("profile", "mini"))
    if profile not in PROFILES:
        raise InputError(f"{file}: profile {profile!r} is none of {', '.join(PROFILES)}")
    try:
        recipe = _updated(PROFILES[profile], [*_older(), content])
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    return changed(recipe, overrides)


def _older() -> list[dict]:
    """The values, before they could be named, of fields that came later."""
    return [_parsed(f"{key}={_default(key)}") for key in _ADDED]


def _is_whole(content: dict) -> bool:
    """Whether this is all of a recipe, as a training writes it, and not some changes to one."""
    return all(isinstance(content.get(name), dict) for name in _SECTIONS)


def changed(recipe: Recipe, overrides: Iterable[str]) -> Recipe:
    """The recipe with single values changed, by texts as ``load_recipe`` takes them."""
    return _updated(recipe, map(_parsed, overrides))


def placed(overrides: Iterable[str], recipe: Recipe) -> list[str]:
    """The overrides that ``recipe`` was made with, fit for another working folder.

    Relative paths are from the root, and paths hold no white space.
    """
    paths = {
        "data.root": recipe.data.root,
        "data.labels": recipe.data.labels,
        "backbone.weights": recipe.backbone.weights,
    }
    kept = [each for each in overrides if not paths.get(each.partition("=")[0].strip())]
    return kept + [f"{key}={_quoted(path)}" for key, path in paths.items() if path]


def _quoted(text: str) -> str:
    """Text as YAML that means the same and holds no white space."""
    with suppress(InputError):  # as the YAML of "/a: b: c"
        if text == _yaml(text, text) and len(text.split()) == 1:
            return text
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub(r"\s", lambda space: f"\\u{ord(space[0]):04x}", quoted)


def to_dict(recipe: Recipe) -> dict:
    """The recipe as nested dictionaries of text, numbers and lists, fit for YAML and JSON."""
    return json.loads(json.dumps(asdict(recipe)))  # tuples become lists


def from_dict(values: dict) -> Recipe:
    """The inverse of ``to_dict``: ``from_dict(to_dict(recipe)) == recipe``.

    Raises ``InputError`` for a missing or unknown key, a wrong type or a value out of range. Only a
    key with a default in its section may be missing.
    """
    if not isinstance(values, dict):
        raise InputError(f"the recipe is {values!r}: it must be sections of keys and values")
    return Recipe(**values)


def fingerprint(value: object) -> str:
    """Twelve hex digits that name a JSON-like value, whatever the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def training_fingerprint(recipe: Recipe) -> str:
    """Fingerprint of what decides the trained weights: of ``training_values``."""
    return fingerprint(training_values(recipe))


def training_values(recipe: Recipe) -> dict:
    """What decides the trained weights, as ``to_dict`` gives it.

    Left out: ``evaluation``, ``data.val_split``, ``data.workers``, ``optimizer.log_every``,
    ``optimizer.checkpoint_every``, what the data's own fingerprint covers (``data.root``,
    ``data.labels``, ``data.skip``), what concerns masks alone (``data.numbering``,
    ``data.mask_orientation``), ``masks.lam_similarity`` while no LAM trains the decoder, and the
    sections of other methods, so that changing them trains nothing anew.
    """
    values = to_dict(recipe)
    for method in METHODS:
        if method != recipe.method:
            values.pop(method, None)
    if recipe.method == METHODS[0]:
        del values["method"]  # which came after networks had been stored
    if recipe.masks.decoder_map in ("cam", "aux_first"):
        del values["masks"]["lam_similarity"]
    del values["evaluation"]
    unread = ("val_split", "root", "labels", "skip", "workers", "numbering", "mask_orientation")
    for name in unread:
        del values["data"][name]
    for name in ("log_every", "checkpoint_every"):
        del values["optimizer"][name]
    for key in _ADDED:
        section, name = key.split(".")
        if section in values and values[section][name] == _default(key):
            del values[section][name]
    return values


def _default(key: str) -> object:
    section, name = key.split(".")
    return getattr(PROFILES["mini"], section).__dataclass_fields__[name].default


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: of two values one would be lost unheard."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.YAMLError(f"{twice!r} stands twice in one section; keep one of them")
        return super().construct_mapping(node, deep)


# Numbers as everybody reads them: YAML 1.1 takes 010 for 8, 1:30 for 90, 2007_000032 for a number.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in known if tag.rpartition(":")[2] not in ("int", "float")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _form in (
    ("int", r"[-+]?(0|[1-9][0-9]*|[1-9][0-9]{0,2}(_[0-9]{3})+|0x[0-9a-fA-F]+)$"),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf)$|\.(nan|NaN)$"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_form), "-+.0123456789")


def _read_yaml(path: Path) -> dict:
    try:
        if path.is_fifo() or path.is_char_device():  # which may have no end
            raise OSError(0, "it is no file")
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"the recipe {path} cannot be read: {error.strerror}; give a YAML file with the "
            "values to change, or a folder that `train` has written"
        ) from error
    if len(text) > _MOST_BYTES:
        raise InputError(f"the recipe {path} is larger than {_MOST_BYTES} bytes: is it one?")
    content = _yaml(text, f"the recipe {path}")
    if not isinstance(content, dict | None):
        raise InputError(f"the recipe {path} must hold sections such as 'optimizer:'")
    return content or {}


def _parsed(override: str) -> dict:
    """``optimizer.lr=1e-3`` as ``{"optimizer": {"lr": "1e-3"}}``."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise InputError(f"the override {override!r} must read key=value, as optimizer.lr=1e-4")
    value: Any = _yaml(text, f"{key}={text}") if text.strip() else ""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _updated(recipe: Recipe, changes: Iterable[dict]) -> Recipe:
    """``recipe`` with each of the nested ``changes`` put in its place, checked at the end."""
    updated = from_dict(reduce(merged, changes, to_dict(recipe)))
    if updated.profile != recipe.profile:
        raise InputError(f"profile is {updated.profile!r}, but {recipe.profile!r} was asked for")
    return updated


def _yaml(text: str | bytes, source: str) -> object:
    try:
        return yaml.load(text, _Loader)
    # ValueError: bad UTF-8, the date 2012-99-99; RecursionError: brackets without end; the others:
    # "!!bool x" and "!!timestamp x"
    except (yaml.YAMLError, ValueError, RecursionError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{source} is no valid YAML: {reason}") from error
