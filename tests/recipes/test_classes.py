"""The ids that masks have, whichever classes of a data set were chosen."""

import pytest

from more_lib.recipes.classes import COCO_CLASSES, PET_BREEDS, PET_SPECIES, VOC_CLASSES, mask_ids
from more_lib.recipes.loading import from_dict, load_recipe, to_dict


@pytest.mark.parametrize(
    "dataset, classes, ids",
    [
        ("emoji", VOC_CLASSES[:1] + VOC_CLASSES[7:8], (1, 8)),
        ("voc", ("tvmonitor", "cat"), (20, 8)),
        ("coco", COCO_CLASSES, tuple(range(1, 81))),
        ("coco", ("dog", "cat"), (17, 16)),
        ("pets", PET_BREEDS[3:5], (4, 5)),
        ("pets", PET_SPECIES, (1, 2)),
        ("pets", ("dog",), (2,)),
        ("folder", ("tri", "disc"), (1, 2)),
    ],
)
def test_ids_are_the_data_sets_own(dataset, classes, ids):
    choice = f"data.classes=[{','.join(classes)}]"
    data = load_recipe("mini", [f"data.dataset={dataset}", "data.root=here", choice]).data
    assert mask_ids(data) == ids


def test_ids_of_a_folder_are_places_in_its_numbering():
    folder = ["data.dataset=folder", "data.root=here", "data.numbering=[box, disc, tri]"]
    recipe = load_recipe("mini", [*folder, "data.classes=[tri, disc]"])
    assert mask_ids(recipe.data) == (3, 2)
    other = load_recipe("mini", [*folder, "data.classes=[other, tri, new]"])
    assert mask_ids(other.data) == (4, 3, 5)  # names without a place have no other's id


def test_old_recipes_do_without_a_numbering():
    values = to_dict(load_recipe("mini"))
    del values["data"]["numbering"]
    assert from_dict(values) == load_recipe("mini")


def test_a_class_has_one_unicode_form():
    recipe = load_recipe("mini", ["data.classes=[cafe\u0301]"])
    assert recipe.data.classes == ("caf\u00e9",)
