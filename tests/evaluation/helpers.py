"""A model whose maps are the images' colours, and a tree of three 8x8 images for it."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from more_lib.data.transforms import denormalize
from more_lib.recipes.loading import load_recipe

PATCH = 4
CAT, DOG = 8, 12  # VOC's ids of the classes 1 and 2
BLACK, DIM = (0, 0, 0), (100, 0, 100)
# The four patches of each image, row by row; a class is named where its colour exceeds one half.
PATCHES = {
    "named": [(255, 0, 255), (0, 0, 255), (255, 0, 0), BLACK],  # a cat, taken for a cat
    "mistaken": [(250, 0, 255), BLACK, BLACK, (0, 100, 0)],  # a dog, taken for a cat
    "missed": [DIM, BLACK, DIM, BLACK],  # a cat, taken for nothing
}


class Output(NamedTuple):
    class_logits: Tensor
    seg_logits: Tensor
    features: Tensor
    class_tokens: Tensor
    attention_scores: Tensor
    cam: Tensor
    aux_cam: Tensor


class ColourModel(nn.Module):
    """CAM: red is cat, green is dog. LAM: blue is cat. Attention: where CAM is not."""

    patch_size = PATCH

    def __init__(self):
        super().__init__()
        self.tokens = nn.Parameter(torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
        self.frozen = nn.BatchNorm2d(1).eval()
        self.inputs = []

    def forward(self, images):
        assert not self.training and not torch.is_grad_enabled()
        assert images.shape[2] % PATCH == 0 and images.shape[3] % PATCH == 0
        self.inputs.append(tuple(images.shape))
        colours = F.avg_pool2d(denormalize(images), PATCH)
        cam = colours[:, :2]
        background = torch.full_like(cam[:, :1], 0.5)
        return Output(
            class_logits=cam.amax((2, 3)) - 0.5,
            seg_logits=torch.cat([background, cam], 1),
            features=colours,
            class_tokens=self.tokens.expand(len(images), -1, -1),
            attention_scores=1 - cam,
            cam=cam,
            aux_cam=torch.zeros_like(cam),
        )


def save(root, name, pixels, mask, label):
    Image.fromarray(pixels).save(root / f"JPEGImages/{name}.jpg", quality=100, subsampling=0)
    Image.fromarray(mask).save(root / f"SegmentationClass/{name}.png")
    xml = f"<annotation><object><name>{label}</name></object></annotation>"
    (root / f"Annotations/{name}.xml").write_text(xml)


def set_split(root, *names, split="val"):
    (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names))


def make_tree(folder):
    """VOC's layout with the images of ``PATCHES`` as the split val."""
    for part in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    masks = {name: np.zeros((8, 8), np.uint8) for name in PATCHES}
    masks["named"][:, :3] = CAT
    masks["named"][0, 7] = 255
    masks["mistaken"][4:, 4:] = DOG
    masks["missed"][:, :4] = CAT
    for name, patches in PATCHES.items():
        grid = np.array(patches, np.uint8).reshape(2, 2, 3)
        pixels = grid.repeat(PATCH, axis=0).repeat(PATCH, axis=1)
        save(folder, name, pixels, masks[name], "dog" if name == "mistaken" else "cat")
    set_split(folder, *PATCHES)
    return folder


def recipe_with(root, *changes):
    given = [
        "data.dataset=voc",
        f"data.root={root}",
        "data.classes=[cat, dog]",
        "evaluation.scales=[1.0]",
    ]
    return load_recipe("mini", [*given, "evaluation.batch_size=2", *changes])
