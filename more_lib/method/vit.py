"""A plain timm ViT whose class token is repeated, one for each class.

The encoder of the method (paper Sec. 3.1; notebook 01 §2 and §3): the single class token of a
pretrained ViT becomes C class tokens and a few register-like ones, and the scores with which the
class tokens look at the patches in the last block are kept, the raw material of attention maps.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from more_lib.method.backbones import build_backbone, check_plain
from more_lib.system.errors import InputError
from more_lib.system.precision import attention_for_training, no_autocast

DIRECTION_LENGTH = 0.5  # of a class direction, as a share of the token that it is added to


class ViTOutput(NamedTuple):
    """What the encoder gives for images (B, 3, H, W), with N = h * w patches of width D."""

    class_tokens: Tensor  # (B, C, D), after the final norm
    patch_tokens: Tensor  # (B, N, D), after the final norm
    aux_patch_tokens: Tensor  # (B, N, D), from the auxiliary block, not normed
    attention_scores: Tensor  # (B, C, h, w), query-key products of the last block, unscaled
    grid: tuple[int, int]  # (h, w)


class ClassTokenViT(nn.Module):
    """Wrap a plain timm ViT so that it carries C class tokens (notebook 01 §3).

    ``backbone`` is a timm name (built without pretrained weights; ``load_backbone`` loads them) or
    a timm ``VisionTransformer``, distilled and register-token models included: their own extra
    tokens stay in the sequence. The class token and its position embedding are repeated
    ``num_classes + num_registers`` times; the registers get some noise on top of it, while **the
    class tokens all start identical**. The auxiliary feature map leaves block ``aux_layer``.

    With ``token_start`` "apart" each class token gets a direction of its own before that block,
    half as long as the token is there: one given to the first block is washed out by what all of
    them read from the same patches (notebook 04 §5). ``freeze_position`` keeps the patches'
    positions as they were pretrained, as ToCo and DuPL do. ``position_margin`` is that of
    ``resize_position``.

    Raises ``InputError`` for a model of another kind or one without a class token.
    """

    def __init__(
        self,
        backbone: str | VisionTransformer,
        num_classes: int,
        num_registers: int = 4,
        aux_layer: int = -3,
        token_start: Literal["identical", "apart"] = "identical",
        freeze_position: bool = False,
        position_margin: float = 0.1,
    ) -> None:
        super().__init__()
        vit = build_backbone(backbone) if isinstance(backbone, str) else backbone
        check_plain(vit)
        depth = len(vit.blocks)
        if not -depth <= aux_layer < depth:
            raise InputError(f"backbone.aux_layer {aux_layer} is outside the ViT's {depth} blocks")
        self.num_classes, self.num_registers = num_classes, num_registers
        self.aux_block = aux_layer % depth
        self.embed_dim = vit.embed_dim
        self.patch_size = vit.patch_embed.feat_ratio()
        self.grid_size = vit.patch_embed.grid_size
        self.position_margin = position_margin

        self.patch_embed = vit.patch_embed
        self.patch_embed.strict_img_size = False
        class_token, other_tokens, patch_position = _split_prefix(vit)
        self.class_tokens = nn.Parameter(class_token.repeat(1, num_classes, 1))
        registers = class_token.detach().repeat(1, num_registers, 1)
        noise = nn.init.trunc_normal_(torch.empty_like(registers), std=0.02)
        self.register_tokens = nn.Parameter(registers + noise)
        self.other_tokens = nn.Parameter(other_tokens) if other_tokens.shape[1] else None
        if freeze_position:  # no parameter: nothing may decay it either
            self.register_buffer("patch_position", patch_position)
        else:
            self.patch_position = nn.Parameter(patch_position)
        self.norm_pre, self.blocks, self.norm = vit.norm_pre, vit.blocks, vit.norm
        self.class_directions = None
        if token_start == "apart":
            directions = torch.randn(num_classes, self.embed_dim)
            self.class_directions = nn.Parameter(F.normalize(directions, dim=1))

    def freeze(self, blocks: int) -> None:
        """Leave the first ``blocks`` blocks as they are, and all that enters them.

        They get no gradient, so that nothing is computed backward there. Raises ``InputError`` when
        the class tokens, frozen too, could then never part, and for more blocks than there are.
        """
        if blocks > len(self.blocks):
            raise InputError(f"backbone.frozen_blocks is {blocks}, of {len(self.blocks)} blocks")
        if self.class_directions is None:
            raise InputError("backbone.frozen_blocks leaves class tokens that are identical, which "
                             "then stay so: set backbone.token_start=apart")  # fmt: skip
        for part in (self.patch_embed, self.norm_pre, *self.blocks[:blocks]):
            part.requires_grad_(False)
        own = (self.class_tokens, self.register_tokens, self.other_tokens, self.patch_position)
        for parameter in own:
            if parameter is not None:
                parameter.requires_grad_(False)

    def forward(self, images: Tensor) -> ViTOutput:
        """``images`` (B, 3, H, W) float, normalised; H and W multiples of the patch.

        Raises ``InputError`` when the patch does not divide the image.
        """
        before, after, aux, grid = self._blocks(images)
        scores = class_attention_scores(self.blocks[-1], before, self.num_classes, prod(grid))
        patches = slice(after.shape[1] - prod(grid), None)
        return ViTOutput(
            class_tokens=after[:, : self.num_classes],
            patch_tokens=after[:, patches],
            aux_patch_tokens=aux[:, patches],
            attention_scores=scores.unflatten(2, grid),
            grid=grid,
        )

    def feature_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Final and auxiliary patch tokens as maps (B, D, h, w), without the attention scores."""
        _, after, aux, grid = self._blocks(images)
        after, aux = (x[:, -prod(grid) :].mT.unflatten(2, grid) for x in (after, aux))
        return after, aux

    def _blocks(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
        """Token sequences (B, L, D) before the last block, at the end, and aux; and the grid."""
        embedded, grid = self.embed(images)
        for index, layer in enumerate(self.layers(embedded)):
            if index == self.aux_block:
                aux = layer[1]
        before, after = layer
        return before, self.norm(after), aux, grid

    def layers(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The token sequences (B, L, D) that enter and leave each block; ``x`` enters the first."""
        for index, block in enumerate(self.blocks):
            before = self._turned(x) if index == self.aux_block else x
            with attention_for_training(before):
                x = block(before)
            yield before, x

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The token sequence (B, L, D) that enters the first block, and the grid (h, w).

        In it come classes, registers, the backbone's other tokens, patches.
        """
        (height, width), side = images.shape[-2:], self.patch_size
        if height % side or width % side or not height * width:
            raise InputError(
                f"image size {height}x{width} is not a multiple of the patch {side}x{side}; "
                "resize or crop the images"
            )
        grid = height // side, width // side
        # To a single column, oneDNN's bf16 convolution reads what nobody wrote.
        with no_autocast(images) if grid[1] == 1 else nullcontext():
            patches = self.patch_embed(images)
        if patches.ndim == 4:  # (B, h, w, D), as timm's models for any image size embed
            patches = patches.flatten(1, 2)
        sizes = (self.grid_size, grid, self.position_margin)
        patches = patches + resize_position(self.patch_position, *sizes)
        own = (self.class_tokens, self.register_tokens, self.other_tokens)
        prefix = torch.cat([t for t in own if t is not None], 1).expand(len(images), -1, -1)
        return self.norm_pre(torch.cat((prefix.to(patches.dtype), patches), 1)), grid

    def _turned(self, x: Tensor) -> Tensor:
        """A sequence (B, L, D) with each class token moved in its own direction, if it has one."""
        if self.class_directions is None:
            return x
        tokens, rest = x.split([self.num_classes, x.shape[1] - self.num_classes], 1)
        length = DIRECTION_LENGTH * tokens.detach().norm(dim=2, keepdim=True)
        steps = length * F.normalize(self.class_directions, dim=1)
        return torch.cat([tokens + steps.to(x.dtype), rest], 1)


def class_attention_scores(block: Any, x: Tensor, num_classes: int, num_patches: int) -> Tensor:
    """Query-key products of class tokens with patches in one block, summed over the heads.

    ``x`` (B, L, D) enters the block, one of timm's; its first ``num_classes`` rows are the class
    tokens, its last ``num_patches`` rows the patches. Returns (B, C, N): logits before the scaling
    and the softmax. The block itself runs on fused attention, which never shows its scores; only
    these few rows are computed again. Notebook 01 §2.
    """
    attention, normed = block.attn, block.norm1(x)
    weight_q, weight_k, _ = attention.qkv.weight.chunk(3)
    bias_q, bias_k = (None, None) if attention.qkv.bias is None else attention.qkv.bias.chunk(3)[:2]
    heads = (attention.num_heads, attention.head_dim)
    queries = F.linear(normed[:, :num_classes], weight_q, bias_q).unflatten(2, heads)
    keys = F.linear(normed[:, -num_patches:], weight_k, bias_k).unflatten(2, heads)
    queries, keys = attention.q_norm(queries).flatten(2), attention.k_norm(keys).flatten(2)
    return queries @ keys.mT  # heads share out the channels: one product sums over them


def resize_position(
    position: Tensor, old: tuple[int, int], new: tuple[int, int], margin: float = 0.1
) -> Tensor:
    """Bicubic resize of patch position embeddings (1, N, D) from one grid to another.

    By the scale (new + margin) / old: MoRe was released with 0.1, ToCo, DuPL and MCTformer+ with 0,
    the ratio of the sizes.
    """
    if old == new:
        return position
    maps = position.unflatten(1, old).permute(0, 3, 1, 2).float()
    scale = [(length + margin) / before for length, before in zip(new, old, strict=True)]
    to = {"scale_factor": scale} if margin else {"size": new}
    maps = F.interpolate(maps, **to, mode="bicubic")
    return maps.flatten(2).mT.to(position.dtype)


def _split_prefix(vit: VisionTransformer) -> tuple[Tensor, Tensor, Tensor]:
    """Class token, other prefix tokens (positions added to both), and the patches' positions."""
    others = (getattr(vit, name, None) for name in ("dist_token", "reg_token"))
    prefix = torch.cat([vit.cls_token, *(t for t in others if t is not None)], 1).detach()
    position = vit.pos_embed.detach()
    if not vit.no_embed_class:  # DeiT-3 and DINOv2 with registers give positions to patches alone
        prefix = prefix + position[:, : prefix.shape[1]]
        position = position[:, prefix.shape[1] :]
    return prefix[:, :1].clone(), prefix[:, 1:].clone(), position.clone()
