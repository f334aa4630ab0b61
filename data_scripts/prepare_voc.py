"""Prepare VOC 2012, with SBD's masks and the train_aug list of 10,582 images.

python data_scripts/prepare_voc.py --dry-run                 # what would be fetched and written
python data_scripts/prepare_voc.py                           # downloads 3.4 GB, resumes if cut off
python data_scripts/prepare_voc.py --voc VOCdevkit/VOC2012 --sbd benchmark.tgz    # what you have
"""

from pathlib import Path
from typing import Annotated

from typer import Option

from more_lib.data import tree_root
from more_lib.data.prepare import sources
from more_lib.data.prepare import voc as voc_prepare
from more_lib.recipes.profiles import PROFILES
from more_lib.system.files import absolute
from more_lib.system.usage import run


def main(
    voc: Annotated[
        Path | None, Option(help="Your VOC 2012 folder (linked, not copied) or archive.")
    ] = None,
    sbd: Annotated[
        Path | None, Option(help="Your SBD or SegmentationClassAug, folder or archive.")
    ] = None,
    root: Annotated[
        Path | None, Option(help="The tree to make. Default: where profile voc looks for it.")
    ] = None,
    with_sbd: Annotated[
        bool, Option("--sbd-masks/--no-sbd", help="Without SBD: 1,464 training images.")
    ] = True,
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Make a VOC 2012 tree, or complete the one that is there."""
    root = absolute(root or tree_root(PROFILES["voc"].data))
    for data_set in (sources.VOC, sources.SBD)[: 1 + with_sbd]:
        print(f"{data_set.name}: {data_set.licence} ({data_set.homepage})")
    todo = voc_prepare.steps(root, voc, sbd, with_sbd)
    if dry_run:
        print("\n".join(f"would {words}" for words, _ in todo) or f"everything is in {root}")
        return
    for words, do in todo:
        print(words)
        do()
    sizes = voc_prepare.check(root, with_sbd)
    counts = ", ".join(f"{name} {count:,}" for name, count in sizes.items())
    print(f"{'complete' if todo else 'everything was there already'}: {root}: {counts}")
    if not with_sbd:
        print("train on it with --set data.train_split=train")


if __name__ == "__main__":
    run(main)
