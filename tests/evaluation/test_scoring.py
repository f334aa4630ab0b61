"""Scores of the three images, counted by hand, and how they are kept."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from accelerate import PartialState
from PIL import Image
from torch.multiprocessing import start_processes

from more_lib.evaluation import scoring
from more_lib.evaluation.elsewhere import recipe_elsewhere
from more_lib.evaluation.protocols import map_protocol, table_protocols
from more_lib.evaluation.results import format_table, rows
from more_lib.evaluation.scoring import evaluate, evaluate_or_load, evaluate_protocols, score
from more_lib.system import locks
from more_lib.system.errors import InputError
from tests.evaluation import helpers
from tests.evaluation.helpers import ColourModel, named, protocols_of, recipe_with, set_split

TRUE_CAM = [[111, 8, 0], [0, 56, 0], [1, 0, 15]]
PREDICTED_CAM = [[96, 23, 0], [32, 24, 0], [16, 0, 0]]
UNTRAINED = "not trained by this recipe"


def of(evaluation, map, labels="true"):
    return evaluation.result(map, labels).matrix.tolist()


def test_cam_by_hand(model, recipe):
    """Upsampled to 8x8, half an image stays half of it, and one patch of four keeps 15 pixels.

    (A patch's profile is 1, 1, 7/8, 5/8 from the edge inwards: only 5/8 x 5/8 is below 0.5.)
    Predicted labels change the class of one image and empty another. By red the two cats rank
    first and third, by green the dog ranks first. To the tokens the cats rank likewise, by blue,
    the dog second, by what is not red.
    """
    evaluation = evaluate(model, recipe)
    assert of(evaluation, "cam") == TRUE_CAM
    found = evaluation.result("cam").scores
    np.testing.assert_allclose(found.iou, [111 / 120, 56 / 64, 15 / 16])
    assert found.miou == pytest.approx(0.9125)
    assert found.summary()["confusion_ratio"] == pytest.approx((8 / 56 + 0) / 2)
    assert of(evaluation, "cam", "predicted") == PREDICTED_CAM
    assert evaluation.result("cam", "true").note == ""
    assert evaluation.result("cam", "predicted").note.endswith("all background: 1")
    assert evaluation.image_map == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert evaluation.token_map == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert evaluation.num_images == 3


def test_an_image_without_a_class_is_a_wrong_answer_for_each(model, recipe, tmp_path):
    """The cat is red, and less blue than what is none; nothing is a dog."""
    folder = helpers.make_folder(tmp_path / "own", "cat", colours=((255, 0, 60), (0, 0, 255)))
    (folder / "labels.csv").write_text("image,classes\na.png,cat\nb.png,\n")
    found = evaluate(model, recipe_elsewhere(recipe, folder), maps=["lam"])
    assert (found.image_map, found.token_map) == (1, 0.5)


def test_tokens_that_no_loss_classifies_have_no_map_whatever_they_say(model, root):
    model.tokens.data.fill_(float("nan"))
    trained = evaluate(model, recipe_with(root, "loss.token_classification=0"), maps=["cam"])
    assert trained.token_map is None and trained.image_map == pytest.approx(11 / 12)


@pytest.mark.parametrize("scales", ["[0.5, 1.0]", "[0.5]", "[2.0]"])
def test_tokens_are_read_out_of_the_images_as_they_are_at_any_scales(model, root, scales):
    recipe = recipe_with(root, f"evaluation.scales={scales}")
    assert evaluate(model, recipe, maps=["lam"]).token_map == pytest.approx(2 / 3)
    assert len(model.inputs) == 2 * len({1.0, *recipe.evaluation.scales})  # in no view of their own
    squares = score(model, recipe, named(recipe, "lam-log"))
    assert squares.token_map == pytest.approx(2 / 3)


def test_other_maps_by_hand(model, recipe, root):
    set_split(root, "named")
    evaluation = evaluate(model, recipe)
    assert of(evaluation, "lam") == [[20, 19, 0], [12, 12, 0], [0, 0, 0]]  # the four upper rows
    assert of(evaluation, "fused") == [[36, 3, 0], [12, 12, 0], [0, 0, 0]]  # 15 pixels, top left
    assert of(evaluation, "attention") == [[8, 31, 0], [24, 0, 0], [0, 0, 0]]  # the right half


@pytest.mark.parametrize(
    ("weight", "start", "note"), [(0, 0, UNTRAINED), (0.1, 359, ""), (0.1, 360, UNTRAINED)]
)
def test_decoder_asks_for_no_labels_and_counts_as_trained_once_its_loss_sets_in(
    model, root, weight, start, note
):
    changes = (f"loss.segmentation={weight}", f"schedule.segmentation={start}")
    recipe = recipe_with(root, *changes, "optimizer.iterations=360")
    (decoder,) = evaluate(model, recipe, maps=["decoder"]).results
    assert decoder.protocol == map_protocol(recipe, "decoder", "none")
    # Red above 0.5: half of `named`, a patch of `mistaken`, nothing of `missed`.
    assert decoder.matrix.tolist() == [[31 + 33 + 32, 8 + 15, 0], [32, 24, 0], [16, 0, 0]]
    assert decoder.note == note
    assert model.inputs == [(2, 3, 8, 8), (1, 3, 8, 8)]  # it needs no mirror image


def test_rows_are_maps_times_labels_of_one_pass(model, root):
    recipe = recipe_with(root, "evaluation.scales=[1.0, 2.0]", "evaluation.threshold=0.4")
    *protocols, decoder = (result.protocol for result in evaluate(model, recipe).results)
    wanted = product(("attention", "cam", "lam", "fused"), ("true", "predicted"))
    assert [(p.map, p.labels) for p in protocols] == list(wanted)
    assert {(p.scales, p.threshold) for p in protocols} == {((1.0, 2.0), 0.4)}
    assert (decoder.map, decoder.labels) == ("decoder", "none")
    assert model.inputs == [(4, 3, 8, 8), (4, 3, 16, 16), (2, 3, 8, 8), (2, 3, 16, 16)]


def test_threshold_sweep(model, recipe):
    protocol = map_protocol(recipe, "cam", "predicted")
    protocols = [replace(protocol, threshold=threshold) for threshold in (0.3, 0.5, 0.7)]
    results = score(model, recipe, protocols).results
    assert len(model.inputs) == 2  # one pass for all
    assert [result.protocol for result in results] == protocols
    assert results[1].matrix.tolist() == PREDICTED_CAM
    foreground = [result.matrix[:, 1:].sum() for result in results]
    assert foreground[0] > foreground[1] > foreground[2]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m, r: evaluate(m, r, maps=["cam", "seeds"]), "maps holds seeds; .* decoder"),
        (lambda m, r: evaluate(m, r, labels=["false"]), "labels holds false; .* predicted"),
        (lambda m, r: evaluate(m, r, maps=[]), "maps is empty"),
        (lambda m, r: evaluate(m, r).result("seed"), "'seed'.*cam with labels predicted"),
    ],
)
def test_bad_input(model, recipe, call, message):
    with pytest.raises(InputError, match=message):
        call(model, recipe)


def test_the_second_student_is_named_beside_its_scores(model, recipe):
    model.students = torch.nn.ModuleList([ColourModel(), ColourModel()])
    protocol = replace(map_protocol(recipe, "cam", "true"), student=2)
    (result,) = score(model, recipe, [protocol]).results
    assert result.note == "of student 2" and result.matrix.tolist() == TRUE_CAM
    assert [bool(each.inputs) for each in (model, *model.students)] == [False, False, True]


@pytest.fixture
def trained(recipe, tmp_path):
    (tmp_path / "trained").mkdir()
    return helpers.trained_on(recipe, tmp_path / "trained")


@pytest.mark.parametrize(
    "change",
    [
        "evaluation.threshold=0.3",
        "evaluation.precision=bf16",
        "data.val_split=half",
        "ids",
        "masks",
        "code",
    ],
)
def test_cache_knows_protocol_data_and_code(trained, root, monkeypatch, change):
    set_split(root, "named", split="half")
    evaluate_or_load(trained)
    if "=" in change:
        trained.recipe = recipe_with(root, change)
    elif change == "ids":
        set_split(root, "named")
    elif change == "masks":
        mask = root / "SegmentationClass/named.png"
        mask.write_bytes(mask.read_bytes() + b"longer")
    else:
        monkeypatch.setattr("more_lib.evaluation.scoring.SCORING_VERSION", 1000)
    again = evaluate_or_load(trained)
    assert len(list(trained.folder.iterdir())) == 2
    assert again.num_images == (1 if change in ("data.val_split=half", "ids") else 3)


@pytest.mark.parametrize(("refinement", "kept"), [("par", 3), ("none", 1)])
def test_scores_of_a_released_network_know_how_maps_were_refined(trained, root, refinement, kept):
    trained.record["released"] = "more_voc.pth"  # no training has tied it to these values
    for masks in ("dilations=[1]", "dilations=[2]", "refinements=1"):
        changes = f"evaluation.refinement={refinement}", f"masks.{masks}"
        trained.recipe = recipe_with(root, *changes)
        evaluate_or_load(trained)
    assert len(list(trained.folder.iterdir())) == kept


def test_cache_spares_the_model_and_is_named_if_damaged(trained):
    first = evaluate_or_load(trained)
    (file,) = trained.folder.iterdir()
    trained.model = None  # it is spared
    assert evaluate_or_load(trained).to_json() == first.to_json()
    file.write_text(file.read_text()[:100])
    with pytest.raises(InputError, match=f"{file.name} is damaged: delete it"):
        evaluate_or_load(trained)


def test_of_two_at_once_one_scores_and_the_other_finds_it(trained, monkeypatch):
    monkeypatch.setattr(locks, "POLL", 0.01)
    passes, score_one = [], scoring.score

    def slowly(*given, **more):
        passes.append(more["notes"])
        time.sleep(0.2)
        return score_one(*given, **more)

    monkeypatch.setattr(scoring, "score", slowly)
    with ThreadPoolExecutor() as pool:
        one, other = pool.map(evaluate_or_load, [trained, trained])
    assert len(passes) == 1 and one.to_json() == other.to_json()
    assert len(list(trained.folder.iterdir())) == 1  # no lock, no notes


def test_a_pass_whose_result_could_not_be_kept_is_not_lost(trained, monkeypatch):
    monkeypatch.setattr(scoring, "SAVE_EVERY", 1)
    with monkeypatch.context() as killed, pytest.raises(InterruptedError):
        killed.setattr(scoring.Evaluation, "to_json", Mock(side_effect=InterruptedError))
        evaluate_or_load(trained)
    views, (note,) = len(trained.model.inputs), trained.folder.iterdir()
    assert evaluate_or_load(trained).num_images == 3
    assert len(trained.model.inputs) == views and len(list(trained.folder.iterdir())) == 1
    note.touch()  # as by one who was killed between the result and the notes
    evaluate_or_load(trained)
    assert not note.exists()


def test_a_pass_that_another_version_left_begins_anew(trained, monkeypatch):
    monkeypatch.setattr(scoring, "SAVE_EVERY", 1)
    with monkeypatch.context() as older, pytest.raises(InterruptedError):
        older.setattr(scoring, "SCORING_VERSION", 4)
        older.setattr(scoring.Evaluation, "to_json", Mock(side_effect=InterruptedError))
        evaluate_or_load(trained)
    views = len(trained.model.inputs)
    assert evaluate_or_load(trained).token_map == pytest.approx(2 / 3)
    assert len(trained.model.inputs) == 2 * views


def test_protocols_share_a_pass_and_are_kept_one_by_one(trained, root):
    set_split(root, "named", split="train")
    names = "lam-log-native", "cam-log-native", "decoder-log-native", "lam-train"
    protocols = named(trained.recipe, *names)
    found = evaluate_protocols(trained, protocols)
    assert [len(each.results) for each in found] == [1, 1, 1, 1]
    assert [each.results[0].protocol for each in found] == protocols
    assert [each.num_images for each in found] == [3, 3, 3, 1]
    assert found[1].results[0].matrix.tolist() == TRUE_CAM
    # Two batches of val and one of train, each with its mirror image.
    assert [size[0] for size in trained.model.inputs] == [4, 2, 2]
    assert len(list(trained.folder.iterdir())) == 4
    mixed = named(trained.recipe, "cam-log", "decoder-val-native", "decoder-log", "lam-log-native")
    others = evaluate_protocols(trained, mixed)
    assert [each.results[0].protocol for each in others] == mixed
    assert others[3].to_json() == found[0].to_json()
    # Squares have a pass of their own, in parts: 576 patches a view.
    passes = [(2, 3, 96, 96)] * 3 + [(n, 3, 8, 8) for n in (4, 2)]
    assert trained.model.inputs[3:] == passes
    trained.model = None  # it is spared
    again = evaluate_protocols(trained, protocols[::-1])
    assert [each.to_json() for each in again] == [each.to_json() for each in found[::-1]]


def one_shard(index, port, root, folder):
    torch.set_num_threads(1)  # the parent's threads do not survive the fork
    PartialState._reset_state()
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    model, recipe = ColourModel(), recipe_with(root)
    found = score(model, recipe, protocols_of(recipe), notes=folder / "notes")
    (folder / f"{index}.json").write_text(found.to_json())
    (folder / f"{index}.txt").write_text(str(sum(size[0] for size in model.inputs)))


def test_two_processes_find_what_one_does(root, tmp_path):
    """In another order as well, and in other batches."""
    names, model = helpers.many(root, dogs=(0, 5)), ColourModel()
    set_split(root, *names[::-1])
    recipe = recipe_with(root, "evaluation.batch_size=5")
    found = score(model, recipe, protocols_of(recipe))
    alone, apart = found.to_json(), {found.image_map, found.token_map}
    assert len(apart) == 2 and 0 < min(apart) < max(apart) < 1  # the order of logits matters
    set_split(root, *names)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (port, root, tmp_path)
    context = start_processes(one_shard, arguments, 2, join=False, start_method="fork")
    assert context.join(timeout=60) or context.join(timeout=60)
    assert [(tmp_path / f"{index}.json").read_text() for index in (0, 1)] == [alone, alone]
    views = [int((tmp_path / f"{index}.txt").read_text()) for index in (0, 1)]
    assert sum(views) == sum(size[0] for size in model.inputs) and views[0] / 5 == views[1] / 4


def killed_pass(index, root, notes):
    """A pass whose process dies at the fourth batch."""
    torch.set_num_threads(1)
    recipe, model = recipe_with(root, "evaluation.batch_size=1"), ColourModel()
    model.register_forward_pre_hook(
        lambda *_: os.kill(os.getpid(), signal.SIGKILL) if len(model.inputs) == 3 else None
    )
    score(model, recipe, protocols_of(recipe), notes=notes)


def test_a_killed_pass_goes_on_and_counts_the_same(root, tmp_path, monkeypatch):
    helpers.many(root, dogs=(0, 5))  # the first one's logits are in the note
    monkeypatch.setattr("more_lib.evaluation.scoring.SAVE_EVERY", 2)
    recipe, model = recipe_with(root, "evaluation.batch_size=1"), ColourModel()
    found = score(model, recipe, protocols_of(recipe))
    whole = found.to_json()
    assert 0 < found.token_map < 1
    arguments = (root, tmp_path / "notes")
    context = start_processes(killed_pass, arguments, 1, join=False, start_method="fork")
    with pytest.raises(Exception, match="SIGKILL"):
        context.join(timeout=60)
    (note,) = tmp_path.glob("notes*")
    assert note.name == "notes.0-of-1.npz"
    with np.load(note) as kept:
        assert len(kept["logits"]) == len(kept["token_logits"]) == 2
    resumed = ColourModel()
    found = score(resumed, recipe, protocols_of(recipe), notes=tmp_path / "notes")
    assert found.to_json() == whole
    assert len(resumed.inputs) == len(model.inputs) * 7 // 9


@pytest.mark.parametrize("content", [b"PK\x03\x04 and no more", b"", "an array"])
def test_a_damaged_note_is_named(model, recipe, tmp_path, content):
    note = tmp_path / "notes.0-of-1.npz"
    if content == "an array":  # alone, where an archive of them is expected
        with note.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        note.write_bytes(content)
    with pytest.raises(InputError, match="notes.0-of-1.npz is damaged.*delete it"):
        score(model, recipe, table_protocols(recipe), notes=tmp_path / "notes")


def test_no_masks(model, recipe, root):
    messages = {
        "missed": r"missed.png is missing: restore it, or take its id",
        "named": r"named.png is missing \(and 1 more masks\)",
        "mistaken": "'val' of .*tree has no pixel masks.*--export.*predict",
    }
    for name, message in messages.items():
        (root / f"SegmentationClass/{name}.png").unlink()
        with pytest.raises(InputError, match=message):
            evaluate(model, recipe)
    assert model.inputs == []


def test_masks_of_0_and_255_are_no_score(model, recipe, root):
    for name in ("named", "missed", "mistaken"):
        path = root / f"SegmentationClass/{name}.png"
        Image.fromarray(np.where(np.asarray(Image.open(path)), 255, 0).astype(np.uint8)).save(path)
    with pytest.raises(InputError, match="shows cat .2 images. and dog .1 image.*save cat as 8"):
        evaluate(model, recipe)
    assert model.inputs == []


def test_a_doubt_is_said_once_and_goes_with_every_number_that_is_kept(trained, root, capsys):
    names = helpers.many(root, 4)
    for name in names:  # the background is a cat in every mask
        mask = np.full((8, 8), helpers.CAT, np.uint8)
        mask[3:5, 3:5] = 0
        Image.fromarray(mask).save(root / f"SegmentationClass/{name}.png")
    first = evaluate_or_load(trained)
    said = "4 masks are framed by another value than 0, mostly 8"
    assert capsys.readouterr().out.count(said) == 1
    assert all(said in result.note for result in first.results)
    trained.model = None  # it is spared, and no mask is opened
    assert evaluate_or_load(trained).to_json() == first.to_json()
    assert capsys.readouterr().out == ""
    assert format_table(rows(first)).count(said) == 1
