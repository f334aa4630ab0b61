"""Resume: a run that was killed ends as if it had not been, and bad checkpoints do no harm."""

import errno
import io
import os
import pickle
import re
import signal
from multiprocessing import get_context
from unittest.mock import Mock

import pytest
import torch

from more_lib.recipes.loading import changed
from more_lib.system.errors import InputError
from more_lib.system.files import sha256
from more_lib.training import cache as training
from more_lib.training import resume
from more_lib.training.cache import TRAINING_VERSION, cached_folder, train, train_or_load
from more_lib.training.log import TrainingLog
from more_lib.training.resume import KEPT, checkpoints, newest_checkpoint
from tests.training.helpers import log_of, same_weights, small_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Eight iterations that draw random numbers, cross an epoch and end in mid-line.

    Quick: 4×4 patches, without the decoder's losses, which cost most and keep no state.
    """
    settings = """data.crop_size=32 optimizer.iterations=8 optimizer.warmup_iterations=3
        optimizer.log_every=3 optimizer.checkpoint_every=2 schedule.segmentation=8"""
    return small_recipe(tmp_path_factory.mktemp("start"), *settings.split(), train=7)


@pytest.fixture(scope="module")
def uninterrupted(recipe, tmp_path_factory):
    return train(recipe, tmp_path_factory.mktemp("whole") / "run")


def interrupt(monkeypatch, recipe, folder, after):
    """Train until ``after`` iterations are done, then break off."""
    write = TrainingLog.write

    def breaks(self, step, *rest):
        if step == after:
            raise KeyboardInterrupt
        write(self, step, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingLog, "write", breaks)
        train(recipe, folder)


def train_until_killed(recipe, folder, threads):
    """Train, in a process of its own, up to SIGKILL in the middle of the third checkpoint."""
    torch.set_num_threads(threads)
    save = torch.save

    def killed_at_the_third(state, file):
        save(state, file)
        if state["iteration"] == 6:
            file.truncate(file.tell() // 2)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = killed_at_the_third
    train(recipe, folder)


def test_a_run_killed_while_it_writes_a_checkpoint_ends_bitwise_the_same(
    recipe, uninterrupted, tmp_path, capsys
):
    """The log is ahead of the second checkpoint then."""
    given = (recipe, tmp_path / "run", torch.get_num_threads())
    killed = get_context("spawn").Process(target=train_until_killed, args=given)
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    kept = tmp_path / "run" / "checkpoints"
    assert [path.name for path in checkpoints(kept)] == ["iteration_00000002", "iteration_00000004"]
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2  # 3 and 6
    resumed = train(recipe, tmp_path / "run", resume=True)
    assert "resumes after iteration 4" in capsys.readouterr().out
    assert same_weights(resumed, uninterrupted)
    assert log_of(resumed) == log_of(uninterrupted)
    assert [line["iteration"] for line in resumed.log()] == [3, 6, 8]
    assert resumed.record["weights_sha256"] == uninterrupted.record["weights_sha256"]
    assert len(list(kept.iterdir())) == KEPT  # what the kill left half-written is gone


def test_resume_with_workers_and_accumulated_batches(recipe, tmp_path, monkeypatch):
    settings = ["data.workers=1", "optimizer.accumulate=2", "optimizer.iterations=4"]
    recipe = changed(recipe, settings)
    whole = train(recipe, tmp_path / "whole")
    interrupt(monkeypatch, recipe, tmp_path / "run", 3)
    assert same_weights(train(recipe, tmp_path / "run", resume=True), whole)


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    recipe, uninterrupted, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    interrupt(monkeypatch, recipe, folder, 7)
    state = folder / "checkpoints" / "iteration_00000006" / "state.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1  # one bit among the weights
    state.write_bytes(content)
    with pytest.warns(UserWarning, match="iteration_00000006 is damaged"):
        resumed = train(recipe, folder, resume=True)
    assert same_weights(resumed, uninterrupted)
    origin = torch.load(state, weights_only=True)["origin"]  # the checkpoint is written anew
    assert newest_checkpoint(folder / "checkpoints", origin)["iteration"] == 6


def test_checkpoints_run_no_code_and_may_all_be_damaged(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    other = io.BytesIO()
    torch.save({"origin": {}}, other)  # plain, and no state of a training
    for number, content in enumerate((pickle.dumps(Bomb()), b"", None, other.getvalue())):
        path = tmp_path / f"iteration_{number:08d}"
        path.mkdir()
        if content is not None:
            (path / "state.pt").write_bytes(content)
            (path / "sha256").write_text(sha256(path / "state.pt"))
    with pytest.warns(UserWarning) as warned:
        assert newest_checkpoint(tmp_path, {}) is None
    said = " ".join(str(warning.message) for warning in warned)
    assert re.findall(r"iteration_0000000(\d) is damaged", said) == ["3", "2", "1", "0"]
    assert not (tmp_path / "ran").exists()


def test_resume_refuses_another_recipe_and_names_what_differs(recipe, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    interrupt(monkeypatch, recipe, folder, 3)
    with pytest.raises(InputError, match="unfinished training; go on with --resume"):
        train(recipe, folder)  # is not begun anew by accident
    other = changed(recipe, ["optimizer.lr=1e-3", "lir.phi=1.1", "optimizer.accumulate=2"])
    with pytest.raises(InputError) as error:
        train(other, folder, resume=True)
    assert (
        "another training (lir.phi 1.2 there, 1.1 here; optimizer.accumulate the default there, "
        "2 here; optimizer.lr 0.0002 there, 0.001 here)"
    ) in str(error.value)
    assert "\n" not in str(error.value)
    with monkeypatch.context() as patch:
        patch.setattr(training, "TRAINING_VERSION", 1)
        with pytest.raises(InputError, match=f"training_version {TRAINING_VERSION} there, 1 here"):
            train(recipe, folder, resume=True)
    # What decides no weight may change.
    train(changed(recipe, ["optimizer.checkpoint_every=3"]), folder, resume=True)


def test_resume_without_a_checkpoint_says_so_and_after_the_end_loads(
    recipe, uninterrupted, tmp_path, capsys
):
    train(changed(recipe, ["optimizer.iterations=1"]), tmp_path / "new", resume=True)
    said = capsys.readouterr().out
    assert f"{tmp_path / 'new'} has no checkpoint: the training starts from the beginning" in said
    again = train(recipe, uninterrupted.folder, resume=True)
    assert again.loaded and same_weights(again, uninterrupted)


def test_the_cached_training_resumes_by_itself(recipe, uninterrupted, monkeypatch, capsys):
    interrupt(monkeypatch, recipe, cached_folder(recipe), 5)
    trained = train_or_load(recipe)
    assert "resumes after iteration 4" in capsys.readouterr().out
    assert trained.folder == cached_folder(recipe) and same_weights(trained, uninterrupted)


def test_a_full_disk_is_told_as_what_it_is(tmp_path, monkeypatch):
    """torch closes its archive when a write has failed, which fails as well."""

    def save(*_):
        try:
            raise OSError(errno.ENOSPC, "no space left")
        finally:
            raise RuntimeError("unexpected pos")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError) as error:
        resume._save({}, tmp_path / "state.pt")
    assert error.value.errno == errno.ENOSPC
    monkeypatch.setattr(torch, "save", Mock(side_effect=RuntimeError("of its own")))
    with pytest.raises(RuntimeError, match="of its own"):
        resume._save({}, tmp_path / "state.pt")
