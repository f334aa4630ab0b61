"""Sliders for a reader, nothing for a batch: a second view of a figure already drawn."""

from collections.abc import Callable
from html import escape
from inspect import signature
from threading import Lock

from more_lib.figures.canvas import Picture
from more_lib.system.errors import InputError
from more_lib.system.progress import interactive


def explore(draw: Callable[..., Picture], **controls: object) -> None:
    """Let a reader turn the arguments of ``draw``.

    ``controls`` are those of ``ipywidgets.interact``: (low, high, step) is a slider, a list a menu;
    they begin at the defaults of ``draw``, if it has any. An ``InputError`` of it is said in a
    line, below the figure drawn last. Does nothing, and stores nothing in the notebook, where
    nobody sits before it: in a batch, in tests, and wherever ``MORE_PROGRESS=0``.
    """
    if not interactive():
        return
    import ipywidgets
    from IPython.display import display

    # Not ``interact`` itself: what is captured by its Output widget makes Voilà wait for ever, now
    # and then. JupyterLab may hand over what is turned in two threads at once: hence the lock.
    parameters, turn = signature(draw).parameters, Lock()
    widget = ipywidgets.interactive.widget_from_abbrev
    turned = {name: widget(each, parameters[name].default) for name, each in controls.items()}
    image, message = ipywidgets.Image(), ipywidgets.HTML()

    def show(_: object = None) -> None:
        with turn:
            try:
                figure = draw(**{name: control.value for name, control in turned.items()})
                image.value, message.value = figure.png(), ""
            except Exception as error:
                message.value = f"<b>{escape(str(error) or type(error).__name__)}</b>"
                if not isinstance(error, InputError):
                    raise  # into the log

    for name, control in turned.items():
        control.description = name
        control.observe(show, "value")
    show()
    display(ipywidgets.VBox([*turned.values(), image, message]))
