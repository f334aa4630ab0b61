"""Charts of pretrained ViTs: counted on tokens that are known, at the ViT's own size."""

import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from more_lib.method import pretrained
from more_lib.method.backbones import mini_vit
from more_lib.method.pretrained import KINDS, chart_of, here, token_chart
from more_lib.method.weight_files import mini_weights
from more_lib.system.weights import save_weights


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2)


def test_a_chart_counts_the_tokens_that_stick_out(vit):
    """The last block adds a huge vector to one patch: where the image is flat, and it alone."""
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    pictures[:, :, :16, :16] = 0.5  # the first patch of 4 x 4 shows nothing

    def push(block, given, left):
        left = left.clone()
        left[:, 1] += 1000  # behind the class token comes the first patch
        return left

    vit.blocks[-1].register_forward_hook(push)
    chart = token_chart(vit, pictures)
    assert (chart["blocks"], chart["width"], chart["patch"]) == (2, 24, 8)
    assert chart["outliers"] == pytest.approx(1 / 16)
    assert chart["largest"] > 100
    assert chart["lift"] == pytest.approx(4)  # a quarter of the patches has low information


def test_without_outliers_there_is_no_lift(vit):
    for parameter in vit.parameters():
        torch.nn.init.zeros_(parameter)
    vit.pos_embed.data[:] = 1.0
    chart = token_chart(vit, torch.rand(1, 3, 32, 32))
    assert chart["outliers"] == 0 and math.isnan(chart["lift"])
    assert chart["patch_similarity"] == pytest.approx(1)


def test_the_shipped_backbone_has_a_chart_and_other_weights_another(tmp_path):
    torch.manual_seed(0)
    save_weights(mini_vit(), tmp_path / "other.safetensors")
    pictures = torch.rand(2, 3, 96, 96)
    shipped = chart_of("mini", "", pictures)
    assert (shipped["blocks"], shipped["width"], shipped["patch"]) == (6, 192, 8)
    assert 0 <= shipped["outliers"] < 1
    again = chart_of("mini", str(mini_weights()), pictures)
    assert shipped == pytest.approx(again, nan_ok=True)  # no lift without outliers
    mine = chart_of("mini", tmp_path / "other.safetensors", pictures)
    assert mine["patch_similarity"] != shipped["patch_similarity"]


def test_what_is_not_in_the_cache_is_none(monkeypatch):
    found = {"vit_small_patch16_224.dino": "file"}
    monkeypatch.setattr(pretrained, "downloaded_weights", found.get)
    assert here() == {kind: found.get(name) for kind, name in KINDS.items()}
