"""ToCo, DuPL and MCTformer+ as the trainer and the evaluation know MoRe: networks and objectives.

Each network is built by ``from_recipe``, has ``parameter_groups`` and ``patch_size``, and in
evaluation mode gives its logits and the raw maps that its ``kinds`` name, as a ``MoReOutput``. Each
objective is called as ``Objective`` is. Sizes and rates are the recipe's, for all methods alike.
"""

from copy import deepcopy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from more_lib.method import dupl, toco
from more_lib.method.backbones import check_plain
from more_lib.method.localization import multiscale_cam
from more_lib.method.losses import (
    classification_loss,
    patch_token_contrast_loss,
    segmentation_loss,
)
from more_lib.method.mctformer import (
    MCTformer,
    MCTOutput,
    fused_maps,
    layer_contrast_loss,
    spread,
)
from more_lib.method.model import MoRe, MoReOutput, recipe_backbone, require_patches
from more_lib.method.objective import Objective, image_losses, padding_mask
from more_lib.method.pseudo_labels import three_way_mask
from more_lib.method.vit import ClassTokenViT
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.recipes.schema import OptimizerRecipe, Recipe
from more_lib.system.errors import InputError
from more_lib.system.processes import random_numbers

DECODED_KINDS = ("cam", "aux_cam", "decoder")  # one class token looks at no class


class ToCo(MoRe):
    """MoRe's network with one class token, which a projection head and its slow teacher read."""

    kinds = DECODED_KINDS

    def __init__(self, encoder: ClassTokenViT, num_classes: int, width: int, *head: int) -> None:
        super().__init__(encoder, width, num_classes=num_classes)
        self.head = toco.ProjectionHead(encoder.embed_dim, *head)
        self.teacher = deepcopy(self.head).requires_grad_(False)

    @classmethod
    def from_recipe(cls, recipe: Recipe, pretrained: bool = True) -> "ToCo":
        """As ``MoRe.from_recipe``."""
        width, classes = recipe.backbone.decoder_width, len(recipe.data.classes)
        return cls(_one_token(recipe, pretrained), classes, width, *recipe.toco.head)

    def read_out(self, class_tokens: Tensor) -> Tensor:
        """While training the projected class token (B, O), else as ``MoRe.read_out``.

        Part of the forward pass, for only what that reaches is averaged by several processes.
        """
        return self.head(class_tokens[:, 0]) if self.training else super().read_out(class_tokens)


class ToCoObjective(Objective):
    """MoRe's terms without LIR and class-token discrepancy, and the contrast of class tokens."""

    views = True

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.weights["class_token_contrast"] = recipe.toco.class_token_contrast

    def active(self, iteration: int) -> set[str]:
        """As ``Objective.active``, and L_ctc, which sets in with the patch-token contrast."""
        begun = iteration >= self.recipe.schedule.patch_token_contrast
        return super().active(iteration) | ({"class_token_contrast"} if begun else set())

    def own_losses(
        self,
        model: Any,
        cams: tuple[Tensor, Tensor],
        present: Tensor,
        output: MoReOutput,
        views: Tensor | None,
        active: set[str],
    ) -> dict[str, Tensor]:
        """L_ctc between the image, another crop of it and local crops (``toco``)."""
        if "class_token_contrast" not in active:
            return {}
        settings = self.recipe.toco
        assert views is not None  # the transform makes them for this objective
        another, rendering = views.unbind(1)
        toco.ema_update(model.teacher, model.head, settings.momentum)
        crops, positive, _ = toco.local_crops(
            rendering,
            toco.roi_mask(cams[1], present, *settings.region),
            settings.num_crops,
            settings.local_size,
            aligned=settings.aligned,
            flags=settings.flags,
        )
        token = output.class_tokens[:, 0]
        other, local = (
            model.encoder(seen).class_tokens[:, 0] for seen in (another, crops.flatten(0, 1))
        )
        local = model.head(local).unflatten(0, crops.shape[:2])
        loss = toco.class_token_contrast_loss(
            torch.stack((output.token_logits, model.head(other), *local.unbind(1))),
            model.teacher(torch.stack((token, other)).detach()),
            F.pad(positive, (2, 0), value=True),  # the two whole views are positive
            settings.temperature,
            settings.repulsion,
        )
        return {"class_token_contrast": loss}


class DuPL(dupl.DualStudent):
    """Two students; in evaluation mode the network is one of them, number ``shown``."""

    kinds = DECODED_KINDS
    shown = 0

    @classmethod
    def from_recipe(cls, recipe: Recipe, pretrained: bool = True) -> "DuPL":
        """As ``MoRe.from_recipe``."""
        width, classes = recipe.backbone.decoder_width, len(recipe.data.classes)
        return cls(_one_token(recipe, pretrained), classes, width)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels; image sides must be multiples of it."""
        return self.students[0].patch_size

    def forward(self, images: Tensor, with_decoder: bool = True) -> Any:
        """While training both students' outputs, else that of the student shown."""
        if self.training:
            return super().forward(images)
        return self.students[self.shown](images, with_decoder=with_decoder)

    def parameter_groups(self, settings: OptimizerRecipe) -> list[dict]:
        """AdamW's groups, each student's as MoRe's."""
        return [group for each in self.students for group in each.parameter_groups(settings)]


class DuPLObjective(Objective):
    """Every term is the sum of both students'; each one's labels teach the other's decoder."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        settings, classes = recipe.dupl, len(recipe.data.classes)
        self.weights |= {"discrepancy": settings.discrepancy, "consistency": settings.consistency}
        if len(settings.end) not in (1, classes):
            raise InputError(f"dupl.end has {len(settings.end)} values; give 1, or {classes}, one "
                             "for each class")  # fmt: skip
        self.ends = torch.tensor(settings.end).expand(classes)  # on the CPU, as labels are

    def forward(
        self,
        model: Any,
        images: Tensor,
        labels: Tensor,
        output: Any,
        iteration: int,
        box: Tensor | None = None,
        views: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """As ``Objective.forward``, of a ``DuPL`` and the pair that it gives while training."""
        settings = self.recipe.dupl
        filters = iteration >= settings.filter_from
        pictures = (images * self.normal[1] + self.normal[0]).clamp(0, 1)
        pairs = list(zip(model.students, output, strict=True))
        losses, pixels = self._own_terms(pairs, (images, pictures), labels, box, iteration)
        if iteration >= settings.discrepancy_from:
            first, second = (each.features for each in output)
            losses["discrepancy"] = dupl.discrepancy_loss(
                first, second, settings.form, settings.along
            )
        if not pixels:
            return losses
        if filters:
            sizes = (settings.least, settings.floor, settings.gap, settings.posterior)
            logits = (each.seg_logits for each in output)
            pixels = [dupl.noise_filter(*each, *sizes) for each in zip(logits, pixels, strict=True)]
        crossed = list(zip(pairs, reversed(pixels), strict=True))
        losses["segmentation"] = sum(
            segmentation_loss(seen.seg_logits, mask) for (_, seen), mask in crossed
        )
        if filters and settings.consistency:
            strong = self._strong(pictures, model.patch_size)
            losses["consistency"] = sum(
                dupl.consistency_loss(
                    seen.seg_logits, student(strong).seg_logits, mask, settings.confidence
                )
                for (student, seen), mask in crossed
            )
        return losses

    def thresholds(self, iteration: int, labels: Tensor) -> Tensor:
        """(B,) the images' high thresholds, which fall once the decoder learns."""
        settings = self.recipe.dupl
        begin = settings.fall_from or self.recipe.schedule.segmentation
        start = torch.full_like(self.ends, settings.start)
        ends = dupl.falling_threshold(iteration - begin, settings.fall, start, self.ends)
        return dupl.image_thresholds(ends, labels.cpu())

    def _own_terms(
        self,
        pairs: list[tuple[Any, MoReOutput]],
        seen: tuple[Tensor, Tensor],
        labels: Tensor,
        box: Tensor | None,
        iteration: int,
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """What each student learns from its own maps, summed, and each one's pixel labels.

        seen: the images, normalised and in [0, 1]. No pixel labels before the decoder learns.
        """
        masks, high = self.recipe.masks, self.thresholds(iteration, labels)
        contrasts, decodes = (
            iteration >= getattr(self.recipe.schedule, name)
            for name in ("patch_token_contrast", "segmentation")
        )
        (images, pictures), pixels = seen, []
        padding = None if box is None else padding_mask(box, images.shape[-2:])
        losses: dict[str, Tensor] = {}
        present = labels.to(images.device, non_blocking=True)
        for student, output in pairs:
            terms = image_losses(output, present, self.recipe)
            if contrasts or decodes:
                straight = (output.cam.detach(), output.aux_cam.detach())
                cams = multiscale_cam(student, images, masks.scales, straight, labels)
            if contrasts:
                aux_cam = F.interpolate(cams[1], output.features.shape[-2:], mode="bilinear")
                patches = three_way_mask(aux_cam, present, high, masks.contrast[1])
                if padding is not None:
                    small = padding[:, None].float()
                    small = F.interpolate(small, patches.shape[-2:], mode="nearest-exact")[:, 0]
                    patches = patches.masked_fill(small > 0, IGNORE_INDEX)
                terms["patch_token_contrast"] = patch_token_contrast_loss(output.features, patches)
            if decodes:
                taught = self.decoder_cam(cams, iteration)
                pixel = self.pixel_labels(taught, labels, output, pictures, box, high)
                if padding is not None:
                    pixel = pixel.masked_fill(padding, IGNORE_INDEX)
                pixels.append(pixel)
            losses = {name: losses.get(name, 0) + loss for name, loss in terms.items()}
        return losses, pixels

    def _strong(self, pictures: Tensor, patch: int) -> Tensor:
        """The strong view of ``pictures`` in [0, 1]: normalised, mirrored, smaller."""
        draws = random_numbers((len(pictures), dupl.DRAWS), None, torch.device("cpu"))
        strong = dupl.strong_view(pictures, draws)
        factor = self.recipe.dupl.strong_scale
        size = [max(round(factor * side / patch), 1) * patch for side in pictures.shape[-2:]]
        strong = F.interpolate(strong, size, mode="bilinear").flip(-1)
        return (strong - self.normal[0]) / self.normal[1]


class MCTMaps(NamedTuple):
    """What MCTformer+ says of images in evaluation mode: (B, C) logits, (B, C, h, w) maps."""

    class_logits: Tensor  # the mean of both
    token_logits: Tensor
    class_tokens: Tensor  # (B, C, D), the last ones
    attention_scores: Tensor  # mean class attention of the last blocks, after the softmax
    cam: Tensor  # of the patches, no ReLU
    root: Tensor  # of attention times the CAM's positive part
    seed: Tensor  # the root, spread by what patches look at


class MCTformerPlus(MCTformer):
    """MCTformer+; in evaluation mode it gives ``MCTMaps``."""

    kinds = ("attention", "cam", "root", "seed")
    map_blocks = 12

    @classmethod
    def from_recipe(cls, recipe: Recipe, pretrained: bool = True) -> "MCTformerPlus":
        """As ``MoRe.from_recipe``."""
        settings, vit = recipe.mctformer, recipe_backbone(recipe, pretrained)
        check_plain(vit)
        side, before = recipe.data.crop_size // vit.patch_embed.feat_ratio(), vit.patch_embed
        grid = None  # positions are repeated where the crop has whole multiples of the pretrained
        if all(side > length and side % length == 0 for length in before.grid_size):
            grid = (side, side)
        start = recipe.backbone.token_start
        model = cls(vit, len(recipe.data.classes), settings.decay, grid, start)
        require_patches(recipe, model.patch_size)
        model.map_blocks = settings.map_blocks
        return model

    parameter_groups = MoRe.parameter_groups

    def forward(self, images: Tensor, with_decoder: bool = True) -> Any:
        """While training what the losses need, else the maps; there is no decoder to leave out."""
        if self.training:
            return super().forward(images, with_attention=False)
        seen = super().forward(images)
        fused = fused_maps(seen.class_attention, seen.patch_cam, self.map_blocks)
        return MCTMaps(
            class_logits=seen.logits,
            token_logits=seen.class_logits,
            class_tokens=seen.tokens[-1],
            attention_scores=seen.class_attention[-self.map_blocks :].mean(dim=0),
            cam=seen.patch_cam,
            root=fused,
            seed=spread(fused, seen.affinity),
        )


class MCTformerObjective(Objective):
    """Classification by class tokens and by pooled patches, and tokens apart in every layer."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.weights["layer_contrast"] = recipe.mctformer.layer_contrast

    def forward(
        self,
        model: Any,
        images: Tensor,
        labels: Tensor,
        output: Any,
        iteration: int,
        box: Tensor | None = None,
        views: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """As ``Objective.forward``, of an ``MCTOutput``."""
        seen: MCTOutput = output
        labels = labels.to(images.device, non_blocking=True)
        tokens = seen.tokens[-self.recipe.mctformer.contrast_blocks :]
        return {
            "token_classification": classification_loss(seen.class_logits, labels),
            "classification": classification_loss(seen.patch_logits, labels),
            "layer_contrast": layer_contrast_loss(tokens, labels),
        }


def _one_token(recipe: Recipe, pretrained: bool) -> ClassTokenViT:
    """The encoder of ToCo and of a student of DuPL."""
    encoder = ClassTokenViT(
        recipe_backbone(recipe, pretrained),
        num_classes=1,
        num_registers=0,
        aux_layer=recipe.backbone.aux_layer,
        freeze_position=recipe.backbone.freeze_position,
        position_margin=0,
    )
    require_patches(recipe, encoder.patch_size)
    return encoder
