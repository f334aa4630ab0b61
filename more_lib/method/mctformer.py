"""MCTformer+ (Xu et al., TPAMI 2024): a class token a class, and seeds from what they look at.

Each token's channel mean says whether its class is there, a contrast in every layer keeps tokens
apart, the patches are classified through rank-weighted pooling. The map of a class is the root of
its token's attention times its patch CAM, spread by what patches look at. There is no decoder.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from more_lib.method.localization import spread as spread  # of MCTOutput.affinity; handed on
from more_lib.method.vit import ClassTokenViT
from more_lib.system.errors import InputError
from more_lib.system.precision import at_least_float32, no_autocast
from more_lib.system.shapes import check_shapes


class MCTOutput(NamedTuple):
    """What one forward pass of L blocks knows about images (B, 3, H, W), with N = h * w patches."""

    tokens: Tensor  # (L, B, C, D), class tokens after each block, not normed
    class_logits: Tensor  # (B, C), from the last class tokens
    patch_logits: Tensor  # (B, C), from the patches
    patch_cam: Tensor  # (B, C, h, w), no ReLU
    class_attention: Tensor  # (L, B, C, h, w), class to patch, after the softmax, mean over heads
    affinity: Tensor  # (B, N, N), patch to patch, summed over the blocks; rows are queries
    features: Tensor  # (B, D, h, w), the last patch tokens as a map, not normed

    @property
    def logits(self) -> Tensor:
        """(B, C), the score at test: the mean of both."""
        return (self.class_logits + self.patch_logits) / 2


class MCTformer(nn.Module):
    """The network: C class tokens, no final norm, a 3x3 patch classifier.

    backbone: as for ``ClassTokenViT``. decay: of the rank-weighted pooling; 1 is the plain mean of
    MCTformer-V2. grid: of the training crop in patches, where it is a whole multiple of the
    pretrained grid: positions are then repeated, and trained; other grids get them bicubically.
    token_start: as for ``ClassTokenViT``; released: "identical".
    """

    def __init__(
        self,
        backbone: str | VisionTransformer,
        num_classes: int,
        decay: float = 0.996,
        grid: Sequence[int] | None = None,
        token_start: Literal["identical", "apart"] = "identical",
    ) -> None:
        super().__init__()
        self.encoder = ClassTokenViT(
            backbone, num_classes, num_registers=0, token_start=token_start, position_margin=0
        )
        self.decay = decay
        if grid is not None:
            _repeat_position(self.encoder, grid)
        self.classifier = nn.Conv2d(self.encoder.embed_dim, num_classes, 3, padding=1)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels; image sides must be multiples of it."""
        return self.encoder.patch_size

    def forward(self, images: Tensor, with_attention: bool = True) -> MCTOutput:
        """``images`` (B, 3, H, W), normalised; raises ``InputError`` if the patch does not fit.

        The losses need no attention: ``with_attention=False`` leaves ``class_attention`` without
        blocks and ``affinity``, the sum over none, 0.
        """
        embedded, grid = self.encoder.embed(images)
        batch, classes, number = len(images), self.encoder.num_classes, prod(grid)
        patches = slice(embedded.shape[1] - number, None)
        tokens, looks = [], [embedded.new_empty(0, batch, classes, number)]
        layers = self.encoder.layers(embedded)
        affinity = embedded.new_zeros(batch, number, number)
        for block, (before, x) in zip(self.encoder.blocks, layers, strict=True):
            if with_attention:
                attention = block_attention(block, before)
                looks.append(attention[None, :, :classes, patches])
                affinity = affinity + attention[:, patches, patches]
            tokens.append(x[:, :classes])
        features = x[:, patches].mT.unflatten(2, grid)
        patch_cam = self.classifier(features)
        return MCTOutput(
            tokens=torch.stack(tokens),
            features=features,
            class_logits=at_least_float32(tokens[-1]).mean(dim=2),
            patch_logits=rank_pooling(patch_cam, self.decay),
            patch_cam=patch_cam,
            class_attention=torch.cat(looks).unflatten(3, grid),
            affinity=affinity,
        )


def block_attention(block: Any, x: Tensor) -> Tensor:
    """Whom each token of ``x`` (B, L, D), which enters one of timm's blocks, looks at: (B, L, L).

    The softmax of the block's attention, mean over the heads; rows are queries. The block itself
    runs on fused attention, which never shows it.
    """
    attention = block.attn
    heads = (3, attention.num_heads, attention.head_dim)
    queries, keys, _ = attention.qkv(block.norm1(x)).unflatten(2, heads).unbind(2)
    queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    scores = torch.einsum("bihd,bjhd->bhij", queries * attention.scale, keys)
    return scores.softmax(dim=3).mean(dim=1)


def rank_pooling(scores: Tensor, decay: float) -> Tensor:
    """A class's scores pooled by rank (GWRP): sum_j d^(j-1) s_j / sum_j d^(j-1), s_1 the largest.

    scores: (B, C, ...) of any number of patches. decay: d in (0, 1]; 1 is their mean. Returns
    (B, C). Raises ``InputError`` for another decay.
    """
    if not 0 < decay <= 1:
        raise InputError(f"decay is {decay}; it must be in (0, 1]")
    ranked = at_least_float32(scores).flatten(2).sort(dim=2, descending=True).values
    ranks = torch.arange(ranked.shape[2], dtype=ranked.dtype, device=ranked.device)
    weights = decay**ranks
    return (ranked * weights).sum(dim=2) / weights.sum()


def layer_contrast_loss(tokens: Tensor, labels: Tensor) -> Tensor:
    """Class tokens apart in every layer (L_cct): each most like itself, for the classes present.

    mean_b mean_l sum_{c present} -log softmax_c(u_c u^T) / (sum_c y_c + 1e-8), u of unit length and
    no temperature: ln C where all tokens are alike.

    tokens: (L, B, C, D), class tokens of the blocks that count. labels: (B, C) of 0 and 1; an image
    without classes adds 0. Returns a scalar. Raises ``InputError`` when the shapes do not fit.
    """
    check_shapes(tokens=(tokens, "L B C D"), labels=(labels, "B C"))
    with no_autocast(tokens):
        u = F.normalize(at_least_float32(tokens), dim=3)
        itself = (u @ u.mT).log_softmax(dim=3).diagonal(dim1=2, dim2=3)  # (L, B, C)
        labels = labels.to(itself.dtype)
        return -((itself * labels).sum(dim=2) / (labels.sum(dim=1) + 1e-8)).mean()


def fused_maps(class_attention: Tensor, patch_cam: Tensor, last: int = 12) -> Tensor:
    """sqrt(M * F): M the mean attention of the ``last`` blocks, F the patch CAM's positive part.

    class_attention: (L, B, C, h, w). patch_cam: (B, C, h, w). last: 12 blocks, of MCTformer-V2 3;
    all where there are fewer. Returns (B, C, h, w), not normalised.
    Raises ``InputError`` when the shapes do not fit or ``last`` is not positive.
    """
    shapes = {"class_attention": (class_attention, "L B C h w")}
    check_shapes(**shapes, patch_cam=(patch_cam, "B C h w"))
    if last < 1:
        raise InputError(f"last is {last}; take 1 block or more")
    return (class_attention[-last:].mean(dim=0) * patch_cam.relu()).sqrt()


def _repeat_position(encoder: ClassTokenViT, grid: Sequence[int]) -> None:
    """Give each patch of ``grid`` the position of the pretrained patch that it is a part of."""
    before, after = encoder.grid_size, (grid[0], grid[1])
    if after[0] % before[0] or after[1] % before[1]:
        raise InputError(
            f"grid {after} is no whole multiple of the backbone's {before}; leave it out"
        )
    position = encoder.patch_position.data.unflatten(1, before)
    for axis in (0, 1):
        position = position.repeat_interleave(after[axis] // before[axis], dim=1 + axis)
    encoder.patch_position = nn.Parameter(position.flatten(1, 2))
    encoder.grid_size = after
