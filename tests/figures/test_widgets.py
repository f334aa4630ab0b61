"""Widgets show where somebody watches and nowhere else."""

import IPython.display
import ipywidgets
import pytest

from more_lib.figures.canvas import Picture
from more_lib.figures.widgets import explore
from more_lib.system.errors import InputError


@pytest.fixture
def shown(monkeypatch):
    """What notebooks would show to a reader."""
    boxes = []
    monkeypatch.setattr(IPython.display, "display", boxes.append)
    monkeypatch.setenv("MORE_PROGRESS", "1")
    return boxes


def square(side=2, name="a"):
    if side == 4:
        raise InputError("<4> is too large")
    return Picture((side, side), dpi=10)


def test_widgets_are_built_for_a_reader_only(shown, monkeypatch):
    monkeypatch.setenv("MORE_PROGRESS", "0")
    explore(print, threshold=(0, 1))
    assert not shown


def test_what_is_turned_is_drawn_again(shown):
    explore(square, side=(1, 4), name=["b", "a"])
    side, name, image, _ = shown[0].children
    assert isinstance(side, ipywidgets.IntSlider) and isinstance(name, ipywidgets.Dropdown)
    assert (side.description, side.min, side.max, side.value) == ("side", 1, 4, 2)
    assert (name.description, name.value) == ("name", "a")  # the function's default, not the first
    assert image.value == square(2).png()
    side.value = 3
    assert image.value == square(3).png() != square(2).png()


def test_a_refused_value_is_said_and_keeps_the_last_figure(shown):
    explore(square, side=(1, 4))
    side, image, message = shown[0].children
    side.value = 4
    assert "&lt;4&gt; is too large" in message.value and image.value == square(2).png()
    side.value = 1
    assert message.value == "" and image.value == square(1).png()


def test_a_fault_of_the_drawing_is_said_and_raised(shown):
    explore(lambda side: square(2 // (side - 1)), side=(1, 3))
    side, image, message = shown[0].children
    with pytest.raises(ZeroDivisionError):
        side.value = 1
    assert "by zero" in message.value and image.value == square(2).png()


def test_controls_need_no_default_and_no_name_of_their_own(shown):
    explore(lambda position: square(position), position=(1, 3))
    assert shown[0].children[0].value == 2  # the middle, as ipywidgets has it
