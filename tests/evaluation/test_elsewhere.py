"""A network on folders that it was not trained on: found by names, scored by their own ids."""

import warnings
from dataclasses import dataclass, replace

import pytest
from torch import nn

from more_lib.cli.scoreboard import scoreboard
from more_lib.data import open_tree
from more_lib.evaluation.elsewhere import absent_classes, recipe_elsewhere, trained_elsewhere
from more_lib.evaluation.scoring import evaluate, evaluate_or_load
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError
from tests.evaluation.helpers import ColourModel, make_folder, recipe_with, trained_on


def split(root, *names):
    (root / "splits").mkdir(exist_ok=True)
    for name in names:
        (root / f"splits/{name}.txt").write_text("a\n")


def test_a_class_that_the_folder_lacks_is_in_no_mean(model, recipe, tmp_path):
    """A cat taken for a dog is missed; the dog, which nothing there could be, has no score."""
    there = recipe_elsewhere(recipe, make_folder(tmp_path / "cats", "cat"))
    assert there.data.classes == ("cat", "dog") and there.evaluation.batch_size == 1
    assert absent_classes(open_tree(there.data)) == ("dog",)
    found = evaluate(model, there, maps=["cam"])
    predicted = found.result("cam", "predicted")
    assert predicted.matrix.tolist() == [[64, 0, 0], [0, 32, 32], [0, 0, 0]]
    assert predicted.scores.iou.tolist()[:2] == [1, 0.5] and predicted.scores.miou == 0.75
    assert "classes that the data do not have, in no mean: dog" in predicted.note
    assert found.result("cam", "true").matrix.tolist() == [[64, 0, 0], [32, 32, 0], [0, 0, 0]]
    assert found.image_map == 1


def test_a_kept_score_knows_the_rows_of_other_splits(recipe, tmp_path):
    folder = make_folder(tmp_path / "own", "cat", listed=("cat", "dog"))
    split(folder, "val")
    trained = trained_on(recipe_elsewhere(recipe, folder), tmp_path / "kept")
    for other, absent in (("cat", ("dog",)), ("dog", ()), ("cat", ("dog",))):
        (folder / "labels.csv").write_text(f"image,classes\na.png,cat\nb.png,{other}\n")
        assert evaluate_or_load(trained).results[0].absent == absent


@pytest.mark.parametrize(
    ("classes", "listed", "value"),
    [("dog", (), 1), ("dog", ("dog", "cat"), 1), ("dog", ("ant", "cat", "bee", "dog"), 4)],
)
def test_masks_hold_the_folders_own_ids(model, recipe, tmp_path, classes, listed, value):
    there = recipe_elsewhere(recipe, make_folder(tmp_path / "dogs", classes, listed, value))
    found = evaluate(model, there, maps=["cam"]).result("cam", "predicted")
    assert found.matrix.tolist() == [[64, 0, 0], [0, 0, 0], [0, 32, 32]]


@pytest.mark.parametrize(
    ("lists", "val", "train"),
    [
        ((), "all", "all"),
        (("test",), "test", "test"),
        (("train", "val", "test"), "val", "train"),
        (("trainval", "test"), "test", "trainval"),
        (("mine",), "mine", "mine"),
    ],
)
def test_the_split_is_one_that_the_folder_has(recipe, tmp_path, lists, val, train):
    root = make_folder(tmp_path / "cats", "cat")
    if lists:
        split(root, *lists)
    data = recipe_elsewhere(recipe, root).data
    assert (data.val_split, data.train_split) == (val, train)
    changes = ["data.val_split=b", "evaluation.threshold=0.3"]
    chosen = recipe_elsewhere(recipe, root, changes=changes)
    assert (chosen.data.val_split, chosen.evaluation.threshold) == ("b", 0.3)


def test_only_the_folder_is_exchanged(root, tmp_path):
    own = recipe_with(root, "data.skip=[named]", "data.mask_orientation=stored", "seed=5")
    table = tmp_path / "elsewhere.csv"
    cats = make_folder(tmp_path / "cats", "cat")
    (cats / "labels.csv").rename(table)
    there = recipe_elsewhere(own, cats, table)
    assert (there.data.root, there.data.labels) == (str(cats), str(table))
    assert (there.data.skip, there.data.mask_orientation) == ((), "upright")
    back = replace(there, data=own.data, evaluation=own.evaluation)
    assert back == own


def test_classes_that_the_network_does_not_know(recipe, tmp_path):
    wrong = make_folder(tmp_path / "wrong", "cet;owl;dog")
    with pytest.raises(InputError, match="labels.csv .*'cet': did you mean cat.* and 'owl'.*knows"):
        recipe_elsewhere(recipe, wrong)
    cats = make_folder(tmp_path / "cats", "cat")
    with pytest.raises(InputError, match="data.classes are the network's: cat, dog"):
        recipe_elsewhere(recipe, cats, changes=["data.classes=[cat]"])


@dataclass(frozen=True)
class Network:
    """What stands in for ``Trained``."""

    model: nn.Module
    recipe: Recipe
    folder: object


def test_a_network_is_asked_for_by_its_own_data_and_goes_by_the_other(recipe, tmp_path):
    asked = []

    def network(recipe):
        asked.append(recipe)
        return Network(ColourModel(), recipe, tmp_path)

    there = recipe_elsewhere(recipe, make_folder(tmp_path / "cats", "cat"))
    found = trained_elsewhere(network, recipe)(there)
    assert found.recipe == there and asked[0].data == recipe.data


def test_a_folder_without_any_class_has_no_map_and_no_warning(recipe, tmp_path):
    there = recipe_elsewhere(recipe, make_folder(tmp_path / "nothing", "", value=0))
    (tmp_path / "kept").mkdir()

    def network(recipe):
        return Network(ColourModel(), recipe, tmp_path / "kept")

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        text = scoreboard(there, network=network)
        named = scoreboard(there, ["cam-log"], json_file=tmp_path / "s.json", network=network)
    assert all("image mAP % –, token mAP % –" in line.splitlines()[0] for line in (text, named))
    kept = (tmp_path / "s.json").read_text()
    assert '"image_map": null' in kept and '"token_map": null' in kept
