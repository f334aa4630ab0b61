"""The doctor: finds what is there, and says what each missing part costs."""

import re
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import timm
import torch

from more_lib.cli import doctor
from more_lib.data import tree_root
from more_lib.method.weight_files import MINI_WIDTHS
from more_lib.recipes import PROFILES, load_recipe
from more_lib.system.devices import resolved_precision

VOC = PROFILES["voc"]


@pytest.fixture
def versions(monkeypatch):
    """Versions to find of packages, in place of those installed; None for not installed."""
    real, chosen = metadata.version, {}

    def version(name):
        if chosen.get(name, "") is None:
            raise metadata.PackageNotFoundError(name)
        return chosen.get(name) or real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    return chosen


def test_names_too_long_for_their_column_have_a_line_of_their_own():
    row = doctor.Row("profile " + ", ".join(["mctformer-coco"] * 4), "missing", "no data", "get it")
    own, *below = row.lines()
    assert own.endswith("mctformer-coco")
    assert below == [" " * 25 + "no data", " " * 25 + "get it"]
    (short,) = doctor.Row("profile voc", "ok", "there").lines()
    assert short == "  ok       profile voc   there"


def test_report_is_one_screen_and_has_a_cost_for_everything_missing(tmp_path):
    text = doctor.report()
    lines = text.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= doctor.WIDTH + 60  # paths stay whole
    assert {"Python and packages", "Machine", "Data", "Weights", "Optional"} <= set(lines)
    for profile in PROFILES:  # those that need the same share a row
        assert len(re.findall(rf"(profile |, ){profile}\b(?!-)", text)) >= 2
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("  missing"):
            assert following.startswith(" " * 10)
    assert list(tmp_path.rglob("*")) == []  # nothing is written


@pytest.mark.parametrize(("version", "status"), [((3, 11, 9), "ok"), ((3, 13, 0), "note")])
def test_python_is_noted_when_it_is_not_one_of_the_tested(monkeypatch, version, status):
    monkeypatch.setattr(doctor.sys, "version_info", version)
    assert doctor.python().status == status


def test_packages_names_those_absent_and_those_too_old(versions):
    assert [row.status for row in doctor.packages()] == ["ok"]
    versions |= {"tqdm": "1.0", "seaborn": None}
    rows = {row.name: row for row in doctor.packages()}
    assert rows.keys() == {"seaborn", "tqdm"}
    assert rows["seaborn"].detail == "not installed"
    assert rows["tqdm"].detail.startswith("is 1.0, not >=")
    assert all(row.status == "missing" and row.cost for row in rows.values())


def test_packages_and_extras_say_when_the_library_itself_is_not_installed(monkeypatch):
    monkeypatch.setattr(metadata, "requires", Mock(side_effect=metadata.PackageNotFoundError))
    (row,) = doctor.packages()
    assert (row.name, row.status) == ("more_lib", "missing") and "pip install -e ." in row.cost
    assert {row.detail for row in doctor.extras() if row.name != "git"} == {"not installed"}


def test_frameworks_reports_a_torchvision_compiled_for_another_torch(monkeypatch, tmp_path):
    (row,) = doctor.frameworks()
    assert row.status == "ok" and metadata.version("torch") in row.detail

    compiled = tmp_path / "_C_stable.so"
    compiled.write_bytes(b"of another torch")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(doctor, "find_spec", lambda name: spec)
    (row,) = doctor.frameworks()
    assert (row.name, row.status) == ("torchvision", "missing")
    assert row.detail.startswith("cannot be used: ") and str(compiled) in row.detail
    lines = doctor.report().splitlines()  # stops at what nothing works without
    assert ["missing", "torchvision"] in [line.split()[:2] for line in lines]
    assert "Optional" in lines and "Machine" not in lines


def test_frameworks_reports_versions_that_do_not_fit_each_other(versions):
    versions["torch"] = "2.6.0"
    (row,) = doctor.frameworks()
    assert (row.name, row.status) == ("torchvision", "missing")
    assert row.detail.startswith("cannot be used: it is made for torch")
    versions |= {"torch": "", "timm": None}
    (row,) = doctor.frameworks()
    assert (row.name, row.status) == ("timm", "missing")


@pytest.mark.slow
def test_the_doctor_loads_no_heavy_package_but_torch():
    heavy = ("torchvision", "torch._dynamo", "timm", "scipy", "sklearn", "matplotlib")
    code = (
        "import sys; from more_lib.cli import doctor; doctor.report(); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("bf16_seconds", "status"), [(0.5, "ok"), (4.0, "note")])
def test_processor_advises_fp32_where_bf16_is_slow(monkeypatch, bf16_seconds, status):
    seconds = {torch.float32: 1.0, torch.bfloat16: bf16_seconds}
    monkeypatch.setattr(doctor.timeit, "repeat", lambda run, **_: [9, seconds[run().dtype]])
    row = doctor.processor()
    assert row.status == status and f"{1 / bf16_seconds:.1f}x" in row.detail
    assert row.cost.endswith(f"auto: {resolved_precision('auto')}")  # which asks for no time
    assert load_recipe("mini").optimizer.precision == "auto"  # as the advice says


def test_accelerator_with_and_without(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert doctor.accelerator().status == "missing"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "MPS" in doctor.accelerator().detail
    card = SimpleNamespace(name="A card", total_memory=24 * 2**30)
    said = dict(is_available=True, device_count=2, is_bf16_supported=True)
    for name, answer in (said | {"get_device_properties": card}).items():
        monkeypatch.setattr(torch.cuda, name, Mock(return_value=answer))
    assert doctor.accelerator().detail == "2 x A card, 24 GiB, bf16"


@pytest.mark.gpu
def test_accelerator_names_the_card():
    assert torch.cuda.get_device_name(0) in doctor.accelerator().detail


def test_cache_that_is_there_that_is_full_that_cannot_be(monkeypatch, tmp_path):
    for free, status in ((5e9, "ok"), (1e8, "note")):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _, f=free: SimpleNamespace(free=f))
        row = doctor.cache()  # the folder itself does not exist yet
        assert row.status == status and str(tmp_path) in row.detail
    (tmp_path / "file").touch()
    monkeypatch.setenv("MORE_DATA", str(tmp_path / "file" / "below"))
    row = doctor.cache()
    assert row.status == "missing" and "MORE_DATA" in row.cost
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")  # to which nothing can be written
    monkeypatch.setenv("MORE_DATA", str(tmp_path / "link"))
    assert doctor.cache().status == "missing"


def test_data_is_missing_until_its_splits_are_there(tmp_path):
    assert doctor.data(PROFILES["mini"]).status == "note"  # made on first use: no loss
    assert doctor.data(VOC).status == "missing"
    tree_root(PROFILES["mini"].data).mkdir(parents=True)  # without anything in it
    row = doctor.data(PROFILES["mini"])
    assert row.status == "missing" and "the next run makes it anew" in row.cost
    recipe = load_recipe("voc", [f"data.root={tmp_path}"])
    splits = tmp_path / "ImageSets/Segmentation"
    splits.mkdir(parents=True)
    (splits / "train_aug.txt").write_text("one\ntwo\n")
    row = doctor.data(recipe)
    assert row.status == "missing" and row.detail == f"no {splits / 'val.txt'}"
    (splits / "val.txt").write_text("three\n")
    row = doctor.data(recipe)
    assert row.status == "ok" and row.detail == f"{tmp_path}: 2 train_aug, 1 val"
    (splits / "val.txt").write_bytes(b"three\xff\n")
    row = doctor.data(recipe)
    assert row.status == "missing" and f"{splits / 'val.txt'} cannot be read" in row.detail


def test_weights_that_timm_downloads(monkeypatch, tmp_path):
    answers = {"pytorch_model.bin": str(tmp_path / "pytorch_model.bin")}
    for recipe in PROFILES.values():  # the doctor does not ask timm itself, which takes seconds
        if recipe.backbone.name not in MINI_WIDTHS:
            config = timm.get_pretrained_cfg(recipe.backbone.name)
            assert config.hf_hub_id == f"timm/{recipe.backbone.name}" and not config.hf_hub_filename
    look_up = Mock(side_effect=lambda repository, file: answers.get(file))
    monkeypatch.setattr("more_lib.method.weight_files.try_to_load_from_cache", look_up)
    (tmp_path / "pytorch_model.bin").write_bytes(b"1")
    assert doctor.weights(VOC).status == "ok"
    asked = [(f"timm/{VOC.backbone.name}", f) for f in ("model.safetensors", "pytorch_model.bin")]
    assert [call.args for call in look_up.call_args_list] == asked
    answers["pytorch_model.bin"] = object()  # the cache knows that there is no such file
    for recipe in (VOC, load_recipe("voc", ["backbone.name=test_vit_of_nobody"])):
        row = doctor.weights(recipe)
        assert row.status == "missing" and "backbone.weights=" in row.cost


def test_weights_that_ship_and_those_in_a_file_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr("more_lib.method.weight_files.mini_weights", lambda name: tmp_path / name)
    row = doctor.weights(load_recipe("mini", ["backbone.name=mini_w48"]))
    assert row.status == "missing" and "pretrain_mini_vit.py --backbone mini_w48" in row.cost
    file = tmp_path / "mine.safetensors"
    own = load_recipe("mini", [f"backbone.weights={file}"])
    row = doctor.weights(own)
    assert row.status == "missing" and "pretrain" not in row.cost  # no script makes another's file
    file.write_bytes(bytes(2_000_000))
    row = doctor.weights(own)
    assert row.status == "ok" and row.detail.endswith("mine.safetensors, 2.0 MB")


def test_extras_and_git_say_what_works_without_them(monkeypatch, versions):
    versions |= dict.fromkeys(("pydensecrf2", "tensorboard", "pytest", "nbgrader"))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    rows = doctor.extras()
    names = ["extra crf", "extra log", "extra dev", "extra classroom", "git"]
    assert [row.name for row in rows] == names
    assert rows[0].detail == "pydensecrf2 not installed"
    assert all(row.status == "missing" and row.cost.startswith("without it:") for row in rows)
