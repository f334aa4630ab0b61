"""The tree of three images, its recipe and its model, for every module's tests."""

import pytest

from more_lib.recipes.loading import load_recipe
from tests.evaluation.helpers import (
    GREEN,
    GREY,
    SIDE,
    ColourModel,
    PhotoModel,
    make_tree,
    picture,
    recipe_with,
)


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


@pytest.fixture
def photo_model():
    return PhotoModel().eval()


@pytest.fixture
def own_recipe():
    evaluation = ["evaluation.scales=[1.0]", "evaluation.threshold=0.5"]
    return load_recipe("mini", ["data.classes=[cat,dog]", f"data.crop_size={SIDE}", *evaluation])


@pytest.fixture
def photos(tmp_path):
    """A cat on the left, a dog on the right, and nothing."""
    folder = tmp_path / "photos"
    folder.mkdir()
    picture().save(folder / "cat.png")
    picture(GREY, GREEN, (48, 24)).save(folder / "dog.jpg", quality=95)
    picture(GREY, GREY).save(folder / "nothing.bmp")
    return folder
