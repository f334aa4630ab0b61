"""How a mask was made and judged: the protocol, without which a score means nothing (notebook 06).

The same network gives another mIoU for each of them. That is why 72.1, 73.4, 74.6 and 76.4 are all
"MoRe on VOC val"; ``PROTOCOLS`` has the one that each published number belongs to.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from typing import Any

import yaml

from more_lib.method.crf import CRF_PARAMS
from more_lib.method.methods import method_of
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError

MAP_NAMES = {
    "attention": "attention",  # ViT-LAM: the last block's class-patch scores
    "cam": "CAM",
    "aux_cam": "auxiliary CAM",
    "lam": "LAM",
    "fused": "LAM × CAM",
    "root": "√(attention × CAM)",  # MCTformer+'s, as is the next
    "seed": "seed",
    "decoder": "decoder",  # scores every class at every pixel: no labels, no threshold
}
MAPS = ("attention", "cam", "lam", "fused", "decoder")  # of MoRe, in the order of its tables
MASK_MAPS = ("lam", "cam", "fused", "decoder")  # what masks are made of, the paper's own first
SQUARE_MAPS = ("lam", "cam", "aux_cam", "seed", "decoder")  # what scripts make of squares
LABELS = ("true", "predicted")
CRFS = ("none", *CRF_PARAMS)
REFINEMENTS = ("none", "par")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a score was measured.

    labels: "true" takes the classes of an image from its annotation, "predicted" those with a
        positive logit (probability above 0.5), so that **an image in which no class is predicted
        is background altogether**; "none" for the decoder, which asks for neither.
    scales, flip: factors of the input's size, and whether each came with its mirror image. At
        scale 1 an image has its own size, rounded to whole patches; maps go back to the mask's.
    size: 0, or the side of a square to which images are resized whatever their shape: then views
        become maps, and classes are predicted, as released (``evaluation.released``).
    threshold: a pixel is background where no map of a class exceeds it. None lets the background
        compete with a score of its own: for a map 1 - the largest one, which alone is much the
        same as a threshold of 0.5; the decoder has a channel for it.
    precision: "bf16" where the network multiplied in that, else "fp32"; what is made of its maps
        is float32 either way.
    crf: "released" or "toco" refines those scores by a dense CRF with MoRe's or ToCo's parameters
        (``method.crf``), or "none".
    refinement: "par" lets every map follow the image's edges (``PixelAdaptiveRefinement`` of the
        recipe's masks) before anything else is made of it, or "none".
    student: which of the networks that were trained together, counted from 1; only DuPL has two.
    """

    dataset: str
    split: str
    map: str  # of MAP_NAMES
    labels: str
    scales: tuple[float, ...]
    flip: bool = True
    threshold: float | None
    crf: str = "none"
    size: int = 0
    precision: str = "fp32"
    refinement: str = "none"
    student: int = 1

    def describe(self) -> str:
        """The whole protocol on one line."""
        background = "no threshold" if self.map == "decoder" else "background 1 - largest map"
        if self.threshold is not None:
            background = f"threshold {self.threshold:g}"
        crf = "no CRF" if self.crf == "none" else f"CRF {self.crf}"
        labels = f"{self.labels.replace('none', 'no')} image labels"
        if self.size and self.labels == "predicted":
            labels += ", the decoder's where none is"
        edges = ", refined by PAR" * (self.refinement == "par")
        whose = f" of student {self.student}" * (self.student > 1)
        what = f"{self.dataset} {self.split}, {MAP_NAMES[self.map]}{whose}{edges}, {labels}"
        summed = self.size and self.flip and self.map == "decoder"
        views = f"{self.views}, largest of logits + flip's" if summed else self.views
        return f"{what}, scales {views}, {background}, {crf}"

    @property
    def views(self) -> str:
        """Scales and mirror images in short, and a precision that is not the usual one."""
        square = f" of {self.size}×{self.size}" if self.size else ""
        return " ".join(f"{s:g}" for s in self.scales) + self.flip * " + flip" + square + self._in

    @property
    def place(self) -> str:
        """The split, the size and precision in which its images are seen, and who sees them."""
        whose = f" by student {self.student}" * (self.student > 1)
        return self.split + (f" at {self.size}×{self.size}" if self.size else "") + self._in + whose

    @property
    def _in(self) -> str:
        return "" if self.precision == "fp32" else f" in {self.precision}"

    @property
    def key(self) -> dict:
        """What tells it from every other, fit for JSON; fields that came later only if set."""
        later = (("size", 0), ("precision", "fp32"), ("refinement", "none"), ("student", 1))
        return dict(item for item in asdict(self).items() if item not in later)


@dataclass(frozen=True)
class NamedProtocol:
    """A protocol that a published number belongs to; the threshold is the recipe's.

    published: the number, its data set and where it stands. multiscale: ``scales``, () being the
    recipe's, each with its mirror image, or the image as it is. square: images are resized to the
    recipe's crop size, as in the released scripts to 448.
    """

    published: str
    map: str
    labels: str = "true"
    split: str = "val"  # or "train": the paper's pseudo labels
    multiscale: bool = True
    scales: Sequence[float] = ()
    square: bool = False
    crf: str = "none"

    def of(self, recipe: Recipe, split: str = "") -> Protocol:
        """The protocol under ``recipe``, on another ``split`` of its data if one is named."""
        if (student := recipe.evaluation.student) > method_of(recipe).students:
            raise InputError(f"evaluation.student is {student}, and method {recipe.method!r} has "
                             "no second one: leave it at 1")  # fmt: skip
        # Of train_aug the paper scores VOC's own 1,464 images, without those of SBD.
        train_split = recipe.data.train_split.removesuffix("_aug")
        own_background = self.map == "decoder" or self.crf != "none"
        return Protocol(
            dataset=recipe.data.dataset,
            split=split or (train_split if self.split == "train" else recipe.data.val_split),
            map=self.map,
            labels=self.labels,
            scales=tuple(self.scales or recipe.evaluation.scales) if self.multiscale else (1.0,),
            flip=self.multiscale,
            threshold=None if own_background else recipe.evaluation.threshold,
            crf=self.crf,
            size=recipe.data.crop_size if self.square else 0,
            precision=recipe.evaluation.precision.replace("auto", "fp32"),
            student=student,
        )


_TABLE = yaml.safe_load((resources.files(__package__) / "protocols.yaml").read_text("utf-8"))
PROTOCOLS = {name: NamedProtocol(**fields) for name, fields in _TABLE.items()}
PROTOCOLS |= {
    f"{name}-native": replace(
        each,
        published=f"none; {name} in our own way, photographs in their own size",
        multiscale=each.multiscale or each.map == "lam",
        scales=(),
        square=False,
    )
    for name, each in PROTOCOLS.items()
    if each.square
}


def named_protocols(names: Sequence[str], recipe: Recipe, split: str = "") -> dict[str, Protocol]:
    """The protocols of these names in ``PROTOCOLS`` under a recipe, by name.

    ``split`` takes the place of the splits that they name. Raises ``InputError`` for another name,
    and for a map or a student that the recipe's method does not have.
    """
    if unknown := [name for name in names if name not in PROTOCOLS]:
        raise InputError(f"protocol {unknown[0]!r} is unknown; choose from {', '.join(PROTOCOLS)}")
    drawn = method_of(recipe).maps
    for name in names:
        if PROTOCOLS[name].map not in drawn:
            own = ", ".join(MAP_NAMES[kind] for kind in drawn)
            raise InputError(f"protocol {name!r} scores {MAP_NAMES[PROTOCOLS[name].map]}, which "
                             f"method {recipe.method!r} does not draw; it draws {own}")  # fmt: skip
    return {name: PROTOCOLS[name].of(recipe, split) for name in names}


def table_protocols(
    recipe: Recipe, maps: Sequence[str] = MAPS, labels: Sequence[str] = LABELS
) -> list[Protocol]:
    """Every map with every kind of labels on ``recipe.data.val_split``, without CRF.

    The decoder, at one scale, has one row. Raises ``InputError`` for unknown maps or labels.
    """
    check_choice("maps", maps, tuple(MAP_NAMES))
    check_choice("labels", labels, LABELS)
    given = {kind: ("none",) if kind == "decoder" else labels for kind in maps}
    return [map_protocol(recipe, kind, label) for kind in maps for label in given[kind]]


def map_protocol(recipe: Recipe, kind: str, labels: str) -> Protocol:
    """One row of that table."""
    row = NamedProtocol("", kind, labels, multiscale=kind != "decoder").of(recipe)
    return replace(row, refinement=recipe.evaluation.refinement)


def check_protocols(protocols: Sequence[Protocol]) -> None:
    """Raise ``InputError`` for a protocol that does not say how to make a mask."""
    for protocol in protocols:
        decoder = protocol.map == "decoder"
        check_choice("map", [protocol.map], SQUARE_MAPS if protocol.size else tuple(MAP_NAMES))
        check_choice("labels", [protocol.labels], ("none",) if decoder else LABELS)
        check_choice("crf", [protocol.crf], CRFS)
        refinements = ("none",) if protocol.size else REFINEMENTS
        check_choice("refinement", [protocol.refinement], refinements)
        if protocol.threshold is not None and (decoder or protocol.crf != "none"):
            raise InputError(
                f"threshold is {protocol.threshold:g} for {protocol.describe()}: decoder and CRF "
                "take none, for they weigh the background by its own score"
            )


def network_of(model: Any, protocols: Sequence[Protocol]) -> Any:
    """The network that protocols of one ``place`` look at: a student of DuPL's, else the model.

    Raises ``InputError`` for a student that there is not.
    """
    students, number = getattr(model, "students", (model,)), protocols[0].student
    if number > len(students):
        raise InputError(f"evaluation.student is {number}, this network has no students: take 1")
    return students[number - 1]


def check_choice(name: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    """Raise ``InputError`` unless ``chosen`` is a selection of ``known``."""
    strange = [str(choice) for choice in chosen if choice not in known]
    if strange or not chosen:
        wrong = f"holds {', '.join(strange)}" if strange else "is empty"
        raise InputError(f"{name} {wrong}; choose from {', '.join(known)}")


def listing(recipe: Recipe) -> str:
    """The named protocols of maps that a recipe draws, and the published numbers they belong to."""
    return "\n".join(
        f"{name}\n    {named.of(recipe).describe()}\n    published: {named.published}"
        for name, named in PROTOCOLS.items()
        if named.map in method_of(recipe).maps
    )
