"""Weights come back from disk to the bit, or the file is refused and nothing is changed."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from more_lib.system.errors import InputError
from more_lib.system.weights import load_weights, save_weights


def small_model(seed: int) -> nn.Module:
    """Linear layers and a normalisation, whose counter is an integer buffer."""
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    model[1].num_batches_tracked.fill_(seed)
    return model


def assert_same_state(state: dict, other: dict) -> None:
    assert state.keys() == other.keys()
    for key, tensor in state.items():
        assert tensor.dtype == other[key].dtype and torch.equal(tensor, other[key]), key


def refusal(path, state: dict | None = None) -> str:
    """The message of the error that loading the file must raise, leaving the model as it was.

    state: what to write to the file first.
    """
    module = small_model(2)
    if state:
        save_weights(state, path)
    with pytest.raises(InputError) as caught:
        load_weights(module, path)
    assert_same_state(module.state_dict(), small_model(2).state_dict())
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_round_trip_is_exact_and_keeps_the_parameters_themselves(tmp_path):
    model, other = small_model(1), small_model(2)
    parameters = list(other.parameters())
    save_weights(model, tmp_path / "model.safetensors")
    load_weights(other, str(tmp_path / "model.safetensors"))
    assert_same_state(other.state_dict(), model.state_dict())
    assert all(a is b for a, b in zip(parameters, other.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in parameters)


def test_same_weights_give_the_same_bytes(tmp_path):
    state = small_model(1).state_dict()
    save_weights(state, tmp_path / "a.safetensors")
    save_weights(dict(reversed(state.items())), tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_half_precision_storage_loads_into_float32(tmp_path):
    model, other = small_model(1), small_model(2)
    save_weights(model, tmp_path / "half.safetensors", dtype=torch.float16)
    stored = load_file(tmp_path / "half.safetensors")
    assert stored["0.weight"].dtype == torch.float16
    assert stored["1.num_batches_tracked"].dtype == torch.int64
    load_weights(other, tmp_path / "half.safetensors")
    expected = {
        key: tensor.half().float() if tensor.is_floating_point() else tensor
        for key, tensor in model.state_dict().items()
    }
    assert_same_state(other.state_dict(), expected)
    assert model[0].weight.dtype == torch.float32


def test_tied_and_strided_tensors_are_saved(tmp_path):
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    tied[0].bias.data = torch.arange(6.0)[::2]
    save_weights(tied, tmp_path / "tied.safetensors")
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    load_weights(other, tmp_path / "tied.safetensors")
    assert_same_state(other.state_dict(), tied.state_dict())


def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_weights(small_model(1), path)
    before = path.read_bytes()

    def fails(tensors):
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save", fails)
    with pytest.raises(KeyboardInterrupt):
        save_weights(small_model(2), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_keys_shapes_and_kinds_of_number_that_differ_are_named_and_five_at_most(tmp_path):
    path, state = tmp_path / "model.safetensors", small_model(1).state_dict()
    message = refusal(path, state | {"2.bias": torch.zeros(2, dtype=torch.int64)})
    assert "2.bias (integer (2,) for real (2,))" in message
    message = refusal(path, state | {"0.weight": torch.zeros(3, 5)})
    assert "0.weight (real (3, 5) for real (3, 4))" in message
    state["extra"] = state.pop("0.weight")
    message = refusal(path, state)
    assert "missing: 0.weight" in message and "unexpected: extra" in message
    message = refusal(path, {f"other{i}": torch.zeros(1) for i in range(7)})
    assert "other4 and 2 more" in message and "other5" not in message
    assert message.count("0.") + message.count("1.") + message.count("2.") == 5
    assert "and 4 more" in message


def test_files_that_are_no_weights_are_refused(tmp_path):
    model = small_model(1)
    (tmp_path / "notes.txt").write_text("not weights")
    (tmp_path / "empty.safetensors").touch()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    save_weights(model, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-4])
    assert "cut short" in refusal(tmp_path / "cut.safetensors")
    for place in (tmp_path, tmp_path / "absent.safetensors"):
        assert "no weights file" in refusal(place)
    for name in ("notes.txt", "empty.safetensors", "model.pth"):
        assert "not a safetensors file" in refusal(tmp_path / name)


def test_unwritable_place_is_one_readable_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        save_weights(small_model(1), tmp_path / "file" / "model.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_and_named(tmp_path, value):
    state = small_model(1).state_dict()
    state["2.bias"][1] = value
    assert "not finite, in 2.bias: restore it" in refusal(tmp_path / "w.safetensors", state)
