"""Pictures and masks that are damaged, larger than memory, no files, or that contradict labels."""

import struct
import zlib

from PIL import Image

from tests.reliability.bad_inputs.building import (
    Build,
    Case,
    case,
    cut,
    fifo,
    folder,
    gone,
    link,
    mask,
    picture,
    several,
    sparse,
    write,
)

TRAIN = "train --recipe small.yaml --data photos --folder out"
EVALUATE = "evaluate --checkpoint model --data photos --json scores.json"
PREDICT = "predict photos/images --checkpoint model --output out"
IMAGE, MASK = "photos/images/a.jpg", "photos/masks/c.png"


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that says this size, with these chunks behind its header."""
    head = b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (head, *chunks, (b"IEND", b""))
    sums = ((kind, data, zlib.crc32(kind + data)) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)
        for kind, data, crc in sums
    )


def image(name: str, build: Build, *said: str) -> list[Case]:
    """An image of a folder that is of no use, in training and in prediction."""
    return [
        case(f"train, {name}", TRAIN, build, IMAGE, *said),
        case(f"predict, {name}", PREDICT, build, IMAGE, *said),
    ]


def wrong_mask(name: str, build: Build, *said: str) -> Case:
    return case(f"mask, {name}", EVALUATE, build, MASK, *said)


ZEROS = zlib.compress(bytes(30_000_000), 9)
LARGE = (b"IDAT", zlib.compress(bytes(100), 9))
NUMBER = b"P6 99999999999 99999999999 255\n"


def large(place):
    """A picture of 200 megapixels that takes few bytes."""
    Image.new("L", (20_000, 10_000)).save(place / IMAGE, format="PNG")


CASES = [
    *image("cut short", cut(IMAGE), "--skip-bad"),
    *image("empty", write(IMAGE, b""), "--skip-bad"),
    *image("text", write(IMAGE, "a cat\n"), "--skip-bad"),
    *image("a page instead", write(IMAGE, "<!DOCTYPE html><html>404</html>"), "--skip-bad"),
    *image("a header that says 10^18 pixels", write(IMAGE, png(2**30, 2**30, LARGE)), "pixels"),
    *image("200 megapixels", large, "pixels"),
    *image("no pixels", write(IMAGE, png(0, 0)), "--skip-bad"),
    *image("a text chunk of 30 MB", write(IMAGE, png(48, 40, (b"zTXt", b"k\0\0" + ZEROS)))),
    *image("a portable pixmap beyond numbers", write(IMAGE, NUMBER), "--skip-bad"),
    *image("zeros, 20 GB of them", sparse(IMAGE, 20 * 2**30), "--skip-bad"),
    *image("a pipe", fifo(IMAGE)),
    *image("zeros without end", link(IMAGE, "/dev/zero")),
    *image("a link to itself", link(IMAGE, "a.jpg")),
    case("predict, a link that leads nowhere", PREDICT, link(IMAGE, "nowhere"), "a.jpg"),
    case("train, a folder with an image's name", TRAIN, folder(IMAGE), "a.jpg", "not among"),
    case("evaluate, an image cut short", EVALUATE, cut("photos/images/c.jpg"), "c.jpg"),
    case("evaluate, no masks", EVALUATE, gone("photos/masks"), "photos", "masks", "predict"),
    wrong_mask("missing", gone(MASK), "missing"),
    wrong_mask("cut short", cut(MASK)),
    wrong_mask("empty", write(MASK, b"")),
    wrong_mask("text", write(MASK, "0 1 2")),
    wrong_mask("a folder", folder(MASK)),
    wrong_mask("a pipe", fifo(MASK)),
    wrong_mask("colours", picture(MASK, mode="RGB"), "mode RGB", "class ids"),
    wrong_mask("16 bits", picture(MASK, mode="I;16"), "mode I;16", "8-bit"),
    wrong_mask("black and white", picture(MASK, mode="1"), "mode 1"),
    wrong_mask("another size", mask(MASK, 0, 1, size=(40, 48)), "40×48", "48×40"),
    wrong_mask("half the size", mask(MASK, 0, 1, size=(24, 20)), "24×20", "48×40"),
    wrong_mask("values of no class", mask(MASK, 0, 1, 7, 200), "7, 200", "data.classes"),
    wrong_mask("200 megapixels", lambda place: Image.new("L", (20_000, 10_000)).save(place / MASK)),
    case(
        "masks of 0 and 255",
        EVALUATE,
        several(mask(MASK, 0, 255), mask("photos/masks/d.png", 0, 255)),
        "255",
        "photos",
    ),
    case("nobody's class in val", EVALUATE, write("photos/splits/val.txt", "zebra\n"), "zebra"),
]
