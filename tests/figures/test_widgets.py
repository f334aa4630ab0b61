"""Widgets show where somebody watches and nowhere else."""

import sys
import types

from more_lib.figures.widgets import explore


def test_widgets_are_built_for_a_reader_only(monkeypatch):
    asked = []
    stand_in = types.SimpleNamespace(interact=lambda draw, **controls: asked.append(controls))
    monkeypatch.setitem(sys.modules, "ipywidgets", stand_in)
    for watched, expected in (("0", []), ("1", [{"threshold": (0, 1)}])):
        monkeypatch.setenv("MORE_PROGRESS", watched)
        explore(print, threshold=(0, 1))
        assert asked == expected
