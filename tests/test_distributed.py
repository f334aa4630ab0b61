"""Two processes on CPUs: what they make of one batch, and how they stop together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.utils import set_seed
from safetensors.torch import load_file

from more_lib import hardware
from more_lib.batches import Batches
from more_lib.checkpoints import save_weights
from more_lib.data import emoji, open_tree
from more_lib.data.transforms import training_transform
from more_lib.data.voc import VocImages
from more_lib.errors import InputError
from more_lib.model import MoRe
from more_lib.objective import Objective
from more_lib.recipes import changed, load_recipe, to_dict
from more_lib.training import train
from more_lib.vit import mini_vit

PER_PROCESS = ("patch_token_contrast", "uncertain_relation", "segmentation")
WORKERS = """
import sys
from pathlib import Path
import torch
from more_lib import objective
from more_lib.recipes import load_recipe
from more_lib.training import train

folder, rank = Path(sys.argv[1]), int(__import__("os").environ["RANK"])
for name in ("means", "all"):
    train(load_recipe("mini", file=folder / f"{name}.yaml"), folder / name)

classification_loss = objective.classification_loss
def broken(logits, labels):  # in the second process alone
    return classification_loss(logits, labels) * (float("nan") if rank else 1)
objective.classification_loss = broken
try:
    train(load_recipe("mini", file=folder / "all.yaml"), folder / "stopped")
except RuntimeError as error:
    (folder / f"said_{rank}").write_text(str(error))
"""


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """ "means": three iterations of all terms that are means over images; "all": one of all."""
    folder = tmp_path_factory.mktemp("start")
    tree = emoji.prepare(folder / "tree", train=6, val=2)
    torch.manual_seed(0)
    save_weights(mini_vit(), folder / "backbone.safetensors")
    settings = [
        f"data.root={tree}",
        f"backbone.weights={folder / 'backbone.safetensors'}",
        "data.crop_size=32",
        "optimizer.batch_size=2",
        "optimizer.log_every=1",
        "optimizer.precision=fp32",
        "optimizer.warmup_iterations=0",
        "lir.num_tokens=1",  # so that a random choice is made
        *(f"schedule.{name}=0" for name in ("segmentation", "dense_energy")),
    ]
    every = load_recipe("mini", [*settings, "optimizer.iterations=1"])
    late = ["optimizer.iterations=3", "schedule.dense_energy=1"]
    means = load_recipe("mini", [*settings, *late, *(f"loss.{name}=0" for name in PER_PROCESS)])
    return {"means": means, "all": every}


@pytest.fixture(scope="module")
def two(recipes, tmp_path_factory):
    """Folder of what two processes made of the recipes, two images each."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "workers.py").write_text(WORKERS)
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(to_dict(recipe)))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--standalone", folder / "workers.py", folder]
    done = subprocess.run(
        [str(part) for part in command],
        cwd=Path(__file__).parents[1],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return folder


def environment():
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE")}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_means_over_images_are_those_of_one_process_with_the_summed_batch(recipes, two, tmp_path):
    # A worker, for one process that loads by itself draws its augmentations from elsewhere.
    one = train(
        changed(recipes["means"], ["optimizer.batch_size=4", "data.workers=1"]), tmp_path / "one"
    )
    lines = log_of(two / "means")
    assert len(lines) == 3 and {"confident_relation", "dense_energy"} < lines[-1].keys()
    for ours, theirs in zip(one.log(), lines, strict=True):
        del ours["images_per_second"], theirs["images_per_second"]
        assert ours == pytest.approx(theirs, rel=1e-4, abs=2e-5)
    record = json.loads((two / "means" / "record.json").read_text())
    assert (record["processes"], record["device"].split()[0]) == (2, "cpu")
    weights = load_file(two / "means" / "model.safetensors")
    for name, ours in one.model.state_dict().items():
        # AdamW's first steps are signs of gradients, and some have none but rounding (the bias of
        # the keys): a minority may differ.
        assert (ours - weights[name]).abs().median() < 1e-7, name


def test_other_terms_are_the_mean_of_each_processs_own(recipes, two):
    recipe = recipes["all"]
    set_seed(recipe.seed)
    tree = open_tree(recipe.data)
    dataset = VocImages(tree, recipe.data.train_split, training_transform(recipe.data))
    model = MoRe.from_recipe(recipe)
    random, halves = torch.get_rng_state(), []
    for rank in (0, 1):
        batch = next(Batches(dataset, recipe, rank, processes=2))
        torch.set_rng_state(random)
        output = model(batch["image"])
        halves.append(Objective(recipe)(model, batch["image"], batch["labels"], output, 0))
    (line,) = log_of(two / "all")
    assert set(PER_PROCESS) < halves[0].keys()
    for name in halves[0]:
        mean = (halves[0][name] + halves[1][name]).item() / 2
        assert line[name] == pytest.approx(mean, rel=1e-4, abs=2e-5), name


def test_a_loss_that_is_no_number_in_one_process_stops_both(two):
    said = [(two / f"said_{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert "'classification': nan" in said[0] and "at iteration 1" in said[0]
    assert said[0].count("train_0") == 2  # the images of the process that went wrong
    assert (two / "stopped" / "stopped.safetensors").exists()
    assert not (two / "stopped" / "record.json").exists()


def test_fewer_gpus_than_processes_is_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=r"4 processes were started here for 2 GPU\(s\)"):
        hardware.start_accelerator("fp32")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_accelerate_launch_for_gpus_without_any_is_an_error(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "ACCELERATE_DYNAMO_BACKEND": "no"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="there is none here; on CPUs start them with torchrun"):
        hardware.start_accelerator("fp32")


def test_only_the_first_process_speaks(monkeypatch, capsys):
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        hardware.say(f"from {rank}")
    assert capsys.readouterr().out == "from 0\n"
