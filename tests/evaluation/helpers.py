"""A model whose maps are the images' colours, and a tree of three 8x8 images for it."""

from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from more_lib.data.transforms import denormalize, evaluation_transform
from more_lib.data.voc import VocMasks, VocTree
from more_lib.evaluation.protocols import named_protocols, table_protocols
from more_lib.recipes.loading import load_recipe

PATCH = 4
CAT, DOG = 8, 12  # VOC's ids of the classes 1 and 2
BLACK, DIM = (0, 0, 0), (100, 0, 100)
RED, GREEN, GREY = (255, 0, 0), (0, 255, 0), (40, 40, 40)
SIDE = 32
# The four patches of each image, row by row; a class is named where its colour exceeds one half.
PATCHES = {
    "named": [(255, 0, 255), (0, 0, 255), (255, 0, 0), BLACK],  # a cat, taken for a cat
    "mistaken": [(250, 0, 255), BLACK, BLACK, (0, 100, 0)],  # a dog, taken for a cat
    "missed": [DIM, BLACK, DIM, BLACK],  # a cat, taken for nothing
}

Output = namedtuple(
    "Output",
    "class_logits seg_logits features class_tokens token_logits attention_scores cam aux_cam",
)


class ColourModel(nn.Module):
    """CAM: red is cat, green is dog. LAM: blue is cat. Attention: where CAM is not.

    To the class tokens an image shows cats as far as it is blue, and dogs where it is not red.
    """

    patch_size = PATCH

    def __init__(self):
        super().__init__()
        self.tokens = nn.Parameter(torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
        self.frozen = nn.BatchNorm2d(1).eval()
        self.inputs = []

    def forward(self, images, with_decoder=True):
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
            token_logits=torch.stack([colours[:, 2], -colours[:, 0]], 1).mean((2, 3)),
            attention_scores=1 - cam,
            cam=cam,
            aux_cam=torch.zeros_like(cam),
        )


class PhotoModel(ColourModel):
    """Red is cat and green is dog, in every map, the background 0.4 to the decoder."""

    def forward(self, images, with_decoder=True):
        output = super().forward(images)
        decoder = torch.cat([torch.full_like(output.cam[:, :1], 0.4), output.cam], 1)
        tokens = torch.eye(2, 3).expand(len(images), -1, -1)
        return output._replace(seg_logits=decoder, class_tokens=tokens, attention_scores=output.cam)


def picture(left=RED, right=GREY, size=(SIDE, SIDE)):
    """An RGB image of two halves."""
    image = Image.new("RGB", size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


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


def make_folder(root, classes, listed=(), value=1, colours=(RED, GREEN)):
    """Two pictures of 8x8 whose left half has a colour and is ``value`` in the mask."""
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    if listed:
        (root / "classes.txt").write_text("\n".join(listed))
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = value
    for name, colour in zip("ab", colours, strict=True):
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[:, :4] = colour
        Image.fromarray(pixels).save(root / f"images/{name}.png")
        Image.fromarray(mask).save(root / f"masks/{name}.png")
    (root / "labels.csv").write_text(f"image,classes\na.png,{classes}\nb.png,{classes}\n")
    return root


def recipe_with(root, *changes):
    given = ["data.dataset=voc", f"data.root={root}", "data.classes=[cat, dog]"]
    evaluation = ["evaluation.scales=[1.0]", "evaluation.batch_size=2"]
    return load_recipe("mini", [*given, *evaluation, *changes])


def trained_on(recipe, folder=None):
    """What stands in for the network that a recipe trains."""
    record = {"weights_sha256": "0" * 64}
    return SimpleNamespace(model=ColourModel(), recipe=recipe, folder=folder, record=record)


def save_wide(root, channel, value, label):
    """An image of 6x14 pixels whose left half has a colour, and ``value`` in its mask."""
    pixels, mask = np.zeros((6, 14, 3), np.uint8), np.zeros((6, 14), np.uint8)
    pixels[:, :7, channel], mask[:, :7] = 255, value
    save(root, "wide", pixels, mask, label)


def many(root, number=9, dogs=()):
    """A split of that many images, all different, of cats but for those of some numbers."""
    rng = np.random.default_rng(0)
    names = [f"image{n}" for n in range(number)]
    for n, name in enumerate(names):
        value, label = (DOG, "dog") if n in dogs else (CAT, "cat")
        mask = rng.choice(np.array([0, value, 255], np.uint8), (8, 8))
        save(root, name, rng.integers(0, 256, (8, 8, 3), np.uint8), mask, label)
    set_split(root, *names)
    return names


def all_at_once(root):
    """Images, labels and masks of val, each stacked."""
    items = list(VocMasks(VocTree(root, ("cat", "dog")), "val", evaluation_transform(None)))
    return tuple(torch.stack([item[key] for item in items]) for key in ("image", "labels", "mask"))


def named(recipe, *names, split=""):
    return list(named_protocols(names, recipe, split).values())


def protocols_of(recipe):
    return [*table_protocols(recipe), *named(recipe, "paper-val-native", "decoder-val-native")]
