"""Image files: VOC's palette, and the files that training and prediction take alike."""

import errno
import os
import struct

import numpy as np
import pytest
from PIL import Image

from more_lib.data.folder import FolderTree
from more_lib.data.images import (
    IMAGE_ENDINGS,
    PALETTE,
    find_images,
    image_header,
    left_out,
    left_out_note,
    mask_image,
    read_image,
    unreadable,
)
from more_lib.recipes.classes import VOC_CLASSES
from tests.data.helpers import HEIGHT, WIDTH, laid_down, noise, refused


def test_class_ids_and_colours_are_vocs_own():
    assert len(VOC_CLASSES) == 20 and VOC_CLASSES[0] == "aeroplane"
    assert VOC_CLASSES.index("person") + 1 == 15 and VOC_CLASSES[-1] == "tvmonitor"
    # Read off the colour map that the VOC development kit documents.
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128)}
    known |= {20: (0, 64, 128), 255: (224, 224, 192)}
    assert {value: tuple(PALETTE[value].tolist()) for value in known} == known
    assert PALETTE.dtype == np.uint8 and len(np.unique(PALETTE, axis=0)) == 256


def test_a_mask_s_image_shows_the_palette_s_colours_and_holds_the_values():
    values = np.arange(256, dtype=np.uint8).reshape(8, 32)
    image = mask_image(values)
    assert image.mode == "P" and np.array_equal(np.asarray(image), values)
    assert np.array_equal(np.asarray(image.convert("RGB")), PALETTE[values])
    reversed_colours = mask_image(values, PALETTE[::-1]).convert("RGB")
    assert reversed_colours.getpixel((0, 0)) == (224, 224, 192)


@pytest.mark.parametrize("ending", [*IMAGE_ENDINGS, ".JPG"])
def test_training_and_prediction_take_the_same_files(tmp_path, ending):
    (tmp_path / "labels.csv").write_text(f"image,classes\none{ending},cat\n")
    noise(0).save(tmp_path / f"one{ending}")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / ".hidden.png").touch()
    assert find_images([tmp_path]) == [tmp_path / f"one{ending}"]
    tree = FolderTree(tmp_path)
    assert tree.ids("all") == ["one"] and tree.image("one").size == (40, 30)
    assert tree.scan("all") == {}
    tree.image_path("one").write_bytes(tree.image_path("one").read_bytes()[:700])
    assert list(tree.scan("all")) == ["one"]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate(("cat.png", "dog.jpg", "nothing.bmp")):
        noise(seed).save(folder / name)
    return folder


FILES = "grey.png L, palette.png P, palette.gif P, grey_alpha.png LA, opaque.png RGBA, "
FILES += "cmyk.jpg CMYK, cmyk.tif CMYK, bilevel.png 1, photo.webp RGB"


@pytest.mark.parametrize("file", FILES.split(", "))
def test_every_mode_becomes_rgb(tmp_path, file):
    name, mode = file.split()
    halves = Image.new("RGB", (32, 24))
    halves.paste("white", (0, 0, 16, 24))
    halves.convert(mode).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.mode == "RGB"
    np.testing.assert_allclose(np.asarray(image), np.asarray(halves), atol=8)
    assert unreadable([tmp_path / name]) == {}


def see_through(mode):
    """A picture that is red on the left and clear on the right, and how it is to be saved."""
    alpha = Image.new("L", (32, 24), 255)
    alpha.paste(0, (16, 0, 32, 24))
    if mode == "LA":
        return Image.merge("LA", [Image.new("L", (32, 24), 76), alpha]), {}
    if mode in ("P", "RGB key", "L key"):
        halves = Image.new("RGB", (32, 24), "red")
        halves.paste("blue", (16, 0, 32, 24))
        if mode == "P":
            image = halves.quantize(2)
            return image, {"transparency": image.getpixel((20, 5))}
        return (
            (halves, {"transparency": (0, 0, 255)})
            if mode == "RGB key"
            else (
                Image.fromarray(np.where(np.asarray(alpha) > 0, 76, 9).astype(np.uint8)),
                {"transparency": 9},
            )
        )
    image = Image.new("RGBA", (32, 24), "red")
    image.putalpha(alpha)
    return image, {"lossless": True}


@pytest.mark.parametrize(
    "file",
    "a.png RGBA,a.webp RGBA,a.tif RGBA,a.png LA,a.png P,a.gif P,a.png RGB key,a.png L key".split(
        ","
    ),
)
def test_transparency_is_laid_on_white_for_training_as_for_prediction(tmp_path, file):
    name, _, mode = file.partition(" ")
    image, options = see_through(mode)
    image.save(tmp_path / name, **options)
    seen = read_image(tmp_path / name)
    red = (76, 76, 76) if mode.startswith("L") else (255, 0, 0)
    assert seen.mode == "RGB" and seen.getpixel((3, 3)) == red
    assert seen.getpixel((30, 3)) == (255, 255, 255)
    (tmp_path / "labels.csv").write_text("image,classes\na,cat\n")
    assert np.array_equal(np.asarray(FolderTree(tmp_path).image("a")), np.asarray(seen))


@pytest.mark.parametrize("kind", ["a.png I;16", "a.tif I;16", "a.tif I;16B", "a.ppm I"])
def test_sixteen_bits_become_eight(tmp_path, kind):
    name, mode = kind.split()
    values = np.array([[0, 128, 257 * 77, 257 * 200 + 120, 65535]] * 3, np.uint16)
    order = {"I": "<i4", "I;16": "<u2", "I;16B": ">u2"}[mode]
    Image.frombytes(mode, (5, 3), values.astype(order).tobytes()).save(tmp_path / name)
    assert np.asarray(read_image(tmp_path / name))[1, :, 0].tolist() == [0, 0, 77, 200, 255]


def test_the_transparent_value_of_sixteen_bits_is_white(tmp_path):
    values = np.array([[1000, 5, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=5)
    with Image.open(tmp_path / "a.png") as file:
        assert file.info["transparency"] == 5
    assert np.asarray(read_image(tmp_path / "a.png"))[0, :, 0].tolist() == [4, 255, 255]


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("mode", ["RGB jpg png tif webp", "L tif", "P tif", "RGBA tif"])
def test_pictures_are_upright_and_their_headers_know_it(tmp_path, mode, orientation):
    mode, *endings = mode.split()
    seen = Image.new("RGB", (48, 32), "white")  # dark where it is left and up
    seen.paste("black", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for ending in endings:
        path = tmp_path / f"a.{ending}"
        laid_down(seen.convert(mode), orientation).save(path, exif=exif)
        image, header = read_image(path), image_header(path)
        assert image.size == header.size == (48, 32)
        assert header.orientation == (orientation if orientation in range(2, 9) else 1)
        assert header.stored == ((32, 48) if 5 <= orientation <= 8 else (48, 32))
        assert header.mask_could_be_stored == (orientation in (2, 3, 4))
        np.testing.assert_allclose(np.asarray(image), np.asarray(seen), atol=12)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_a_picture_is_turned_though_another_note_is_of_a_wrong_type(tmp_path, ending):
    notes = (0x0112, 3, 1, b"\6"), (0x011A, 2, 3, b"72"), (0x0128, 1, 1, b"\2")  # dpi as text
    entries = b"".join(struct.pack("<HHI4s", *note) for note in notes)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(notes)) + entries + bytes(4)
    noise(0).save(tmp_path / f"a.{ending}", exif=exif)
    assert read_image(tmp_path / f"a.{ending}").size == (HEIGHT, WIDTH)
    assert image_header(tmp_path / f"a.{ending}").orientation == 6


def test_a_png_s_note_is_found_behind_its_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(0).save(tmp_path / "a.png", exif=exif)
    content = (tmp_path / "a.png").read_bytes()
    at = content.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(content[at : at + 4], "big")
    note, rest = content[at:end], content[:at] + content[end:]
    (tmp_path / "a.png").write_bytes(rest[:-12] + note + rest[-12:])
    assert image_header(tmp_path / "a.png").orientation == 6
    assert read_image(tmp_path / "a.png").size == (HEIGHT, WIDTH)


def test_what_cannot_be_read_is_named_with_its_reason(photos):
    whole = (photos / "dog.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "text.png").write_text("not an image")
    (photos / "empty.jpg").touch()
    Image.new("F", (8, 8)).save(photos / "deep.tif")
    noise(0).save(photos / "pixels.avif")
    head = (photos / "pixels.avif").read_bytes().partition(b"mdat")[0]
    (photos / "pixels.avif").write_bytes(head + b"mdat" + bytes(2000))
    bad = unreadable(find_images([photos]))
    names = ["cut.jpg", "deep.tif", "empty.jpg", "pixels.avif", "text.png"]
    assert [path.name for path in bad] == names
    reasons = {path.name: reason for path, reason in bad.items()}
    assert "runcated" in reasons["cut.jpg"] and "not an image" in reasons["text.png"]
    assert "8 or 16 bits" in reasons["deep.tif"]


def test_find_images(photos, tmp_path):
    (photos / "notes.txt").touch()
    (photos / "._cat.png").touch()
    (photos / "deeper.png").mkdir()
    names = [path.name for path in find_images([photos])]
    assert names == ["cat.png", "dog.jpg", "nothing.bmp"]
    twice = find_images([photos / "dog.jpg", photos, tmp_path / "photos" / ".." / "photos"])
    assert [path.name for path in twice] == ["dog.jpg", "cat.png", "nothing.bmp"]
    (photos / "same.jpg").symlink_to(photos / "dog.jpg")  # as DVC keeps equal photographs
    (photos / "too.jpg").symlink_to(photos / "dog.jpg")
    names = [path.name for path in find_images([photos / "too.jpg", photos, photos / "same.jpg"])]
    assert names == ["too.jpg", "cat.png", "dog.jpg", "nothing.bmp", "same.jpg"]
    (photos / "Cat.jpg").touch()
    with refused(r"Cat\.jpg and .*cat\.png would both become"):
        find_images([photos])
    with refused("holds no image"):
        find_images([photos / "deeper.png"])
    with refused(r"gone\.jpg does not exist"):
        find_images([tmp_path / "gone.jpg"])
    with refused("no images given"):
        find_images([])


def test_what_looks_like_a_photograph_and_is_not_taken(photos, tmp_path):
    for name in ("a.HEIC", "raw.cr2", "notes.txt", "README", ".hidden.heic", "cat.xml"):
        (photos / name).write_text("text")
    noise(0).save(photos / "none", format="png")
    noise(0).save(photos / "photo.jpg_large", format="jpeg")
    noise(0).save(photos / "data.json", format="png")  # named as what it is not
    for folder in ("holiday", "masks", "texts"):
        (photos / folder).mkdir()
    noise(0).save(photos / "holiday/1.jpg")
    noise(0).save(photos / "masks/cat.png")
    found = ["a.HEIC", "holiday", "none", "photo.jpg_large", "raw.cr2"]
    assert [path.name for path in left_out(photos)] == found
    note = left_out_note(photos)
    assert note.startswith(f"left out of {photos}: 5, a.HEIC, holiday/, none …; convert or rename")
    assert left_out(photos / "holiday") == [] and left_out_note(photos / "holiday") == ""
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone/1.heic").touch()
    with refused(r"phone holds no image: left out of .*phone: 1, 1.heic; convert"):
        find_images([tmp_path / "phone"])


def test_what_cannot_be_looked_into_seems_no_photograph(photos, monkeypatch):
    def scandir(path, scandir=os.scandir):
        if "lost+found" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    (photos / "lost+found").mkdir()
    os.mkfifo(photos / "pipe")
    monkeypatch.setattr("os.scandir", scandir)
    assert left_out(photos) == []


def test_links_that_lead_nowhere_are_images_that_cannot_be_read(photos):
    (photos / "gone.jpg").symlink_to("no.jpg")
    (photos / "loop.jpg").symlink_to("loop.jpg")
    bad = unreadable(find_images([photos]))
    assert [path.name for path in bad] == ["gone.jpg", "loop.jpg"]
    assert list(unreadable(find_images([photos / "gone.jpg"]))) == [photos / "gone.jpg"]
    with refused("cannot be read .File name too long.: name image files"):
        find_images(["x" * 256])


def test_two_unicode_forms_of_one_name_are_one_mask(photos):
    for name in ("caf\u00e9.jpg", "cafe\u0301.jpg"):
        noise(0).save(photos / name)
    with refused("would both become"):
        find_images([photos])


def test_a_pipe_is_refused_where_reading_would_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.png", tmp_path / "zeros.png"):
        for read in (read_image, image_header):
            with refused(f"{path.name} cannot be read .a pipe or device, no file."):
                read(path)
