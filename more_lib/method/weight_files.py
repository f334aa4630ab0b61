"""Files of pretrained backbones, found and told apart without loading timm or torch."""

from importlib import resources
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from more_lib.system.errors import InputError
from more_lib.system.files import absolute, sha256

MINI_WIDTHS = {"mini": 192, "mini_w96": 96, "mini_w48": 48}  # what ships, and its width


def mini_weights(name: str = "mini") -> Path:
    """The safetensors file that ships for a name of ``MINI_WIDTHS``; its record lies beside it."""
    file = name.replace("mini", "mini_vit", 1) + ".safetensors"
    return Path(str(resources.files("more_lib.method") / "weights" / file))


def backbone_file(name: str, weights: str = "") -> Path | None:
    """The local weights file that ``load_backbone`` will read; ``None`` for timm's own download."""
    if weights:
        return absolute(weights)
    return mini_weights(name) if name in MINI_WIDTHS else None


def downloaded_file(repository: str, file: str | None = None) -> Path | None:
    """What an earlier use left of a repository, mostly ``timm/NAME``, in the Hugging Face cache.

    file: its name there, where it is none that timm looks for by itself.
    """
    names = [file] if file else ["model.safetensors", "pytorch_model.bin"]
    files = (try_to_load_from_cache(repository, name) for name in names)
    # What is no text means that nothing is known, or that the file is known not to exist.
    return next((Path(file) for file in files if isinstance(file, str)), None)


def backbone_identity(name: str, weights: str = "") -> str:
    """What tells these pretrained weights from others: their file's sha256, or timm's source."""
    file = backbone_file(name, weights)
    if file is None:
        return f"timm:{name}"
    require_file(file)
    return sha256(file)


def require_file(weights: Path) -> None:
    if not weights.is_file():
        raise InputError(f"backbone.weights {weights} does not exist; give a safetensors file")
