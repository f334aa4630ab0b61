"""The command line: options arrive, errors end in one line and their exit status."""

import json
import subprocess
import sys
from dataclasses import make_dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import yaml
from typer.testing import CliRunner

from more_lib import training
from more_lib.cli import scoreboard
from more_lib.cli.commands import app
from more_lib.evaluation.protocols import PROTOCOLS
from more_lib.recipes import PROFILES, load_recipe, to_dict
from more_lib.runs import reproduce
from more_lib.runs.manifest import commit_name
from more_lib.system.errors import InputError
from tests.data.helpers import ROWS, photos, save_csv

COMMANDS = ("reproduce", "train", "evaluate", "predict", "report", "study", "bench", "doctor")
MINI, VOC, NEW = PROFILES["mini"], PROFILES["voc"], Path("new")
SEED_3 = load_recipe("mini", ["seed=3"])
SCORES, MASKS, MODEL = "map  mIoU %\nlam   24.00", "2 masks: m.tgz", "kept/mini-0123"
Kept = make_dataclass("Kept", ("folder", "recipe"))
PRINTED = {"reproduce": "", "scoreboard": f"{SCORES}\n", "export_masks": f"{MASKS}\n"}
PRINTED |= dict.fromkeys(("train", "train_or_load"), f"trained model: {MODEL}\n")


@pytest.fixture
def calls(monkeypatch):
    """Stands in for all that is slow; each entry is a function's name and what it was given."""
    made = []

    def stand_in(module, name, returns):
        monkeypatch.setattr(module, name, lambda *given: made.append((name, *given)) or returns)

    stand_in(reproduce, "reproduce", Path("runs/mini/now"))
    for name in ("train", "train_or_load", "load_trained"):
        stand_in(training, name, SimpleNamespace(folder=MODEL, model=None))
    stand_in(scoreboard, "scoreboard", SCORES)
    stand_in(scoreboard, "export_masks", MASKS)
    return made


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        ("reproduce", ("reproduce", "mini", [], Path("runs"), False, False)),
        (
            "reproduce --profile voc --set seed=1 --set lir.phi=2 --runs out --resume --full",
            ("reproduce", "voc", ["seed=1", "lir.phi=2"], Path("out"), True, True),
        ),
        ("train --set seed=3", ("train_or_load", SEED_3, False, False)),
        ("train --profile voc --folder new", ("train", VOC, NEW, False, False)),
        ("train --folder new --resume --tensorboard", ("train", MINI, NEW, True, True)),
        ("evaluate --json new", ("scoreboard", MINI, [], "", False, NEW, None)),
        (
            "evaluate --protocol paper-val --protocol lam-log --split x --skip-bad",
            ("scoreboard", MINI, ["paper-val", "lam-log"], "x", True, None, None),
        ),
        (
            "evaluate --protocol paper-val --split test --export new",
            ("export_masks", MINI, ["paper-val"], "test", NEW, None),
        ),
    ],
)
def test_options_arrive(calls, arguments, call):
    result = run(*arguments.split())
    assert result.exit_code == 0 and result.stdout == PRINTED[call[0]]
    assert calls == [call]


def test_a_recipe_file_comes_before_single_changes(calls, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 5\noptimizer: {iterations: 7}\n")
    assert run("train", "--recipe", file, "--set", "seed=6").exit_code == 0
    recipe = calls[0][1]
    assert (recipe.seed, recipe.optimizer.iterations) == (6, 7)


def test_evaluate_lists_and_names_every_protocol(calls):
    listed = run("evaluate", "--list-protocols", "--profile", "voc").stdout
    text = "".join(run("evaluate", "--help").stdout.split())  # names break at hyphens
    drawn = [name for name, each in PROTOCOLS.items() if each.map not in ("aux_cam", "seed")]
    for name in drawn:
        assert f"\n{name}\n" in f"\n{listed}" and name.removesuffix("-native") in text
    assert listed.count("\n    published: ") == listed.count("\n    voc ") == len(drawn)
    labels = "LAM, predicted image labels"
    paper = ", the decoder's where none is, scales 1 0.5 0.75 1.25 1.5 1.75 2 + flip of 448×448, "
    assert labels + paper + "background 1 - " in listed and "76.4 on VOC val" in listed
    assert labels + ", scales 1 0.5 0.75 1.5 + flip, background 1 - " in listed  # native
    assert calls == []


def test_evaluate_takes_the_recipe_of_the_folder_it_is_given(calls, tmp_path):
    kept = to_dict(load_recipe("voc", ["optimizer.iterations=9"]))
    del kept["optimizer"]["late_terms"]  # which came after this network was trained
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(kept))
    arguments = ("evaluate", "--checkpoint", tmp_path, "--set", "evaluation.threshold=0.25")
    assert run(*arguments).exit_code == 0
    changes = "optimizer.iterations=9 optimizer.late_terms=absent evaluation.threshold=0.25"
    wanted = load_recipe("voc", changes.split())
    ((name, recipe, *_, network),) = calls
    assert (name, recipe) == ("scoreboard", wanted)
    network(recipe)
    assert calls.pop() == ("load_trained", tmp_path, wanted)


@pytest.mark.parametrize(("profile", "status"), [("voc", 2), ("mini", 0), (None, 0)])
def test_a_profile_that_is_not_the_checkpoints_is_refused(calls, tmp_path, profile, status):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(to_dict(load_recipe("mini"))))
    asked = ["--profile", profile] if profile else []
    result = run("evaluate", "--checkpoint", tmp_path, *asked)
    assert result.exit_code == status
    refused = run("predict", tmp_path, "--checkpoint", tmp_path, "--profile", "voc")
    assert refused.exit_code == 2
    for said in ([result.stderr] if status else []) + [refused.stderr]:
        assert "was trained by the profile mini, which counts: leave --profile voc out" in said


@pytest.mark.parametrize("option", [("--json", "new"), ("--skip-bad",)])
def test_an_export_takes_no_option_of_scores(calls, option):
    result = run("evaluate", "--protocol", "paper-val", "--export", "masks", *option)
    assert result.exit_code == 2 and "neither --json nor --skip-bad" in result.stderr
    assert calls == []


def test_evaluate_takes_a_network_to_another_folder(calls, monkeypatch, tmp_path):
    """By its own recipe; --set has the last word."""
    kept = load_recipe("voc", ["optimizer.iterations=9", "data.classes=[cat, dog]"])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(to_dict(kept)))
    photos(tmp_path / "photos")
    save_csv(tmp_path / "photos", dict.fromkeys(ROWS, "cat"))
    monkeypatch.setattr(training, "load_trained", lambda folder, recipe: Kept(folder, recipe))
    options = ("--data", tmp_path / "photos", "--set", "evaluation.threshold=0.25")
    result = run("evaluate", "--checkpoint", tmp_path, *options)
    assert result.exit_code == 0, result.stderr
    ((name, recipe, *_, network),) = calls
    data, threshold = recipe.data, recipe.evaluation.threshold
    assert (name, data.root, threshold) == ("scoreboard", str(tmp_path / "photos"), 0.25)
    assert (data.dataset, data.classes, data.val_split) == ("folder", ("cat", "dog"), "all")
    assert network(recipe) == Kept(tmp_path, recipe)
    save_csv(tmp_path / "photos", dict.fromkeys(ROWS, "cow"))
    result = run("evaluate", "--checkpoint", tmp_path, *options)
    assert result.exit_code == 2 and "does not know, 'cow'" in result.stderr


def test_report_writes_one_report_a_comparison_or_the_results(monkeypatch):
    monkeypatch.setattr("more_lib.runs.report.write_report", lambda run: f"of {run}")
    monkeypatch.setattr("more_lib.runs.report.write_results", lambda run, publish: (run, publish))
    monkeypatch.setattr("more_lib.runs.comparison.write_comparison", lambda *given: given)
    a, b, page = Path("a"), Path("b"), Path("x.html")
    assert run("report", "a").stdout == "report: of a\n"
    assert run("report", "a", "b").stdout == f"comparison: {([a, b], None)}\n"
    assert run("report", "a", "b", "--output", page).stdout == f"comparison: {([a, b], page)}\n"
    assert run("report", "a", "--results").stdout == f"written: {(a, True)}\n"


def test_study_passes_its_options_on_and_keeps_its_rows(monkeypatch, tmp_path):
    ran = Mock(return_value={"study": "conditions", "rows": []})
    monkeypatch.setattr("more_lib.paper.studies.run_study", ran)
    monkeypatch.setattr("more_lib.paper.studies.format_study", lambda found: f"{found['study']}!")
    options = ("--set", "seed=2", "--seeds", 2, "--trained-only", "--json", tmp_path / "s.json")
    assert run("study", "conditions", *options).stdout == "conditions!\n"
    recipe, commit = load_recipe("mini", ["seed=2"]), commit_name()
    ran.assert_called_once_with("conditions", recipe, range(2, 4), train=False, commit=commit)
    assert json.loads((tmp_path / "s.json").read_text()) == ran.return_value


def test_bench_times_what_is_asked_for_from_a_checkout_alone(monkeypatch, tmp_path):
    monkeypatch.setattr("tests.benchmarks.speed.losses", lambda shape: f"losses of {shape}")
    monkeypatch.setattr("tests.benchmarks.speed.crf", lambda: "crf")
    monkeypatch.setattr("more_lib.training.step_cost.bench_step", lambda *given: given)
    monkeypatch.setattr("more_lib.training.step_cost.format_step", len)
    monkeypatch.setattr("more_lib.runs.costs.step_rows", len)
    monkeypatch.setattr("more_lib.runs.costs.run_costs", lambda run: [run.name])
    monkeypatch.setattr("more_lib.runs.costs.format_costs", "".join)
    monkeypatch.setattr("more_lib.runs.costs.compare_costs", lambda *files: f"{len(files)} files")
    assert run("bench", "--shape", "voc").stdout == "losses of voc\n"
    assert run("bench", "crf").stdout == "crf\n"
    kept = tmp_path / "kept.json"
    assert run("bench", "step", "--profile", "mini", "--json", kept).stdout == "2\n"
    assert json.loads(kept.read_text()) == 2
    assert run("bench", "run", "runs/one", "--json", kept).stdout == "one\n"
    assert json.loads(kept.read_text()) == ["one"]
    assert run("bench", "compare", "a.json", "b.json").stdout == "2 files\n"
    assert "takes 2 files or folders, not 1" in run("bench", "compare", "a.json").stderr
    assert "not crf" in run("bench", "crf", "--json", kept).stderr
    found = {"rows": "tests.benchmarks.speed"}
    monkeypatch.setattr("more_lib.runs.speed.measure_speed", lambda loops: {"rows": loops.__name__})
    monkeypatch.setattr("more_lib.runs.costs.format_speed", str.upper)
    assert run("bench", "speed", "--json", kept).stdout == "TESTS.BENCHMARKS.SPEED\n"
    assert json.loads(kept.read_text()) == found
    monkeypatch.setattr("more_lib.system.files.CHECKOUT", tmp_path)
    assert "from a full checkout" in run("bench", "crf").stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("train --profile maxi", "maxi"),
        ("evaluate --set optimizer.iteration=3", "optimizer.iterations"),
        ("train --set optimizer.iterations=many", "optimizer.iterations"),
        ("train --recipe missing.yaml", "missing.yaml"),
        ("train --labels l.csv", "--data"),
        ("reproduce --profile maxi", "maxi"),
        ("bench speeds", "there are: losses, crf, step, speed, scaling, run, compare"),
        ("report a b --results", "--results takes one run"),
        ("report a --results --output x.html", "--results takes one run"),
    ],
)
def test_unusable_input_is_one_line_and_status_2(arguments, named):
    result = run(*arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert named in result.stderr


@pytest.mark.parametrize(
    ("command", "error", "status", "said"),
    [
        ("train", InputError("no object"), 2, "error: no object\n"),
        ("evaluate", InputError("no object"), 2, "error: no object\n"),
        ("train", KeyboardInterrupt(), 130, ""),
        ("evaluate", KeyboardInterrupt(), 130, ""),
        ("reproduce", reproduce.ReproduceError("05 stopped at In [3]"), 1, "error: 05 stopped"),
    ],
)
def test_what_ends_a_command_from_deep_inside(monkeypatch, command, error, status, said):
    for name in ("training.train_or_load", "cli.scoreboard.scoreboard", "runs.reproduce.reproduce"):
        monkeypatch.setattr(f"more_lib.{name}", Mock(side_effect=error))
    result = run(command)
    assert result.exit_code == status and said in result.stderr
    assert result.stderr.count("\n") == said.count("error")  # a line and no traceback


WRONG = "evalute|train --lr 3|report|predict|evaluate --checkpoint no|predict a --checkpoint no"


@pytest.mark.parametrize("arguments", WRONG.split("|"))
def test_wrong_usage_is_status_2(arguments, calls):
    result = run(*arguments.split())
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert "--help`" in result.stderr
    assert not calls


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_that_it_accepts(command, calls, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("trial").mkdir()
    Path("trial/recipe.yaml").write_text("seed: 0\n")
    monkeypatch.setattr("more_lib.cli.doctor.report", lambda: "all is well")
    monkeypatch.setattr("more_lib.training.step_cost.bench_step", Mock())
    monkeypatch.setattr("more_lib.training.step_cost.format_step", str)
    monkeypatch.setattr("more_lib.runs.costs.step_rows", len)
    monkeypatch.setattr("more_lib.runs.comparison.write_comparison", Mock())
    for name in ("plan_predictions", "write_predictions"):
        monkeypatch.setattr(f"more_lib.evaluation.writing.{name}", Mock())
    monkeypatch.setattr("more_lib.paper.studies.run_study", Mock(return_value={}))
    monkeypatch.setattr("more_lib.paper.studies.format_study", str)
    *_, title, _, example = run(command, "--help").stdout.splitlines()
    words = example.split("python -m more_lib ")[1].split()
    assert title == "  Example:"
    assert words[0] == command
    done = run(*words)
    assert done.exit_code == 0 and (done.stdout == "all is well\n") == (command == "doctor")


def test_help_names_the_commands_and_loads_nothing_heavy():
    """In a process of its own, as a newcomer meets it."""
    command = [sys.executable, "-X", "importtime", "-m", "more_lib", "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "timm", "numpy", "matplotlib", "papermill"}
    assert result.returncode == 0 and result.stdout.startswith("Usage: python -m more_lib")
    assert all(f"  {command}  " in result.stdout for command in COMMANDS)


@pytest.mark.slow
def test_a_process_exits_with_the_status_and_no_traceback():
    command = [sys.executable, "-m", "more_lib", "bench", "nothing"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
