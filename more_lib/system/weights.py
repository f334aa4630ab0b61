"""Weights on disk: safetensors, whole or not at all, and refused when they do not fit."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from more_lib.system.errors import InputError
from more_lib.system.files import atomic_file

_NAMES_SHOWN = 5


def save_weights(
    module_or_state: nn.Module | Mapping[str, Tensor],
    path: str | Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a module's state, or a state dict, to a safetensors file.

    dtype: converts the floating tensors (float16 halves the file), the others stay as they are.
    The same weights give the same bytes, whatever the order of the keys, and an existing file is
    replaced only once the new one is complete.

    Raises ``InputError`` when the path cannot be written or the disk is full.
    """
    given = module_or_state
    state = given.state_dict() if isinstance(given, nn.Module) else given
    # Cloning separates tied tensors, which the format does not allow to share memory.
    tensors = {
        key: tensor.to("cpu", dtype if tensor.is_floating_point() else None).clone(
            memory_format=torch.contiguous_format
        )
        for key, tensor in state.items()
    }
    # Python writes the bytes, for a full disk to be reported as what it is.
    with atomic_file(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors))


def load_weights(module: nn.Module, path: str | Path, ignored: tuple[str, ...] = ()) -> None:
    """Copy a safetensors file into ``module``; values take on the module's own dtypes.

    Every key and shape must match, and nothing is copied before all of them are known to. Keys of
    the file that begin with one of ``ignored`` are passed over.

    Raises ``InputError`` when the file is missing, is not safetensors, does not fit, or holds
    numbers that are not finite; the message names the file and up to five keys of each kind.
    """
    stored = read_weights(Path(path))
    state = {key: value for key, value in stored.items() if not key.startswith(ignored)}
    check_fit(module, state, str(path), "load it into the model it was saved from")
    module.load_state_dict(state)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU.

    Raises ``InputError``, naming the file, when it is missing, cut short or of another format.
    """
    if not path.is_file():
        raise InputError(f"no weights file {path}; check the path")
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a safetensors file, or is cut short; save or download it again"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def check_fit(module: nn.Module, state: Mapping[str, Tensor], source: str, cure: str) -> None:
    """Raise ``InputError`` unless ``state`` has the module's very keys, shapes and kinds.

    Also for numbers that are not finite: what such weights draw is wrong in silence.
    """
    expected = module.state_dict()
    kinds = {key: (_kind(state[key]), _kind(expected[key])) for key in expected if key in state}
    lists = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another kind": [f"{key} ({a} for {b})" for key, (a, b) in kinds.items() if a != b],
    }
    if any(lists.values()):
        wrong = "; ".join(f"{what}: {_some(names)}" for what, names in lists.items() if names)
        raise InputError(f"{source} does not fit {type(module).__name__}: {wrong}; {cure}")
    spoilt = [name for name, value in state.items() if not value.isfinite().all()]
    if spoilt:
        raise InputError(
            f"{source} holds numbers that are not finite, in {_some(spoilt)}: restore it, or train "
            "anew"
        )


def _kind(tensor: Tensor) -> str:
    """Shape, and whether the numbers are real: what must agree for a copy to keep its meaning."""
    return f"{'real' if tensor.is_floating_point() else 'integer'} {tuple(tensor.shape)}"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
