"""The commands of ``python -m more_lib``: options in, a call into the library, a line or table out.

The library is imported inside the commands, so that help is instant.
"""

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import typer

from more_lib.cli import classroom
from more_lib.cli import options as give
from more_lib.system.errors import InputError, clear_errors
from more_lib.system.usage import Group

app = typer.Typer(
    cls=Group,
    help="MoRe: segmentation masks learned from image labels. Begin with `doctor`, then "
    "`reproduce`; each command's --help has an example.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(classroom.app, name="classroom")


def command(example: str) -> Callable:
    """Make a function a command: its docstring is the help, an ``InputError`` ends in one line."""
    register = app.command(epilog=f"Example:\n\npython -m more_lib {example}")
    return lambda function: register(clear_errors(function))


@command("reproduce --profile mini")
def reproduce(
    profile: give.Profile = "mini",
    changes: give.Changes = None,
    runs: give.Runs = Path("runs"),
    resume: give.ResumeRun = False,
    full: give.Full = False,
) -> None:
    """Run all notebooks and write a report.

    Makes the data and trains what is not there yet, executes every notebook in order without a
    browser, and gathers their figures and tables in one HTML file. Stops at the first notebook
    that fails.
    """
    from more_lib.runs import reproduce as batch

    try:
        batch.reproduce(profile, changes or [], runs, resume, full)
    except batch.ReproduceError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


@command("train --set optimizer.iterations=100 --folder trial")
def train(
    profile: give.Profile = "mini",
    recipe: give.RecipeFile = None,
    changes: give.Changes = None,
    folder: give.TrainFolder = None,
    resume: give.ResumeTraining = False,
    tensorboard: give.Tensorboard = False,
    data: give.Data = None,
    labels: give.Labels = None,
    skip_bad: give.SkipBad = False,
) -> None:
    """Train a model from image labels.

    Leaves weights, recipe, log and record in --folder, or in the data folder, where a recipe that
    was trained before is found again; checkpoints every optimizer.checkpoint_every iterations. On
    several GPUs: `accelerate launch -m more_lib train ...` or `torchrun --nproc-per-node gpu -m
    more_lib train ...`.
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


@command("evaluate --checkpoint trial --protocol paper-val")
def evaluate(
    profile: give.OwnProfile = None,
    recipe: give.RecipeFile = None,
    changes: give.Changes = None,
    checkpoint: give.Checkpoint = None,
    released: give.Released = None,
    protocols: give.Protocols = None,
    list_protocols: give.ListProtocols = False,
    split: give.Split = "",
    export: give.Export = None,
    json: give.ScoresFile = None,
    data: give.Data = None,
    labels: give.Labels = None,
    skip_bad: give.SkipBad = False,
) -> None:
    """Score a trained model's maps against pixel masks.

    Prints a row for each map (CAM, LAM, their product, the decoder) and labels (true or
    predicted), or for each --protocol, always with the protocol it was measured by, and how well
    classifier (image mAP) and class tokens (token mAP) name the classes; with --export (--protocol
    paper-val --split test --export masks.tgz) nothing is scored. A run that was killed
    goes on where it was. With --checkpoint or --released, --data is scored whatever the network was
    trained on: its classes are found by name. On several GPUs: `accelerate launch -m more_lib
    evaluate ...`. For the authors' own network give --released FILE --profile voc.
    """
    from more_lib.cli.scoreboard import export_masks, scoreboard
    from more_lib.evaluation.elsewhere import recipe_elsewhere, trained_elsewhere
    from more_lib.evaluation.protocols import listing
    from more_lib.recipes.loading import load_recipe, saved_recipe
    from more_lib.system.processes import is_main_process

    if export and (json or skip_bad):
        raise InputError("--export scores nothing: neither --json nor --skip-bad goes with it")
    names, network = protocols or [], _network(checkpoint, released)
    profile = _own_profile(profile, None if recipe else checkpoint)
    saved = checkpoint and not recipe  # as it was trained, whatever its profile says by now
    if data and network:
        own = saved_recipe(checkpoint) if saved else load_recipe(profile, file=recipe)
        chosen = recipe_elsewhere(own, data, labels or "", changes or [])
        network = trained_elsewhere(network, own)
    elif saved and not labels:
        chosen = saved_recipe(checkpoint, changes or [])
    else:
        chosen = _recipe(profile, changes, recipe, data, labels)
    if list_protocols:
        said = listing(chosen)
    elif export:
        said = export_masks(chosen, names, split, export, network)
    else:
        said = scoreboard(chosen, names, split, skip_bad, json, network)
    if is_main_process():
        print(said)


def _network(checkpoint: Path | None, released: Path | None):
    """What gives a recipe's network from the folder or file named; None if neither is."""
    from more_lib import training

    if checkpoint and released:
        raise InputError("--checkpoint and --released each name a network: give one of them")
    if released:
        return partial(training.released_network, released)
    return partial(training.load_trained, checkpoint) if checkpoint else None


def _own_profile(profile: str | None, checkpoint: Path | None) -> str:
    """The profile asked for, mini without one; refused where the checkpoint's recipe is another."""
    from more_lib.recipes.loading import saved_recipe

    if profile and checkpoint and (own := saved_recipe(checkpoint).profile) != profile:
        raise InputError(f"{checkpoint} was trained by the profile {own}, which counts: leave "
                         f"--profile {profile} out")  # fmt: skip
    return profile or "mini"


def _recipe(
    profile: str, changes: list[str] | None, file: Path | None = None, data=None, labels=None
):
    """The recipe that the options of a command ask for; single changes have the last word."""
    from more_lib.data.folder import recipe_for_folder
    from more_lib.recipes import changed, load_recipe

    if labels and not data:
        raise InputError("--labels says how the images of --data are labelled: give both")
    recipe = load_recipe(profile, file=file)
    if data:
        recipe = recipe_for_folder(recipe, data, labels or "")
    return changed(recipe, changes or [])


@command("predict photos --checkpoint trial --output masks")
def predict(
    images: give.Images,
    profile: give.OwnProfile = None,
    checkpoint: give.Checkpoint = None,
    released: give.Released = None,
    labels: give.ImageLabels = None,
    output: give.Output = Path("predictions"),
    map: give.MapName = "",
    crf: give.Crf = False,
    npz: give.Npz = False,
    resume: give.ResumePredictions = False,
    force: give.Force = False,
    skip_bad: give.SkipBad = False,
    changes: give.Changes = None,
) -> None:
    """Draw masks and maps for images of your own.

    Writes for each image a palette mask in its size and an overlay of the maps behind it, and for
    all of them a summary. Nothing is overwritten, and every file is checked before the first is
    computed; --resume goes on after a stop. --set changes the scales and the threshold of the
    evaluation. The network is that of --checkpoint, of --released FILE --profile voc, or else the
    profile's, trained if need be.
    """
    from more_lib import training
    from more_lib.evaluation.writing import Output, plan_predictions, write_predictions
    from more_lib.recipes.loading import load_recipe, saved_recipe

    changes, network = changes or [], _network(checkpoint, released)
    profile = _own_profile(profile, checkpoint)
    recipe = saved_recipe(checkpoint, changes) if checkpoint else load_recipe(profile, changes)
    place = Output(output, npz, force, resume)
    plan = plan_predictions(recipe, images, place, labels, map, crf, skip_bad)
    if network is None and profile == "mini":
        print("no --checkpoint: profile mini, which has seen emoji glyphs and no photograph")
    trained = (network or training.train_or_load)(recipe)
    write_predictions(plan, trained.model)


@command("report runs/mini/one runs/mini/other")
def report(
    runs: give.RunFolders, output: give.ComparisonFile = None, results: give.Results = False
) -> None:
    """Write a run's report anew, or compare several runs.

    Several: code, hardware, recipes, verdicts and all metrics that differ, side by side on a page,
    the newest run's comparison.html. --results takes a whole run of mini, from committed code.
    """
    from more_lib.runs import comparison
    from more_lib.runs import report as reports

    several = output or len(runs) > 1
    if results and several:
        raise InputError("--results takes one run, and no --output")
    if results:
        print(f"written: {reports.write_results(runs[0], publish=True)}")
    elif several:
        print(f"comparison: {comparison.write_comparison(runs, output)}")
    else:
        print(f"report: {reports.write_report(runs[0])}")


@command("study variants --seeds 1 --json variants.json")
def study(
    name: give.StudyName,
    profile: give.StudyProfile = None,
    changes: give.Changes = None,
    seeds: give.Seeds = 3,
    trained_only: give.TrainedOnly = False,
    json: give.StudyFile = None,
    data: give.Data = None,
    labels: give.Labels = None,
) -> None:
    """Train variations of a recipe with several seeds, and set them side by side.

    conditions: the ablation, all six. variants: each difference between paper and released code,
    switched alone, then all. plus: mini-plus without each of its parts. backbones: baseline and
    MoRe on backbones of several depths and widths. methods: ToCo, DuPL and MCTformer+ beside both.
    photographs: baseline, LIR, MoRe and MoRe as released on a folder of yours with masks (--data
    FOLDER). Each has a profile of its own where none is given. Hours on two cores; what was trained
    before is taken from the cache, so a study can be interrupted.
    """
    from more_lib.paper.studies import STUDIES, format_study, run_study
    from more_lib.runs.manifest import commit_name
    from more_lib.system.files import write_json

    usual = STUDIES[name].profile if name in STUDIES else "mini"
    recipe = _recipe(profile or usual, changes, None, data, labels)
    chosen = range(recipe.seed, recipe.seed + seeds)
    found = run_study(name, recipe, chosen, train=not trained_only, commit=commit_name())
    if json:
        write_json(found, json)
    print(format_study(found))


@command("bench step --profile mini --json step.json")
def bench(
    what: give.Timed = "losses",
    files: give.Compared = None,
    shape: give.Shape = "all",
    profile: give.Profile = "voc",
    changes: give.Changes = None,
    json: give.StudyFile = None,
    full: give.FullScaling = False,
) -> None:
    """Time losses, dense CRF or a training step, or say where the minutes of a run go.

    losses: each against loops, at VOC's and COCO's sizes; minutes on a CPU. crf: exact sums, the
    lattice and all pairs stored, and what share of labels agrees; a minute. step: the parts of a
    profile's training step by the clock, in CPU time and in forwards of the plain ViT, in fp32 and
    bf16; on a CPU with --profile mini. speed: the ratios of RESULTS.md, two minutes; --json
    more_lib/paper/records/speed.json records them. scaling: how costs grow with images, classes and
    side; a minute or two, hours with --full. run FOLDER: the notebooks and trainings of a run, as
    step. compare A B: what became slower between two files of step, run or speed.
    """
    from more_lib.runs import costs
    from more_lib.system.files import CHECKOUT, write_json

    paths = files or []
    wanted = {"losses": 0, "crf": 0, "step": 0, "speed": 0, "scaling": 0, "run": 1, "compare": 2}
    if what not in wanted:
        raise InputError(f"bench {what!r} is unknown; there are: {', '.join(wanted)}")
    if len(paths) != wanted[what]:
        raise InputError(f"bench {what} takes {wanted[what]} files or folders, not {len(paths)}")
    if json and what not in ("step", "run", "speed", "scaling"):
        raise InputError(f"--json keeps what step, run, speed and scaling measure, not {what}")
    if what == "compare":
        print(costs.compare_costs(*paths))
    elif what == "run":
        rows = costs.run_costs(paths[0])
        print(costs.format_costs(rows))
    elif what == "step":
        from more_lib.training.step_cost import AUTOCAST, bench_step, format_step

        recipe = _recipe(profile, changes)
        measured = [bench_step(recipe, precision) for precision in AUTOCAST]
        rows = costs.step_rows(measured)
        print(format_step(measured))
    elif not (CHECKOUT / "tests/benchmarks/speed.py").is_file():
        raise InputError("bench compares with the loops in tests/: run it from a full checkout")
    else:
        sys.path.insert(0, str(CHECKOUT))  # before any other package that is called tests
        module = "scaling" if what == "scaling" else "speed"
        loops = import_module(f"tests.benchmarks.{module}")
        if what == "scaling":
            rows = loops.scaling(full)
        elif what == "speed":
            from more_lib.runs.speed import measure_speed

            rows = measure_speed(loops)
            print(costs.format_speed(rows["rows"]))
        else:
            print(loops.losses(shape) if what == "losses" else loops.crf())
    if json:
        write_json(rows, json)


@command("doctor")
def doctor() -> None:
    """Show what is installed and found, and what is missing.

    Lists versions, device, data and weights of each profile; for each missing part what does not
    work without it, and the cure. Downloads nothing.
    """
    from more_lib.cli.doctor import report

    print(report())
