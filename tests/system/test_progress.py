"""Bars show where somebody watches and nowhere else."""

import sys

from more_lib.system.progress import interactive, progress_bar


def test_the_switch_rules_over_everything(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("MORE_PROGRESS", "0")
    assert not interactive() and progress_bar(range(3)).disable
    monkeypatch.setenv("MORE_PROGRESS", "1")
    assert interactive() and not progress_bar(range(3)).disable
    assert list(progress_bar(range(3))) == [0, 1, 2]
    monkeypatch.delenv("MORE_PROGRESS")  # then a pipe stays clean
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert not interactive()
