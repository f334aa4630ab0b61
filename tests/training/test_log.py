"""What a training says of itself: the same numbers for TensorBoard as in its log."""

import sys
from pathlib import Path

import pytest

from more_lib.system.errors import InputError
from more_lib.training import log, train
from tests.training.helpers import small_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    settings = ("optimizer.iterations=3", "optimizer.log_every=1", "schedule.segmentation=2")
    return small_recipe(tmp_path_factory.mktemp("start"), *settings)


def test_tensorboard_gets_the_lines_of_the_log(recipe, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trained = train(recipe, tmp_path / "run", tensorboard=True)
    board = accumulator.EventAccumulator(str(trained.folder / "tensorboard"))
    board.Reload()
    for name in trained.log()[-1].keys() - {"iteration"}:
        expected = {line["iteration"]: line[name] for line in trained.log() if name in line}
        scalars = {event.step: event.value for event in board.Scalars(name)}
        assert scalars == pytest.approx(expected, rel=1e-6)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_full_disk_ends_a_training_in_one_line_that_names_the_log(recipe, tmp_path, monkeypatch):
    full = Path("/dev/full")
    monkeypatch.setattr(log, "_continued", lambda path, start: full.open("a", buffering=1))
    said = f"cannot write {tmp_path / 'run'}.*no space left on the disk; free some, or name another"
    with pytest.raises(InputError, match=said):
        train(recipe, tmp_path / "run")


def test_tensorboard_without_its_package_is_refused(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        train(recipe, tmp_path / "run", tensorboard=True)
    train(recipe, tmp_path / "done")
    train(recipe, tmp_path / "done", resume=True, tensorboard=True)
    assert "no log for TensorBoard: the training is done already" in capsys.readouterr().out
