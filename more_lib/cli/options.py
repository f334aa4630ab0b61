"""Options of ``cli``: those that several commands share, and those of ``report``."""

from pathlib import Path
from typing import Annotated

import typer

Profile = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="A named recipe: mini (small pictures made on the spot, CPU, minutes), pets "
        "(Oxford-IIIT Pet, one GPU), voc (PASCAL VOC 2012, one GPU, as in the paper), coco (COCO "
        "2014, several GPUs, as the released script) or coco-log (as the published log).",
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value of the recipe, such as optimizer.iterations=100. May be repeated.",
        show_default=False,
    ),
]
RecipeFile = Annotated[
    Path | None,
    typer.Option(
        "--recipe",
        metavar="FILE",
        help="YAML with the values of the profile that you want changed.",
        show_default=False,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="Your own images instead of the profile's data: FOLDER/images and a table of their "
        "labels, FOLDER/labels.csv; FOLDER/masks if there are any.",
        show_default=False,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="With --data: the table of labels, if it lies elsewhere. A line image,classes first, "
        "then a line for each image, such as 1.jpg,cat;dog.",
        show_default=False,
    ),
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad", help="Go on without images that cannot be read, and list what was skipped."
    ),
]
RunFolders = Annotated[
    list[Path],
    typer.Argument(metavar="RUN", help="Folders of runs, as in runs/mini/.", show_default=False),
]
ComparisonFile = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="FILE",
        help="Where the comparison goes; comparison.html in the newest run's folder without it.",
        show_default=False,
    ),
]
Readme = Annotated[
    bool,
    typer.Option(
        "--readme",
        help="Write README.md's tables from the one run: of the profile mini, unchanged, every "
        "notebook done, from committed code.",
    ),
]
