"""A recipe and its sections: what may be set, as released for VOC where a value stands here.

Each field is checked when its section is built, so a section that exists is a valid one. Where
paper and released code differ, the field's comment gives the other value (notebook 05 §1). Fields
that came later have the value of the time before, so that older recipes mean what they meant.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Literal, get_args
from unicodedata import normalize

from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationInfo, field_validator

from more_lib.recipes.validation import section
from more_lib.system.files import absolute


def _rule(holds: Callable[[Any], bool], allowed: str) -> AfterValidator:
    """A check of a value that has its type already; ``allowed`` says what it should be."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(f"it should be {allowed}")
        return value

    return AfterValidator(check)


def _from_text(value: object) -> object:
    with suppress(ValueError):  # YAML reads 6e-5, without a point, as text
        return float(value) if isinstance(value, str) else value
    return value


def _absolute(path: str) -> str:
    return str(absolute(path)) if path else ""


# Whole numbers may stand for decimals; truth values and text (but see above) for neither.
Switch = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Place = Annotated[Text, AfterValidator(_absolute)]  # "" or a path, relative to where we started
Name = Annotated[Text, Field(min_length=1)]
Whole = Annotated[int, Strict()]
Count = Annotated[Whole, Field(ge=0)]
PositiveCount = Annotated[Whole, Field(ge=1)]
# More than anybody trains with: a slip of the hand is told here, not by a machine without memory.
Few = Annotated[Count, Field(le=256)]
Side = Annotated[PositiveCount, Field(le=4096)]
Decimal = Annotated[float, Field(strict=True, allow_inf_nan=False), BeforeValidator(_from_text)]
Amount = Annotated[Decimal, Field(ge=0)]
Positive = Annotated[Decimal, Field(gt=0)]
Share = Annotated[Decimal, Field(ge=0, le=1)]
Factor = Annotated[Positive, Field(le=1e6)]
Scale = Annotated[Positive, Field(ge=0.05, le=16)]
Scales = Annotated[tuple[Scale, ...], Field(min_length=1)]
Beta = Annotated[Amount, Field(lt=1)]
CropScale = Annotated[tuple[Positive, Scale], _rule(lambda s: s[0] <= s[1], "[low, high]")]
Thresholds = Annotated[tuple[Share, Share], _rule(lambda t: t[0] >= t[1], "[high, low]")]
# One form of each letter with an accent: macOS and others write two.
ClassName = Annotated[Name, AfterValidator(partial(normalize, "NFC"))]
Distinct = Annotated[
    tuple[ClassName, ...], _rule(lambda c: len(set(c)) == len(c), "distinct names")
]

Method = Literal["more", "toco", "dupl", "mctformer"]  # each but the first has a section
METHODS: tuple[str, ...] = get_args(Method)


@section
class DataRecipe:
    """What is learned from: a data set, its classes and splits, the augmentation."""

    dataset: Literal["emoji", "voc", "coco", "pets", "folder"]  # folder: your own
    classes: Annotated[Distinct, Field(min_length=1)]  # C names; their order numbers them 1..C
    train_split: Name
    val_split: Name
    crop_size: Side  # pixels a side
    crop_scale: CropScale  # resized: a crop's share of the area; padded: of the sides
    # Brightness, contrast, saturation, hue.
    color_jitter: tuple[Amount, Amount, Amount, Annotated[Amount, Field(le=0.5)]]
    jitter_probability: Share
    workers: Few  # processes that load images; 0 loads in the training process
    root: Place = ""  # "" is the folder in the cache that the data script prepares
    labels: Place = ""  # the table of image labels of a folder, if it is not its labels.csv
    skip: tuple[Text, ...] = ()  # ids that every split leaves out, such as damaged images
    # to crop_size; COCO "padded": image rescaled, crop filled up with black
    crop: Literal["resized", "padded"] = "resized"
    # That black; MoRe as released: part of the picture; ToCo: half of the boxes are mirrored.
    padding: Literal["masked", "picture", "mirrored"] = "masked"
    grey: Share = 0.0  # probability of losing all colour; ToCo and DuPL as released: 0.2
    blur: Share = 0.0  # of a Gaussian blur, sigma in [0.1, 2] pixels; ToCo and DuPL: 1
    strong: Literal["none", "randaugment"] = "none"  # MCTformer+: this, and erasing; no jitter
    views: Literal["alike", "released"] = "alike"  # ToCo's further ones: as the image, or its own
    # Class names whose order gives the masks' ids from 1; () is the data set's own, or classes.
    numbering: Distinct = ()
    # How masks lie whose size does not tell it, of photographs that EXIF turns: as these are seen.
    mask_orientation: Literal["upright", "stored"] = "upright"

    @field_validator("crop")
    @classmethod
    def _part_of_the_image(cls, crop: str, info: ValidationInfo) -> str:
        if crop == "resized" and info.data.get("crop_scale", (0, 0))[1] > 1:
            raise ValueError("it should be 'padded' where data.crop_scale ends above 1")
        return crop

    @field_validator("root")
    @classmethod
    def _own_images(cls, root: str, info: ValidationInfo) -> str:
        if info.data.get("dataset") == "folder" and not root:
            raise ValueError(
                "it should be the folder with your images where data.dataset is folder"
            )
        return root


@section
class BackboneRecipe:
    """The pretrained vision transformer and what is changed about it."""

    name: Name  # a timm model name, or a shipped one: "mini", "mini_w96", "mini_w48"
    weights: Place = ""  # "" is what ships with the package or timm's own; else a file
    # released: all class tokens begin alike; ours: each gets a direction of its own in late blocks
    token_start: Literal["identical", "apart"] = "identical"
    num_registers: Few = 4  # released: extra tokens beside the class tokens
    # ours: so many first blocks, and all that enters them, stay as pretrained; no backward there
    frozen_blocks: Few = 0
    drop_path: Share = 0.0  # rate in the last block, growing to it evenly; MCTformer+: 0.1
    depth: Count = 0  # ours: keep only the first so many of its blocks; 0 keeps all
    freeze_position: Switch = False  # of the patches; ToCo and DuPL as released: True
    aux_layer: Whole = -3  # released: the block whose output feeds the auxiliary classifier
    decoder_width: Side = 512  # released: channels inside the LargeFOV decoder


@section
class GraphRecipe:
    """GCR (notebook 03). Every switch has the released value here; ``gcr`` says what each does."""

    use: Switch = True  # False leaves the class tokens as the encoder gives them
    num_neighbors: Count = 0  # K; 0 takes int(C / 2), as released, or 392 where tails are patches
    tails: Literal["tokens_and_patches", "patches"] = "tokens_and_patches"  # paper: patches
    similarity: Literal["scaled_dot", "cosine"] = "scaled_dot"  # paper: cosine
    edge_weights: Literal["product_of_sums", "sum_of_products"] = "product_of_sums"  # paper: other
    update: Literal["residual", "plain"] = "residual"  # paper: plain


@section
class LirRecipe:
    """LIR's two relations (notebook 04), as released for VOC; ``lir`` explains the switches."""

    temperature: Positive = 0.5  # of the confident relation; COCO 0.1
    confident: Literal["release", "paper"] = "release"  # paper: cosine, pairs' mean, trains patches
    kernel_size: Side = 6  # d of the uncertain relation, in patches
    # An uncertain patch is kept when its kernel's mean exceeds phi.
    phi: Annotated[Decimal, Field(ge=0, le=2)] = 1.2
    num_tokens: PositiveCount = 8  # uncertain patches an image, under sampling "some"
    form: Literal["absolute_cosine", "cosine"] = "absolute_cosine"  # paper: cosine
    token: Literal["corner", "centre"] = "corner"  # paper: centre
    sampling: Literal["some", "all"] = "some"  # paper: all
    fill_up: Literal["centre", "corner"] = "centre"  # token of what "some" adds; released: corner


@section
class MasksRecipe:
    """Pixel and patch labels mined from CAM (notebook 04): thresholds are (high, low), released."""

    scales: Scales = (1.0, 0.5, 0.75, 1.5)  # of the training CAM, each with its mirror
    confident: Thresholds = (0.5, 0.25)  # auxiliary CAM, for the confident relation
    uncertain: Thresholds = (0.7, 0.25)  # auxiliary CAM, for the uncertain relation
    final: Thresholds = (0.6, 0.35)  # final CAM, for both, from schedule.final_cam on
    contrast: Thresholds = (0.7, 0.25)  # auxiliary CAM, for the patch-token contrast
    decoder: Thresholds = (0.7, 0.25)  # background scores, for the segmentation loss
    # Refined into the decoder's labels; paper: lam; ours: the mean of both. ToCo and DuPL on COCO:
    # aux_first, the auxiliary CAM until schedule.final_cam.
    decoder_map: Literal["cam", "aux_first", "lam", "both"] = "cam"
    spread: Amount = 0.0  # ours: temperature at which that map is spread to similar patches; 0: not
    lam_similarity: Literal["dot", "cosine"] = "dot"  # of LAM, wherever it is drawn; paper: cosine
    # Of the refinement's neighbours, in pixels.
    dilations: Annotated[tuple[Side, ...], Field(min_length=1)] = (1, 2, 4, 8, 12, 24)
    refinements: Count = 10
    picture: Literal["exact", "bytes"] = "exact"  # that it follows; released: cut to whole bytes


@section
class EnergyRecipe:
    """The dense energy's kernel (L_reg, notebook 05), as released."""

    weight: Amount = 1e-7  # inside the energy; loss.dense_energy comes on top
    sigma_rgb: Positive = 15.0  # of 255
    sigma_xy: Positive = 100.0  # pixels of the crop
    scale: Annotated[Positive, Field(le=1)] = 0.5  # the energy is taken on the crop at this size


@section
class LossRecipe:
    """Weight of each term of the objective, 0 to leave it out (notebook 05)."""

    classification: Amount = 1.0  # released: on the last feature map's logits
    aux_classification: Amount = 1.0  # released, not in the paper: on the auxiliary map's logits
    token_classification: Amount = 0.0  # released without; on what class tokens are read out as
    token_readout: Literal["mean", "linear"] = "mean"  # paper: mean; ours: a row a class
    token_discrepancy: Amount = 1.0  # released: class tokens apart from each other
    token_temperature: Positive = 0.07  # released: of the token discrepancy's softmax
    confident_relation: Amount = 0.2  # alpha; COCO 0.1 in the script, 0.05 in the published log
    uncertain_relation: Amount = 0.1  # beta; COCO 0.01 in the script, 0 in the published log
    segmentation: Amount = 0.12  # gamma
    patch_token_contrast: Amount = 0.3  # released, "also adopted" in the paper
    dense_energy: Amount = 0.05  # released, "also adopted" in the paper


@section
class TocoRecipe:
    """What ToCo has beyond MoRe's part (``method.toco``), as released; no other method reads it."""

    class_token_contrast: Amount = 0.5  # weight of L_ctc
    temperature: Positive = 0.5  # COCO 1.0
    momentum: Share = 0.9  # of the teacher's head
    region: Thresholds = (0.7, 0.25)  # of the auxiliary CAM: a class for sure, none
    num_crops: Annotated[Few, Field(ge=1)] = 8
    local_size: Side = 96  # pixels a side of a local crop
    head: tuple[Side, Side, Side] = (2048, 256, 1024)  # hidden, bottleneck, out
    aligned: Switch = True  # ours; released: False, half of the crops are judged as if mirrored
    flags: Literal["share", "centre"] = "share"  # paper's figure: centre
    repulsion: Switch = True  # paper: False, plain InfoNCE


@section
class DuplRecipe:
    """What DuPL has beyond MoRe's part (``method.dupl``), as released; no other method reads it."""

    discrepancy: Amount = 0.1  # weight of L_dis
    discrepancy_from: Count = 0  # COCO: 8_001
    form: Literal["sum", "log"] = "sum"  # of the discrepancy; paper: log
    along: Literal["patches", "channels"] = "patches"  # its cosines
    start: Share = 0.7  # the high threshold before the decoder learns, from when on it falls
    end: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.55,)  # for all, or by class
    fall_from: Count = 0  # the first iteration that it falls; 0: as schedule.segmentation
    fall: Count = 18_000  # iterations that it falls
    filter_from: Count = 8_000  # the first iteration whose labels are filtered
    least: Count = 1_000  # values that a mixture takes at least
    floor: Amount = 0.1  # of a loss that counts
    gap: Amount = 1.0  # between the mixture's means
    posterior: Share = 0.95
    consistency: Amount = 0.05  # weight of L_con, from filter_from on
    confidence: Share = 0.9
    strong_scale: Annotated[Positive, Field(le=1)] = 0.75  # of the strong view's sides


@section
class MctformerRecipe:
    """What MCTformer+ has beyond MoRe's part (``method.mctformer``), as released."""

    layer_contrast: Amount = 1.0  # weight of L_cct
    contrast_blocks: PositiveCount = 12  # the last ones, in which tokens are contrasted
    decay: Annotated[Positive, Field(le=1)] = 0.996  # of the rank-weighted pooling
    map_blocks: PositiveCount = 12  # the last ones, whose attention makes maps; V2: 3


@section
class ScheduleRecipe:
    """Iterations before a loss sets in, and before LIR's masks come from the final CAM."""

    patch_token_contrast: Count  # and with it ToCo's class-token contrast
    confident_relation: Count
    uncertain_relation: Count
    segmentation: Count
    dense_energy: Count
    final_cam: Count


@section
class OptimizerRecipe:
    """AdamW, its learning-rate schedule, how long and in which precision it runs."""

    iterations: PositiveCount
    batch_size: PositiveCount  # images a process, iteration and accumulated step
    lr: Annotated[Positive, Field(le=1e30)]  # of the backbone at the end of the warm-up
    warmup_iterations: Count
    log_every: PositiveCount  # iterations between lines of the log
    head_lr_factor: Factor = 10.0  # released: heads learn faster than the pretrained backbone
    token_lr_factor: Factor = 1.0  # released: class tokens, identical at first, as the backbone
    # Of each class and register token; released: 2, itself and its position, each moved by lr.
    token_parameters: Literal[1, 2] = 1
    # Paper: what has not begun is left out; released: times 0, so that AdamW counts and decays.
    late_terms: Literal["absent", "zero"] = "absent"
    betas: tuple[Beta, Beta] = (0.9, 0.999)  # released
    weight_decay: Amount = 0.01  # released, on every parameter
    decayed: Literal["all", "matrices"] = "all"  # matrices: no 1-D parameter, no class token
    warmup_ratio: Share = 1e-6  # released: share of lr that the first iteration takes
    decay: Literal["polynomial", "cosine"] = "polynomial"  # of the learning rate
    power: Amount = 0.9  # released: of the polynomial decay (1 - t/T)^power
    final_ratio: Share = 0.0  # share of lr that the cosine decay ends at
    lr_every: PositiveCount = 1  # iterations at one learning rate, as an epoch's
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"  # auto: bf16 where it is native
    accumulate: PositiveCount = 1  # batches a process whose losses are averaged before an iteration
    checkpoint_every: Count = 0  # iterations between checkpoints to resume from; 0 keeps none


@section
class EvaluationRecipe:
    """How maps become masks that are scored; changes no training."""

    scales: Scales  # factors of the input size; the maps are combined
    threshold: Share  # a pixel whose maps all stay below it is background
    batch_size: PositiveCount
    # Of the network. auto: fp32 for scores, which are to be the same on every machine; for masks of
    # `predict` bf16 where it is native. On EmojiVOC val one network's mIoU differs by 0.01 to 0.02
    # points, and 0.1 to 0.2 % of the pixels.
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    # ours: par: maps follow the image's edges, by the PAR of masks.dilations and masks.refinements,
    # before they become masks; protocols of published numbers never do
    refinement: Literal["none", "par"] = "none"
    student: Literal[1, 2] = 1  # of DuPL's two; its published numbers are of the better one on val


@section
class Recipe:
    """One run: the profile it began from, its seed and its sections."""

    profile: Text
    seed: Annotated[Count, Field(lt=2**32)]
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
    method: Method = "more"  # what is trained
    toco: TocoRecipe = TocoRecipe()
    dupl: DuplRecipe = DuplRecipe()
    mctformer: MctformerRecipe = MctformerRecipe()
