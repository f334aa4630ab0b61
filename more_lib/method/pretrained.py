"""Pretrained ViTs as they come: do patches stick out of them before anything is trained here?

Figure 3 blames no single backbone. Whether a ViT grows outlier tokens depends on how it was
pretrained and on spare tokens to write to (registers): notebook 07 §6 measures those at hand.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torchvision.transforms.v2.functional import normalize

from more_lib.method import artifacts
from more_lib.method.backbones import downloaded_weights, load_backbone
from more_lib.method.vit import ClassTokenViT

KINDS = {  # timm's ViT-S by pretraining, all Apache-2.0
    "supervised": "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "DeiT": "deit_small_patch16_224.fb_in1k",
    "DINO": "vit_small_patch16_224.dino",
    "DINOv2": "vit_small_patch14_dinov2.lvd142m",
    "DINOv2 with registers": "vit_small_patch14_reg4_dinov2.lvd142m",
}


def here() -> dict[str, Path | None]:
    """The weights of each kind in timm's cache, None where there are none; nothing is loaded."""
    return {kind: downloaded_weights(name) for kind, name in KINDS.items()}


def chart_of(name: str, weights: str | Path, pictures: Tensor) -> dict:
    """``token_chart`` of a backbone by its name and file ("" for the shipped mini one's)."""
    return token_chart(load_backbone(name, str(weights)), pictures)


@torch.no_grad()
def token_chart(vit: VisionTransformer, pictures: Tensor) -> dict:
    """Outliers among the patch tokens that a ViT's last block leaves, and how alike patches are.

    pictures: (B, 3, H, W) in [0, 1], resized to the ViT's own size and normalised as it was
    pretrained. Returns blocks, width, patch (pixels), ``outliers`` (share of tokens longer than
    twice their image's median), ``largest`` (length over the median), ``lift`` of outliers on
    low-information patches (nan without any; notebook 02 §5) and ``patch_similarity`` in [-1, 1].
    """
    config = resolve_model_data_config(vit)
    encoder = ClassTokenViT(vit, num_classes=1, num_registers=0, aux_layer=-1).eval()
    rows, columns = (length // encoder.patch_size for length in vit.patch_embed.img_size)
    side = rows * encoder.patch_size, columns * encoder.patch_size
    pictures = F.interpolate(pictures, side, mode="bilinear", antialias=True).clamp(0, 1)
    images = normalize(pictures, list(config["mean"]), list(config["std"]))
    tokens = artifacts.block_tokens(encoder, images).patch_tokens[-1]
    long, length = artifacts.norm_outliers(tokens), tokens.norm(dim=2)
    deviation = artifacts.pixel_deviation(pictures, (rows, columns))
    flat = artifacts.low_information(deviation).flatten(1)
    return {
        "blocks": len(encoder.blocks),
        "width": encoder.embed_dim,
        "patch": encoder.patch_size,
        "outliers": long.float().mean().item(),
        "largest": (length / length.median(1, keepdim=True).values).max().item(),
        "lift": artifacts.lift(long, flat),
        "patch_similarity": artifacts.patch_similarity(tokens).mean().item(),
    }
