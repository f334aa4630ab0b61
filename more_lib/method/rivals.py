"""ToCo, DuPL and MCTformer+ as the trainer and the evaluation know MoRe: their networks.

Each is built by ``from_recipe``, has ``parameter_groups`` and ``patch_size``, and in evaluation
mode gives its logits and the raw maps that its ``kinds`` name, under ``MoReOutput``'s names. Sizes
and rates are the recipe's, for all methods alike; what trains them is in ``rival_objectives``.
"""

from copy import deepcopy
from typing import Any, NamedTuple

from torch import Tensor

from more_lib.method import dupl, toco
from more_lib.method.backbones import check_plain
from more_lib.method.mctformer import MCTformer, fused_maps, spread
from more_lib.method.model import MoRe, recipe_backbone, require_patches
from more_lib.method.vit import ClassTokenViT
from more_lib.recipes.schema import OptimizerRecipe, Recipe

DECODED_KINDS = ("cam", "aux_cam", "decoder")  # one class token looks at no class


class ToCo(MoRe):
    """MoRe's network with one class token, which a projection head and its slow teacher read."""

    kinds = DECODED_KINDS

    def __init__(self, encoder: ClassTokenViT, num_classes: int, width: int, *head: int) -> None:
        super().__init__(encoder, width, num_classes=num_classes)
        self.head = toco.ProjectionHead(encoder.embed_dim, *head)
        self.teacher = deepcopy(self.head).requires_grad_(False)

    @classmethod
    def from_recipe(cls, recipe: Recipe, pretrained: bool = True) -> "ToCo":
        """As ``MoRe.from_recipe``."""
        width, classes = recipe.backbone.decoder_width, len(recipe.data.classes)
        return cls(_one_token(recipe, pretrained), classes, width, *recipe.toco.head)

    def read_out(self, class_tokens: Tensor) -> Tensor:
        """While training the projected class token (B, O), else as ``MoRe.read_out``.

        Part of the forward pass, for only what that reaches is averaged by several processes.
        """
        return self.head(class_tokens[:, 0]) if self.training else super().read_out(class_tokens)


class DuPL(dupl.DualStudent):
    """Two students; in evaluation mode the first stands for both, unless a protocol names one."""

    kinds = DECODED_KINDS

    def __init__(self, encoder: ClassTokenViT, num_classes: int, decoder_width: int = 512) -> None:
        super().__init__(encoder, num_classes, decoder_width)
        for student in self.students:
            student.kinds = DECODED_KINDS

    @classmethod
    def from_recipe(cls, recipe: Recipe, pretrained: bool = True) -> "DuPL":
        """As ``MoRe.from_recipe``."""
        width, classes = recipe.backbone.decoder_width, len(recipe.data.classes)
        return cls(_one_token(recipe, pretrained), classes, width)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels; image sides must be multiples of it."""
        return self.students[0].patch_size

    def forward(self, images: Tensor, with_decoder: bool = True) -> Any:
        """While training both students' outputs, else the first one's."""
        if self.training:
            return super().forward(images)
        return self.students[0](images, with_decoder=with_decoder)

    def parameter_groups(self, settings: OptimizerRecipe) -> list[dict]:
        """AdamW's groups, each student's as MoRe's."""
        return [group for each in self.students for group in each.parameter_groups(settings)]


class MCTMaps(NamedTuple):
    """What MCTformer+ says of images in evaluation mode: (B, C) logits, (B, C, h, w) maps."""

    class_logits: Tensor  # the mean of both
    token_logits: Tensor
    features: Tensor  # (B, D, h, w), the last patch tokens as a map
    class_tokens: Tensor  # (B, C, D), the last ones
    attention_scores: Tensor  # mean class attention of the last blocks, after the softmax
    cam: Tensor  # of the patches, no ReLU
    root: Tensor  # of attention times the CAM's positive part
    seed: Tensor  # the root, spread by what patches look at


class MCTformerPlus(MCTformer):
    """MCTformer+; in evaluation mode it gives ``MCTMaps``."""

    kinds = ("attention", "cam", "root", "seed")
    map_blocks = 12

    @classmethod
    def from_recipe(cls, recipe: Recipe, pretrained: bool = True) -> "MCTformerPlus":
        """As ``MoRe.from_recipe``."""
        settings, vit = recipe.mctformer, recipe_backbone(recipe, pretrained)
        check_plain(vit)
        side, before = recipe.data.crop_size // vit.patch_embed.feat_ratio(), vit.patch_embed
        grid = None  # positions are repeated where the crop has whole multiples of the pretrained
        if all(side > length and side % length == 0 for length in before.grid_size):
            grid = (side, side)
        start = recipe.backbone.token_start
        model = cls(vit, len(recipe.data.classes), settings.decay, grid, start)
        require_patches(recipe, model.patch_size)
        model.map_blocks = settings.map_blocks
        return model

    parameter_groups = MoRe.parameter_groups

    def forward(self, images: Tensor, with_decoder: bool = True) -> Any:
        """While training what the losses need, else the maps; there is no decoder to leave out."""
        if self.training:
            return super().forward(images, with_attention=False)
        seen = super().forward(images)
        fused = fused_maps(seen.class_attention, seen.patch_cam, self.map_blocks)
        return MCTMaps(
            class_logits=seen.logits,
            token_logits=seen.class_logits,
            features=seen.features,
            class_tokens=seen.tokens[-1],
            attention_scores=seen.class_attention[-self.map_blocks :].mean(dim=0),
            cam=seen.patch_cam,
            root=fused,
            seed=spread(fused, seen.affinity),
        )


def _one_token(recipe: Recipe, pretrained: bool) -> ClassTokenViT:
    """The encoder of ToCo and of a student of DuPL."""
    encoder = ClassTokenViT(
        recipe_backbone(recipe, pretrained),
        num_classes=1,
        num_registers=0,
        aux_layer=recipe.backbone.aux_layer,
        freeze_position=recipe.backbone.freeze_position,
        position_margin=0,
    )
    require_patches(recipe, encoder.patch_size)
    return encoder
