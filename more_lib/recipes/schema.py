"""A recipe and its sections: what may be set, as released for VOC where a value stands here.

Each field is checked when its section is built, so a section that exists is a valid one. Where
paper and released code differ, the field's comment gives the other value (notebook 05 §1).
"""

import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from typing import get_args, get_origin, get_type_hints

from more_lib.system.errors import InputError


class Checked:
    """Base of the recipe's parts: values take their field's type, or ``InputError`` names it."""

    def __post_init__(self):
        for name, kind in types_of(type(self)).items():
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

    def _require_choice(self, name: str, choices: Collection[str]) -> None:
        self._require(name, getattr(self, name) in choices, " or ".join(sorted(choices)))


@dataclass(frozen=True)
class DataRecipe(Checked):
    """What is learned from: a data set, its classes and splits, the augmentation."""

    dataset: str  # "emoji", "voc", "coco", "pets", or "folder" for your own
    classes: tuple[str, ...]  # C names out of the data set's; their order numbers them 1..C
    train_split: str
    val_split: str
    crop_size: int  # pixels a side
    crop_scale: tuple[float, float]  # resized: a crop's share of the area; padded: of the sides
    color_jitter: tuple[float, float, float, float]  # brightness, contrast, saturation, hue
    jitter_probability: float
    workers: int  # processes that load images; 0 loads in the training process
    root: str = ""  # "" is the folder in the cache that the data script prepares
    labels: str = ""  # the table of image labels of a folder, if it is not its labels.csv
    skip: tuple[str, ...] = ()  # ids that every split leaves out, such as damaged images
    crop: str = "resized"  # to crop_size; COCO "padded": image rescaled, crop filled up with black

    def _check_ranges(self) -> None:
        self._require_choice("dataset", ("emoji", "voc", "coco", "pets", "folder"))
        own = self.dataset != "folder" or self.root != ""
        self._require("root", own, "the folder with your images, where data.dataset is folder")
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
        self._require_choice("crop", ("resized", "padded"))


@dataclass(frozen=True)
class BackboneRecipe(Checked):
    """The pretrained vision transformer and what is changed about it."""

    name: str  # a timm model name, or a shipped one: "mini", "mini_w96", "mini_w48"
    weights: str = ""  # "" is what ships with the package or timm's own; else a file
    num_registers: int = 4  # released: extra tokens beside the class tokens
    depth: int = 0  # ours: keep only the first so many of its blocks; 0 keeps all
    aux_layer: int = -3  # released: the block whose output feeds the auxiliary classifier
    decoder_width: int = 512  # released: channels inside the LargeFOV decoder

    def _check_ranges(self) -> None:
        self._require("name", self.name != "", "a timm model name or mini")
        for name in ("num_registers", "depth"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("decoder_width", self.decoder_width > 0, "positive")


@dataclass(frozen=True)
class GraphRecipe(Checked):
    """GCR (notebook 03). Every switch has the released value here; ``gcr`` says what each does."""

    use: bool = True  # False leaves the class tokens as the encoder gives them
    num_neighbors: int = 0  # K; 0 takes int(C / 2), as released, or 392 where tails are patches
    tails: str = "tokens_and_patches"  # paper: patches
    similarity: str = "scaled_dot"  # paper: cosine
    edge_weights: str = "product_of_sums"  # paper: sum_of_products
    update: str = "residual"  # paper: plain

    def _check_ranges(self) -> None:
        self._require("num_neighbors", self.num_neighbors >= 0, "0 or more")
        self._require_choice("tails", ("tokens_and_patches", "patches"))
        self._require_choice("similarity", ("scaled_dot", "cosine"))
        self._require_choice("edge_weights", ("product_of_sums", "sum_of_products"))
        self._require_choice("update", ("residual", "plain"))


@dataclass(frozen=True)
class LirRecipe(Checked):
    """LIR's two relations (notebook 04), as released for VOC; ``lir`` explains the switches."""

    temperature: float = 0.5  # of the confident relation; COCO 0.1
    confident: str = "release"  # or "paper": cosine, patches trained, mean over pairs
    kernel_size: int = 6  # d of the uncertain relation, in patches
    phi: float = 1.2  # an uncertain patch is kept when its kernel's mean exceeds this
    num_tokens: int = 8  # uncertain patches an image, under sampling "some"
    form: str = "absolute_cosine"  # paper: cosine
    token: str = "corner"  # paper: centre
    sampling: str = "some"  # paper: all

    def _check_ranges(self) -> None:
        self._require("temperature", self.temperature > 0, "positive")
        for name in ("kernel_size", "num_tokens"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        self._require("phi", 0 <= self.phi <= 2, "between 0 and 2")
        self._require_choice("confident", ("release", "paper"))
        self._require_choice("form", ("absolute_cosine", "cosine"))
        self._require_choice("token", ("corner", "centre"))
        self._require_choice("sampling", ("some", "all"))


@dataclass(frozen=True)
class MasksRecipe(Checked):
    """Pixel and patch labels mined from CAM (notebook 04): thresholds are (high, low), released."""

    scales: tuple[float, ...] = (1.0, 0.5, 0.75, 1.5)  # of the training CAM, each with its mirror
    confident: tuple[float, float] = (0.5, 0.25)  # auxiliary CAM, for the confident relation
    uncertain: tuple[float, float] = (0.7, 0.25)  # auxiliary CAM, for the uncertain relation
    final: tuple[float, float] = (0.6, 0.35)  # final CAM, for both, from schedule.final_cam on
    contrast: tuple[float, float] = (0.7, 0.25)  # auxiliary CAM, for the patch-token contrast
    decoder: tuple[float, float] = (0.7, 0.25)  # background scores, for the segmentation loss
    decoder_map: str = "cam"  # what is refined into the decoder's labels; paper: lam
    lam_similarity: str = "dot"  # of LAM, wherever it is drawn; paper: cosine
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)  # of the refinement's neighbours, in pixels
    refinements: int = 10

    def _check_ranges(self) -> None:
        self._require("scales", min(self.scales, default=0) > 0, "a list of positive numbers")
        for name in ("confident", "uncertain", "final", "contrast", "decoder"):
            high, low = getattr(self, name)
            self._require(name, 0 <= low <= high <= 1, "two thresholds, 0 <= low <= high <= 1")
        self._require_choice("decoder_map", ("cam", "lam"))
        self._require_choice("lam_similarity", ("dot", "cosine"))
        self._require("dilations", min(self.dilations, default=0) > 0, "a list of positive numbers")
        self._require("refinements", self.refinements >= 0, "0 or more")


@dataclass(frozen=True)
class EnergyRecipe(Checked):
    """The dense energy's kernel (L_reg, notebook 05), as released."""

    weight: float = 1e-7  # inside the energy; loss.dense_energy comes on top
    sigma_rgb: float = 15.0  # of 255
    sigma_xy: float = 100.0  # pixels of the crop
    scale: float = 0.5  # the energy is taken on the crop at this size

    def _check_ranges(self) -> None:
        self._require("weight", self.weight >= 0, "0 or more")
        for name in ("sigma_rgb", "sigma_xy"):
            self._require(name, getattr(self, name) > 0, "positive")
        self._require("scale", 0 < self.scale <= 1, "above 0, at most 1")


@dataclass(frozen=True)
class LossRecipe(Checked):
    """Weight of each term of the objective, 0 to leave it out (notebook 05)."""

    classification: float = 1.0  # released: on the last feature map's logits
    aux_classification: float = 1.0  # released, not in the paper: on the auxiliary map's logits
    token_classification: float = 0.0  # released without; on class tokens' means
    token_discrepancy: float = 1.0  # released: class tokens apart from each other
    token_temperature: float = 0.07  # released: of the token discrepancy's softmax
    confident_relation: float = 0.2  # alpha; COCO 0.1 in the script, 0.05 in the published log
    uncertain_relation: float = 0.1  # beta; COCO 0.01 in the script, 0 in the published log
    segmentation: float = 0.12  # gamma
    patch_token_contrast: float = 0.3  # released, "also adopted" in the paper
    dense_energy: float = 0.05  # released, "also adopted" in the paper

    def _check_ranges(self) -> None:
        for field in fields(self):
            self._require(field.name, getattr(self, field.name) >= 0, "0 or more")
        self._require("token_temperature", self.token_temperature > 0, "positive")


@dataclass(frozen=True)
class ScheduleRecipe(Checked):
    """Iterations before a loss sets in, and before LIR's masks come from the final CAM."""

    patch_token_contrast: int
    confident_relation: int
    uncertain_relation: int
    segmentation: int
    dense_energy: int
    final_cam: int

    def _check_ranges(self) -> None:
        for field in fields(self):
            self._require(field.name, getattr(self, field.name) >= 0, "0 or more")


@dataclass(frozen=True)
class OptimizerRecipe(Checked):
    """AdamW, its learning-rate schedule, how long and in which precision it runs."""

    iterations: int
    batch_size: int  # images a process, iteration and accumulated step
    lr: float  # of the backbone at the end of the warm-up
    warmup_iterations: int
    log_every: int  # iterations between lines of the log
    head_lr_factor: float = 10.0  # released: heads learn faster than the pretrained backbone
    token_lr_factor: float = 1.0  # released: class tokens, which start identical, as the backbone
    betas: tuple[float, float] = (0.9, 0.999)  # released
    weight_decay: float = 0.01  # released, on every parameter
    warmup_ratio: float = 1e-6  # released: share of lr that the first iteration takes
    power: float = 0.9  # released: of the polynomial decay (1 - t/T)^power
    precision: str = "fp32"  # "bf16", "fp16", or "auto": bf16 where the hardware multiplies it
    accumulate: int = 1  # batches of each process whose losses are averaged before an iteration
    checkpoint_every: int = 0  # iterations between checkpoints to resume from; 0 keeps none

    def _check_ranges(self) -> None:
        positive = ("iterations", "batch_size", "lr", "log_every", "accumulate")
        for name in (*positive, "head_lr_factor", "token_lr_factor"):
            self._require(name, getattr(self, name) > 0, "positive")
        for name in ("warmup_iterations", "weight_decay", "power", "checkpoint_every"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)")
        self._require("warmup_ratio", 0 <= self.warmup_ratio <= 1, "between 0 and 1")
        self._require_choice("precision", ("fp32", "bf16", "fp16", "auto"))


@dataclass(frozen=True)
class EvaluationRecipe(Checked):
    """How maps become masks that are scored; changes no training."""

    scales: tuple[float, ...]  # factors of the input size; the maps are combined
    threshold: float  # a pixel whose maps all stay below it is background
    batch_size: int

    def _check_ranges(self) -> None:
        self._require("scales", min(self.scales, default=0) > 0, "a list of positive numbers")
        self._require("threshold", 0 <= self.threshold <= 1, "between 0 and 1")
        self._require("batch_size", self.batch_size > 0, "positive")


@dataclass(frozen=True)
class Recipe(Checked):
    """One run: the profile it began from, its seed and its sections."""

    profile: str
    seed: int
    data: DataRecipe
    backbone: BackboneRecipe
    graph: GraphRecipe
    lir: LirRecipe
    masks: MasksRecipe
    energy: EnergyRecipe
    loss: LossRecipe
    schedule: ScheduleRecipe
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
def types_of(part: type) -> dict[str, type]:
    """Field names of a recipe or section with their types, in order."""
    hints = get_type_hints(part)
    return {field.name: hints[field.name] for field in fields(part)}
