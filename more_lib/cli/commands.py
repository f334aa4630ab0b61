"""The commands of ``python -m more_lib``: options in, a call into the library, a line or table out.

Nothing is decided here. The library is imported inside the commands, so that help is instant. These
are the commands that make and use a model; ``tool_commands`` has those around it.
"""

from pathlib import Path
from typing import Annotated

import typer

from more_lib.cli.options import Changes, Data, Labels, Profile, RecipeFile, SkipBad
from more_lib.cli.tools import bench, doctor, report, study
from more_lib.system.errors import clear_errors

app = typer.Typer(
    help="MoRe: segmentation masks learned from image labels. Begin with `doctor`, then "
    "`reproduce`; each command's --help has an example.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
@clear_errors
def reproduce(
    profile: Profile = "mini",
    changes: Changes = None,
    runs: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the folders of runs go.")
    ] = Path("runs"),
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume",
            help="Continue the last run of this profile: skip notebooks that are done and "
            "unchanged.",
        ),
    ] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Train all six conditions of the ablation with three seeds each, instead of the "
            "main three with one.",
        ),
    ] = False,
) -> None:
    """Run all notebooks and write a report.

    Makes the data and trains what is not there yet, executes every notebook in order without a
    browser, and gathers their figures and tables in one HTML file. Stops at the first notebook
    that fails.

    Example:

        python -m more_lib reproduce --profile mini
    """
    from more_lib.runs.reproduce import ReproduceError
    from more_lib.runs.reproduce import reproduce as run

    try:
        run(profile, changes or [], runs, resume, full)
    except ReproduceError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
@clear_errors
def train(
    profile: Profile = "mini",
    recipe: RecipeFile = None,
    changes: Changes = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Train into this new folder. Without it the model goes to the data folder, or is "
            "taken from there if this very recipe was trained before.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the newest checkpoint in the folder, if there is one, with the same "
            "recipe. Checkpoints are written every optimizer.checkpoint_every iterations.",
        ),
    ] = False,
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", help="Write the log for TensorBoard as well."),
    ] = False,
    data: Data = None,
    labels: Labels = None,
    skip_bad: SkipBad = False,
) -> None:
    """Train a model from image labels.

    Leaves a folder with weights, recipe, log and record. On several GPUs: `accelerate launch -m
    more_lib train ...` or `torchrun --nproc-per-node gpu -m more_lib train ...`.

    Example:

        python -m more_lib train --set optimizer.iterations=100 --folder trial
    """
    from more_lib import training
    from more_lib.data import without_bad
    from more_lib.system.devices import say

    chosen = _recipe(profile, changes, recipe, data, labels)
    if skip_bad:
        chosen = without_bad(chosen, chosen.data.train_split)
    if folder:
        trained = training.train(chosen, folder, resume, tensorboard)
    else:
        trained = training.train_or_load(chosen, resume, tensorboard)
    say(f"trained model: {trained.folder}")


@app.command()
@clear_errors
def evaluate(
    profile: Profile = "mini",
    recipe: RecipeFile = None,
    changes: Changes = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            exists=True,
            file_okay=False,
            help="A folder that `train` made with this profile; its own recipe counts then, with "
            "--set on top. Without it, the recipe's model, which is trained first if need be.",
            show_default=False,
        ),
    ] = None,
    protocols: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            metavar="NAME",
            help="Score by the protocol of a published number: paper-val, decoder-val, "
            "decoder-log, lam-log, cam-log, lam-train, lam-train-crf, cam-train or cam-train-crf. "
            "May be repeated.",
            show_default=False,
        ),
    ] = None,
    list_protocols: Annotated[
        bool,
        typer.Option("--list-protocols", help="Say what each protocol is, and score nothing."),
    ] = False,
    split: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="With --protocol: another split than its own.", show_default=False
        ),
    ] = "",
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Score nothing, but write the masks of one --protocol for VOC's test server, as "
            "an archive (.tgz) or a folder: --protocol paper-val --split test --export masks.tgz.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Save every score and its protocol here, each class's IoU included.",
            show_default=False,
        ),
    ] = None,
    data: Data = None,
    labels: Labels = None,
    skip_bad: SkipBad = False,
) -> None:
    """Score a trained model's maps against pixel masks.

    Prints a row for each map (CAM, LAM, their product, the decoder) and labels (true or
    predicted), or for each --protocol, always with the protocol it was measured by. A run that was
    killed goes on where it was. On several GPUs: `accelerate launch -m more_lib evaluate ...`.

    Example:

        python -m more_lib evaluate --checkpoint trial --protocol paper-val
    """
    from more_lib.cli.scoreboard import export_masks, scoreboard
    from more_lib.evaluation.protocols import listing
    from more_lib.system.processes import is_main_process

    file = recipe or (checkpoint / "recipe.yaml" if checkpoint else None)
    chosen = _recipe(profile, changes, file, data, labels)
    names = protocols or []
    if list_protocols:
        said = listing(chosen)
    elif export:
        said = export_masks(chosen, checkpoint, names, split, export)
    else:
        said = scoreboard(chosen, checkpoint, names, split, skip_bad, json)
    if is_main_process():
        print(said)


def _recipe(
    profile: str,
    changes: list[str] | None,
    file: Path | None,
    data: Path | None,
    labels: Path | None,
):
    """The recipe that the options of a command ask for; single changes have the last word."""
    from more_lib.data.folder import recipe_for_folder
    from more_lib.recipes.loading import changed, load_recipe
    from more_lib.system.errors import InputError

    if labels and not data:
        raise InputError("--labels says how the images of --data are labelled: give both")
    if not data:
        return load_recipe(profile, changes or [], file)
    return changed(
        recipe_for_folder(load_recipe(profile, file=file), data, labels or ""), changes or []
    )


@app.command()
@clear_errors
def predict(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES...", help="Image files, and folders of them.", show_default=False
        ),
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            exists=True,
            file_okay=False,
            help="A folder that `train` made. Without it, the network of the profile mini, which "
            "is trained first if need be.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The classes of each image, instead of those that the network predicts: a table "
            "as for `train --labels`.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where masks and overlays go.")
    ] = Path("predictions"),
    map: Annotated[
        str, typer.Option(metavar="NAME", help="What masks are made of: lam, cam, fused, decoder.")
    ] = "lam",
    crf: Annotated[
        bool, typer.Option("--crf", help="Refine along the edges of the image by a dense CRF.")
    ] = False,
    npz: Annotated[
        bool, typer.Option("--npz", help="Keep the maps as numbers, too: maps/<image>.npz.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite what is in the output folder.")
    ] = False,
    skip_bad: SkipBad = False,
    changes: Changes = None,
) -> None:
    """Draw masks and maps for images of your own.

    Writes for each image a palette mask in its size and an overlay of the maps behind it, and for
    all of them a summary. Nothing is overwritten, and every file is checked before the first is
    computed. --set changes the scales and the threshold of the evaluation.

    Example:

        python -m more_lib predict photos --checkpoint trial --output masks
    """
    from more_lib.evaluation.writing import predict_files

    predict_files(
        images,
        output,
        checkpoint=checkpoint,
        overrides=changes or [],
        labels=labels,
        map=map,
        crf=crf,
        npz=npz,
        force=force,
        skip_bad=skip_bad,
    )


for command in (report, study, bench, doctor):
    app.command()(command)
