"""The scripts in data_scripts/: they run, and the pretraining does what its record says."""

import importlib.util
import json
from unittest.mock import Mock

import pytest
import torch
from PIL import Image

from more_lib.data.prepare import emoji
from more_lib.data.voc import VocTree
from more_lib.method.backbones import load_backbone
from more_lib.system.errors import InputError
from more_lib.system.files import sha256
from tests.data.helpers import SCRIPTS, run_script


@pytest.fixture(scope="module")
def pretraining():
    spec = importlib.util.spec_from_file_location("pretraining", SCRIPTS / "pretrain_mini_vit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_make_emoji_voc_writes_a_tree_and_a_sheet_and_says_where(tmp_path, monkeypatch, capsys):
    options = ("--folder", tmp_path / "tree", "--train", 30, "--val", 1)
    status, out, errors = run_script(monkeypatch, capsys, "make_emoji_voc.py", *options)
    assert status == 0, errors
    assert len(VocTree(tmp_path / "tree", emoji.EMOJI_CLASSES).ids("train")) == 30
    sheet = tmp_path / "tree-contact-sheet.png"
    assert str(sheet) in out and Image.open(sheet).format == "PNG"


def test_make_emoji_voc_refuses_a_folder_in_use(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    status, _, errors = run_script(monkeypatch, capsys, "make_emoji_voc.py", "--folder", tmp_path)
    assert status == 2 and errors.startswith("error: ") and "no EmojiVOC tree" in errors
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "script, given",
    [
        ("voc", "--voc=~none-of-this-name/v"),
        ("coco", "--coco=~none-of-this-name/c"),
        ("pets", "--pets=~none-of-this-name/p"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_the_home_of_nobody_is_a_folder_that_is_missing(monkeypatch, capsys, script, given, dry):
    place = "--root=~none-of-this-name/x" if script == "voc" else "--folder=~none-of-this-name/x"
    status, _, errors = run_script(monkeypatch, capsys, f"prepare_{script}.py", place, given, *dry)
    assert status == 2 and errors.startswith("error: ") and errors.count("\n") == 1
    assert given.partition("=")[2] in errors


def test_augmented_batches_keep_their_kind_and_follow_the_generator(pretraining):
    images = torch.randint(0, 256, (3, 3, 96, 96), dtype=torch.uint8)
    one, again, other = (
        pretraining.augment(images, 64, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert one.shape == (3, 3, 64, 64) and one.dtype == torch.float32
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_the_best_patches_decide_the_patch_logit(pretraining):
    model = pretraining.ReadOut(2)
    images = torch.randn(1, 3, 96, 96)
    maps = model.cams(images)[0] + model.patch_head.bias.view(1, 2, 1, 1)
    best = maps.flatten(2).sort(descending=True).values[..., :6].mean(2)  # 6 = 144 patches // 24
    torch.testing.assert_close(model(images)[1], best)


def test_pretraining_ships_weights_with_a_record_of_them(pretraining, tmp_path, monkeypatch):
    tree = emoji.prepare(tmp_path / "tree", train=4, val=12, dev=1)
    monkeypatch.setattr(pretraining.emoji, "prepare", lambda *folder, **sizes: tree)
    out = tmp_path / "mini.safetensors"
    pretraining.main(backbone="mini_w48", shorter=2000, batch_size=2, seed=0, out=out)
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["sha256"] == sha256(out)
    assert [point["pixels"] for point in record["curve"]] == [64, 64, 96]
    assert 0 <= record["validation"]["cam_miou"] <= 1
    assert load_backbone("mini_w48", str(out)).embed_dim == 48


def test_pretraining_refuses_a_backbone_that_does_not_ship(pretraining):
    with pytest.raises(InputError, match="'vit_tiny' is unknown; there are: mini, mini_w96"):
        pretraining.main(backbone="vit_tiny")


def test_a_trial_of_pretraining_leaves_the_shipped_weights_alone(
    pretraining, tmp_path, monkeypatch
):
    monkeypatch.setattr(pretraining, "mini_weights", lambda name: tmp_path / "shipped")
    monkeypatch.setattr(pretraining.emoji, "prepare", Mock(side_effect=AssertionError))
    with pytest.raises(InputError, match="name by --out another file than the shipped"):
        pretraining.main(shorter=10)
    with pytest.raises(InputError, match="--shorter 2401 leaves no iteration"):
        pretraining.main(shorter=2401, out=tmp_path / "mini.safetensors")
