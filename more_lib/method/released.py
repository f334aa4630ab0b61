"""Checkpoints of the released code, read under its own names; our own are ``system.weights``."""

import warnings
from collections.abc import Mapping
from math import isqrt
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from more_lib.method.gcr import GraphCategoryRepresentation
from more_lib.method.model import MoRe
from more_lib.method.vit import ClassTokenViT
from more_lib.system.errors import InputError
from more_lib.system.weights import check_fit, read_weights

_RENAMED = {  # released module: ours
    "decoder.conv6.": "decoder.0.",
    "decoder.conv7.": "decoder.2.",
    "decoder.conv8.": "decoder.4.",
    "graph_layer.head_proj.": "graph.head.",
    "graph_layer.tail_proj.": "graph.tail.",
    "graph_layer.linear1.": "graph.sum_map.",
    "graph_layer.linear2.": "graph.product_map.",
    "graph_layer.norm.": "graph.norm.",
}
_NEVER_USED = ("encoder.head.", "graph_layer._fc1.")  # weights that no released forward pass reads


def load_released(path_or_state_dict: str | Path | Mapping[str, Tensor], num_classes: int) -> MoRe:
    """The network of a checkpoint of the released code, ready to evaluate.

    path_or_state_dict: a file that ``torch.save`` wrote (read without running code in it) or
    safetensors, or the state dict itself, perhaps under the key ``state_dict`` or ``model``; a
    prefix ``module.`` is dropped. num_classes: C; the tokens beyond C are the registers.

    Sizes follow from the weights, with 64 channels a head as in every standard ViT. Raises
    ``InputError`` for a file that cannot be read and weights that do not fit: names what is
    missing and what is not expected.
    """
    given, name = path_or_state_dict, "the state dict"
    if isinstance(given, (str, Path)):
        given, name = _read_any(Path(given)), str(given)
    weights = _unwrapped(given, name)
    try:
        vit, width = _released_sizes(weights)
        state = _translated(weights, num_classes)
    except KeyError as error:
        raise InputError(
            f"{name} is no released checkpoint; missing: {error.args[0]}; give the whole network"
        ) from None
    except (ValueError, IndexError, RuntimeError) as error:
        raise InputError(
            f"{name} is no released checkpoint of {num_classes} classes: {error}"
        ) from error
    with torch.device("meta"):  # every weight comes from the file
        registers = state["encoder.register_tokens"].shape[1]
        encoder = ClassTokenViT(VisionTransformer(**vit), num_classes, registers)
        model = MoRe(encoder, width, GraphCategoryRepresentation(vit["embed_dim"]))
    check_fit(model, state, name, f"is it of {num_classes} classes, and whole?")
    model.load_state_dict(state, assign=True)
    return model.eval()


def _read_any(path: Path) -> Mapping:
    """A state dict from a file of ``torch.save`` or safetensors; no code in it is run."""
    if path.suffix == ".safetensors" or not path.is_file():
        return read_weights(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickle's protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file leads to
        raise InputError(
            f"{path} holds no plain state dict: it is cut short, of another kind, or has code in "
            "it, which is not run; download it again, or save model.state_dict()"
        ) from error


def _unwrapped(checkpoint: object, name: str) -> dict[str, Tensor]:
    """The state dict itself, without what training scripts wrap around it and its keys."""
    for wrapping in ("state_dict", "model"):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(wrapping), Mapping):
            checkpoint = checkpoint[wrapping]
    if not isinstance(checkpoint, Mapping):
        kind = type(checkpoint).__name__
        raise InputError(f"{name} holds a {kind}, no mapping of names to tensors; save "
                         "model.state_dict()")  # fmt: skip
    tensors = {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}
    return {str(key).removeprefix("module."): value for key, value in tensors.items()}


def _released_sizes(weights: Mapping[str, Tensor]) -> tuple[dict, int]:
    """Arguments of timm's ``VisionTransformer``, and the decoder's width."""
    embedding, tokens = weights["encoder.patch_embed.proj.weight"], weights["encoder.cls_token"]
    dim, _, patch, _ = embedding.shape
    side = isqrt(weights["encoder.pos_embed"].shape[1] - tokens.shape[1])
    blocks = {key.split(".")[2] for key in weights if key.startswith("encoder.blocks.")}
    sizes = {"img_size": side * patch, "patch_size": patch, "embed_dim": dim, "num_classes": 0}
    sizes |= {"depth": len(blocks), "num_heads": max(dim // 64, 1)}
    return sizes, weights["decoder.conv6.weight"].shape[0]


def _translated(weights: Mapping[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    """Released weights by our names.

    The released sequence is registers, classes, patches, each with a position embedding. Here the
    classes come first, and the tokens of the prefix carry their position in themselves.
    """
    tokens, position = weights["encoder.cls_token"], weights["encoder.pos_embed"]
    registers = tokens.shape[1] - num_classes
    if registers < 0:
        raise ValueError(f"it has {tokens.shape[1]} tokens beside the patches")
    prefix = tokens + position[:, : tokens.shape[1]]
    state = {
        "encoder.register_tokens": prefix[:, :registers].clone(),
        "encoder.class_tokens": prefix[:, registers:].clone(),
        "encoder.patch_position": position[:, tokens.shape[1] :].clone(),
    }
    done = ("encoder.cls_token", "encoder.pos_embed", *_NEVER_USED)
    for key, value in weights.items():
        if not key.startswith(done):
            module = next((module for module in _RENAMED if key.startswith(module)), "")
            state[_RENAMED.get(module, "") + key.removeprefix(module)] = value
    return state
