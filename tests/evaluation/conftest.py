"""The tree of three images, its recipe and its model, for every module's tests."""

import pytest

from more_lib.recipes.loading import load_recipe
from tests.evaluation import helpers


@pytest.fixture
def root(tmp_path):
    return helpers.make_tree(tmp_path / "tree")


@pytest.fixture
def recipe(root):
    return helpers.recipe_with(root)


@pytest.fixture
def model():
    return helpers.ColourModel()


@pytest.fixture(autouse=True)
def no_lattice(monkeypatch):
    """Eight pixels a side are summed exactly at once, while the lattice's processes must start."""
    monkeypatch.setattr("more_lib.evaluation.masks.crf_method", lambda device: "exact")


@pytest.fixture
def photo_model():
    return helpers.PhotoModel().eval()


@pytest.fixture
def own_recipe():
    evaluation = ["evaluation.scales=[1.0]", "evaluation.threshold=0.5"]
    data = ["data.classes=[cat,dog]", f"data.crop_size={helpers.SIDE}"]
    return load_recipe("mini", [*data, *evaluation])


@pytest.fixture
def photos(tmp_path):
    """A cat on the left, a dog on the right, and nothing."""
    folder = tmp_path / "photos"
    folder.mkdir()
    helpers.picture().save(folder / "cat.png")
    helpers.picture(helpers.GREY, helpers.GREEN, (48, 24)).save(folder / "dog.jpg", quality=95)
    helpers.picture(helpers.GREY, helpers.GREY).save(folder / "nothing.bmp")
    return folder
