"""Make EmojiVOC, the embedded data set, and a contact sheet to look at.

python data_scripts/make_emoji_voc.py            # into the cache, about half a minute
python data_scripts/make_emoji_voc.py --folder my_tree --seed 1
"""

from pathlib import Path
from typing import Annotated

from typer import Option

from more_lib.data.prepare import emoji
from more_lib.system.usage import run


def main(
    folder: Annotated[Path | None, Option(help="Where to write. Default: in MORE_DATA.")] = None,
    seed: Annotated[int, Option(help="The same seed gives the same bytes.", min=0)] = 0,
    train: Annotated[int, Option(help="Training images.", min=1)] = 4000,
    val: Annotated[int, Option(help="Validation images.", min=1)] = 400,
    dev: Annotated[int, Option(help="Images to choose values of recipes on.", min=1)] = 400,
    size: Annotated[int, Option(help="Side of the images in pixels.", min=96, max=4096)] = 96,
) -> None:
    """Make EmojiVOC (a VOC 2012 tree) unless it is already there."""
    tree = emoji.prepare(folder, seed=seed, train=train, val=val, dev=dev, size=size)
    sheet = tree.parent / f"{tree.name}-contact-sheet.png"
    print(f"data set: {tree}\ncontact sheet: {emoji.contact_sheet(tree, sheet)}")


if __name__ == "__main__":
    run(main)
