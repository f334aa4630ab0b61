"""Pretrained backbones by name: the shipped mini ViTs, timm's plain ViTs, and their weights.

Whatever cannot be had is an error that says what to do; random weights never stand in for it.
"""

from difflib import get_close_matches
from functools import partial
from pathlib import Path

import timm
from timm.layers import Attention, HybridEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import nn

from more_lib.method.weight_files import MINI_WIDTHS, backbone_file, downloaded_file, require_file
from more_lib.system.errors import InputError
from more_lib.system.weights import load_weights

CLASSIFIERS = ("head.", "head_dist.")  # of published weights; the backbone has none


def mini_vit(width: int = 192) -> VisionTransformer:
    """The kit's stand-in for an ImageNet ViT: 96 px, patch 8, depth 6, 2.9 M weights at width 192.

    A convolutional stem learns several times faster on a CPU than one linear patch embedding. The
    three heads share ``width``, a multiple of 12. ``load_backbone("mini")`` has pretrained weights.
    """
    convolutions = ConvStem(channels=(width // 4, width // 2, width), norm_layer="layernorm2d")
    stem = partial(HybridEmbed, backbone=convolutions, proj=False)
    sizes = dict(img_size=96, patch_size=1, embed_dim=width, depth=6, num_heads=3, num_classes=0)
    return VisionTransformer(embed_layer=stem, dynamic_img_size=True, **sizes)


def build_backbone(name: str) -> VisionTransformer:
    """The architecture of this name with random weights. ``InputError`` when timm has no such."""
    if name in MINI_WIDTHS:
        return mini_vit(MINI_WIDTHS[name])
    if not timm.is_model(name):
        near = get_close_matches(name.split(".", maxsplit=1)[0], timm.list_models(), 3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise InputError(f"backbone.name {name!r} is no timm model{hint}")
    try:
        return timm.create_model(name, num_classes=0)
    except RuntimeError as error:  # an unknown tag after the dot
        raise InputError(f"backbone.name {name!r}: {error}") from error


def downloaded_weights(name: str) -> Path | None:
    """The file of a timm model that an earlier use left in the Hugging Face cache, if any."""
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None or not config.hf_hub_id:
        return None
    return downloaded_file(config.hf_hub_id, config.hf_hub_filename)


def load_backbone(name: str, weights: str = "") -> VisionTransformer:
    """A pretrained plain ViT: a shipped mini one, timm's weights, or a local safetensors file.

    ``weights`` names a file in timm's key names. Never returns random weights: raises
    ``InputError`` when they cannot be had, and says what to do.
    """
    file, vit = backbone_file(name, weights), build_backbone(name)
    if file is not None:
        require_file(file)
        load_weights(vit, file, ignored=CLASSIFIERS)
        return vit
    check_plain(vit)  # before anything is downloaded
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        raise InputError(
            f"the pretrained weights of backbone.name {name!r} could not be loaded "
            f"({type(error).__name__}: {reason}); connect to the network once, or set "
            "backbone.weights to a local safetensors file of this model"
        ) from error


def check_plain(model: nn.Module) -> None:
    """Raise ``InputError`` unless ``ClassTokenViT`` can wrap this model."""
    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        raise InputError(
            f"backbone is a {type(model).__name__}; supported are timm's plain VisionTransformer "
            "models, such as vit_*, deit_* and DINOv2 (vit_*_patch14_*dinov2)"
        )
    if model.cls_token is None:
        raise InputError("backbone has no class token; take a ViT that was trained with one")
    height, width = model.patch_embed.feat_ratio(as_scalar=False)
    if height != width:
        raise InputError(f"backbone has {height}x{width} patches; supported are square ones")
    if model.pos_embed is None:
        raise InputError("backbone has no learned position embedding; supported are ViTs with one")
    block = model.blocks[-1]
    if type(block) is not Block or type(block.attn) is not Attention:
        attention = type(getattr(block, "attn", None)).__name__
        raise InputError(
            f"backbone's blocks are of kind {type(block).__name__} with attention {attention}; "
            "supported are timm's standard pre-norm blocks with one fused qkv projection"
        )
