"""Prepare COCO 2014 for the kit: masks of 80 classes, image labels, split lists.

python data_scripts/prepare_coco.py --dry-run            # says what it would do
python data_scripts/prepare_coco.py                      # downloads 20 GB, then prepares
python data_scripts/prepare_coco.py --coco /data/coco    # from a folder of yours
"""

from pathlib import Path
from typing import Annotated

from typer import Option

from more_lib.data import tree_root
from more_lib.data.prepare import coco, plain
from more_lib.data.prepare.sources import COCO
from more_lib.recipes.profiles import PROFILES
from more_lib.system.usage import run


def main(
    source: Annotated[
        Path | None,
        Option(
            "--coco",
            help="A folder with COCO's train2014, val2014 and annotations. Without it they are "
            "downloaded to MORE_DATA/downloads, or taken from there.",
        ),
    ] = None,
    folder: Annotated[Path | None, Option(help="Where to write. Default: in MORE_DATA.")] = None,
    partial: Annotated[bool, Option("--partial", help="Take fewer images than COCO has.")] = False,
    strict: Annotated[
        bool, Option("--strict", help="Stop at annotations that cannot be used.")
    ] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Prepare COCO 2014 unless it is already there. Photographs are linked, not copied."""
    folder = folder or tree_root(PROFILES["coco"].data)
    print(f"{COCO.name}: {COCO.licence} ({COCO.homepage})")
    if dry_run:
        print("\n".join(plain.plan(coco.PARTS, source, folder, coco.record_of(partial, strict))))
        return
    print(f"data set: {coco.prepare(folder, source, partial, strict)}")


if __name__ == "__main__":
    run(main)
