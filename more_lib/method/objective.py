"""The whole objective of one iteration: masks mined from CAM, and every loss they feed.

L = L_cls + L_mct + alpha L_cre + beta L_ure + gamma L_seg + L_ptc + L_reg (notebook 05). Which term
counts from which iteration is data in the recipe, as are all thresholds.

Several processes average their losses and gradients, which are then those of one process with the
summed batch: the terms that are means over images are so by themselves, and those that divide by
what they count in the batch (segmentation: pixels; patch-token contrast and the paper's relations:
pairs; the released uncertain relation: sampled patches) divide by what all processes count
(``whole_batch``). The released code has every GPU take its own. Accumulated batches stay apart: the
step's losses are the means of theirs.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from more_lib.method.energy import LATTICE_CALIBRATION, DenseEnergyLoss
from more_lib.method.lir import UncertainSwitches, confident_relation_loss, uncertain_relation_loss
from more_lib.method.localization import lam, min_max, multiscale_cam
from more_lib.method.losses import (
    classification_loss,
    patch_token_contrast_loss,
    segmentation_loss,
    token_classification_loss,
    token_discrepancy_loss,
)
from more_lib.method.model import MoRe, MoReOutput
from more_lib.method.pseudo_labels import PixelAdaptiveRefinement, refine_cam, three_way_mask
from more_lib.recipes.constants import IGNORE_INDEX, IMAGENET_MEAN, IMAGENET_STD
from more_lib.recipes.schema import Recipe

MINED = (  # terms that learn from masks
    "patch_token_contrast",
    "confident_relation",
    "uncertain_relation",
    "segmentation",
    "dense_energy",
)


class Objective(nn.Module):
    """Every term of a recipe's loss, each from the iteration on that its schedule names."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        masks, energy = recipe.masks, recipe.energy
        self.refinement = PixelAdaptiveRefinement(masks.dilations, masks.refinements)
        self.energy = DenseEnergyLoss(
            energy.weight * LATTICE_CALIBRATION, energy.sigma_rgb, energy.sigma_xy, energy.scale
        )

    def active(self, iteration: int) -> set[str]:
        """Names of the mined terms that count at ``iteration`` (from 0).

        Never a matter of the images: a process that left a term out would leave the others waiting
        for its counts.
        """
        loss, schedule = self.recipe.loss, self.recipe.schedule
        return {
            name
            for name in MINED
            if getattr(loss, name) > 0 and iteration >= getattr(schedule, name)
        }

    def forward(
        self,
        model: MoRe,
        images: Tensor,
        labels: Tensor,
        output: MoReOutput,
        iteration: int,
        box: Tensor | None = None,
        pictures: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Every term that counts at ``iteration``, by its recipe name, not yet weighted.

        model: draws the CAM, without gradient. images: (B, 3, H, W), normalised. labels: (B, C),
        best left on the CPU: there, counting them makes nobody wait. output: ``model(images)``.
        box: (B, 4) int64, the part of each image that is no padding as (left, top, right, bottom);
        the mined terms learn nothing from the rest. All of the image without it.
        pictures: the images in [0, 1], whose edges the pixel labels follow; where they are not at
        hand, the normalisation of ``images`` is undone.
        """
        if pictures is None:
            mean, std = (images.new_tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
            pictures = (images * std + mean).clamp(0, 1)
        padding = None if box is None else padding_mask(box, images.shape[-2:])
        counted, labels = labels, labels.to(images.device, non_blocking=True)
        losses, active = image_losses(output, labels, self.recipe), self.active(iteration)
        if active:
            straight = (output.cam.detach(), output.aux_cam.detach())
            cam, aux_cam = multiscale_cam(model, images, self.recipe.masks.scales, straight)
            losses |= self._patch_losses(output, labels, cam, aux_cam, iteration, active, padding)
        if active & {"segmentation", "dense_energy"}:
            losses |= self._pixel_losses(output, counted, pictures, cam, active, box, padding)
        return losses

    def _patch_losses(
        self,
        output: MoReOutput,
        labels: Tensor,
        cam: Tensor,
        aux_cam: Tensor,
        iteration: int,
        active: set[str],
        padding: Tensor | None,
    ) -> dict[str, Tensor]:
        """PTC, CRE and URE, on masks of the patch grid (Eq. 6-9); padding is background to LIR."""
        masks, lir, grid = self.recipe.masks, self.recipe.lir, output.features.shape[-2:]
        cam, aux_cam = (F.interpolate(maps, grid, mode="bilinear") for maps in (cam, aux_cam))
        late = iteration >= self.recipe.schedule.final_cam
        if padding is not None:
            padding = F.interpolate(padding[:, None].float(), grid, mode="nearest-exact")[:, 0] > 0

        def mask(early: tuple[float, float]) -> Tensor:
            found = three_way_mask(
                cam if late else aux_cam, labels, *(masks.final if late else early)
            )
            return _where_padded(padding, 0, found)

        tokens, features = output.class_tokens, output.features
        switches = UncertainSwitches(lir.form, lir.token, lir.sampling)
        terms = {
            "patch_token_contrast": lambda: patch_token_contrast_loss(
                features,
                _where_padded(
                    padding, IGNORE_INDEX, three_way_mask(aux_cam, labels, *masks.contrast)
                ),
            ),
            "confident_relation": lambda: confident_relation_loss(
                tokens, features, mask(masks.confident), labels, lir.temperature, lir.confident
            ),
            "uncertain_relation": lambda: uncertain_relation_loss(
                tokens,
                features,
                mask(masks.uncertain),
                labels,
                lir.kernel_size,
                lir.phi,
                lir.num_tokens,
                switches,
            ),
        }
        return {name: term() for name, term in terms.items() if name in active}

    def _pixel_losses(
        self,
        output: MoReOutput,
        labels: Tensor,
        pictures: Tensor,
        cam: Tensor,
        active: set[str],
        box: Tensor | None,
        padding: Tensor | None,
    ) -> dict[str, Tensor]:
        """The decoder's losses, on labels refined along the image's edges; none on padding."""
        masks = self.recipe.masks
        if masks.decoder_map == "lam":
            maps = lam(output.features.detach(), output.class_tokens.detach(), masks.lam_similarity)
            cam = min_max(F.interpolate(maps.float(), pictures.shape[-2:], mode="bilinear"))
        with torch.no_grad():
            # Beyond its border a padded image goes on as its border, as it would without padding.
            seen = (pictures, cam) if box is None else (_extended(m, box) for m in (pictures, cam))
            target = refine_cam(self.refinement, *seen, labels, *masks.decoder)
        # A pixel of unknown label opens the energy's gate: padding must not be one.
        known, roi = _where_padded(padding, 0, target), None if padding is None else ~padding
        target = _where_padded(padding, IGNORE_INDEX, target)
        terms = {
            "segmentation": lambda: segmentation_loss(output.seg_logits, target),
            "dense_energy": lambda: self.energy(255 * pictures, output.seg_logits, known, roi),
        }
        return {name: term() for name, term in terms.items() if name in active}


def image_losses(output: MoReOutput, labels: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """The terms that image labels feed directly, those with a weight above 0, not yet weighted."""
    loss = recipe.loss
    terms = {
        "classification": lambda: classification_loss(output.class_logits, labels),
        "aux_classification": lambda: classification_loss(output.aux_logits, labels),
        "token_classification": lambda: token_classification_loss(output.class_tokens, labels),
        "token_discrepancy": lambda: token_discrepancy_loss(
            output.class_tokens, temperature=loss.token_temperature
        ),
    }
    return {name: term() for name, term in terms.items() if getattr(loss, name) > 0}


def padding_mask(box: Tensor, size: Sequence[int]) -> Tensor:
    """(B, H, W) bool, true outside of each image's box.

    box: (B, 4), left, top, right and bottom in pixels, right and bottom excluded. size: (H, W).
    """
    left, top, right, bottom = box[:, :, None].unbind(1)
    row, column = (torch.arange(side, device=box.device) for side in size)
    inside_rows, inside_columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return ~(inside_rows[:, :, None] & inside_columns[:, None, :])


def _where_padded(padding: Tensor | None, value: int, mask: Tensor) -> Tensor:
    return mask if padding is None else mask.masked_fill(padding, value)


def _extended(maps: Tensor, box: Tensor) -> Tensor:
    """``maps`` (B, K, H, W), each pixel outside of the box a copy of the nearest one inside."""
    left, top, right, bottom = box[:, :, None].unbind(1)
    row, column = (torch.arange(side, device=box.device) for side in maps.shape[-2:])
    row, column = row.clamp(top, bottom - 1), column.clamp(left, right - 1)
    maps = maps.gather(2, row[:, None, :, None].expand_as(maps))
    return maps.gather(3, column[:, None, None, :].expand_as(maps))
