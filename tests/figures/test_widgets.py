"""Widgets show where somebody watches and nowhere else."""

import sys
import types

from more_lib.figures.widgets import explore


def test_widgets_are_built_for_a_reader_only(monkeypatch):
    asked = []
    stand_in = types.SimpleNamespace(interact=lambda draw, **controls: asked.append(controls))
    monkeypatch.setitem(sys.modules, "ipywidgets", stand_in)
    monkeypatch.setenv("MORE_PROGRESS", "0")
    explore(print, threshold=(0, 1))
    assert asked == []
    monkeypatch.setenv("MORE_PROGRESS", "1")
    explore(print, threshold=(0, 1))
    assert asked == [{"threshold": (0, 1)}]
