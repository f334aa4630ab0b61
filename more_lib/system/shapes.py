"""One check of the shapes that several tensors must have together, and one wording of its error."""

from typing import Protocol

from more_lib.system.errors import InputError


class Shaped(Protocol):
    """A tensor or an array."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def check_shapes(**given: tuple[Shaped, str]) -> dict[str, int]:
    """Raise ``InputError`` unless tensors have the shapes they should have together.

    Each is given by its name, with its dimensions as text: ``features=(features, "B D h w")``. A
    letter or word stands for one size, the same wherever it occurs; a number for itself; ``...`` in
    front for any number of further dimensions. Returns the sizes by their names.

    The message names every tensor with its shape, and what the shapes must be.
    """
    sizes: dict[str, int] = {}
    if all(_fits(tuple(tensor.shape), text.split(), sizes) for tensor, text in given.values()):
        return sizes
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, (tensor, _) in given.items())
    wanted = ", ".join(f"({', '.join(text.split())})" for _, text in given.values())
    raise InputError(f"{shapes} must be {wanted}")


def _fits(shape: tuple[int, ...], names: list[str], sizes: dict[str, int]) -> bool:
    if names[0] == "...":
        names = names[1:]
        shape = shape[max(len(shape) - len(names), 0) :]
    return len(shape) == len(names) and all(
        size == (int(name) if name.isdigit() else sizes.setdefault(name, size))
        for size, name in zip(shape, names, strict=True)
    )
