"""Two processes on CPUs: they make of a batch what one would, and stop together."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from more_lib.method.objective import MINED
from more_lib.recipes.loading import changed, load_recipe, to_dict
from more_lib.system.locks import exclusive
from tests.training.helpers import assert_close_for_most, log_of, small_recipe
from tests.training.whole_batch_runs import COUNTS, TOTALS, train_in_float64

pytestmark = pytest.mark.slow

VARIANTS = {
    "release": ["lir.num_tokens=1"],  # so few that one has to be drawn
    "paper": ["lir.confident=paper", "lir.form=cosine", "lir.token=centre", "lir.sampling=all"],
}
RIVALS = {
    "toco": """toco.head=[16,8,32] toco.num_crops=3 toco.local_size=16 data.crop=padded
        backbone.freeze_position=true
        data.crop_scale=[0.5,2] data.blur=1 data.views=released toco.aligned=false
        loss.dense_energy=0.05""",
    "dupl": "dupl.least=10 dupl.filter_from=1 dupl.gap=0 dupl.confidence=0.05 data.crop=padded",
    "mctformer": "data.strong=randaugment optimizer.decayed=matrices",
}
OWN = {
    "toco": {"class_token_contrast", "patch_token_contrast", "segmentation"},
    "dupl": {"discrepancy", "patch_token_contrast", "segmentation", "consistency"},
    "mctformer": {"layer_contrast", "token_classification", "classification"},
}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Three iterations of the whole objective; its last two terms set in at the second."""
    settings = """data.crop_size=48 optimizer.iterations=3 optimizer.log_every=1
        optimizer.checkpoint_every=2 optimizer.warmup_iterations=0 lir.kernel_size=2 lir.phi=0.5
        schedule.segmentation=1 schedule.dense_energy=1 loss.dense_energy=0.05"""
    recipe = small_recipe(tmp_path_factory.mktemp("start"), *settings.split(), train=6)
    given = f"""data.root={recipe.data.root} backbone.weights={recipe.backbone.weights}
        optimizer.batch_size=2 optimizer.precision=fp32 loss.dense_energy=0 {settings}"""
    rivals = {name: load_recipe(name, f"{given} {own}".split()) for name, own in RIVALS.items()}
    return {name: changed(recipe, values) for name, values in VARIANTS.items()} | rivals


@pytest.fixture(scope="module")
def two(recipes, tmp_path_factory):
    """Folder of what two processes made of the recipes, two images each."""
    folder = tmp_path_factory.mktemp("two")
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(to_dict(recipe)))
    command = f"{sys.executable} -m torch.distributed.run --nproc-per-node 2 --standalone".split()
    command += [str(Path(__file__).with_name("whole_batch_runs.py")), str(folder)]
    root = Path(__file__).parents[2]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE")}
    environment = kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    more = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with exclusive(folder / "release" / ".training.lock", "holds them up"):
        started = subprocess.Popen(command, cwd=root, text=True, **more)
        said = started.stdout.readline()
        while "waiting" not in said and started.poll() is None:
            said += started.stdout.readline()
    said += started.communicate()[0]
    assert started.returncode == 0, said
    (folder / "said").write_text(said)
    return folder


def gradients_of(folder):
    """AdamW's running mean of the gradients of two iterations, by number of the parameter."""
    path = folder / "checkpoints" / "iteration_00000002" / "state.pt"
    state = torch.load(path, weights_only=True)["optimizer"]["state"]
    return {number: values["exp_avg"] for number, values in state.items()}


@pytest.mark.parametrize("variant", [*VARIANTS, *RIVALS])
def test_losses_and_gradients_are_those_of_one_process_with_the_summed_batch(
    recipes, two, tmp_path, variant
):
    summed = changed(recipes[variant], ["optimizer.batch_size=4"])
    one = train_in_float64(summed, tmp_path / "one")
    both = replace(one, folder=two / variant)
    lines = log_of(both)
    terms = OWN.get(variant, MINED)
    assert len(lines) == 3 and all(abs(lines[1][name]) > 1e-3 for name in terms)
    for ours, theirs in zip(log_of(one), lines, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-6)  # the log rounds to six digits
    gradients = gradients_of(both.folder)
    for number, ours in gradients_of(one.folder).items():
        torch.testing.assert_close(gradients[number], ours, rtol=1e-5, atol=1e-9)
    weights = load_file(both.folder / "model.safetensors")
    assert_close_for_most(one.model.state_dict(), weights, 1e-9)
    record = json.loads((both.folder / "record.json").read_text())
    assert (record["processes"], record["device"].split()[0]) == (2, "cpu")


def test_all_of_them_wait_for_another_training_and_load_what_is_finished(two):
    said = (two / "said").read_text()
    assert said.count("waiting for another process that trains release …") == 1
    assert [(two / f"loaded_{rank}").read_text() for rank in (0, 1)] == ["True", "True"]


def test_means_divide_by_what_all_processes_count_and_random_numbers_are_those_of_one(two):
    parts = [torch.load(two / f"parts_{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert sum(TOTALS) / (sum(COUNTS) + 1) == 7 / 4
    assert [part["mean"].item() for part in parts] == [2 * 6 / 4, 2 * 1 / 4]
    torch.manual_seed(5)
    assert torch.equal(torch.cat([part["drawn"] for part in parts]), torch.rand(4, 3, 4))


def test_a_loss_that_is_no_number_in_one_process_stops_both(two):
    said = [(two / f"said_{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert "'classification': nan" in said[0] and "at iteration 1" in said[0]
    assert said[0].count("train_0") == 2  # the images of the process that went wrong
    assert (two / "stopped" / "stopped.safetensors").exists()
    assert not (two / "stopped" / "record.json").exists()
