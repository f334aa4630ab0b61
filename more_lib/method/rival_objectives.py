"""What trains ToCo, DuPL and MCTformer+: called as ``Objective`` is, each with its network."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from more_lib.method import dupl, toco
from more_lib.method.localization import multiscale_cam
from more_lib.method.losses import classification_loss, patch_token_contrast_loss, segmentation_loss
from more_lib.method.mctformer import MCTOutput, layer_contrast_loss
from more_lib.method.model import MoReOutput
from more_lib.method.objective import (
    Objective,
    image_losses,
    padded_patches,
    padding_mask,
    where_padded,
)
from more_lib.method.pseudo_labels import three_way_mask
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError
from more_lib.system.processes import random_numbers


def refuse_token_classification(recipe: Recipe) -> None:
    """Raise ``InputError`` for a term that one class token, which stands for all, cannot learn."""
    if recipe.loss.token_classification:
        raise InputError(
            f"loss.token_classification is {recipe.loss.token_classification}, but {recipe.method} "
            f"has one token for all classes: set it to 0, or begin with --profile {recipe.method}"
        )


class ToCoObjective(Objective):
    """MoRe's terms without LIR and class-token discrepancy, and the contrast of class tokens."""

    views = True

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        refuse_token_classification(recipe)
        self.weights["class_token_contrast"] = recipe.toco.class_token_contrast

    def active(self, iteration: int) -> set[str]:
        """As ``Objective.active``, and L_ctc, which sets in with the patch-token contrast."""
        begun = iteration >= self.recipe.schedule.patch_token_contrast
        return super().active(iteration) | ({"class_token_contrast"} if begun else set())

    def forward(self, model: Any, *given: Any, **named: Any) -> dict[str, Tensor]:
        """As ``Objective.forward``; the slow teacher follows before each step, contrast or not."""
        toco.ema_update(model.teacher, model.head, self.recipe.toco.momentum)
        return super().forward(model, *given, **named)

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


class DuPLObjective(Objective):
    """Every term is the sum of both students'; each one's labels teach the other's decoder."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        refuse_token_classification(recipe)
        settings, classes = recipe.dupl, len(recipe.data.classes)
        self.weights |= {"discrepancy": settings.discrepancy, "consistency": settings.consistency}
        if len(settings.end) not in (1, classes):
            raise InputError(f"dupl.end has {len(settings.end)} values; give 1, or {classes}, one "
                             "for each class")  # fmt: skip
        masks, least = recipe.masks, min(settings.start, *settings.end)
        for name, low in (("contrast", masks.contrast[1]), ("decoder", masks.decoder[1])):
            if least < low:
                raise InputError(
                    f"dupl.start and dupl.end reach down to {least}, below the low threshold {low} "
                    f"of masks.{name}: raise them, or lower that"
                )
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
                grid = output.features.shape[-2:]
                aux_cam = F.interpolate(cams[1], grid, mode="bilinear")
                patches = three_way_mask(aux_cam, present, high, masks.contrast[1])
                patches = where_padded(padded_patches(padding, grid), IGNORE_INDEX, patches)
                terms["patch_token_contrast"] = patch_token_contrast_loss(output.features, patches)
            if decodes:
                taught = self.decoder_cam(cams, iteration)
                pixel = self.pixel_labels(taught, labels, output, pictures, box, high)
                pixels.append(where_padded(padding, IGNORE_INDEX, pixel))
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
