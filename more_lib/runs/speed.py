"""What RESULTS.md says of speed, within minutes: steps in forwards, hot paths against loops."""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import ModuleType

import torch

from more_lib.recipes.loading import load_recipe
from more_lib.runs.costs import step_rows
from more_lib.runs.manifest import device, git_state
from more_lib.training.step_cost import bench_step

STEPS = {"mini": (), "voc": ("optimizer.batch_size=2",)}  # profiles and changes, to fit in minutes
PRECISION = "fp32"


def measure_speed(loops: ModuleType) -> dict:
    """A record of ratios, with how and on what they were measured; its rows are for ``compare``.

    A step's row counts forwards of the plain ViT, a loop's "share" is our time over the loop's.
    loops: ``tests.benchmarks.speed``.
    """
    rows: list[dict] = []
    for profile, changes in STEPS.items():
        recipe = load_recipe(profile, list(changes))
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:  # whose peak is the step's
            cost = alone.submit(bench_step, recipe, PRECISION).result()
        batch = f"{recipe.optimizer.batch_size} × {recipe.data.crop_size} px"
        for row in step_rows([cost]):
            part = row["part"].replace(PRECISION, f"step of {profile}, {batch}")
            rows.append(row | {"part": part, "memory_gb": cost.memory_gb})
    rows += _shares(("VOC's sizes: " + case, *times) for case, *times in loops.time_losses("voc"))
    for row in loops.time_crf():
        case = "dense CRF {}×{}, exact".format(*row["size"])
        if "stored" in row:
            rows += _shares([(case, row["exact"], row["stored"])])
    return {
        "command": "python -m more_lib bench speed",
        "device": device(),
        "threads": torch.get_num_threads(),
        "precision": PRECISION,
        "torch": torch.__version__,
        **git_state(),
        "rows": rows,
    }


def _shares(cases: Iterable[tuple[str, float, float]]) -> list[dict]:
    return [
        {"part": case, "seconds": ours, "loop_seconds": loop, "share": ours / loop}
        for case, ours, loop in cases
    ]
