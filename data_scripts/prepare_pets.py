"""Prepare Oxford-IIIT Pet for the kit: masks from its trimaps, image labels, split lists.

python data_scripts/prepare_pets.py --dry-run            # says what it would do
python data_scripts/prepare_pets.py                      # downloads 0.8 GB, then prepares
python data_scripts/prepare_pets.py --pets /data/pets --classes species --folder cats_and_dogs
"""

from pathlib import Path
from typing import Annotated

import typer

from more_lib.data import tree_root
from more_lib.data.prepare import pets, plain
from more_lib.data.prepare.sources import PETS
from more_lib.recipes.profiles import PROFILES
from more_lib.system.errors import clear_errors


def main(
    source: Annotated[
        Path | None,
        typer.Option(
            "--pets",
            help="A folder with the data set's images and annotations. Without it they are "
            "downloaded to MORE_DATA/downloads, or taken from there.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where to write. Default: where profile pets looks (MORE_DATA)."),
    ] = None,
    classes: Annotated[
        str, typer.Option(help="What a photograph's class is: breed (37) or species (2).")
    ] = "breed",
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept fewer photographs than the data set has.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
) -> None:
    """Prepare Oxford-IIIT Pet unless it is already there. Photographs are linked, not copied."""
    folder = folder or tree_root(PROFILES["pets"].data)
    print(f"{PETS.name}: {PETS.licence} ({PETS.homepage})")
    if dry_run:
        print("\n".join(plain.plan(pets.PARTS, source, folder)))
        return
    print(f"data set: {pets.prepare(folder, source, classes, partial)}")


if __name__ == "__main__":
    typer.run(clear_errors(main))
