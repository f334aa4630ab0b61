"""A stopped ``predict`` goes on: the same files in the end, and never those of another question."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from more_lib.evaluation import writing
from more_lib.evaluation.output import Output
from more_lib.evaluation.resume import NAME, read_record
from more_lib.evaluation.writing import plan_predictions, write_predictions
from more_lib.figures.canvas import Picture
from more_lib.system.errors import InputError
from tests.evaluation.helpers import GREEN, GREY, PhotoModel, picture


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def bare_overlays(monkeypatch):
    monkeypatch.setattr(writing, "plot_prediction", lambda *_: Picture(figsize=(1, 1)))


@pytest.fixture
def write(photo_model, own_recipe):
    """Plans predictions and writes them; returns what the network was shown."""

    def planned_and_written(inputs, folder, model=photo_model, recipe=own_recipe, **options):
        kinds = {key: options.pop(key) for key in ("force", "resume", "npz") if key in options}
        plan = plan_predictions(recipe, [inputs], Output(folder, **kinds), **options)
        before = len(model.inputs)
        write_predictions(plan, model)
        return len(model.inputs) - before

    return planned_and_written


def contents(folder):
    """Every file but the record, which says in which order it was made."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def stop_at(monkeypatch, moment):
    """Ends the process, as it were, where the n-th file gets its name or record its line."""
    left = [moment]

    def counted(function, after):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0 and not after:
                raise Killed
            result = function(*arguments, **options)
            if left[0] == 0:
                raise Killed
            return result

        return call

    monkeypatch.setattr(Path, "replace", counted(Path.replace, after=moment % 2))
    monkeypatch.setattr(writing.Record, "add", counted(writing.Record.add, after=moment % 2))


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(1, 16))
def test_a_kill_at_any_moment_loses_and_changes_nothing(write, photos, tmp_path, moment):
    whole, out = tmp_path / "whole", tmp_path / "out"
    write(photos, whole, npz=True)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, moment)
        with pytest.raises(Killed):
            write(photos, out, npz=True)
    record = out / NAME
    done = len(record.read_text().splitlines()) - 1 if record.exists() else 0
    asked = write(photos, out, npz=True, resume=True)
    assert asked == 3 - done and contents(out) == contents(whole)
    assert write(photos, out, npz=True, resume=True) == 0
    assert contents(out) == contents(whole)


def test_a_line_cut_short_is_an_image_not_done(write, photos, tmp_path, capsys):
    out = tmp_path / "out"
    write(photos, out)
    whole, record = contents(out), out / NAME
    record.write_bytes(record.read_bytes()[:-9])
    assert write(photos, out, resume=True) == 1
    assert "2 of 3 images are done already, 1 are left" in capsys.readouterr().out
    assert contents(out) == whole and record.read_bytes().endswith(b"\n")
    assert write(photos, out, resume=True) == 0


def test_pictures_labels_and_files_that_are_others_now(write, photos, tmp_path):
    out, labels = tmp_path / "out", tmp_path / "labels.csv"
    labels.write_text("image,classes\ncat,cat\ndog,dog\nnothing,\n")
    write(photos, out, labels=labels)
    picture(GREY, GREEN).save(photos / "cat.png")
    assert write(photos, out, labels=labels, resume=True) == 1
    labels.write_text("image,classes\ncat,cat\ndog,dog;cat\nnothing,\n")
    assert write(photos, out, labels=labels, resume=True) == 1
    (out / "overlays/nothing.png").unlink()
    picture().save(photos / "new.png")
    labels.write_text(labels.read_text() + "new,cat\n")
    assert write(photos, out, labels=labels, resume=True) == 2
    write(photos, tmp_path / "anew", labels=labels)
    assert contents(out) == contents(tmp_path / "anew")
    corrected = out / "masks/dog.png"
    corrected.write_bytes(b"by hand")
    with pytest.raises(InputError, match=r"1 files were changed .*masks/dog.png: delete them"):
        write(photos, out, labels=labels, resume=True)
    assert corrected.read_bytes() == b"by hand"
    corrected.unlink()
    assert write(photos, out, labels=labels, resume=True) == 1
    assert contents(out) == contents(tmp_path / "anew")


def test_a_picture_that_came_back_after_a_kill(write, photos, tmp_path):
    out, whole = tmp_path / "out", (photos / "cat.png").read_bytes()
    write(photos, out)
    first = contents(out)
    picture(GREY, GREEN).save(photos / "cat.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing.Record, "add", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):  # after the new mask was written
            write(photos, out, resume=True)
    (photos / "cat.png").write_bytes(whole)
    assert write(photos, out, resume=True) == 1
    assert contents(out) == first


def test_other_pictures_come_after_those_of_earlier_calls_in_the_summary(write, photos, tmp_path):
    out, more = tmp_path / "out", tmp_path / "more"
    more.mkdir()
    picture().save(more / "new.png")
    write(photos, out)
    first = (out / "summary.csv").read_text()
    assert write(more, out, resume=True) == 1
    both = (out / "summary.csv").read_text()
    assert both.startswith(first) and both.removeprefix(first).startswith("new.png,")
    (out / "masks/new.png").unlink()  # and then it has no row
    assert write(photos, out, resume=True) == 0
    assert (out / "summary.csv").read_text() == first


def test_other_settings_and_networks_are_refused(write, own_recipe, photos, tmp_path):
    out = tmp_path / "out"
    write(photos, out)
    before = contents(out)
    evaluation = replace(own_recipe.evaluation, threshold=0.3)
    for options, told in (
        (dict(map="cam"), r"other settings \(map\)"),
        (dict(npz=True), r"other settings \(npz\)"),
        (dict(crf=True), r"other settings \(threshold, crf\)"),
        (dict(recipe=replace(own_recipe, evaluation=evaluation)), r"other settings \(threshold\)"),
        (dict(recipe=replace(own_recipe, seed=5)), r"other settings \(recipe\)"),
    ):
        with pytest.raises(InputError, match=told + r".*--force"):
            write(photos, out, resume=True, **options)
    other = PhotoModel().eval()
    other.tokens = torch.nn.Parameter(other.tokens + 1)
    with pytest.raises(InputError, match="begun with another network"):
        write(photos, out, model=other, resume=True)
    assert contents(out) == before and not other.inputs
    assert write(photos, out, model=other, force=True) == 3
    assert write(photos, out, model=other, resume=True) == 0


def test_refined_masks_and_others_do_not_mix(write, own_recipe, photos, tmp_path):
    """Neither way round, though a folder without refinement does not name it."""
    evaluation = replace(own_recipe.evaluation, refinement="par")
    refined = replace(own_recipe, evaluation=evaluation)
    for name, first, second in (("a", own_recipe, refined), ("b", refined, own_recipe)):
        write(photos, tmp_path / name, recipe=first)
        with pytest.raises(InputError, match=r"other settings \(refinement\)"):
            write(photos, tmp_path / name, recipe=second, resume=True)
        assert write(photos, tmp_path / name, recipe=first, resume=True) == 0
    assert "refinement" not in read_record(Output(tmp_path / "a")).settings


def test_another_process_that_begins_anew_meanwhile_is_not_believed(
    write, photos, tmp_path, monkeypatch
):
    out, plain, others = tmp_path / "out", writing.write_prediction, [True]

    def with_another_beside(*given):
        plain(*given)
        if others:
            others.clear()
            write(photos, out, map="cam", force=True)

    monkeypatch.setattr(writing, "write_prediction", with_another_beside)
    write(photos, out)
    record = read_record(Output(out))
    assert record.settings["map"] == "cam" and len(record.file.read_text().splitlines()) == 7
    assert [done["of"] for done in record.images.values()] == [record.key] * 3
    with pytest.raises(InputError, match="other settings"):
        write(photos, out, resume=True)


def test_what_the_present_refusal_advises(write, photos, tmp_path):
    out = tmp_path / "out"
    write(photos, out)
    with pytest.raises(InputError, match="go on with --resume, or overwrite them with --force"):
        write(photos, out)
    with pytest.raises(InputError, match="name another --output, or overwrite them with --force"):
        write(photos, out, map="cam")
    with pytest.raises(InputError, match="give one of them"):
        write(photos, out, resume=True, force=True)
    (out / NAME).unlink()
    with pytest.raises(InputError, match=r"holds 8 of the files .* with --force"):
        write(photos, out, resume=True)  # they may be anybody's
    for text in ("no record\n", "", json.dumps({"settings": {}}) + "\n"):
        (out / NAME).write_text(text)
        with pytest.raises(InputError, match="is no record of predictions"):
            write(photos, out, resume=True)
    assert write(photos, out, force=True) == 3


def test_a_forced_run_that_was_stopped_goes_on(write, photos, tmp_path):
    out = tmp_path / "out"
    write(photos, out, map="cam")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(Killed):
            write(photos, out, force=True)
    write(photos, out, resume=True)
    write(photos, tmp_path / "anew")
    assert contents(out) == contents(tmp_path / "anew")


def test_files_of_names_that_are_no_utf_8_are_left_out(write, photos, tmp_path, capsys):
    out, latin = tmp_path / "out", photos / os.fsdecode(b"caf\xe9.png")
    picture().save(latin)
    with pytest.raises(InputError, match=r"1 of 4 images: .*caf\\xe9.png has a name .*rename"):
        write(photos, out)
    assert write(photos, out, skip_bad=True) == 3
    assert r"caf\xe9.png has a name" in capsys.readouterr().out
    assert r"caf\xe9.png," in (out / "skipped.csv").read_text(encoding="utf-8")
