"""From a photograph to what the network sees, and back for a figure."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from more_lib.recipes.constants import IMAGENET_MEAN, IMAGENET_STD
from more_lib.recipes.schema import DataRecipe

BICUBIC = v2.InterpolationMode.BICUBIC


def training_transform(data: DataRecipe, views: bool = False) -> Callable[[Image.Image], Any]:
    """What training sees of an RGB PIL image: a random crop, (3, S, S) float32, S the crop size.

    With ``data.crop`` "resized", as released for VOC: a part of the image resized to the crop,
    flip, colours. With "padded", as released for COCO: the image resized by a factor of
    ``data.crop_scale`` on its sides, flip, and a crop of it, filled up with black at whatever side
    it is too small; unless ``data.padding`` is "picture", a second tensor, (4,) int64, is the box
    (left, top, right, bottom) that the image fills, right and bottom excluded, in its pixels.
    "mirrored" gives half of the images the box of their mirror image, as ToCo was released: there
    the image was turned again.

    Colours are jitter, grey, blur and what ``data.strong`` adds. With "padded" jitter alone comes
    first, as released for MoRe; with grey, blur or views all are last, on the black too.

    With ``views``, for contrasts between views, a dictionary: ``image`` and perhaps ``box`` as
    above, and ``views`` (2, 3, S, S), another crop of the photograph and the image's own crop in
    other colours; ``data.views`` "released" gives each the augmentation that ToCo gave it.

    All randomness is torch's global generator, which the training seeds. Values are normalised
    with ``IMAGENET_MEAN`` and ``IMAGENET_STD``, the black included.
    """
    flip, to_tensor = v2.RandomHorizontalFlip(), _to_normalised_tensor()
    jitter = v2.RandomApply([v2.ColorJitter(*data.color_jitter)], p=data.jitter_probability)
    grey = [v2.RandomGrayscale(data.grey)] if data.grey else []
    colours = [jitter, *grey, *_blur(data.blur)]
    if data.crop == "resized":
        crop = v2.RandomResizedCrop(data.crop_size, scale=data.crop_scale, interpolation=BICUBIC)
        places = [crop, flip]
    else:
        crop = v2.RandomCrop(data.crop_size, pad_if_needed=True, fill=0)
        places = [RandomRescale(data.crop_scale), flip, crop]
        if not (views or data.grey or data.blur):
            places, colours = [*colours, *places], []
    if data.strong == "randaugment":
        colours.append(RandAugment())
    erase = [_erasing()] if data.strong == "randaugment" else []
    place, colour = v2.Compose(places), v2.Compose([*colours, *to_tensor, *erase])
    placed = place
    if data.crop == "padded" and data.padding != "picture":
        placed = _WithBox(place, data.padding == "mirrored")
    if not views:
        return _Coloured(placed, colour)
    if data.views == "alike":
        return _WithViews(placed, (colour, colour, colour), place)
    crop = v2.RandomResizedCrop(data.crop_size, scale=(0.4, 1.0), interpolation=BICUBIC)
    another = v2.Compose([jitter, *_blur(0.1), v2.RandomSolarize(128, p=0.2), *to_tensor])
    rendering = v2.Compose([jitter, *grey, *_blur(0.5), *to_tensor])
    return _WithViews(placed, (colour, another, rendering), v2.Compose([crop, flip]))


class _WithBox:
    """A transform's image and where the whole image came to lie in it, or would in its mirror."""

    def __init__(self, transform: v2.Transform, mirrored: bool) -> None:
        self.transform, self.mirrored = transform, mirrored

    def __call__(self, image: Image.Image) -> tuple[Image.Image, Tensor]:
        width, height = image.size
        whole = tv_tensors.BoundingBoxes(
            [[0.0, 0.0, width, height]], format="XYXY", canvas_size=(height, width)
        )
        seen, box = self.transform(image, whole)
        if self.mirrored:
            box = v2.RandomHorizontalFlip()(box)
        return seen, box.as_subclass(Tensor)[0].round().long()


class _Coloured:
    """The image of a transform, perhaps with its box, in colours."""

    def __init__(self, place: Callable, colour: v2.Transform) -> None:
        self.place, self.colour = place, colour

    def __call__(self, image: Image.Image) -> Any:
        seen = self.place(image)
        return (self.colour(seen[0]), seen[1]) if isinstance(seen, tuple) else self.colour(seen)


class _WithViews:
    """The image of a transform in colours, and two further views of the photograph.

    colours: of the image, of the other crop, which ``another`` places, and of the other rendering.
    """

    def __init__(self, place: Callable, colours: Sequence[v2.Transform], another: Callable) -> None:
        self.place, self.colours, self.another = place, colours, another

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        placed = self.place(image)
        seen, *box = placed if isinstance(placed, tuple) else (placed,)
        other = self.another(image)
        colour, of_other, of_rendering = self.colours
        views = torch.stack([of_other(other), of_rendering(seen)])
        return {"image": colour(seen), "views": views} | ({"box": box[0]} if box else {})


def _blur(probability: float) -> list[v2.Transform]:
    """Gaussian blur, cut off at four of the largest sigma; released: Pillow's by three boxes."""
    blur = v2.GaussianBlur(17, (0.1, 2.0))
    return [v2.RandomApply([blur], p=probability)] if probability else []


def _erasing() -> v2.Transform:
    """timm's random erasing at 0.25: a rectangle of noise in a normalised tensor."""
    return v2.RandomErasing(0.25, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), value="random")


class RandAugment:
    """timm's RandAugment of PIL images, two operations of magnitude 9, standard deviation 0.5.

    It asks Python's and numpy's generators for its random numbers, which are seeded by torch's for
    it and then put back.
    """

    def __init__(self) -> None:
        from timm.data.auto_augment import rand_augment_transform  # with all of timm's data sets

        fill = tuple(round(255 * value) for value in IMAGENET_MEAN)
        options = {"img_mean": fill, "interpolation": Image.Resampling.BICUBIC}
        self.augment = rand_augment_transform("rand-m9-mstd0.5-inc1", options)

    def __call__(self, image: Image.Image) -> Image.Image:
        kept = random.getstate(), np.random.get_state()
        seed = int(torch.randint(2**32, ()))
        random.seed(seed)
        np.random.seed(seed)
        try:
            return self.augment(image)
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])


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
