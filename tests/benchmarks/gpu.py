"""What a GPU makes of the kit, in two calls that fit a quarter of an hour of it together:

    python -m tests.benchmarks.gpu step --out FOLDER
    python -m tests.benchmarks.gpu training --out FOLDER --photographs FOLDER --weights FILE

``step``: the tests for GPUs, training steps in each precision, compiled and not, dense CRF, dense
energy, the heaviest kernels. ``training``: fp16, processes against one, mini's three conditions
with three seeds side by side, the same on photographs. ``--small --device cpu`` rehearses both
within some minutes of one core. Each part is kept in FOLDER as soon as it is done; one that fails
leaves its error, and none begins after ``--minutes``.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import torch
import yaml
from skimage.data import coffee
from torch.optim import AdamW
from torch.profiler import ProfilerActivity, profile

from more_lib.data import open_tree
from more_lib.data.folder import recipe_for_folder
from more_lib.data.prepare import emoji
from more_lib.method.crf import dense_crf
from more_lib.method.energy import DenseEnergyLoss
from more_lib.method.model import MoRe
from more_lib.method.objective import Objective
from more_lib.paper import ablation, records, trials
from more_lib.recipes.loading import changed, load_recipe, to_dict
from more_lib.recipes.schema import Recipe
from more_lib.system.files import write_json
from more_lib.training import step_cost, train, train_or_load
from tests.benchmarks import speed

PRECISIONS = {"bf16": torch.bfloat16, "fp32": None, "tf32": None, "fp16": torch.float16}
TESTED = "tests/test_gpu.py tests/method tests/training tests/evaluation/test_masks.py"
SMALL_STEP = ["data.crop_size=64", "optimizer.batch_size=1", "backbone.depth=3"]
SMALL = ["optimizer.iterations=4", "optimizer.warmup_iterations=0"]


class Parts:
    """Runs parts one by one and keeps what each says in ``file``, in time and whatever fails."""

    def __init__(self, file: Path, minutes: float) -> None:
        self.file, self.end, self.said = file, time.monotonic() + 60 * minutes, {}

    def begin(self, name: str) -> bool:
        """Whether there is time for it; what is left out is told."""
        if late := time.monotonic() > self.end:
            self.keep(name, {"left out": "no time was left to begin it"})
        return not late

    def run(self, name: str, part: Callable[[], object]) -> None:
        if self.begin(name):
            self.finish(name, part)

    def finish(self, name: str, part: Callable[[], object]) -> None:
        started = time.monotonic()
        try:
            said = {"said": part()}
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}", "where": traceback.format_exc()}
        self.keep(name, said | {"seconds": round(time.monotonic() - started, 1)})

    def keep(self, name: str, said: dict) -> None:
        self.said[name] = json.loads(json.dumps(said, default=str), parse_constant=str)  # nan, too
        write_json(self.said, self.file)
        print(f"{name}: {json.dumps(self.said[name])[:300]}", flush=True)


def machine() -> dict:
    """What it is, and what it can: products of matrices and copies, by the clock."""
    if not torch.cuda.is_available():
        return {"device": "cpu", "torch": torch.__version__}
    left, right = torch.randn(2, 8192, 8192, device="cuda", dtype=torch.bfloat16)
    seconds, _ = speed._timed(lambda: left @ right, 10)
    copied, _ = speed._timed(left.clone, 10)
    name = torch.cuda.get_device_name()
    rates = {"bf16 TFLOP/s": 2 * 8192**3 / seconds / 1e12, "GB/s": 4 * 8192**2 / copied / 1e9}
    return {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda} | rates


def tests(small: bool) -> str:
    """What pytest says of those marked gpu."""
    where = ["tests/test_gpu.py"] if small else TESTED.split()
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    return done.stdout[-6000:]


@contextmanager
def compiled(blocks: bool) -> Iterator[None]:
    """Networks that recipes make have compiled blocks."""
    build = MoRe.from_recipe

    def built(*given, **named) -> MoRe:
        model = build(*given, **named)
        for block in model.encoder.blocks if blocks else ():
            block.compile()
        return model

    with mock.patch.object(MoRe, "from_recipe", built):
        yield


def step(recipe: Recipe, precision: str, blocks: bool, repeats: int) -> dict:
    """``step_cost`` of a recipe, with the rates that it comes to."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    with mock.patch.dict(step_cost.AUTOCAST, PRECISIONS), compiled(blocks):
        cost = step_cost.bench_step(recipe, precision, repeats)
    seconds = cost.milliseconds["whole step"] / 1000
    rates = {"TFLOP/s": cost.operations / seconds / 1e12, "GB/s": cost.bytes / seconds / 1e9}
    return asdict(cost) | rates | {"forwards": step_cost.forwards(cost)}


def energy(device: str, small: bool) -> float:
    """Milliseconds of the exact dense energy and its gradient, four images at 224 x 224."""
    side, generator = 64 if small else 448, torch.Generator().manual_seed(0)
    images = 255 * torch.rand(4, 3, side, side, generator=generator).to(device)
    logits = torch.randn(4, 21, side // 16, side // 16, generator=generator).to(device)
    mask = torch.full((4, side, side), 255, device=device)
    loss = DenseEnergyLoss(1e-7, 15, 100, 0.5)
    return 1000 * speed._timed(partial(loss, images, logits.requires_grad_(), mask), 3)[0]


def crf(device: str, small: bool) -> float:
    """Milliseconds of an exact dense CRF at 366 x 500 with 21 labels."""
    size = (24, 32) if small else (366, 500)
    given = [x.to(device) for x in speed.noisy_segmentation(coffee(), *size, classes=21)]
    return 1000 * speed._timed(partial(dense_crf, *given, method="exact"), 2)[0]


def kernels(recipe: Recipe, device: str) -> dict[str, dict]:
    """Of each part of a bf16 step: its heaviest 15 operators or kernels, and how many there are."""
    torch.manual_seed(0)
    model = MoRe.from_recipe(recipe, pretrained=False).train().to(device)
    optimizer = AdamW(model.parameters(), fused=True)
    objective, side = Objective(recipe).to(device), recipe.data.crop_size
    images = torch.randn(recipe.optimizer.batch_size, 3, side, side, device=device)
    labels = torch.zeros(len(images), len(recipe.data.classes))
    labels[:, :2], found = 1, {}
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")

    def profiled(name: str, part: Callable):
        wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        with profile(activities=activities) as seen:
            result = part()
            wait()
        averages, key = seen.key_averages(), f"self_{device}_time_total"
        launches = sum(a.count for a in averages if "LaunchKernel" in a.key)
        table = averages.table(sort_by=key, row_limit=15, max_name_column_width=60)
        microseconds = sum(
            getattr(a, f"self_{'device' if device == 'cuda' else 'cpu'}_time_total")
            for a in averages
        )
        found[name] = {
            "launches": launches,
            "microseconds": microseconds,
            "table": table.split("\n"),
        }
        return result

    last = recipe.optimizer.iterations - 1
    for _ in range(2):  # the first one warms up
        with torch.autocast(device, torch.bfloat16):
            output = profiled("forward", lambda: model(images))
            given = (model, images, labels, output, last)
            losses = profiled("losses", partial(objective, *given))
        total = sum(getattr(recipe.loss, name) * loss for name, loss in losses.items())
        profiled("backward", total.backward)
        profiled("optimizer", optimizer.step)
        optimizer.zero_grad()
    return dict(sorted(found.items(), key=lambda item: -item[1]["microseconds"]))


def steps(parts: Parts, device: str, small: bool) -> None:
    """The first call."""
    changes, repeats = (SMALL_STEP, 1) if small else ([], 20)
    recipes = {name: load_recipe(name, changes) for name in ("voc", "coco")}
    parts.run("machine", machine)

    def timed(profile: str, precision: str, blocks: bool = False) -> None:
        name = f"step: {profile} {precision}{' compiled' * blocks}"
        parts.run(name, partial(step, recipes[profile], precision, blocks, repeats))

    for precision in ["bf16", "fp32"] if small else PRECISIONS:
        timed("voc", precision)
    timed("coco", "bf16")
    parts.run("kernels: voc bf16", partial(kernels, recipes["voc"], device))
    parts.run("crf: 366 x 500, 21 labels", partial(crf, device, small))
    parts.run("energy: 4 x 224 x 224", partial(energy, device, small))
    parts.run("tests", partial(tests, small))
    timed("voc", "bf16", True)
    if not small:
        for precision in ("fp32", "tf32", "fp16"):
            timed("coco", precision)
        for profile, precision in (("coco", "bf16"), ("voc", "tf32"), ("voc", "fp16")):
            timed(profile, precision, True)
        parts.run("losses and loops", lambda: speed.losses("voc").splitlines())


def scored(name: str, recipe: Recipe) -> dict:
    """One training and its scores; run in a process of its own."""
    os.environ["MORE_PROGRESS"] = "0"
    torch.set_num_threads(1)
    trained = train_or_load(recipe)
    return {
        "record": trained.record,
        "log": trained.log()[-1:],
        "rows": trials.score_trained(name, trained),
    }


def side_by_side(parts: Parts, title: str, recipe: Recipe, seeds: int, names=ablation.MAIN) -> None:
    """Every condition with every seed at once on the device, each kept when it is done."""
    if not parts.begin(title):
        return
    started, jobs = time.monotonic(), {}
    open_tree(recipe.data)  # made once
    with ProcessPoolExecutor(seeds * len(names), get_context("spawn")) as pool:
        for each in trials.with_seeds([recipe], range(seeds)):
            for name in names:
                job = pool.submit(scored, name, ablation.condition(each, name))
                jobs[job] = f"{title}: {name}, seed {each.seed}"
        for job in as_completed(jobs):
            parts.finish(jobs[job], job.result)
    parts.keep(f"{title}: all", {"minutes": (time.monotonic() - started) / 60})


def fp16(folder: Path, device: str, changes: list[str]) -> dict:
    """Whether 300 iterations of mini in fp16 stay numbers (on a CPU, in bf16)."""
    precision = "fp16" if device == "cuda" else "bf16"
    given = [
        f"optimizer.precision={precision}",
        "optimizer.iterations=300",
        "schedule.final_cam=300",
    ]
    recipe = load_recipe("mini", given + changes)
    log = train(recipe, folder / "fp16").log()
    finite = all(math.isfinite(value) for line in log for value in line.values())
    return {"precision": precision, "finite": finite, "first": log[0], "last": log[-1]}


def processes(folder: Path, changes: list[str]) -> dict:
    """Two processes of gloo on CPUs with two images each, and one here with the four: their logs.

    In float32, and nothing is drawn; a threshold may still fall otherwise for a few patches.
    """
    settings = """data.crop_size=48 optimizer.iterations=8 optimizer.log_every=1
        optimizer.batch_size=2 optimizer.precision=fp32 optimizer.warmup_iterations=0
        lir.sampling=all lir.kernel_size=2 lir.phi=0.5"""
    every = [f"schedule.{name}=0" for name in ("segmentation", "dense_energy")]
    recipe = load_recipe("mini", changes + settings.split() + every)
    (folder / "two.yaml").write_text(yaml.safe_dump(to_dict(recipe)))
    command = (
        f"{sys.executable} -m torch.distributed.run --nproc-per-node 2 --standalone -m more_lib"
    )
    command += f" train --recipe {folder / 'two.yaml'} --folder {folder / 'two'}"
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    subprocess.run(command.split(), env=hidden, check=True, timeout=180)
    one = train(changed(recipe, ["optimizer.batch_size=4"]), folder / "one")
    logs = [[json.loads(line) for line in (folder / "two/log.jsonl").open()], one.log()]
    speeds = "images_per_second"
    apart = [{k: abs(a[k] - b[k]) for k in a if k != speeds} for a, b in zip(*logs, strict=True)]
    return {"one": one.record["device"], "apart": apart, "last": [log[-1] for log in logs]}


def trainings(parts: Parts, folder: Path, given: argparse.Namespace) -> None:
    """The second call."""
    small, changes = given.small, []
    if small:  # of few images
        changes = [*SMALL, f"data.root={emoji.prepare(folder / 'tree', train=16, val=4)}"]
    parts.run("machine", machine)
    parts.run("fp16: 300 iterations", partial(fp16, folder, given.device, changes))
    parts.run("processes: two of gloo, one", partial(processes, folder, changes))
    seeds, names = (1, ("more",)) if small else (3, ablation.MAIN)
    side_by_side(parts, "mini", load_recipe("mini", changes), seeds, names)
    found = records.study("conditions") or {"rows": []}
    parts.keep("mini: recorded on CPUs", found)
    if given.photographs:
        settings = [f"backbone.name={given.backbone}", f"data.crop_size={given.side}"]
        settings += [f"backbone.weights={given.weights}"] if given.weights else []
        n = 4 if small else given.iterations
        settings += [f"optimizer.iterations={n}", f"optimizer.warmup_iterations={n // 20}"]
        settings += [f"schedule.{t}={n // 10}" for t in ("segmentation", "dense_energy")]
        settings += [f"schedule.final_cam={n}", "data.workers=1", "optimizer.checkpoint_every=0"]
        photographs = recipe_for_folder(load_recipe("pets"), given.photographs)
        side_by_side(parts, "photographs", changed(photographs, settings), seeds, names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("call", choices=["step", "training"])
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--photographs", type=Path, help="a folder as for train --data")
    parser.add_argument("--weights", type=Path, help="the photographs' backbone, a file")
    parser.add_argument("--backbone", default="vit_small_patch16_224.augreg_in21k_ft_in1k")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--iterations", type=int, default=600)
    given = parser.parse_args()
    if given.out is None:
        parser.error("give --out, or set OUT")
    if given.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    given.out.mkdir(parents=True, exist_ok=True)
    parts = Parts(given.out / f"gpu_{given.call}.json", given.minutes)
    if given.call == "step":
        steps(parts, given.device, given.small)
    else:
        with tempfile.TemporaryDirectory() as folder:  # weights are not brought home
            trainings(parts, Path(folder), given)


if __name__ == "__main__":
    main()
