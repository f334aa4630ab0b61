"""Commands of ``python -m more_lib`` beside training and using a model: reports, studies, timings.

As in ``cli``, which adds them to the others: nothing is decided here.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from more_lib.cli.options import Changes, ComparisonFile, Profile, Readme, RunFolders
from more_lib.system.errors import InputError, clear_errors


@clear_errors
def bench(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="What to time: losses, crf or step.")
    ] = "losses",
    shape: Annotated[
        str,
        typer.Option(metavar="NAME", help="Losses: sizes of voc (20 classes), coco (80), or all."),
    ] = "all",
    profile: Profile = "voc",
    changes: Changes = None,
) -> None:
    """Time the losses, or dense CRF, against straightforward code; or a whole training step.

    losses: each against loops; 448-pixel images, 28×28 patches of width 768, four images. Minutes
    on a CPU: the loops are slow. crf: exact sums, pydensecrf2's lattice and all pairs stored, on a
    photograph in several sizes, with the share of labels that agree. A minute on a CPU. step: the
    parts of a profile's training step, time and memory, in fp32 and bf16; for GPUs, on a CPU with
    --profile mini.

    Example:

        python -m more_lib bench losses --shape voc
    """
    if what == "crf":
        speed = _benchmarks()
        print(speed.format_crf_timings(list(speed.bench_crf())))
    elif what == "losses":
        speed = _benchmarks()
        shapes = list(speed.SHAPES) if shape == "all" else [shape]
        timings = [timing for name in shapes for timing in speed.bench_losses(name)]
        print(speed.format_timings(timings))
    elif what == "step":
        from more_lib.recipes import load_recipe
        from more_lib.training.step_cost import AUTOCAST, bench_step, format_step

        recipe = load_recipe(profile, changes or [])
        print(format_step([bench_step(recipe, precision) for precision in AUTOCAST]))
    else:
        raise InputError(f"bench {what!r} is unknown; there are: losses, crf, step")


def _benchmarks():
    """The benchmarks against loops, which stand beside the tests that hold the library to them."""
    from more_lib.runs.manifest import CHECKOUT

    if not (CHECKOUT / "tests/benchmarks/speed.py").is_file():
        raise InputError("bench compares with the loops in tests/: run it from a full checkout")
    sys.path.insert(0, str(CHECKOUT))
    from tests.benchmarks import speed

    return speed


@clear_errors
def report(
    runs: RunFolders,
    output: ComparisonFile = None,
    readme: Readme = False,
) -> None:
    """Write a run's report anew, or compare several runs.

    Several: code, hardware, recipes, verdicts and all metrics that differ, side by side on a page.

    Example:

        python -m more_lib report runs/mini/one runs/mini/other
    """
    if readme and (output or len(runs) > 1):
        raise InputError("--readme takes one run, and no --output")
    if readme:
        from more_lib.runs.readme import write_readme

        print(f"written: {write_readme(runs[0])}")
    elif output or len(runs) > 1:
        from more_lib.runs.comparison import write_comparison

        print(f"comparison: {write_comparison(runs, output)}")
    else:
        from more_lib.runs.report import write_report

        print(f"report: {write_report(runs[0])}")


@clear_errors
def study(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Which: conditions, variants or backbones.")
    ],
    profile: Profile = "mini",
    changes: Changes = None,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=1, help="Trainings of each, from the recipe's seed on.")
    ] = 3,
    trained_only: Annotated[
        bool, typer.Option("--trained-only", help="Train nothing: score what the cache holds.")
    ] = False,
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save every row and its protocol.", show_default=False),
    ] = None,
) -> None:
    """Train variations of a recipe with several seeds, and set them side by side.

    conditions: the ablation, all six. variants: each difference between paper and released code,
    switched alone, then all. backbones: baseline and MoRe on backbones of several depths and
    widths. Hours on two cores; what was trained before is taken from the cache, so a study can be
    interrupted.

    Example:

        python -m more_lib study variants --seeds 1 --json variants.json
    """
    from more_lib.paper.studies import format_study, run_study
    from more_lib.recipes.loading import load_recipe
    from more_lib.system.files import write_json

    recipe = load_recipe(profile, changes or [])
    chosen = range(recipe.seed, recipe.seed + seeds)
    found = run_study(name, recipe, chosen, train=not trained_only)
    if json:
        write_json(found, json)
    print(format_study(found))


@clear_errors
def doctor() -> None:
    """Show what is installed and found, and what is missing.

    Lists versions, device, data and weights of each profile; for each missing part what does not
    work without it, and the cure. Downloads nothing.

    Example:

        python -m more_lib doctor
    """
    from more_lib.cli.doctor import report

    print(report())
