"""Image files as people have them: found, read, and refused with a reason."""

import numpy as np
import pytest
from PIL import Image

from more_lib.data.images import find_images, read_image, unreadable
from more_lib.system.errors import InputError

RED, GREEN, GREY = (255, 0, 0), (0, 255, 0), (40, 40, 40)
SIDE = 32


def picture(left=RED, right=GREY, size=(SIDE, SIDE)):
    """An RGB image of two halves."""
    image = Image.new("RGB", size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


@pytest.fixture
def photos(tmp_path):
    """A cat on the left, a dog on the right, and nothing."""
    folder = tmp_path / "photos"
    folder.mkdir()
    picture().save(folder / "cat.png")
    picture(GREY, GREEN, (48, 24)).save(folder / "dog.jpg", quality=95)
    picture(GREY, GREY).save(folder / "nothing.bmp")
    return folder


MODES = {
    "grey.png": lambda image: image.convert("L"),
    "palette.png": lambda image: image.quantize(4),
    "palette.gif": lambda image: image.quantize(4),
    "grey_alpha.png": lambda image: image.convert("LA"),
    "opaque.png": lambda image: image.convert("RGBA"),
    "cmyk.jpg": lambda image: image.convert("CMYK"),
    "cmyk.tif": lambda image: image.convert("CMYK"),
    "bilevel.png": lambda image: image.convert("1", dither=Image.Dither.NONE),
    "photo.webp": lambda image: image,
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(tmp_path, name):
    white = picture((255, 255, 255), (0, 0, 0))
    MODES[name](white).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.mode == "RGB" and image.size == (SIDE, SIDE)
    np.testing.assert_allclose(np.asarray(image), np.asarray(white), atol=8)
    assert unreadable([tmp_path / name]) == {}


def test_transparency_is_laid_on_white(tmp_path):
    image = picture().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    image.save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getcolors() == [(SIDE * SIDE, (255, 255, 255))]


def test_what_cannot_be_read_is_named_with_its_reason(photos):
    whole = (photos / "dog.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "text.png").write_text("not an image")
    (photos / "empty.jpg").touch()
    Image.new("I;16", (8, 8)).save(photos / "deep.png")
    bad = unreadable(find_images([photos]))
    assert [path.name for path in bad] == ["cut.jpg", "deep.png", "empty.jpg", "text.png"]
    reasons = {path.name: reason for path, reason in bad.items()}
    assert "runcated" in reasons["cut.jpg"] and "not an image" in reasons["text.png"]
    assert "8 bits" in reasons["deep.png"]


def test_find_images(photos, tmp_path):
    (photos / "notes.txt").touch()
    (photos / "._cat.png").touch()
    (photos / "deeper.png").mkdir()
    names = [path.name for path in find_images([photos])]
    assert names == ["cat.png", "dog.jpg", "nothing.bmp"]
    twice = find_images([photos / "dog.jpg", photos, tmp_path / "photos" / ".." / "photos"])
    assert [path.name for path in twice] == ["dog.jpg", "cat.png", "nothing.bmp"]
    (photos / "Cat.jpg").touch()
    with pytest.raises(InputError, match=r"Cat\.jpg and .*cat\.png would both become"):
        find_images([photos])


def test_nothing_to_find(tmp_path):
    with pytest.raises(InputError, match="holds no image"):
        find_images([tmp_path])
    with pytest.raises(InputError, match=r"gone\.jpg does not exist"):
        find_images([tmp_path / "gone.jpg"])
    with pytest.raises(InputError, match="no images given"):
        find_images([])
