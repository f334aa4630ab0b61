"""From a photograph to what the network sees, and back for a figure."""

import torch
from torchvision.transforms import v2

from more_lib.recipes import DataRecipe

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""ImageNet's channel statistics of RGB in [0, 1]. The released run feeds them to a backbone that
was pretrained with 0.5 and 0.5; we keep what it does."""


def training_transform(data: DataRecipe) -> v2.Compose:
    """Random crop, flip and colour jitter: RGB PIL image -> (3, S, S) float32, S the crop size.

    All randomness is torch's global generator, which the training seeds and a ``DataLoader``
    reseeds in each worker. Values are normalised with ``IMAGENET_MEAN`` and ``IMAGENET_STD``.
    """
    brightness, contrast, saturation, hue = data.color_jitter
    jitter = v2.ColorJitter(brightness, contrast, saturation, hue)
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                data.crop_size,
                scale=data.crop_scale,
                interpolation=v2.InterpolationMode.BICUBIC,
                antialias=True,
            ),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([jitter], p=data.jitter_probability),
            *_to_normalised_tensor(),
        ]
    )


def evaluation_transform(size: int | None) -> v2.Compose:
    """RGB PIL image -> (3, H, W) float32, normalised, nothing random.

    With a ``size`` the image is resized to that square whatever its shape (bicubic), so that the
    patch divides it; with None it keeps its own height and width.
    """
    resize = []
    if size is not None:
        bicubic = v2.InterpolationMode.BICUBIC
        resize = [v2.Resize((size, size), interpolation=bicubic, antialias=True)]
    return v2.Compose([*resize, *_to_normalised_tensor()])


def denormalize(images: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation for a figure: (B, 3, H, W) or (3, H, W) -> the same in [0, 1]."""
    mean = images.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = images.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return (images * std + mean).clamp(0, 1)


def _to_normalised_tensor() -> list[v2.Transform]:
    return [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
