"""Files of pretrained backbones: found in their places, without the packages that load them."""

import subprocess
import sys
from pathlib import Path

import pytest

from more_lib.method import weight_files
from more_lib.method.weight_files import MINI_WIDTHS, backbone_file, downloaded_file, mini_weights


def test_neither_torch_nor_timm_is_loaded():
    code = (
        "import sys, more_lib.method.weight_files; "
        "print([name for name in ('torch', 'timm', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_of_ones_own_comes_before_what_ships_and_a_download_is_timms():
    for name in MINI_WIDTHS:
        assert backbone_file(name) == mini_weights(name) and mini_weights(name).is_file()
    assert backbone_file("mini", "own.safetensors") == Path("own.safetensors").absolute()
    assert backbone_file("vit_tiny_patch16_224") is None


@pytest.mark.parametrize(
    ("held", "named", "found"),
    [
        ("model.safetensors", None, "model.safetensors"),
        ("pytorch_model.bin", None, "pytorch_model.bin"),
        ("other.bin", "other.bin", "other.bin"),
        ("model.safetensors", "other.bin", None),
        ("other.bin", None, None),
    ],
)
def test_a_download_is_looked_for_under_the_names_that_timm_gives_it(
    monkeypatch, held, named, found
):
    cache = {("timm/a.b", held): f"/cache/{held}"}
    monkeypatch.setattr(
        weight_files, "try_to_load_from_cache", lambda *asked: cache.get(asked, object())
    )
    assert downloaded_file("timm/a.b", named) == (Path(f"/cache/{found}") if found else None)
