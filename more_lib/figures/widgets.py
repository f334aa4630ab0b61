"""Sliders for a reader, nothing for a batch: a second view of a figure already drawn."""

from collections.abc import Callable

from more_lib.system.progress import interactive


def explore(draw: Callable, **controls) -> None:
    """Let a reader turn the arguments of ``draw``, which returns a figure.

    ``controls`` are those of ``ipywidgets.interact``: (low, high, step) is a slider, a list a
    menu. Does nothing, and stores nothing in the notebook, where nobody sits before it: in a
    batch, in tests, and wherever ``MORE_PROGRESS=0``.
    """
    if interactive():
        import ipywidgets

        ipywidgets.interact(draw, **controls)
