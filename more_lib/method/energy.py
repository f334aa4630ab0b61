"""The regularisation loss: neighbours of like colour shall get like labels (notebook 05)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from more_lib.method.gaussian import EXACT_ON_CPU, bilateral_features, gaussian_sum
from more_lib.method.permutohedral import lattice_sum
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.errors import InputError
from more_lib.system.precision import at_least_float32
from more_lib.system.shapes import check_shapes

# What the released code's filter gives for 1 of the exact Gaussian sum. It filters on a
# permutohedral lattice, whose output follows the exact sum (correlation 0.99) but is smaller: 1.64
# to 1.77 times on three photographs at 224x224, sigma_rgb 15 and sigma_xy 50; tests hold it to a
# lattice of their own. The published weight of the loss was chosen with that filter: multiplied by
# this, it keeps its meaning here. Where the sum is too long for a CPU, ours is a lattice, too, and
# divided by this.
LATTICE_CALIBRATION = 1 / 1.7


class DenseEnergyLoss(nn.Module):
    """Dense CRF energy of a segmentation on its image (L_reg, notebook 05).

    With pixels i and j of the images at ``scale`` times their size and class probabilities s,

        -weight / B * sum over i, j, k of s_ik K(f_i, f_j) g_i s_jk,
        K(f_i, f_j) = exp(-|f_i - f_j|^2 / 2),   f = (x / sigma_xy, y / sigma_xy, rgb / sigma_rgb).

    The gate g is open where the segmentation is undecided or the label unknown:
    max(roi - max_k s, 0), and 1 where the mask is 255. It is a constant, and the gradient of s_ik
    is -2 * weight / B * g_i * sum_j K s_jk, as released: the energy's own where the gate is 1
    everywhere. Elsewhere the energy's own has (g_i + g_j) in place of 2 g_i; without it a pixel of
    closed gate is not moved, but draws the others all the same.

    weight: of the energy; the recipe's 1e-7 times ``LATTICE_CALIBRATION`` is the released one.
    sigma_rgb: in grey levels of 0..255. sigma_xy: in pixels of the images as given.
    scale: of the images that the energy is taken on, 0.5 in the recipe.

    Cost: the exact sum takes all pairs of the N = (H * scale) * (W * scale) pixels, in memory that
    is linear in N: fine on a GPU, on one thread 0.07 s an image for N = 48 * 48 and 2 s for
    112 * 112. Above ``EXACT_ON_CPU`` pixels a CPU takes the lattice instead: 0.07 s an image for
    112 * 112, 0.35 s for 224 * 224. On three photographs its gradient has a cosine of 0.995 with
    the exact one and 0.92 to 1.01 times its length. Backward is nearly free.

    Raises ``InputError`` when a sigma or the scale is not positive.
    """

    def __init__(self, weight: float, sigma_rgb: float, sigma_xy: float, scale: float) -> None:
        super().__init__()
        for name, value in (("sigma_rgb", sigma_rgb), ("sigma_xy", sigma_xy), ("scale", scale)):
            if not value > 0:
                raise InputError(f"{name} is {value}; it must be positive")
        self.weight, self.sigma_rgb, self.sigma_xy, self.scale = weight, sigma_rgb, sigma_xy, scale

    def forward(
        self, images: Tensor, logits: Tensor, mask: Tensor, roi: Tensor | None = None
    ) -> Tensor:
        """The energy of ``logits``: a scalar, at most 0 for a positive weight.

        images: (B, 3, H, W) floats in 0..255, not normalised. logits: (B, K, h, w), upsampled
        bilinearly to (H, W) here. mask: (B, H, W) int64, of which only 255, label unknown, counts.
        roi: (B, H, W), 1 where the image is and 0 on padding; 1 everywhere without it. Computed in
        float32 at least, also under autocast; only ``logits`` get a gradient.

        Raises ``InputError`` when the shapes do not fit.
        """
        given = {"images": (images, "B 3 H W"), "logits": (logits, "B K h w")}
        given |= {"mask": (mask, "B H W")} | ({} if roi is None else {"roi": (roi, "B H W")})
        check_shapes(**given)
        logits = at_least_float32(logits)
        logits = F.interpolate(logits, mask.shape[1:], mode="bilinear", align_corners=False)
        probabilities = self._resize(logits.softmax(dim=1), mode="bilinear")
        # Nearest neighbours pass 255 and the classes' numbers on as they are, in any float.
        mask = self._resize(mask[:, None].to(logits.dtype))
        inside = 1 if roi is None else self._resize(roi[:, None].to(logits.dtype))
        images = self._resize(images.to(logits.dtype))

        gate = (inside - probabilities.detach().amax(dim=1, keepdim=True)).clamp(min=0)
        gate = gate.masked_fill(mask == IGNORE_INDEX, 1)
        features = bilateral_features(images, self.sigma_rgb, self.sigma_xy * self.scale)
        rows = (maps.flatten(2).transpose(1, 2) for maps in (probabilities, gate))  # (B, H*W, K)
        height, width = images.shape[2:]
        method = self.method(height, width, images.device)
        energy = _GatedEnergy.apply(*rows, features, method)
        return -self.weight / len(images) * energy

    @staticmethod
    def method(height: int, width: int, device: torch.device) -> Literal["exact", "lattice"]:
        """How the pixels of images at the loss's own scale are summed on a device."""
        few = height * width <= EXACT_ON_CPU or device.type != "cpu"
        return "exact" if few else "lattice"

    def _resize(self, maps: Tensor, mode: str = "nearest") -> Tensor:
        return F.interpolate(maps, scale_factor=self.scale, mode=mode)


class _GatedEnergy(torch.autograd.Function):
    """Sum over i, j, k of s_ik K_ij g_i s_jk, with 2 g_i sum_j K_ij s_jk for a gradient."""

    @staticmethod
    def forward(ctx, probabilities: Tensor, gate: Tensor, features: Tensor, method: str) -> Tensor:
        if method == "exact":
            filtered = gate * gaussian_sum(features, probabilities)
        else:
            # One image after the other, for less memory.
            images = zip(features.split(1), probabilities.split(1), strict=True)
            sums = torch.cat([lattice_sum(*image) for image in images])
            filtered = gate * sums / LATTICE_CALIBRATION
        ctx.save_for_backward(filtered)
        return (probabilities * filtered).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (filtered,) = ctx.saved_tensors
        return 2 * gradient * filtered, None, None, None
