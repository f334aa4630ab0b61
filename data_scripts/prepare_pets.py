"""Prepare Oxford-IIIT Pet for the kit: masks from its trimaps, image labels, split lists.

python data_scripts/prepare_pets.py --dry-run            # says what it would do
python data_scripts/prepare_pets.py                      # downloads 0.8 GB, then prepares
python data_scripts/prepare_pets.py --pets /data/pets --classes species --folder cats_and_dogs
"""

from pathlib import Path
from typing import Annotated

from typer import Option

from more_lib.data import tree_root
from more_lib.data.prepare import pets, plain
from more_lib.data.prepare.sources import PETS
from more_lib.recipes.profiles import PROFILES
from more_lib.system.usage import run


def main(
    source: Annotated[
        Path | None,
        Option(
            "--pets",
            help="A folder with the data set's images and annotations. Without it they are "
            "downloaded to MORE_DATA/downloads, or taken from there.",
        ),
    ] = None,
    folder: Annotated[Path | None, Option(help="Where to write. Default: in MORE_DATA.")] = None,
    classes: Annotated[str, Option(help="The class: breed (37) or species (2).")] = "breed",
    partial: Annotated[bool, Option("--partial", help="Take fewer than the data set has.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Prepare Oxford-IIIT Pet unless it is already there. Photographs are linked, not copied."""
    folder = folder or tree_root(PROFILES["pets"].data)
    print(f"{PETS.name}: {PETS.licence} ({PETS.homepage})")
    if dry_run:
        print("\n".join(plain.plan(pets.PARTS, source, folder, pets.record_of(classes, partial))))
        return
    folder = pets.prepare(folder, source, classes, partial)
    print(f"data set: {folder}")
    if classes == "species":
        print(f"train on it with --set data.root={folder} --set data.classes=[cat,dog]")


if __name__ == "__main__":
    run(main)
