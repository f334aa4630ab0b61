"""ToCo (Ru et al., CVPR 2023): what it has beyond MoRe's part, the contrast of class tokens.

Small crops from where an auxiliary CAM is uncertain should look like the whole image to a class
token, crops from the background should not. The patch-token contrast, which MoRe took over, is in
``losses``; here are the crops (ROI, centres), the projection head with its slow teacher, and L_ctc.

Where the paper or the intention differ from the released code a keyword says so; defaults are the
release's but for ``aligned``.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from more_lib.system.errors import InputError
from more_lib.system.precision import at_least_float32, no_autocast
from more_lib.system.processes import random_numbers
from more_lib.system.shapes import check_shapes

EPSILON = 1e-4  # beside every sum of L_ctc


class ProjectionHead(nn.Module):
    """Class tokens (..., dim) to what is contrasted (..., out): three layers, unit length, rows.

    The last layer's rows have unit length and only their directions are trained. The output is not
    normalised: its square is about out / bottleneck, on which the temperature's meaning hangs.
    """

    def __init__(self, dim: int, hidden: int = 2048, bottleneck: int = 256, out: int = 1024):
        super().__init__()
        widths = [(dim, hidden), (hidden, hidden), (hidden, bottleneck)]
        first, second, third = (nn.Linear(*width) for width in widths)
        for layer in (first, second, third):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(first, nn.GELU(), second, nn.GELU(), third)
        self.last_layer = nn.Linear(bottleneck, out, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """``tokens`` (..., dim) projected: (..., out)."""
        directions = F.normalize(self.last_layer.weight, dim=1)
        return F.linear(F.normalize(self.mlp(tokens), dim=-1), directions)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's weights: momentum * teacher + (1 - momentum) * student, in place.

    Two modules of one architecture. Raises ``InputError`` for a momentum outside [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise InputError(f"momentum is {momentum}; it must be in [0, 1]")
    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
        slow.lerp_(fast.to(slow.dtype), 1 - momentum)


def roi_mask(maps: Tensor, labels: Tensor, high: float, low: float) -> Tensor:
    """0 where no present class is seen, 2 where one is for sure, 1 where it is uncertain.

    By the largest map of the classes present: 0 up to ``low``, 2 from ``high`` on, 1 between.
    maps: (B, C, H, W) in [0, 1], the multi-scale auxiliary CAM. labels: (B, C) of 0 and 1; an image
    without classes is 0 everywhere. Returns (B, H, W) int64.

    Raises ``InputError`` when the shapes do not fit or ``low`` exceeds ``high``.
    """
    check_shapes(maps=(maps, "B C H W"), labels=(labels, "B C"))
    if low > high:
        raise InputError(f"low threshold {low} exceeds the high one {high}; swap them")
    strongest = torch.where(labels[:, :, None, None] > 0, maps, 0).amax(dim=1)
    return torch.where(strongest <= low, 0, torch.where(strongest >= high, 2, 1))


@torch.no_grad()
def local_crops(
    images: Tensor,
    roi: Tensor,
    number: int,
    size: int,
    generator: torch.Generator | None = None,
    *,
    aligned: bool = True,
    flags: Literal["share", "centre"] = "share",
) -> tuple[Tensor, Tensor, Tensor]:
    """``number`` K crops of every image, which of them are positive, and their corners.

    Centres are drawn without replacement from the pixels at least half a crop from the border whose
    ROI is not 2, the background's too; where these are fewer than K, from all so far inside. A crop
    is positive where its mean ROI exceeds 0.2.

    images: (B, 3, H, W) in the ROI's geometry. roi: (B, H, W), of ``roi_mask``. size: s, a crop's
    side. generator: of the device, torch's own without it; several processes share one draw.
    aligned: released False: half of the renderings are mirrored after the ROI's geometry is fixed,
    and their crops judged at the places of before; by default flags fit crops. flags: "centre", the
    paper's figure: positives have an uncertain centre, negatives one in the background.
    Returns crops (B, K, 3, s, s), positive (B, K) bool, corners (B, K, 2) int64 as (row, column).

    Raises ``InputError`` for shapes that do not fit and for images with less than K such pixels.
    """
    shape = check_shapes(images=(images, "B 3 H W"), roi=(roi, "B H W"))
    half, device = size // 2, roi.device
    height, width = (max(shape[side] - 2 * half, 0) for side in "HW")
    if number > height * width or min(number, size) < 1:
        raise InputError(
            f"{number} crops of {size} pixels cannot be centred in images of {shape['H']}x"
            f"{shape['W']}; take fewer and smaller ones, but at least 1"
        )
    inner = roi[:, half : half + height, half : half + width].flatten(1)
    allowed = inner <= 1
    allowed |= allowed.sum(dim=1, keepdim=True) < number  # too few: all
    drawn = random_numbers(inner.shape, generator, device).masked_fill(~allowed, -1)
    place = drawn.topk(number, dim=1).indices
    corners = torch.stack((place // width, place % width), dim=2)  # the centre's place less half
    if not aligned:
        turned = random_numbers((len(images),), generator, device) < 0.5
        images = torch.where(turned[:, None, None, None], images.flip(-1), images)
    positive = _cut(roi[:, None].float(), corners, size).mean(dim=(2, 3, 4)) > 0.2
    if flags == "centre":
        positive = inner.gather(1, place) > 0
    return _cut(images, corners, size), positive, corners


def _cut(maps: Tensor, corners: Tensor, size: int) -> Tensor:
    """Squares (B, K, C, size, size) of ``maps`` (B, C, H, W), their upper left ``corners``."""
    image, steps = (torch.arange(n, device=maps.device) for n in (len(maps), size))
    rows, columns = (corners[..., axis, None] + steps for axis in (0, 1))
    image = image[:, None, None, None]
    cut = maps.permute(0, 2, 3, 1)[image, rows[..., :, None], columns[..., None, :]]
    return cut.permute(0, 1, 4, 2, 3)


def class_token_contrast_loss(
    student: Tensor, teacher: Tensor, positive: Tensor, temperature: float, repulsion: bool = True
) -> Tensor:
    """Positive views like the global ones, negative views unlike them (L_ctc, CTC).

    With e_vk = exp(t_v z_k / tau) and S_v its sum over the negative k, mean over images of
    1 / (2 (P + 1e-4)) sum_v [sum_{positive k} -log(e_vk / (e_vk + S_v + 1e-4)) + log(1 + S_v +
    1e-4)], P the number of positives. k = v counts.

    student: z, (V, B, O), the projected class tokens of V views. teacher: t, (2, B, O), those of
    the two global ones by the teacher; gets no gradient. positive: (B, V) of 0 and 1. repulsion:
    the last term, which repels negatives absolutely; False is the paper's plain InfoNCE. Returns a
    scalar.

    Raises ``InputError`` when the shapes do not fit or the temperature is not positive.
    """
    check_shapes(student=(student, "V B O"), teacher=(teacher, "2 B O"), positive=(positive, "B V"))
    if not temperature > 0:
        raise InputError(f"temperature is {temperature}; it must be positive")
    positive = (positive > 0)[:, None]  # (B, 1, V)
    with no_autocast(student):
        z, t = at_least_float32(student), at_least_float32(teacher.detach())
        log_e = torch.einsum("vbo,kbo->bvk", t, z) / temperature
        # log(S + 1e-4) without exp of what may be large; -log(e / (e + x)) = log(1 + x / e).
        epsilon = torch.full_like(log_e[..., :1], math.log(EPSILON))
        negatives = log_e.masked_fill(positive, -torch.inf)
        log_s = torch.cat((negatives, epsilon), dim=2).logsumexp(dim=2, keepdim=True)
        attraction = torch.where(positive, F.softplus(log_s - log_e), 0).sum(dim=(1, 2))
        total = attraction + F.softplus(log_s).sum(dim=(1, 2)) if repulsion else attraction
        return (total / (2 * (positive.sum(dim=(1, 2)) + EPSILON))).mean()
