"""A recipe is everything that decides a result; a profile is a recipe with a name.

Values come from a profile, then a YAML file, then single overrides. Each is checked when its
section is built, so a recipe that exists is a valid one. Notebook 05 §1 reads one aloud.
"""

import difflib
import hashlib
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import yaml

from more_lib.data.emoji import EMOJI_CLASSES
from more_lib.data.voc import VOC_CLASSES
from more_lib.errors import InputError


class _Checked:
    """Base of the recipe's parts: values take their field's type, or ``InputError`` names it."""

    def __post_init__(self):
        for name, kind in _types(type(self)).items():
            value = _typed(self._key(name), getattr(self, name), kind)
            object.__setattr__(self, name, value)
        self._check_ranges()

    def _check_ranges(self) -> None:
        """Raise ``InputError`` for values of the right type that make no sense."""

    def _key(self, name: str) -> str:
        section = type(self).__name__.removesuffix("Recipe").lower()
        return f"{section}.{name}" if section else name

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise InputError(f"{self._key(name)} is {getattr(self, name)!r}: it must be {rule}")


@dataclass(frozen=True)
class DataRecipe(_Checked):
    """What is learned from: a tree in VOC layout, its classes and splits, the augmentation."""

    dataset: str  # "emoji" or "voc"
    classes: tuple[str, ...]  # C names out of VOC's; their order numbers the classes 1..C
    train_split: str
    val_split: str
    crop_size: int  # pixels a side
    crop_scale: tuple[float, float]  # share of the image's area that a crop covers
    color_jitter: tuple[float, float, float, float]  # brightness, contrast, saturation, hue
    jitter_probability: float
    workers: int  # processes that load images; 0 loads in the training process
    root: str = ""  # "" is the folder in the cache that the data script prepares

    def _check_ranges(self) -> None:
        self._require("dataset", self.dataset in ("emoji", "voc"), "emoji or voc")
        self._require("classes", 0 < len(self.classes) == len(set(self.classes)), "distinct names")
        for name in ("train_split", "val_split"):
            self._require(name, getattr(self, name) != "", "the name of a split")
        self._require("crop_size", self.crop_size > 0, "positive")
        low, high = self.crop_scale
        self._require("crop_scale", 0 < low <= high <= 1, "two shares with 0 < low <= high <= 1")
        positive = min(self.color_jitter) >= 0 and self.color_jitter[3] <= 0.5
        self._require("color_jitter", positive, "four numbers >= 0, the last (hue) at most 0.5")
        self._require("jitter_probability", 0 <= self.jitter_probability <= 1, "between 0 and 1")
        self._require("workers", self.workers >= 0, "0 or more")


@dataclass(frozen=True)
class BackboneRecipe(_Checked):
    """The pretrained vision transformer and what is changed about it."""

    name: str  # a timm model name, or "mini"
    weights: str = ""  # "" is what ships with the package (mini) or timm's own; else a file
    num_registers: int = 4  # released: extra tokens beside the class tokens
    aux_layer: int = -3  # released: the block whose output feeds the auxiliary classifier
    decoder_width: int = 512  # released: channels inside the LargeFOV decoder

    def _check_ranges(self) -> None:
        self._require("name", self.name != "", "a timm model name or mini")
        self._require("num_registers", self.num_registers >= 0, "0 or more")
        self._require("decoder_width", self.decoder_width > 0, "positive")


@dataclass(frozen=True)
class LossRecipe(_Checked):
    """Weight of each term of the objective, 0 to leave it out."""

    classification: float = 1.0  # released: on the last feature map's logits
    aux_classification: float = 1.0  # released, not in the paper: on the auxiliary map's logits
    token_classification: float = 0.0  # released without; on class tokens' means
    token_discrepancy: float = 1.0  # released: class tokens apart from each other
    token_temperature: float = 0.07  # released: of the token discrepancy's softmax

    def _check_ranges(self) -> None:
        for field in fields(self):
            self._require(field.name, getattr(self, field.name) >= 0, "0 or more")
        self._require("token_temperature", self.token_temperature > 0, "positive")


@dataclass(frozen=True)
class OptimizerRecipe(_Checked):
    """AdamW, its learning-rate schedule, how long and in which precision it runs."""

    iterations: int
    batch_size: int  # images a process and iteration
    lr: float  # of the backbone at the end of the warm-up
    warmup_iterations: int
    log_every: int  # iterations between lines of the log
    head_lr_factor: float = 10.0  # released: heads learn faster than the pretrained backbone
    betas: tuple[float, float] = (0.9, 0.999)  # released
    weight_decay: float = 0.01  # released, on every parameter
    warmup_ratio: float = 1e-6  # released: share of lr that the first iteration takes
    power: float = 0.9  # released: of the polynomial decay (1 - t/T)^power
    precision: str = "fp32"  # or "bf16", "fp16"; ours: the safe choice beside a published number

    def _check_ranges(self) -> None:
        for name in ("iterations", "batch_size", "lr", "log_every", "head_lr_factor"):
            self._require(name, getattr(self, name) > 0, "positive")
        for name in ("warmup_iterations", "weight_decay", "power"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)")
        self._require("warmup_ratio", 0 <= self.warmup_ratio <= 1, "between 0 and 1")
        self._require("precision", self.precision in ("fp32", "bf16", "fp16"), "fp32, bf16 or fp16")


@dataclass(frozen=True)
class EvaluationRecipe(_Checked):
    """How maps become masks that are scored; changes no training."""

    scales: tuple[float, ...]  # factors of the input size; the maps are combined
    threshold: float  # a pixel whose maps all stay below it is background
    batch_size: int

    def _check_ranges(self) -> None:
        self._require("scales", min(self.scales, default=0) > 0, "a list of positive numbers")
        self._require("threshold", 0 <= self.threshold <= 1, "between 0 and 1")
        self._require("batch_size", self.batch_size > 0, "positive")


@dataclass(frozen=True)
class Recipe(_Checked):
    """One run: the profile it began from, its seed and its five sections."""

    profile: str
    seed: int
    data: DataRecipe
    backbone: BackboneRecipe
    loss: LossRecipe
    optimizer: OptimizerRecipe
    evaluation: EvaluationRecipe

    def _check_ranges(self) -> None:
        self._require("seed", 0 <= self.seed < 2**32, "between 0 and 4294967295")


def _typed(key: str, value: object, kind: type) -> object:
    """``value`` as ``kind``; whole numbers may stand for decimals, truth values for neither."""
    if get_origin(kind) is tuple:
        return _typed_tuple(key, value, get_args(kind))
    if kind is float:
        if isinstance(value, str):  # YAML reads 6e-5, without a point, as text
            with suppress(ValueError):
                value = float(value)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and abs(value) <= sys.float_info.max:  # false for nan as well
            return float(value)
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    wanted = {float: "a finite number", int: "a whole number", str: "text; quote it if it is"}
    raise InputError(f"{key} is {value!r}: it must be {wanted.get(kind, f'a {kind.__name__}')}")


def _typed_tuple(key: str, value: object, kinds: tuple) -> tuple:  # kinds are all the same
    any_length = kinds[-1] is Ellipsis
    if not isinstance(value, (list, tuple)) or not (any_length or len(value) == len(kinds)):
        wanted = "a list, as [a, b]" if any_length else f"a list of {len(kinds)} values"
        raise InputError(f"{key} is {value!r}: it must be {wanted}")
    return tuple(_typed(f"{key}[{index}]", item, kinds[0]) for index, item in enumerate(value))


@cache
def _types(part: type) -> dict[str, type]:
    """Field names of a recipe or section with their types, in order."""
    hints = get_type_hints(part)
    return {field.name: hints[field.name] for field in fields(part)}


PROFILES: dict[str, Recipe] = {
    # EmojiVOC on two CPU cores within minutes. Sizes and rates come from our own trials; whatever
    # is not named is as released for VOC.
    "mini": Recipe(
        profile="mini",
        seed=0,
        data=DataRecipe(
            dataset="emoji",
            classes=EMOJI_CLASSES,
            train_split="train",
            val_split="val",
            crop_size=96,  # the images' own size: 12×12 patches of 8 pixels
            crop_scale=(0.5, 1.0),  # milder than VOC's: small objects survive the crop
            color_jitter=(0.2, 0.2, 0.2, 0.05),  # milder too: EmojiVOC is tinted already
            jitter_probability=0.5,
            workers=0,  # the cores are busy with the model
        ),
        backbone=BackboneRecipe(name="mini", decoder_width=96),
        # The paper's baseline (Table 3) gives class tokens their class by this term, as MCTformer.
        loss=LossRecipe(token_classification=1.0),
        optimizer=OptimizerRecipe(
            iterations=360,
            batch_size=24,
            lr=2e-4,
            head_lr_factor=5.0,
            warmup_iterations=20,
            precision="bf16",  # about twice as fast as fp32 on recent CPUs
            log_every=10,
        ),
        evaluation=EvaluationRecipe(scales=(1.0,), threshold=0.5, batch_size=50),
    ),
    # PASCAL VOC 2012 with SBD on one GPU, as in the released VOC script: so wherever a line says
    # "released", and in every default above.
    "voc": Recipe(
        profile="voc",
        seed=0,  # ours
        data=DataRecipe(
            dataset="voc",
            classes=VOC_CLASSES,
            train_split="train_aug",  # 10,582 images of VOC and SBD (paper Sec. 4.1, released)
            val_split="val",  # 1,449 images (paper Sec. 4.1, released)
            crop_size=448,  # released
            crop_scale=(0.32, 1.0),  # released
            color_jitter=(0.4, 0.4, 0.2, 0.1),  # released
            jitter_probability=0.5,  # released
            workers=8,  # ours
        ),
        # Released: ImageNet-21k weights tuned on ImageNet-1k. The paper cites the 21k weights of
        # Ridnik et al., which timm calls vit_base_patch16_224_miil.in21k.
        backbone=BackboneRecipe(name="vit_base_patch16_224.orig_in21k_ft_in1k"),
        loss=LossRecipe(),  # released: the class tokens are not classified
        optimizer=OptimizerRecipe(
            iterations=20_000,  # released
            batch_size=4,  # released, on one GPU
            lr=6e-5,  # released
            warmup_iterations=1_500,  # released
            log_every=50,  # ours
        ),
        evaluation=EvaluationRecipe(
            scales=(1.0, 0.5, 0.75, 1.5),  # released
            threshold=0.5,  # released
            batch_size=1,  # ours: VOC's masks differ in size
        ),
    ),
}


def load_recipe(
    profile: str, overrides: Iterable[str] = (), file: str | Path | None = None
) -> Recipe:
    """The recipe of ``profile``, changed by a YAML file, then by overrides.

    Args:
        profile: a key of ``PROFILES``.
        overrides: texts such as ``optimizer.iterations=10``; the value is YAML, so a list is
            ``evaluation.scales=[1.0, 0.5]``.
        file: YAML with the recipe's own nesting; it need only name what it changes.

    Raises ``InputError`` for an unknown profile or key (naming the nearest that exists), a wrong
    type, a value out of range, and a file that cannot be read.
    """
    if profile not in PROFILES:
        guess, there = _nearest(profile, PROFILES), ", ".join(PROFILES)
        raise InputError(f"profile {profile!r} is unknown{guess} (profiles: {there})")
    values = to_dict(PROFILES[profile])
    if file is not None:
        changes = _read_yaml(Path(file).expanduser())
        try:
            values = to_dict(from_dict(_merged(values, changes)))
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
    for override in overrides:
        values = _merged(values, _parsed(override))
    return from_dict(values)


def to_dict(recipe: Recipe) -> dict:
    """The recipe as nested dictionaries of text, numbers and lists, fit for YAML and JSON."""
    return json.loads(json.dumps(asdict(recipe)))  # tuples become lists


def from_dict(values: dict) -> Recipe:
    """The inverse of ``to_dict``: ``from_dict(to_dict(recipe)) == recipe``.

    Raises ``InputError`` for a missing or unknown key, a wrong type or a value out of range.
    """
    return _built(Recipe, values)


def fingerprint(value: object) -> str:
    """Twelve hex digits that name a JSON-like value, whatever the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def training_fingerprint(recipe: Recipe) -> str:
    """Fingerprint of what decides the trained weights.

    Left out: ``evaluation``, ``data.val_split``, ``data.root``, ``data.workers`` and
    ``optimizer.log_every``, so that changing them trains nothing anew.
    """
    values = to_dict(recipe)
    del values["evaluation"]
    for name in ("val_split", "root", "workers"):
        del values["data"][name]
    del values["optimizer"]["log_every"]
    return fingerprint(values)


def _read_yaml(path: Path) -> dict:
    try:
        content = _yaml(path.read_bytes(), f"the recipe {path}")
    except OSError as error:
        raise InputError(f"the recipe {path} cannot be read: {error.strerror}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise InputError(f"the recipe {path} must hold sections such as 'optimizer:'")
    return content


def _parsed(override: str) -> dict:
    """``optimizer.lr=1e-3`` as ``{"optimizer": {"lr": "1e-3"}}``."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise InputError(f"the override {override!r} must read key=value, as optimizer.lr=1e-4")
    value = _yaml(text, f"{key}={text}") if text.strip() else ""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merged(values: dict, changes: dict, path: str = "") -> dict:
    """``values`` with ``changes`` put in their places, all of which must exist."""
    merged = dict(values)
    for name, value in changes.items():
        key = f"{path}{name}"
        if name not in values:
            raise _unknown_key(key, path, values)
        if isinstance(values[name], dict):
            if not isinstance(value, dict):
                raise InputError(f"{key} is a section of: {', '.join(values[name])}")
            value = _merged(values[name], value, f"{key}.")
        elif key == "profile" and value != values[name]:
            raise InputError(f"profile is {value!r}, but {values[name]!r} was asked for")
        merged[name] = value
    return merged


def _unknown_key(key: str, path: str, values: dict) -> InputError:
    sections = {name: kind for name, kind in _types(Recipe).items() if is_dataclass(kind)}
    every = [f"{name}.{inner}" for name, kind in sections.items() for inner in _types(kind)]
    same_name = [known for known in every if known.rpartition(".")[2] == key]
    guess = f": did you mean {same_name[0]}?" if same_name else _nearest(key, [*every, *values])
    there = ", ".join(f"{path}{name}" for name in values)
    return InputError(f"recipe key {key!r} is unknown{guess} (here are: {there})")


def _built(part: type, values: object, path: str = "") -> object:
    """A recipe or section from a dictionary with exactly its keys; other values as they are."""
    if not is_dataclass(part):
        return values
    if not isinstance(values, dict):
        raise InputError(f"{path.rstrip('.') or 'the recipe'} must be a section of keys and values")
    types = _types(part)
    for name in values:
        if name not in types:
            raise _unknown_key(f"{path}{name}", path, types)
    missing = [f"{path}{name}" for name in types if name not in values]
    if missing:
        raise InputError(f"the recipe lacks {', '.join(missing)}: give a value")
    return part(**{name: _built(types[name], values[name], f"{path}{name}.") for name in types})


def _nearest(name: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f": did you mean {close[0]}?" if close else ""


def _yaml(text: str | bytes, source: str) -> object:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bad UTF-8, the date 2012-99-99
        reason = " ".join(str(error).split())
        raise InputError(f"{source} is no valid YAML: {reason}") from error
