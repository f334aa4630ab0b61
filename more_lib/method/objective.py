"""The whole objective of one iteration: masks mined from CAM, and every loss they feed.

L = L_cls + L_mct + L_ptc + alpha L_cre + beta L_ure + gamma L_seg + L_reg (Eq. 10, notebook 05).
Which term counts from which iteration is data in the recipe, as are all thresholds.

Several processes average their losses and gradients, which are then those of one process with the
summed batch: means over images are so by themselves, and what is counted in the batch (pixels of
the segmentation; pairs of patch-token contrast and the paper's relations; sampled patches of the
released uncertain relation) is counted over all processes (``system.processes``). The released code
has every GPU take its own. Accumulated batches stay apart: a step's losses are the means of theirs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from more_lib.method.energy import LATTICE_CALIBRATION, DenseEnergyLoss
from more_lib.method.lir import confident_relation_loss, uncertain_relation_loss
from more_lib.method.localization import (
    lam,
    min_max,
    multiscale_cam,
    patch_affinity,
    resized,
    spread,
)
from more_lib.method.losses import (
    classification_loss,
    patch_token_contrast_loss,
    segmentation_loss,
    token_discrepancy_loss,
)
from more_lib.method.model import MoRe, MoReOutput
from more_lib.method.pseudo_labels import Level, PixelAdaptiveRefinement, refine_cam, three_way_mask
from more_lib.recipes.constants import IGNORE_INDEX, IMAGENET_MEAN, IMAGENET_STD
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError

# Terms that the decoder's pixel labels feed, and with them all terms that learn from masks.
DECODED = ("segmentation", "dense_energy")
MINED = ("patch_token_contrast", "confident_relation", "uncertain_relation", *DECODED)


class Masks(NamedTuple):
    """What CAM says of the patches, (B, h, w) int64 each: 0, 1..C, or 255 uncertain (Eq. 6)."""

    contrast: Tensor  # for PTC; padding is uncertain
    confident: Tensor  # for CRE; padding is background, as in the next
    uncertain: Tensor  # for URE


class Objective(nn.Module):
    """Every term of a recipe's loss, each from the iteration on that its schedule names.

    ``weights`` has the weight of each term by its name.
    """

    views = False  # whether it learns from further views of each image

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe, self.weights = recipe, dict(vars(recipe.loss))
        masks, energy = recipe.masks, recipe.energy
        if recipe.data.crop_size * energy.scale < 1:
            raise InputError(
                f"energy.scale {energy.scale} leaves less than a pixel of data.crop_size "
                f"{recipe.data.crop_size}: raise it"
            )
        self.refinement = PixelAdaptiveRefinement(masks.dilations, masks.refinements)
        self.energy = DenseEnergyLoss(
            energy.weight * LATTICE_CALIBRATION, energy.sigma_rgb, energy.sigma_xy, energy.scale
        )
        # On the device once: numbers that are copied there every time make the host wait.
        self.register_buffer("normal", torch.tensor([IMAGENET_MEAN, IMAGENET_STD])[..., None, None])

    def active(self, iteration: int) -> set[str]:
        """Names of the mined terms that count at ``iteration`` (from 0).

        Never a matter of the images: the other processes wait for the counts of every term.
        """
        loss, schedule = self.recipe.loss, self.recipe.schedule
        reached = (name for name in MINED if iteration >= getattr(schedule, name))
        return {name for name in reached if getattr(loss, name) > 0}

    def forward(
        self,
        model: MoRe,
        images: Tensor,
        labels: Tensor,
        output: MoReOutput,
        iteration: int,
        box: Tensor | None = None,
        views: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Every term that counts at ``iteration``, by its recipe name, not yet weighted.

        model: draws the CAM, without gradient. images: (B, 3, H, W), normalised. labels: (B, C),
        best left on the CPU: there, counting them makes nobody wait. output: ``model(images)``.
        box: (B, 4) int64, the part of each image that is no padding as (left, top, right, bottom);
        the mined terms learn nothing from the rest. All of the image without it. views:
        (B, 2, 3, H, W), normalised, of ``training_transform``, for an objective that has ``views``.
        """
        present = labels.to(images.device, non_blocking=True)
        losses, active = image_losses(output, present, self.recipe), self.active(iteration)
        if not active:
            return losses
        mean, std = self.normal
        pictures = (images * std + mean).clamp(0, 1)  # whose edges the pixel labels follow
        padding = None if box is None else padding_mask(box, images.shape[-2:])
        tokens, features, lir = output.class_tokens, output.features, self.recipe.lir
        straight = (output.cam.detach(), output.aux_cam.detach())
        cams = multiscale_cam(model, images, self.recipe.masks.scales, straight, labels)
        masks = self._patch_masks(cams, present, features.shape[-2:], iteration, padding)

        losses |= self.own_losses(model, cams, present, output, views, active)
        if "patch_token_contrast" in active:
            losses["patch_token_contrast"] = patch_token_contrast_loss(features, masks.contrast)
        if "confident_relation" in active:
            losses["confident_relation"] = confident_relation_loss(
                tokens, features, masks.confident, present, lir.temperature, lir.confident
            )
        if "uncertain_relation" in active:
            sizes = (lir.kernel_size, lir.phi, lir.num_tokens)
            losses["uncertain_relation"] = uncertain_relation_loss(
                tokens, features, masks.uncertain, present, *sizes, lir
            )
        if active.intersection(DECODED):
            taught, high = self.decoder_cam(cams, iteration), self.recipe.masks.decoder[0]
            pixels = self.pixel_labels(taught, labels, output, pictures, box, high)
            del taught
        del cams  # full-size maps, which the rest needs no longer
        if "segmentation" in active:
            target = where_padded(padding, IGNORE_INDEX, pixels)
            losses["segmentation"] = segmentation_loss(output.seg_logits, target)
        if "dense_energy" in active:
            # A pixel of unknown label opens the energy's gate: padding must not be one.
            known, roi = where_padded(padding, 0, pixels), None if padding is None else ~padding
            losses["dense_energy"] = self.energy(255 * pictures, output.seg_logits, known, roi)
        return losses

    def own_losses(
        self,
        model: MoRe,
        cams: tuple[Tensor, Tensor],
        present: Tensor,
        output: MoReOutput,
        views: Tensor | None,
        active: set[str],
    ) -> dict[str, Tensor]:
        """Terms that another method adds to these, from the same multi-scale CAMs; here none."""
        return {}

    def decoder_cam(self, cams: tuple[Tensor, Tensor], iteration: int) -> Tensor:
        """Which of the final and the auxiliary CAM the decoder learns from at ``iteration``."""
        early = iteration < self.recipe.schedule.final_cam
        return cams[self.recipe.masks.decoder_map == "aux_first" and early]

    def _patch_masks(
        self,
        cams: tuple[Tensor, Tensor],
        labels: Tensor,
        grid: Sequence[int],
        iteration: int,
        padding: Tensor | None,
    ) -> Masks:
        """Masks of PTC, CRE and URE on the patch ``grid`` (Eq. 6): from the auxiliary CAM, of both
        relations from the final one as soon as the schedule trusts it."""
        masks = self.recipe.masks
        cam, aux_cam = (F.interpolate(maps, grid, mode="bilinear") for maps in cams)
        padding = padded_patches(padding, grid)
        contrast = three_way_mask(aux_cam, labels, *masks.contrast)
        if iteration >= self.recipe.schedule.final_cam:
            confident = uncertain = three_way_mask(cam, labels, *masks.final)
        else:
            confident = three_way_mask(aux_cam, labels, *masks.confident)
            uncertain = three_way_mask(aux_cam, labels, *masks.uncertain)
        return Masks(
            where_padded(padding, IGNORE_INDEX, contrast),
            where_padded(padding, 0, confident),
            where_padded(padding, 0, uncertain),
        )

    @torch.no_grad()
    def pixel_labels(
        self,
        cam: Tensor,
        labels: Tensor,
        output: MoReOutput,
        pictures: Tensor,
        box: Tensor | None,
        high: Level,
    ) -> Tensor:
        """The decoder's labels (B, H, W), refined along the edges of ``pictures`` in [0, 1]."""
        masks, size = self.recipe.masks, pictures.shape[-2:]
        if masks.picture == "bytes":
            pictures = (255 * pictures).floor() / 255
        taught = cam
        if masks.decoder_map in ("lam", "both"):
            maps = lam(output.features, output.class_tokens, masks.lam_similarity)
            taught = min_max(resized(maps.float(), size))
        if masks.decoder_map == "both":
            taught = (taught + cam) / 2
        if masks.spread:
            patches = resized(taught, output.features.shape[-2:])
            patches = spread(patches, patch_affinity(output.features, masks.spread))
            taught = min_max(resized(patches, size))
        if box is not None:
            # Beyond its border a padded image goes on as its border, as it would without padding.
            pictures, taught = _extended(pictures, box), _extended(taught, box)
        return refine_cam(self.refinement, pictures, taught, labels, high, masks.decoder[1])


def image_losses(output: MoReOutput, labels: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """The terms that image labels feed directly, those with a weight above 0, not yet weighted."""
    loss, tokens, losses = recipe.loss, output.class_tokens, {}
    if loss.classification > 0:
        losses["classification"] = classification_loss(output.class_logits, labels)
    if loss.aux_classification > 0:
        losses["aux_classification"] = classification_loss(output.aux_logits, labels)
    if loss.token_classification > 0:
        losses["token_classification"] = classification_loss(output.token_logits, labels)
    if loss.token_discrepancy > 0:
        losses["token_discrepancy"] = token_discrepancy_loss(tokens, None, loss.token_temperature)
    return losses


def padding_mask(box: Tensor, size: Sequence[int]) -> Tensor:
    """(B, H, W) bool, true outside of each image's box.

    box: (B, 4), left, top, right and bottom in pixels, right and bottom excluded. size: (H, W).
    """
    left, top, right, bottom = box[:, :, None].unbind(1)
    row, column = (torch.arange(side, device=box.device) for side in size)
    inside_rows, inside_columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return ~(inside_rows[:, :, None] & inside_columns[:, None, :])


def padded_patches(padding: Tensor | None, grid: Sequence[int]) -> Tensor | None:
    """``padding_mask``'s (B, H, W) on the patches (h, w), each as the pixel in its middle."""
    if padding is None:
        return None
    return F.interpolate(padding[:, None].float(), grid, mode="nearest-exact")[:, 0] > 0


def where_padded(padding: Tensor | None, value: int, mask: Tensor) -> Tensor:
    """``mask`` with ``value`` where the image is padding, if any is."""
    return mask if padding is None else mask.masked_fill(padding, value)


def _extended(maps: Tensor, box: Tensor) -> Tensor:
    """``maps`` (B, K, H, W), each pixel outside of the box a copy of the nearest one inside."""
    left, top, right, bottom = box[:, :, None].unbind(1)
    row, column = (torch.arange(side, device=box.device) for side in maps.shape[-2:])
    row, column = row.clamp(top, bottom - 1), column.clamp(left, right - 1)
    maps = maps.gather(2, row[:, None, :, None].expand_as(maps))
    return maps.gather(3, column[:, None, None, :].expand_as(maps))
