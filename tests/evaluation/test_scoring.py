"""Evaluation on a tree of a few 8x8 images, by a model whose maps are the images' colours."""

import json
import os
import signal
import socket
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState
from torch import nn
from torch.multiprocessing import start_processes

from more_lib.data.transforms import evaluation_transform
from more_lib.data.voc import VocMasks, VocTree
from more_lib.evaluation.metrics import average_precision, confusion_matrix
from more_lib.evaluation.protocols import Protocol, map_protocol, named_protocol, table_protocols
from more_lib.evaluation.results import Evaluation, Result, format_table, rows
from more_lib.evaluation.scoring import evaluate, evaluate_or_load, evaluate_protocols, score
from more_lib.method.localization import fuse, multiscale_maps
from more_lib.method.pseudo_labels import foreground_mask
from more_lib.system.errors import InputError
from tests.evaluation.helpers import CAT, ColourModel, make_tree, recipe_with, save, set_split

TRUE_CAM = [[111, 8, 0], [0, 56, 0], [1, 0, 15]]
PREDICTED_CAM = [[96, 23, 0], [32, 24, 0], [16, 0, 0]]


class Untouchable(nn.Module):
    """A model that a cache should spare."""

    def forward(self, images):
        raise AssertionError("the model ran")


@pytest.fixture
def root(tmp_path):
    return make_tree(tmp_path / "tree")


@pytest.fixture
def recipe(root):
    return recipe_with(root)


@pytest.fixture
def model():
    return ColourModel()


@pytest.fixture(autouse=True)
def no_lattice(monkeypatch):
    """Eight pixels a side are summed exactly at once, while the lattice's processes must start."""
    monkeypatch.setattr("more_lib.evaluation.masks.crf_method", lambda device: "exact")


def of(evaluation, map, labels="true"):
    return evaluation.result(map, labels).matrix.tolist()


def test_cam_with_true_labels_by_hand(model, recipe):
    """Upsampled to 8x8, half an image stays half of it, and one patch of four keeps 15 pixels.

    (A patch's profile is 1, 1, 7/8, 5/8 from the edge inwards: only 5/8 x 5/8 is below 0.5.)
    """
    evaluation = evaluate(model, recipe)
    assert of(evaluation, "cam") == TRUE_CAM
    found = evaluation.result("cam").scores
    np.testing.assert_allclose(found.iou, [111 / 120, 56 / 64, 15 / 16])
    assert found.miou == pytest.approx(0.9125)
    assert found.summary()["confusion_ratio"] == pytest.approx((8 / 56 + 0) / 2)
    assert evaluation.num_images == 3


def test_predicted_labels_change_the_class_and_empty_an_image(model, recipe):
    evaluation = evaluate(model, recipe)
    assert of(evaluation, "cam", "predicted") == PREDICTED_CAM
    assert evaluation.result("cam", "true").note == ""
    assert evaluation.result("cam", "predicted").note.endswith("all background: 1")


def test_other_maps_by_hand(model, recipe, root):
    set_split(root, "named")
    evaluation = evaluate(model, recipe)
    assert of(evaluation, "lam") == [[20, 19, 0], [12, 12, 0], [0, 0, 0]]  # the four upper rows
    assert of(evaluation, "fused") == [[36, 3, 0], [12, 12, 0], [0, 0, 0]]  # 15 pixels, top left
    assert of(evaluation, "attention") == [[8, 31, 0], [24, 0, 0], [0, 0, 0]]  # the right half


def test_decoder_asks_for_no_labels_and_no_threshold(model, root):
    evaluation = evaluate(model, recipe_with(root, "loss.segmentation=0"))
    decoder = [result for result in evaluation.results if result.protocol.map == "decoder"]
    assert len(decoder) == 1
    assert decoder[0].protocol == Protocol(
        dataset="voc", split="val", map="decoder", labels="none", scales=(1.0,), flip=False,
        threshold=None,
    )  # fmt: skip
    # Red above 0.5: half of `named`, a patch of `mistaken`, nothing of `missed`.
    assert decoder[0].matrix.tolist() == [[31 + 33 + 32, 8 + 15, 0], [32, 24, 0], [16, 0, 0]]
    assert decoder[0].note == "not trained by this recipe"


@pytest.mark.parametrize(("start", "note"), [(359, ""), (360, "not trained by this recipe")])
def test_a_decoder_counts_as_trained_once_its_loss_has_set_in(model, root, start, note):
    changes = (f"schedule.segmentation={start}", "optimizer.iterations=360")
    evaluation = evaluate(model, recipe_with(root, *changes), maps=["decoder"])
    assert evaluation.result("decoder", "none").note == note


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_lam_is_drawn_with_the_recipes_similarity(model, root, monkeypatch, similarity):
    given = []

    def spy(model, images, scales, similarity, flip):
        given.append(similarity)
        return multiscale_maps(model, images, scales, similarity, flip)

    monkeypatch.setattr("more_lib.evaluation.masks.multiscale_maps", spy)
    evaluate(model, recipe_with(root, f"masks.lam_similarity={similarity}"), maps=["lam"])
    assert set(given) == {similarity}


def test_rows_are_maps_times_labels_and_say_how_they_were_measured(model, root):
    recipe = recipe_with(root, "evaluation.scales=[1.0, 2.0]", "evaluation.threshold=0.4")
    protocols = [result.protocol for result in evaluate(model, recipe).results]
    assert [(p.map, p.labels) for p in protocols] == [
        (kind, labels)
        for kind in ("attention", "cam", "lam", "fused")
        for labels in ("true", "predicted")
    ] + [("decoder", "none")]
    assert {p.scales for p in protocols[:-1]} == {(1.0, 2.0)}
    assert {p.threshold for p in protocols[:-1]} == {0.4}


@pytest.mark.parametrize("scales", ["[1.0]", "[0.5, 1.0, 1.5]"])
def test_streaming_equals_all_images_at_once(model, root, scales):
    recipe = recipe_with(root, f"evaluation.scales={scales}")
    items = list(VocMasks(VocTree(root, ("cat", "dog")), "val", evaluation_transform(None)))
    images, truth, target = (
        torch.stack([item[key] for item in items]) for key in ("image", "labels", "mask")
    )
    with torch.no_grad():
        logits = model.eval()(images).class_logits
        maps = multiscale_maps(model, images, recipe.evaluation.scales)
    streamed = evaluate(model, recipe)
    kinds = {kind: getattr(maps, kind) for kind in ("cam", "lam", "attention")}
    for kind, values in {**kinds, "fused": fuse(maps.lam, maps.cam)}.items():
        for labels, given in (("true", truth), ("predicted", (logits > 0).float())):
            mask = foreground_mask(values, given, recipe.evaluation.threshold)
            assert of(streamed, kind, labels) == confusion_matrix(mask, target, 3).tolist()
    assert streamed.image_map == pytest.approx(average_precision(logits, truth).mean())


def test_image_map_by_hand(model, recipe):
    """By red the two cats rank first and third, by green the dog ranks first."""
    assert evaluate(model, recipe).image_map == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)


def swept(model, recipe, kind, thresholds, labels="true"):
    protocol = map_protocol(recipe, kind, labels)
    return score(model, recipe, [replace(protocol, threshold=t) for t in thresholds]).results


def test_one_pass_serves_all_rows(model, recipe):
    evaluate(model, recipe)
    assert model.inputs == [(2, 3, 8, 8), (4, 3, 8, 8), (1, 3, 8, 8), (2, 3, 8, 8)]
    model.inputs.clear()
    swept(model, recipe, "cam", [0.1, 0.5, 0.9])
    assert len(model.inputs) == 4
    model.inputs.clear()
    evaluate(model, recipe, maps=["decoder"])  # needs no maps
    assert model.inputs == [(2, 3, 8, 8), (1, 3, 8, 8)]


def test_sizes_that_the_patch_does_not_divide(model, root):
    pixels, mask = np.zeros((6, 14, 3), np.uint8), np.zeros((6, 14), np.uint8)
    pixels[:, :7, 0], mask[:, :7] = 255, CAT
    save(root, "wide", pixels, mask, "cat")
    set_split(root, "wide", "named")
    recipe = recipe_with(root, "evaluation.batch_size=1")
    evaluation = evaluate(model, recipe, maps=["cam", "decoder"])
    assert model.inputs[0] == (1, 3, 8, 16)  # 6x14 to the nearest multiples of 4
    assert of(evaluation, "cam") == [[42 + 31, 8, 0], [0, 42 + 24, 0], [0, 0, 0]]
    assert of(evaluation, "decoder", "none") == of(evaluation, "cam")


def test_several_sizes_in_one_batch(model, recipe, root):
    save(root, "wide", np.zeros((6, 14, 3), np.uint8), np.zeros((6, 14), np.uint8), "cat")
    set_split(root, "named", "wide")
    with pytest.raises(InputError, match=r"named is 8x8 and wide is 6x14.*evaluation.batch_size=1"):
        evaluate(model, recipe)


def test_model_is_left_as_it_was(model, recipe):
    model.train()
    model.frozen.eval()
    evaluate(model, recipe, device="cpu")
    assert model.training and not model.frozen.training
    assert next(model.parameters()).requires_grad and next(model.parameters()).device.type == "cpu"
    model.patch_size = 3  # the model itself refuses such images
    with pytest.raises(AssertionError):
        evaluate(model, recipe)
    assert model.training and not model.frozen.training


@pytest.mark.gpu
def test_gpu_gives_the_same_and_gives_the_model_back(model, recipe):
    evaluation = evaluate(model, recipe, device="cuda")
    assert of(evaluation, "cam") == TRUE_CAM
    assert next(model.parameters()).device.type == "cpu"


def test_threshold_sweep(model, recipe):
    results = swept(model, recipe, "cam", [0.3, 0.5, 0.7], "predicted")
    assert [result.protocol.threshold for result in results] == [0.3, 0.5, 0.7]
    assert results[1].matrix.tolist() == PREDICTED_CAM
    foreground = [result.matrix[:, 1:].sum() for result in results]
    assert foreground[0] > foreground[1] > foreground[2]
    assert results[1].protocol == evaluate(model, recipe).result("cam", "predicted").protocol


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m, r: evaluate(m, r, maps=["cam", "seed"]), "maps holds seed; .* decoder"),
        (lambda m, r: evaluate(m, r, labels=["false"]), "labels holds false; .* predicted"),
        (lambda m, r: evaluate(m, r, maps=[]), "maps is empty"),
        (lambda m, r: swept(m, r, "decoder", [0.5], "none"), "take none"),
        (lambda m, r: evaluate(m, replace(r, data=replace(r.data, val_split="x"))), "x.txt"),
        (lambda m, r: evaluate(m, r).result("seed"), "'seed'.*cam with labels predicted"),
    ],
)
def test_bad_input(model, recipe, call, message):
    with pytest.raises(InputError, match=message):
        call(model, recipe)


def test_protocol_on_one_line():
    protocol = Protocol(
        dataset="voc", split="val", map="fused", labels="predicted", scales=(1.0, 0.5),
        threshold=0.45,
    )  # fmt: skip
    assert protocol.describe() == (
        "voc val, LAM × CAM, predicted image labels, scales 1 0.5 + flip, threshold 0.45, no CRF"
    )
    decoder = replace(
        protocol,
        map="decoder",
        labels="none",
        scales=(1.0,),
        flip=False,
        threshold=None,
        crf="mine",
    )
    assert decoder.describe() == (
        "voc val, decoder, no image labels, scales 1, no threshold, CRF mine"
    )
    assert Result(protocol, np.eye(3), ("a", "b")).name == "LAM × CAM, predicted labels"
    assert Result(decoder, np.eye(3), ("a", "b")).name == "decoder"


def test_rows(model, recipe):
    found = {(row["map"], row["labels"]): row for row in rows(evaluate(model, recipe))}
    assert found["cam", "true"] == {
        "map": "cam",
        "labels": "true",
        "dataset": "voc",
        "split": "val",
        "scales": "1 + flip",
        "threshold": 0.5,
        "crf": "none",
        "images": 3,
        "miou": 0.9125,
        "precision": round((111 / 112 + 56 / 64 + 1) / 3, 4),
        "recall": round((111 / 119 + 1 + 15 / 16) / 3, 4),
        "confusion_ratio": 0.07,
        "note": "",
    }
    predicted = found["cam", "predicted"]
    assert predicted["confusion_ratio"] == 0.96  # the cat's 23 / 24; the dog was never found
    assert predicted["note"] == (
        "images without a predicted class, all background: 1; "
        "classes without hits, not in the confusion ratio: 1"
    )
    assert found["decoder", "none"]["threshold"] is None


def test_no_mean_is_none(root):
    protocol = Protocol(
        dataset="voc", split="val", map="cam", labels="true", scales=(1.0,), threshold=0.5
    )
    result = Result(protocol, np.array([[5, 1], [2, 0]]), ("cat",))
    assert rows(Evaluation((result,), 1.0, 1))[0]["confusion_ratio"] is None


def test_table(model, recipe):
    everything = rows(evaluate(model, recipe))
    head, titles, *lines = format_table(everything).splitlines()
    assert head == "dataset voc, split val, crf none, images 3"
    assert titles.split() == (
        "map labels scales threshold mIoU % precision % recall % confusion ratio".split()
    )
    table, notes = lines[:9], lines[9:]
    assert {len(line) for line in table} == {len(titles)}  # aligned
    assert table[2].split() == ["cam", "true", "1", "+", "flip", "0.50", "91.25", "95.54", "95.68",
                                "0.07"]  # fmt: skip
    assert table[8].split()[:4] == ["decoder", "none", "1", "-"]
    assert notes == [
        f"{row['map']}, labels {row['labels']}: {row['note']}" for row in everything if row["note"]
    ]


def test_table_of_one_row_and_of_none(model, recipe):
    one = format_table(rows(evaluate(model, recipe, maps=["cam"], labels=["true"])))
    head, _, line = one.splitlines()
    assert head.startswith("map cam, labels true, dataset voc") and "threshold 0.50" in head
    assert line.split() == ["91.25", "95.54", "95.68", "0.07"]
    assert format_table([]) == "no results"


def strict(text):
    """JSON as the standard has it: without NaN and Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_round_trip(model, recipe, root):
    set_split(root, "named", "missed")  # no dog, so its scores are nan
    evaluation = evaluate(model, recipe)
    text = evaluation.to_json()
    saved = strict(text)["results"][2]
    assert saved["protocol"]["map"] == "cam" and saved["classes"] == ["cat", "dog"]
    assert saved["scores"]["iou"] == [pytest.approx(63 / 71), pytest.approx(56 / 64), None]
    again = Evaluation.from_json(text)
    assert again.to_json() == text
    assert again.num_images == 2 and again.image_map == evaluation.image_map
    assert again.results[2].protocol == evaluation.results[2].protocol
    assert again.results[2].matrix.dtype == np.int64
    np.testing.assert_array_equal(
        again.result("cam").scores.iou, evaluation.result("cam").scores.iou
    )
    assert rows(again) == rows(evaluation)


def test_json_without_an_image_score():
    text = Evaluation((), float("nan"), 0).to_json()
    assert strict(text)["image_map"] is None
    assert np.isnan(Evaluation.from_json(text).image_map)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"results": [{}]}', '{"results": [3]}'])
def test_other_json(text):
    with pytest.raises(InputError, match="evaluate again"):
        Evaluation.from_json(text)


@pytest.fixture
def trained(model, recipe, tmp_path):
    folder = tmp_path / "trained"
    folder.mkdir()
    return SimpleNamespace(model=model, recipe=recipe, folder=folder, loaded=True)


def test_cache_spares_the_model(trained):
    first = evaluate_or_load(trained)
    assert len(list(trained.folder.iterdir())) == 1
    trained.model = Untouchable()
    assert evaluate_or_load(trained).to_json() == first.to_json()


@pytest.mark.parametrize("change", ["evaluation.threshold=0.3", "data.val_split=half"])
def test_cache_knows_protocol_and_split(trained, root, change):
    set_split(root, "named", split="half")
    first = evaluate_or_load(trained)
    trained.recipe = recipe_with(root, change)
    assert evaluate_or_load(trained).to_json() != first.to_json()
    assert len(list(trained.folder.iterdir())) == 2


def test_cache_knows_the_data(trained, root):
    first = evaluate_or_load(trained)
    set_split(root, "named")
    assert evaluate_or_load(trained).num_images == 1 < first.num_images


def test_damaged_cache_is_named(trained):
    evaluate_or_load(trained)
    (file,) = trained.folder.iterdir()
    file.write_text(file.read_text()[:100])
    with pytest.raises(InputError, match=f"{file.name} is damaged: delete it"):
        evaluate_or_load(trained)


def test_cache_knows_the_masks_and_the_scoring_code(trained, root, monkeypatch):
    evaluate_or_load(trained)
    mask = root / "SegmentationClass/named.png"
    mask.write_bytes(mask.read_bytes() + b"longer")
    evaluate_or_load(trained)
    assert len(list(trained.folder.iterdir())) == 2
    monkeypatch.setattr("more_lib.evaluation.scoring.SCORING_VERSION", 1000)
    evaluate_or_load(trained)
    assert len(list(trained.folder.iterdir())) == 3


def test_protocols_share_a_pass_and_are_kept_one_by_one(trained, model, root):
    set_split(root, "named", split="train")
    names = ("lam-log", "cam-log", "decoder-log", "lam-train")
    protocols = [named_protocol(name, trained.recipe) for name in names]
    found = evaluate_protocols(trained, protocols)
    assert [len(each.results) for each in found] == [1, 1, 1, 1]
    assert [each.results[0].protocol for each in found] == protocols
    assert [each.num_images for each in found] == [3, 3, 3, 1]
    assert found[1].results[0].matrix.tolist() == TRUE_CAM
    # Two batches of val and one of train, each as it is and once more with its mirror image.
    assert [size[0] for size in model.inputs] == [2, 4, 1, 2, 1, 2]
    assert len(list(trained.folder.iterdir())) == 4
    trained.model = Untouchable()
    again = evaluate_protocols(trained, protocols[::-1])
    assert [each.to_json() for each in again] == [each.to_json() for each in found[::-1]]


def many(root, number=9):
    """A split of that many images, all different."""
    rng = np.random.default_rng(0)
    names = [f"image{n}" for n in range(number)]
    for name in names:
        mask = rng.choice(np.array([0, CAT, 255], np.uint8), (8, 8))
        save(root, name, rng.integers(0, 256, (8, 8, 3), np.uint8), mask, "cat")
    set_split(root, *names)
    return names


def strictly(evaluation):
    """Everything of an evaluation, to the last digit."""
    return evaluation.to_json()


def protocols_of(recipe):
    names = ("paper-val", "decoder-val")
    return [*table_protocols(recipe), *(named_protocol(name, recipe) for name in names)]


def one_shard(index, port, root, folder):
    torch.set_num_threads(1)  # the parent's threads do not survive the fork
    PartialState._reset_state()
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    model, recipe = ColourModel(), recipe_with(root)
    found = score(model, recipe, protocols_of(recipe), notes=folder / "notes")
    (folder / f"{index}.json").write_text(strictly(found))
    (folder / f"{index}.txt").write_text(str(sum(size[0] for size in model.inputs)))


def test_two_processes_find_what_one_does(root, tmp_path):
    many(root)
    recipe, model = recipe_with(root), ColourModel()
    alone = strictly(score(model, recipe, protocols_of(recipe)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (port, root, tmp_path)
    context = start_processes(one_shard, arguments, 2, join=False, start_method="fork")
    assert context.join(timeout=60) or context.join(timeout=60)
    assert (tmp_path / "0.json").read_text() == alone
    assert (tmp_path / "1.json").read_text() == alone
    views = [int((tmp_path / f"{index}.txt").read_text()) for index in (0, 1)]
    assert sum(views) == sum(size[0] for size in model.inputs) and views[0] / 5 == views[1] / 4
    assert not list(tmp_path.glob("notes*"))


class Killed(ColourModel):
    """Its process dies when it has seen that many batches."""

    batches = 3

    def forward(self, images):
        if images.shape[0] == 1:  # not a pair with its mirror image
            if not self.batches:
                os.kill(os.getpid(), signal.SIGKILL)
            self.batches -= 1
        return super().forward(images)


def killed_pass(index, root, notes):
    torch.set_num_threads(1)
    recipe = recipe_with(root, "evaluation.batch_size=1")
    score(Killed(), recipe, protocols_of(recipe), notes=notes)


def test_a_killed_pass_goes_on_and_counts_the_same(root, tmp_path, monkeypatch):
    many(root)
    monkeypatch.setattr("more_lib.evaluation.scoring.SAVE_EVERY", 2)
    recipe, model = recipe_with(root, "evaluation.batch_size=1"), ColourModel()
    whole = strictly(score(model, recipe, protocols_of(recipe)))
    arguments = (root, tmp_path / "notes")
    context = start_processes(killed_pass, arguments, 1, join=False, start_method="fork")
    with pytest.raises(Exception, match="SIGKILL"):
        context.join(timeout=60)
    (note,) = tmp_path.glob("notes*")
    assert note.name == "notes.0-of-1.npz"
    with np.load(note) as kept:
        assert len(kept["logits"]) == 2
    resumed = ColourModel()
    found = score(resumed, recipe, protocols_of(recipe), notes=tmp_path / "notes")
    assert strictly(found) == whole
    assert len(resumed.inputs) == len(model.inputs) * 7 // 9
    assert not list(tmp_path.glob("notes*"))


def test_a_damaged_note_is_named(model, recipe, tmp_path):
    note = tmp_path / "notes.0-of-1.npz"
    note.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match="notes.0-of-1.npz is damaged.*delete it"):
        score(model, recipe, table_protocols(recipe), notes=tmp_path / "notes")


def test_order_and_batches_change_nothing(root):
    names = many(root)
    recipe = recipe_with(root)
    straight = score(ColourModel(), recipe, protocols_of(recipe))
    set_split(root, *names[::-1])
    recipe = recipe_with(root, "evaluation.batch_size=5")
    turned = score(ColourModel(), recipe, protocols_of(recipe))
    assert strictly(turned) == strictly(straight)


class Watching(ColourModel):
    """Counts how much of what it gave out is still there."""

    def __init__(self):
        super().__init__()
        self.given, self.alive = [], []

    def forward(self, images):
        self.alive.append(sum(there() is not None for there in self.given))
        output = super().forward(images)
        self.given += [weakref.ref(values) for values in (images, *output)]
        return output


@pytest.mark.parametrize("crf", [False, True])
def test_maps_and_masks_do_not_pile_up(root, monkeypatch, crf):
    """Of twelve images as many are under way at the end as at the beginning."""
    many(root, 12)
    masks, alive = [], []
    read = VocTree.mask

    def watched(tree, image_id):
        alive.append(sum(there() is not None for there in masks))
        mask = read(tree, image_id)
        masks.append(weakref.ref(mask))
        return mask

    monkeypatch.setattr(VocTree, "mask", watched)
    recipe, model = recipe_with(root, "evaluation.batch_size=1"), Watching()
    protocols = protocols_of(recipe) if crf else table_protocols(recipe)
    score(model, recipe, protocols)
    calls = len(model.inputs) // 12
    assert max(model.alive[6 * calls :]) <= max(model.alive[: 6 * calls])
    assert max(alive) <= 5


def test_no_masks(model, recipe, root):
    (root / "SegmentationClass/missed.png").unlink()
    with pytest.raises(InputError, match=r"missed.png is missing: restore it, or take its id"):
        evaluate(model, recipe)
    (root / "SegmentationClass/named.png").unlink()
    with pytest.raises(InputError, match=r"named.png is missing \(and 1 more masks\)"):
        evaluate(model, recipe)
    (root / "SegmentationClass/mistaken.png").unlink()
    with pytest.raises(InputError, match="'val' of .*tree has no pixel masks.*--export.*predict"):
        evaluate(model, recipe)
    assert model.inputs == []
