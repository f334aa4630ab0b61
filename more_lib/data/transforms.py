"""From a photograph to what the network sees, and back for a figure."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from more_lib.recipes.constants import IMAGENET_MEAN, IMAGENET_STD
from more_lib.recipes.schema import DataRecipe
from more_lib.system.errors import InputError

BICUBIC = v2.InterpolationMode.BICUBIC


def training_transform(data: DataRecipe, views: bool = False) -> Callable[[Image.Image], Any]:
    """What training sees of an RGB PIL image: a random crop, (3, S, S) float32, S the crop size.

    With ``data.crop`` "resized", as released for VOC: a part of the image resized to the crop,
    flip, colour jitter. With "padded", as released for COCO: jitter, the image resized by a factor
    of ``data.crop_scale`` on its sides, flip, and a crop of it, filled up with black at whatever
    side it is too small; unless ``data.padding`` is "picture", a second tensor, (4,) int64, is the
    box (left, top, right, bottom) that the image fills, right and bottom excluded, in its pixels.

    With ``views``, for contrasts between views, a dictionary: ``image`` as above, and ``views``
    (2, 3, S, S), another crop of the photograph and the image's own crop with another jitter.
    Raises ``InputError`` for them where ``data.crop`` is "padded".

    All randomness is torch's global generator, which the training seeds. Values are normalised
    with ``IMAGENET_MEAN`` and ``IMAGENET_STD``, the black included.
    """
    jitter = v2.RandomApply([v2.ColorJitter(*data.color_jitter)], p=data.jitter_probability)
    flip, to_tensor = v2.RandomHorizontalFlip(), _to_normalised_tensor()
    if data.crop == "resized":
        crop = v2.RandomResizedCrop(data.crop_size, scale=data.crop_scale, interpolation=BICUBIC)
        if views:
            return _WithViews(v2.Compose([crop, flip]), v2.Compose([jitter, *to_tensor]))
        return v2.Compose([crop, flip, jitter, *to_tensor])
    if views:
        raise InputError("data.crop is 'padded': views of one image need 'resized'")
    crop = v2.RandomCrop(data.crop_size, pad_if_needed=True, fill=0)
    padded = v2.Compose([jitter, RandomRescale(data.crop_scale), flip, crop, *to_tensor])
    return _WithBox(padded) if data.padding == "masked" else padded


class _WithBox:
    """A transform's image and where the whole image came to lie in it."""

    def __init__(self, transform: v2.Transform) -> None:
        self.transform = transform

    def __call__(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        width, height = image.size
        whole = tv_tensors.BoundingBoxes(
            [[0.0, 0.0, width, height]], format="XYXY", canvas_size=(height, width)
        )
        seen, box = self.transform(image, whole)
        return seen, box.as_subclass(Tensor)[0].round().long()


class _WithViews:
    """The image of a transform in two parts, and two further views of the photograph."""

    def __init__(self, place: v2.Transform, colour: v2.Transform) -> None:
        self.place, self.colour = place, colour

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        seen, other = self.place(image), self.place(image)
        views = torch.stack([self.colour(other), self.colour(seen)])
        return {"image": self.colour(seen), "views": views}


class RandomRescale(v2.Transform):
    """Resize bilinearly by a random factor, uniform in ``scale``; sides are cut to whole pixels."""

    def __init__(self, scale: tuple[float, float]) -> None:
        super().__init__()
        self.scale = scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, list[int]]:
        factor = float(torch.empty(()).uniform_(*self.scale))
        return {"size": [max(int(factor * s), 1) for s in v2.query_size(flat_inputs)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return v2.functional.resize(inpt, params["size"])


def evaluation_transform(size: int | None) -> v2.Compose:
    """RGB PIL image -> (3, H, W) float32, normalised, nothing random.

    With a ``size`` the image is resized to that square whatever its shape (bicubic), so that the
    patch divides it; with None it keeps its own height and width.
    """
    resize = [v2.Resize((size, size), interpolation=BICUBIC)] if size is not None else []
    return v2.Compose([*resize, *_to_normalised_tensor()])


def denormalize(images: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation for a figure: (B, 3, H, W) or (3, H, W) -> the same in [0, 1]."""
    mean, std = (images.new_tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (images * std + mean).clamp(0, 1)


def _to_normalised_tensor() -> list[v2.Transform]:
    normalise = v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalise]
