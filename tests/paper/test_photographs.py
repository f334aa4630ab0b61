"""The study of photographs: what belongs to nobody, scores by labels, tokens by block, a figure."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from more_lib.evaluation.scoring import evaluate_or_load
from more_lib.method import artifacts
from more_lib.method.backbones import load_backbone
from more_lib.method.localization import lam, min_max
from more_lib.method.vit import ClassTokenViT
from more_lib.paper import photographs
from more_lib.paper.results import _blocks, _by_labels
from more_lib.paper.trials import score_trained
from more_lib.recipes import PROFILES, changed, load_recipe, training_fingerprint
from more_lib.training.cache import Trained
from tests.evaluation.helpers import DOG, ColourModel, make_tree, recipe_with, set_split
from tests.paper.helpers import row


def test_released_values_are_those_of_pets_and_refined_maps_need_no_training():
    """But for sizes, rates by length, and what any condition here is taught."""
    recipe, pets = PROFILES["photos"], PROFILES["pets"]
    found = photographs.trials(recipe)
    released, own = found["released"], found["more"]
    assert own == recipe and released.graph == pets.graph and released.lir == pets.lir
    for name in ("token_start", "frozen_blocks", "num_registers"):
        assert getattr(released.backbone, name) == getattr(pets.backbone, name)
    for name in ("confident", "uncertain", "contrast", "decoder", "decoder_map"):
        assert getattr(released.masks, name) == getattr(pets.masks, name)
    for name in ("token_lr_factor", "head_lr_factor"):
        assert getattr(released.optimizer, name) == getattr(pets.optimizer, name)
    assert training_fingerprint(found["edges"]) == training_fingerprint(own)
    assert len({training_fingerprint(each) for each in found.values()}) == len(found) - 1


def test_anybodys_recipe_is_the_profiles_whatever_the_folder_and_the_file_of_weights():
    profile = PROFILES["photos"]
    own = ["data.dataset=folder", "data.root=/photos", "data.classes=[cat]", "data.train_split=all"]
    mine = changed(profile, [*own, "backbone.weights=mine.safetensors"])
    usual = training_fingerprint(profile)
    assert training_fingerprint(photographs.anybodys(mine)) == usual != training_fingerprint(mine)
    for change in ("optimizer.iterations=7", "data.crop_size=28"):  # these are the recipe's
        other = photographs.anybodys(changed(mine, [change]))
        assert training_fingerprint(other) != usual
    assert photographs.anybodys(load_recipe("mini")) == PROFILES["mini"]


def trained_on(recipe, folder):
    return Trained(ColourModel(), recipe, folder, {"weights_sha256": "0" * 64}, loaded=True)


def two_in_one(folder):
    """The tree of three images, the first of which shows a dog beside its cat."""
    root = make_tree(folder)
    mask = np.array(Image.open(root / "SegmentationClass/named.png"))
    mask[6:, 6:] = DOG
    Image.fromarray(mask).save(root / "SegmentationClass/named.png")
    objects = "".join(f"<object><name>{name}</name></object>" for name in ("cat", "dog"))
    (root / "Annotations/named.xml").write_text(f"<annotation>{objects}</annotation>")
    return root


def test_images_of_one_class_and_of_several_are_scored_apart_as_alone(tmp_path):
    root = two_in_one(tmp_path / "tree")
    recipe = recipe_with(root)
    for name in ("whole", "one", "several"):
        (tmp_path / name).mkdir()
    rows = photographs.score_by_labels("a", trained_on(recipe, tmp_path / "whole"))
    assert rows[:4] == score_trained("a", trained_on(recipe, tmp_path / "whole"))
    by_map = {each["map"]: each for each in rows}
    assert len(by_map) == len(rows) == 12
    for split, names in {"one": ["mistaken", "missed"], "several": ["named"]}.items():
        set_split(root, *names, split=split)
        alone = changed(recipe, [f"data.val_split={split}"])
        title = {"one": photographs.ONE, "several": photographs.SEVERAL}[split]
        for each in score_trained("a", trained_on(alone, tmp_path / split)):
            apart = by_map[title.format(each["map"])]
            for score in ("miou", "precision", "recall", "confusion_ratio"):
                assert apart[score] == pytest.approx(each[score]), (apart["map"], score)
            assert apart["image_map"] == rows[0]["image_map"]  # of all images
    lam, few = by_map["LAM"]["miou"], by_map[photographs.SEVERAL.format("LAM")]["miou"]
    assert lam != few
    alone = changed(recipe, ["data.val_split=one"])  # none of them shows several
    assert len(photographs.score_by_labels("a", trained_on(alone, tmp_path / "one"))) == 4


def test_a_pixel_that_falls_otherwise_in_the_second_pass_does_no_harm(tmp_path, monkeypatch):
    def evaluated(trained):
        evaluation = evaluate_or_load(trained)
        moved = np.zeros_like(evaluation.results[0].matrix)
        moved[2, 0] = 99 if trained.recipe.data.skip else 0  # more than there are
        results = tuple(replace(each, matrix=each.matrix + moved) for each in evaluation.results)
        return replace(evaluation, results=results)

    recipe = recipe_with(two_in_one(tmp_path / "tree"))
    trained = trained_on(recipe, tmp_path)
    plain = photographs.score_by_labels("a", trained)
    monkeypatch.setattr(photographs, "evaluate_or_load", evaluated)
    rows = photographs.score_by_labels("a", trained)
    assert [each["map"] for each in rows] == [each["map"] for each in plain]


def test_tokens_by_block_are_those_of_each_image_alone(tmp_path, monkeypatch):
    root = make_tree(tmp_path / "tree")
    monkeypatch.setattr(photographs, "SIDE", 50)  # six patches of eight
    recipe = recipe_with(root)
    found = photographs.by_block(recipe, images=2)
    assert list(found) == ["0 registers", "4 registers"]
    encoder = ClassTokenViT(load_backbone("mini"), 1, 0).eval()
    transform = photographs.evaluation_transform(48)
    tree, sums = photographs.open_tree(recipe.data), []
    for name in ("named", "mistaken"):
        tokens, patches = artifacts.block_tokens(encoder, transform(tree.image(name))[None])
        length = patches[-1, 0].norm(dim=1)
        maps = min_max(lam(patches[-1].mT.unflatten(2, (6, 6)), tokens[-1]))
        sums.append([(length > 2 * length.median()).float().mean(), length.max() / length.median(),
                     artifacts.isolated_rate(maps, 0.5)[0, 0]])  # fmt: skip
    last = found["0 registers"][-1]
    assert len(found["0 registers"]) == len(encoder.blocks)
    means = torch.tensor(sums).nanmean(0).tolist()
    assert [last[k] for k in ("outliers", "largest", "isolated")] == pytest.approx(means, rel=1e-4)
    assert found["0 registers"] != found["4 registers"]


def test_eight_pictures_lie_evenly_in_their_split():
    assert photographs.eight(104) == [0, 13, 26, 39, 52, 65, 78, 91]
    assert photographs.eight(3) == [0, 1, 2] and photographs.eight(0) == []


def test_the_figure_has_a_row_a_picture_and_outlines_artifacts_and_lone_patches():
    maps = torch.zeros(2, 2, 3, 3)
    maps[0, 1, 0, 0] = maps[1, 0, 2, 2] = 1
    share = torch.zeros_like(maps)
    share[1, 0, 2, 2] = 1  # there the class is
    empty = torch.zeros(2, 2)
    labels = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    survey = artifacts.Survey(maps, share, labels, *[empty] * 4, empty[:, 0])
    items = [{"picture": torch.rand(3, 6, 6), "name": name} for name in ("cat", "dog")]
    drawn = photographs.figure(items, survey, 0.5, "LAM")
    axes = np.array(drawn.axes[:8]).reshape(2, 4)
    edges = [[len(ax.collections[0].get_segments()) for ax in row[2:]] for row in axes]
    assert edges == [[4, 4], [0, 4]]  # of one patch, or of none


def test_tables_of_maps_and_blocks_by_hand():
    rows = [row("a", 0.5, seed=0), row("a", 0.7, seed=1), row("b", 0.3, "CAM", seed=0)]
    rows += [row("a", 0.6, photographs.ONE.format("LAM"), seed=s) for s in (0, 1)]
    rows += [row("b", 0.2, photographs.SEVERAL.format("CAM"), seed=0)]
    text = _by_labels({"rows": rows})
    lines = [line[2:-2].split(" | ") for line in text.splitlines()]
    assert lines[0] == ["trained", "map", "mIoU %", "FP/TP", "images of one class, mIoU %",
                        "images of several, mIoU %"]  # fmt: skip
    assert lines[2][:2] + lines[2][4:] == ["a", "LAM", "60.0 ± 0.0", "–"]
    assert lines[2][2].startswith("60.0 ± 14.1")
    assert lines[3] == ["b", "CAM", "30.0", "0.50", "–", "20.0"]
    first, second = ({"outliers": o, "largest": 3 * o, "isolated": 0.5} for o in (0.01, 0.2))
    lines = _blocks({"blocks": {"0 registers": [first], "4 registers": [second]}}).splitlines()
    assert "outliers %, 0 registers | largest, 0 registers | isolated %, 0 registers" in lines[0]
    assert lines[-1] == "| 1 | 1.00 | 0.03 | 50.00 | 20.00 | 0.60 | 50.00 |"
