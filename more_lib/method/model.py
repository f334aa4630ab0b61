"""MoRe, put together: the encoder, two classifiers that give CAM, the graph and a decoder.

Notebook 01 §4 takes it apart; notebook 05 trains it.
"""

from typing import NamedTuple

import torch
from timm.layers import DropPath
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from more_lib.method.backbones import build_backbone, load_backbone
from more_lib.method.gcr import GraphCategoryRepresentation
from more_lib.method.vit import ClassTokenViT
from more_lib.recipes.schema import OptimizerRecipe, Recipe
from more_lib.system.errors import InputError
from more_lib.system.precision import at_least_float32, no_autocast


class MoReOutput(NamedTuple):
    """Everything one forward pass knows about images (B, 3, H, W); (h, w) is the patch grid."""

    class_logits: Tensor  # (B, C), from the final feature map
    aux_logits: Tensor  # (B, C), from the auxiliary feature map
    seg_logits: Tensor  # (B, C + 1, h, w), from the decoder; channel 0 is the background
    features: Tensor  # (B, D, h, w), the patch tokens as a map
    class_tokens: Tensor  # (B, C, D), after the graph where there is one
    token_logits: Tensor  # (B, C), what the class tokens say is in the image
    attention_scores: Tensor  # (B, C, h, w), raw class-patch attention of the last block
    cam: Tensor  # (B, C, h, w), no ReLU
    aux_cam: Tensor  # (B, C, h, w), no ReLU


class LargeFOV(nn.Sequential):
    """DeepLab's LargeFOV decoder: two dilated 3x3 convolutions and a 1x1 one, without biases."""

    def __init__(self, dim: int, num_outputs: int, width: int = 512, dilation: int = 5) -> None:
        super().__init__(
            nn.Conv2d(dim, width, 3, padding=dilation, dilation=dilation, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, num_outputs, 1, bias=False),
        )


class MoRe(nn.Module):
    """The network: class-token ViT, classifiers on its two feature maps, graph, LargeFOV decoder.

    ``encoder`` carries C class tokens; the decoder gets ``decoder_width`` channels inside. Without
    a ``graph`` the class tokens stay as the encoder gives them. ``token_classifier``, a linear
    layer with a row for each of them, reads out whether a token's class is in the image; without
    it, the mean over a token's channels is its logit. ``num_classes`` is C where the encoder
    carries another number of tokens, T: ToCo and DuPL have one, and T stands for C in the tokens'
    outputs.
    """

    def __init__(
        self,
        encoder: ClassTokenViT,
        decoder_width: int = 512,
        graph: GraphCategoryRepresentation | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        dim, num_classes = encoder.embed_dim, num_classes or encoder.num_classes
        self.encoder = encoder
        self.classifier = nn.Conv2d(dim, num_classes, 1, bias=False)
        self.aux_classifier = nn.Conv2d(dim, num_classes, 1, bias=False)
        self.decoder = LargeFOV(dim, num_classes + 1, decoder_width)
        self.graph = graph
        self.token_classifier: nn.Linear | None = None

    @classmethod
    def from_recipe(cls, recipe: Recipe, pretrained: bool = True) -> "MoRe":
        """Build the network of a recipe on its pretrained backbone.

        ``pretrained=False`` leaves the backbone random, for weights that are loaded next. Raises
        ``InputError`` when the backbone is unsupported or its weights cannot be had.
        """
        spec, num_classes = recipe.backbone, len(recipe.data.classes)
        options = (spec.num_registers, spec.aux_layer, spec.token_start, spec.freeze_position)
        encoder = ClassTokenViT(recipe_backbone(recipe, pretrained), num_classes, *options)
        if spec.frozen_blocks:
            encoder.freeze(spec.frozen_blocks)
        require_patches(recipe, encoder.patch_size)
        model = cls(encoder, spec.decoder_width)
        if recipe.loss.token_readout == "linear":
            model.token_classifier = nn.Linear(encoder.embed_dim, num_classes)
        # Last, so that under one seed the heads begin alike with a graph and without.
        if recipe.graph.use:
            model.graph = GraphCategoryRepresentation(encoder.embed_dim, variant=recipe.graph)
        return model

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels; image sides must be multiples of it."""
        return self.encoder.patch_size

    def forward(
        self, images: Tensor, with_gcr: bool = True, with_decoder: bool = True
    ) -> MoReOutput:
        """``images`` (B, 3, H, W), normalised; raises ``InputError`` if the patch does not fit.

        ``with_gcr=False`` leaves the graph out and gives the class tokens as they enter it,
        ``with_decoder=False`` the decoder, and ``seg_logits`` without channels.
        """
        encoded = self.encoder(images)
        tokens = encoded.class_tokens
        if with_gcr and self.graph is not None:
            tokens = self.graph(tokens, encoded.patch_tokens)
        features = encoded.patch_tokens.mT.unflatten(2, encoded.grid)
        aux_features = encoded.aux_patch_tokens.mT.unflatten(2, encoded.grid)
        return MoReOutput(
            class_logits=image_logits(features, self.classifier),
            aux_logits=image_logits(aux_features, self.aux_classifier),
            seg_logits=self.decoder(features) if with_decoder else features[:, :0],
            features=features,
            class_tokens=tokens,
            token_logits=self.read_out(tokens),
            attention_scores=encoded.attention_scores,
            cam=self.classifier(features),
            aux_cam=self.aux_classifier(aux_features),
        )

    def cams(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class activation maps (B, C, h, w) of both classifiers, no ReLU, and nothing else."""
        features, aux_features = self.encoder.feature_maps(images)
        return self.classifier(features), self.aux_classifier(aux_features)

    def read_out(self, class_tokens: Tensor) -> Tensor:
        """Image-level logits (B, C) of class tokens (B, C, D), float32 at least (notebook 01)."""
        with no_autocast(class_tokens):
            tokens = at_least_float32(class_tokens)
            if self.token_classifier is None:
                return tokens.mean(dim=2)
            return (tokens * self.token_classifier.weight).sum(2) + self.token_classifier.bias

    def parameter_groups(self, settings: OptimizerRecipe) -> list[dict]:
        """AdamW's groups: the encoder, its class tokens, all that is new; perhaps its registers.

        With ``token_parameters`` 2, class and register tokens move as the sum of two, token and
        position, does: both have its gradient, so each takes AdamW's step and decays by lr *
        weight_decay of itself; the sum takes two steps and decays as anything else. ``decayed``
        "matrices" takes these tokens, and parameters of one dimension, out of all decay.
        """
        lr, decay, parts = settings.lr, settings.weight_decay, settings.token_parameters
        classes, registers = self.encoder.class_tokens, self.encoder.register_tokens
        apart = [classes] if parts == 1 else [classes, registers]
        known, alone = (set(map(id, some)) for some in (self.encoder.parameters(), apart))
        encoder = [p for p in self.encoder.parameters() if id(p) not in alone]
        new = [p for p in self.parameters() if p.requires_grad and id(p) not in known]
        sums = {"weight_decay": decay / parts}
        groups: list[dict] = [
            {"params": encoder, "lr": lr, "weight_decay": decay},
            {"params": [classes], "lr": parts * lr * settings.token_lr_factor, **sums},
            {"params": new, "lr": lr * settings.head_lr_factor, "weight_decay": decay},
            *({"params": [each], "lr": parts * lr, **sums} for each in apart[1:]),
        ]
        if settings.decayed == "matrices":
            spared = alone | {id(p) for p in self.parameters() if p.ndim < 2}
            groups = [
                group | ({"weight_decay": 0.0} if free else {}) | {"params": chosen}
                for free in (False, True)
                for group in groups
                if (chosen := [p for p in group["params"] if (id(p) in spared) == free])
            ]
        return groups


def image_logits(features: Tensor, classifier: nn.Conv2d) -> Tensor:
    """Image-level logits (B, C): each channel's maximum over the map, then the classifier."""
    return F.linear(features.amax((2, 3)), classifier.weight.flatten(1))


def recipe_backbone(recipe: Recipe, pretrained: bool) -> VisionTransformer:
    """The backbone of a recipe with as many of its blocks as the recipe keeps.

    ``pretrained=False`` leaves it random. Raises ``InputError`` when it has fewer blocks, or its
    weights cannot be had.
    """
    spec = recipe.backbone
    vit = load_backbone(spec.name, spec.weights) if pretrained else build_backbone(spec.name)
    blocks = getattr(vit, "blocks", ())  # the encoder refuses what is no plain ViT
    if spec.depth > len(blocks) > 0:
        raise InputError(f"backbone.depth is {spec.depth}, but there are {len(blocks)} blocks")
    if spec.depth and len(blocks):
        vit.blocks = blocks[: spec.depth]  # the first ones; the last norm is kept
    if spec.drop_path:
        rates = torch.linspace(0, spec.drop_path, len(vit.blocks)).tolist()  # as timm spreads it
        for block, rate in zip(vit.blocks, rates, strict=True):
            block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
    return vit


def require_patches(recipe: Recipe, patch: int) -> None:
    """Raise ``InputError`` unless crops can be cut in patches, at the smallest scale too."""
    side, least = recipe.data.crop_size, min(recipe.masks.scales)
    if side % patch:
        near = max(round(side / patch), 1) * patch
        raise InputError(f"data.crop_size is {side}, no multiple of a patch's {patch} pixels: give "
                         f"{near}")  # fmt: skip
    if side * least < patch:
        raise InputError(f"masks.scales holds {least:g}, which leaves less than a patch of {patch} "
                         f"pixels of data.crop_size {side}: drop it")  # fmt: skip
