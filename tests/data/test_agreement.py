"""Masks and image labels that do not tell the same story, and those that do."""

import numpy as np
import pytest

from more_lib.data import open_tree, without_bad
from more_lib.data.agreement import contradictions, not_shown, read_both
from more_lib.data.folder import FolderTree, recipe_for_folder
from more_lib.recipes.profiles import PROFILES
from tests.data.helpers import noise, real_data, refused, save_csv, save_mask

BIRD, CAT, DOG = 1, 2, 3
NAMES = {BIRD: "bird", CAT: "cat", DOG: "dog"}
TURNS = [(BIRD,), (CAT,), (DOG,), (CAT, DOG)]


def mask(*values, ground=0):
    """20x20 pixels, each value a square of its own on the ground."""
    drawn = np.full((20, 20), ground)
    for place, value in enumerate(values):
        drawn[4:8, 4 + 5 * place : 8 + 5 * place] = value
    return drawn


def folder(root, labels, masks):
    """A folder whose image i has the i-th labels and mask; classes.txt names three classes."""
    (root / "images").mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(NAMES.values()))
    for i, drawn in enumerate(masks):
        noise(i, 20, 20).save(root / f"images/{i}.png")
        save_mask(root / f"masks/{i}.png", drawn)
    save_csv(root, {f"{i}.png": ";".join(map(NAMES.get, of)) for i, of in enumerate(labels)})
    return FolderTree(root)


def doubt(root, labels, masks):
    tree = folder(root, labels, masks)
    return contradictions(tree, "all", read_both(tree, tree.ids("all")))


def test_what_is_read(tmp_path):
    tree = folder(tmp_path, [(CAT,), ()], [mask(CAT, 255), mask(0, ground=DOG)])
    cat, framed = read_both(tree, ["0", "1"])
    assert (cat.named, cat.shown, cat.open, cat.frame) == ({CAT}, {CAT}, True, 0)
    assert (framed.named, framed.shown, framed.open, framed.frame) == (set(), {DOG}, False, DOG)


def test_true_data_are_not_doubted(tmp_path):
    """Nor are unmarked rims, crowds, an object that another covers, one that fills the picture."""
    rim = mask(CAT)
    rim[0] = 255
    masks = [*(mask(*shown) for shown in TURNS), rim, mask(DOG, 255), mask(DOG), mask(ground=BIRD)]
    labels = [*TURNS, (CAT,), (CAT, DOG), (CAT, DOG), (BIRD,)]
    assert doubt(tmp_path, [*labels, ()], [*masks, mask()]) == ""


def test_masks_of_0_and_255_are_refused(tmp_path):
    shown = "masks: no mask of the split 'all' shows cat .4 images., which image labels name"
    held = "they hold 0 and 255, and 255 is not counted; save cat as 2, .*--skip-bad"
    with refused(shown, held):
        doubt(tmp_path, [(CAT,)] * 4, [mask(255)] * 4)


def test_a_class_that_no_mask_shows_is_refused_or_its_images_left_out(tmp_path, capsys):
    labels = [*TURNS, (DOG,)]
    tree = folder(tmp_path, labels, [mask(BIRD), mask(CAT), mask(CAT), mask(CAT), mask(CAT)])
    with refused("shows dog .3 images.*they hold 0 and 2; save dog as 3"):
        contradictions(tree, "all", read_both(tree, tree.ids("all")))
    assert list(not_shown(tree, "all")) == ["2", "3", "4"]
    recipe = without_bad(recipe_for_folder(PROFILES["mini"], tmp_path), "all", masks=True)
    assert recipe.data.skip == ("2", "3", "4")
    assert "skipped 3 of 5 images" in capsys.readouterr().out
    left = open_tree(recipe.data)
    assert contradictions(left, "all", read_both(left, left.ids("all"))) == ""
    assert without_bad(recipe, "all", masks=True) == recipe


def test_classes_go_until_masks_show_what_is_left(tmp_path):
    """The only cat drawn is in an image of a dog that is not: without it no cat is shown."""
    labels = [(BIRD,), (CAT, DOG), (CAT,), (CAT,), (CAT,)]
    folder(tmp_path, labels, [mask(BIRD), mask(CAT), mask(), mask(), mask()])
    recipe = without_bad(recipe_for_folder(PROFILES["mini"], tmp_path), "all", masks=True)
    assert recipe.data.skip == ("1", "2", "3", "4")


@pytest.mark.parametrize("fault", ["0.png does not show cat", "0.png is missing", "mode RGB"])
def test_where_no_image_is_left_the_faults_are_named(tmp_path, fault):
    folder(tmp_path, [(CAT,)] * 4, [mask(255)] * 4)
    for path in (tmp_path / "masks").iterdir():
        if "missing" in fault:
            path.unlink()
        elif "RGB" in fault:
            noise(0, 20, 20).save(path)
    recipe = recipe_for_folder(PROFILES["mini"], tmp_path)
    with refused(f"no image of the split 'all' of {tmp_path} is left: .*{fault}.*; .*3.png"):
        without_bad(recipe, "all", masks=True)


def test_a_class_that_is_but_a_crowd_is_said(tmp_path):
    labels, masks = [*TURNS[:2], (CAT, DOG)], [mask(BIRD), mask(CAT), mask(CAT, 255)]
    said = "where labels name dog (1 image) masks hold 255, not counted"
    assert doubt(tmp_path, labels, masks) == said


@pytest.mark.parametrize("order", [(0, 1, 3, 2), (0, 2, 3, 1)])
def test_ids_in_another_order(tmp_path, order):
    labels = TURNS * 3
    masks = [mask(*(order[number] for number in of), 255) for of in labels]
    found = doubt(tmp_path, labels, masks)
    assert "ids may be in another order" in found and "; " not in found
    for number, name in NAMES.items():
        stands = f"{order[number]} stands where labels say {name}"
        assert (stands in found) == (order[number] != number)


def test_two_of_many_classes_exchanged_are_found_though_most_images_agree(tmp_path):
    labels = [(BIRD,)] * 10 + [(CAT,), (DOG,)]
    found = doubt(tmp_path, labels, [*[mask(BIRD)] * 10, mask(DOG), mask(CAT)])
    assert "(12 images: 2 show a class that the labels do not name, 2 lack one" in found
    assert found.endswith("2 stands where labels say dog and 3 stands where labels say cat")


def test_ids_in_another_order_are_the_reason_of_a_class_not_shown(tmp_path):
    """As when a table of two classes numbered the masks of a folder of three."""
    labels = [(CAT,), (DOG,)] * 3
    with refused("no mask .*shows dog.*; 1 stands|: 1 stands where labels say cat and 2 stands"):
        doubt(tmp_path, labels, [mask(BIRD), mask(CAT)] * 3)


def test_background_and_object_exchanged(tmp_path):
    """A palette's first colour is the commonest: with one class the values alone agree."""
    assert "6 masks are framed by another value than 0, mostly 2" in doubt(
        tmp_path, [(CAT,)] * 6, [mask(0, ground=CAT)] * 6
    )


def test_background_saved_as_255(tmp_path):
    found = doubt(tmp_path, [(CAT,)] * 6, [mask(CAT, ground=255)] * 6)
    assert "no mask holds 0, the background" in found


@pytest.mark.parametrize(
    ("labels", "masks", "cause"),
    [
        ([*TURNS[1:], *TURNS[:1]] * 3, TURNS * 3, "belong to other files"),
        ([()] * 8 + [(CAT,)] * 4, [(CAT,)] * 12, "labels may be incomplete"),
        (TURNS * 3, [*TURNS, *[()] * 8], "masks may be unfinished"),
        (TURNS * 3, [*TURNS, *[(255,)] * 8], "or hold objects as 255"),
    ],
)
def test_contradictions_in_most_images(tmp_path, labels, masks, cause):
    found = doubt(tmp_path, labels, [mask(*shown) for shown in masks])
    assert cause in found and "(12 images: " in found


def test_real_photographs_are_not_doubted():
    tree = FolderTree(real_data("msrc"))
    for split in ("train", "val"):
        pairs = read_both(tree, tree.ids(split))
        assert contradictions(tree, split, pairs) == ""
        shuffled = np.random.default_rng(0).permutation(len(pairs))
        mixed = [
            pair._replace(named=pairs[n].named) for pair, n in zip(pairs, shuffled, strict=True)
        ]
        assert "belong to other files" in contradictions(tree, split, mixed)
