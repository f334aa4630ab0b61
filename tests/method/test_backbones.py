"""Backbones by name: shipped, downloaded or from a file, and never random where that fails."""

import hashlib
import json
import socket
from functools import cache

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from more_lib.method.backbones import build_backbone, downloaded_weights, load_backbone
from more_lib.method.weight_files import MINI_WIDTHS, backbone_identity, mini_weights
from more_lib.system.files import sha256
from tests.method.helpers import randomized, refuses

TINY = "vit_tiny_patch16_224"


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No network and an empty download cache; returns the attempts to connect."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    attempts = []

    def refuse(self, address):
        attempts.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, reason",
    [
        ("vit_small_patch16_dinov3", "Eva"),
        ("swin_tiny_patch4_window7_224", "SwinTransformer"),
        ("vit_base_patch16_siglip_224", "no class token"),
    ],
)
def test_other_architectures_are_refused_before_their_weights_are_fetched(name, reason, offline):
    refuses(reason, load_backbone, name)
    assert offline == []


@pytest.mark.parametrize("build", [build_backbone, load_backbone])
@pytest.mark.parametrize("typo", ["vit_tiny_patch16", "vit_tny_patch16_224"])
def test_an_unknown_name_gets_a_suggestion(build, typo):
    refuses(f"{typo!r} .*vit_tiny_patch16_224", build, typo)
    refuses("no_such_tag", build, f"{TINY}.no_such_tag")


@cache
def tiny_state() -> dict[str, torch.Tensor]:
    """Weights of a 1000-class ``vit_tiny_patch16_224``, as timm publishes them."""
    return randomized(timm.create_model(TINY)).state_dict()


def without(start: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in tiny_state().items() if not key.startswith(start)}


def assert_is_tiny(vit: VisionTransformer) -> None:
    expected, state = without("head."), vit.state_dict()
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(state[key], value), key


@pytest.mark.slow
def test_missing_weights_offline_are_an_error_that_says_what_to_do(offline):
    refuses(f"{TINY}.*network.*backbone.weights", load_backbone, TINY)
    assert offline == [] and downloaded_weights(TINY) is None
    assert backbone_identity(TINY) == f"timm:{TINY}"
    name = "vit_small_patch16_36x1_224"  # timm has no weights for it at all
    assert timm.get_pretrained_cfg(name) is None or not timm.is_model_pretrained(name)
    refuses(name, load_backbone, name)


@pytest.mark.slow
def test_weights_downloaded_before_load_offline(offline, tmp_path):
    repository = timm.get_pretrained_cfg(TINY).hf_hub_id
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    file = folder / "snapshots" / ("0" * 40) / "model.safetensors"
    for parent in (folder / "refs", file.parent):
        parent.mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    save_file(tiny_state(), file)
    assert downloaded_weights(TINY) == file
    assert_is_tiny(load_backbone(TINY))
    assert offline == []


@pytest.mark.parametrize("with_head", [True, False])
def test_a_local_file_is_loaded_with_or_without_its_classifier(offline, tmp_path, with_head):
    file = tmp_path / "tiny.safetensors"
    save_file(without("nothing" if with_head else "head."), file)
    assert_is_tiny(load_backbone(TINY, str(file)))
    assert offline == []
    assert backbone_identity(TINY, str(file)) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_local_file_of_a_distilled_model_loads(tmp_path):
    name = "deit_tiny_distilled_patch16_224"
    published = randomized(timm.create_model(name))
    save_file(published.state_dict(), tmp_path / "deit.safetensors")
    vit = load_backbone(name, str(tmp_path / "deit.safetensors"))
    assert torch.equal(vit.dist_token, published.dist_token)
    assert torch.equal(vit.blocks[-1].mlp.fc2.weight, published.blocks[-1].mlp.fc2.weight)


def test_a_file_that_is_missing_does_not_fit_or_is_damaged_is_refused_by_name(tmp_path):
    file = tmp_path / "wrong.safetensors"
    for call, name in ((load_backbone, TINY), (load_backbone, "mini"), (backbone_identity, TINY)):
        refuses(str(file), call, name, str(file))
    for state, key in (
        ({"a": torch.zeros(2)}, "cls_token"),
        (without("blocks.3.mlp.fc1.weight"), "blocks.3.mlp.fc1.weight"),
        (tiny_state() | {"surplus": torch.zeros(2)}, "surplus"),
        (tiny_state() | {"norm.bias": torch.zeros(3)}, "norm.bias"),
    ):
        save_file(state, file)
        refuses(f"^(?!.*network).*{file}.*{key}", load_backbone, TINY, str(file))
    file.write_bytes(file.read_bytes()[:-10])
    refuses(str(file), load_backbone, TINY, str(file))


@pytest.mark.parametrize(("name", "least"), list(zip(MINI_WIDTHS, (0.90, 0.80, 0.70), strict=True)))
def test_mini_weights_are_small_half_precision_and_load_and_have_a_record(name, least):
    file = mini_weights(name)
    assert file.stat().st_size <= 8_000_000 and backbone_identity(name) == sha256(file)
    shipped = load_file(file)
    assert {tensor.dtype for tensor in shipped.values()} == {torch.float16}
    vit = load_backbone(name)
    sizes = (vit.embed_dim, len(vit.blocks), vit.patch_embed.feat_ratio())
    assert sizes == (MINI_WIDTHS[name], 6, 8)
    state = vit.state_dict()
    assert state.keys() == shipped.keys()
    for key, tensor in shipped.items():
        assert state[key].dtype == torch.float32 and torch.equal(state[key], tensor.float()), key
    record = json.loads(file.with_suffix(".json").read_text())
    assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert isinstance(record["seed"], int) and record["minutes"] > 0
    measured = [point["patch_map"] for point in record["curve"] if "patch_map" in point]
    assert len(measured) >= 5 and measured[0] < measured[-1] <= 1 and len(record["curve"]) >= 20
    assert record["curve"][-1]["loss"] < record["curve"][0]["loss"]
    validation = record["validation"]
    assert max(validation["token_map"], validation["patch_map"]) >= least
    assert 0 < validation["cam_miou"] <= 1
    assert record["parameters"] == sum(p.numel() for p in vit.parameters())


def test_the_shipped_backbones_were_pretrained_alike():
    files = [mini_weights(name).with_suffix(".json") for name in MINI_WIDTHS]
    records = [json.loads(file.read_text()) for file in files]
    for part in ("task", "stages", "batch_size", "seed"):
        assert len({json.dumps(record[part]) for record in records}) == 1, part
