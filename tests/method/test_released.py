"""Checkpoints of the released code become our network, or one line says what is wrong."""

import pytest
import torch

from more_lib.method.released import load_released
from tests.method.helpers import drawn, refuses


@pytest.fixture
def released():
    """A checkpoint under the released names: two blocks, 3 classes, 4 registers, a 2 x 2 grid."""
    dim, depth, classes, width = 64, 3, 3, 5
    shapes = {
        "encoder.cls_token": (1, classes + 4, dim),
        "encoder.pos_embed": (1, classes + 4 + 4, dim),
        "encoder.head.weight": (7, dim),
        "decoder.conv6.weight": (width, dim, 3, 3),
        "decoder.conv7.weight": (width, width, 3, 3),
        "decoder.conv8.weight": (classes + 1, width, 1, 1),
        "classifier.weight": (classes, dim, 1, 1),
        "aux_classifier.weight": (classes, dim, 1, 1),
    }
    graph = ("_fc1.0", "head_proj", "tail_proj", "linear1", "linear2")
    biased = {f"graph_layer.{name}": (dim, dim) for name in graph}
    biased |= {"graph_layer.norm": (dim,), "encoder.norm": (dim,)}
    biased |= {"encoder.patch_embed.proj": (dim, 3, 8, 8)}
    for block in (f"encoder.blocks.{index}" for index in range(depth)):
        biased |= {f"{block}.attn.qkv": (3 * dim, dim), f"{block}.attn.proj": (dim, dim)}
        biased |= {f"{block}.mlp.fc1": (4 * dim, dim), f"{block}.mlp.fc2": (dim, 4 * dim)}
        biased |= {f"{block}.norm1": (dim,), f"{block}.norm2": (dim,)}
    for name, shape in biased.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {key: drawn(*shape, dtype=torch.float32) for key, shape in shapes.items()}


def test_a_released_checkpoint_becomes_our_network(released, tmp_path):
    """From a state dict, wrapped or not, and from a file: always the same network."""
    wrapped = {f"module.{key}": value for key, value in released.items()}
    torch.save({"model": wrapped, "iteration": 3}, tmp_path / "model.pth")
    first = load_released(released, 3)
    images = torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        expected = first(images)
        for given in (wrapped, {"state_dict": released}, tmp_path / "model.pth"):
            for ours, theirs in zip(load_released(given, 3)(images), expected, strict=True):
                assert torch.equal(ours, theirs)
    assert expected.class_tokens.shape == (2, 3, 64) and not first.training
    assert first.encoder.num_registers == 4
    assert torch.equal(first.graph.sum_map.weight, released["graph_layer.linear1.weight"])
    tokens = released["encoder.cls_token"] + released["encoder.pos_embed"][:, :7]
    assert torch.equal(first.encoder.class_tokens, tokens[:, 4:])  # registers come first there


def test_a_released_checkpoint_that_does_not_fit_names_classes_and_keys(released):
    for classes in (2, 4, 8):
        refuses(f"of {classes} classes", load_released, released, classes)
    del released["aux_classifier.weight"], released["encoder.norm.bias"]
    released["surprise.weight"] = torch.ones(1)
    missing = "missing: encoder.norm.bias, aux_classifier.weight"
    refuses(f"{missing}; unexpected: surprise.weight", load_released, released, 3)


def test_released_files_run_no_code_and_say_what_is_wrong(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('code in a checkpoint was run')",))

    torch.save({"model": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    (tmp_path / "short.pth").write_bytes(b"PK\x03\x04")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"classifier.weight": torch.ones(2)}, tmp_path / "part.pth")
    for name in ("trap", "text", "short", "list", "part", "absent"):
        message = name if name != "list" else "list.pth holds a list, no mapping of names"
        refuses(message, load_released, tmp_path / f"{name}.pth", 3)
