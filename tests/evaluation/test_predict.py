"""Prediction on images of all sizes, by a model whose maps are the images' colours."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps

from more_lib.data.images import find_images
from more_lib.data.transforms import evaluation_transform
from more_lib.evaluation.predict import labels_by_name, own_protocol, predict, seen_size
from more_lib.evaluation.protocols import MASK_MAPS
from more_lib.method.crf import dense_crf, with_background
from more_lib.method.localization import fuse, multiscale_maps
from more_lib.method.model import MoRe
from more_lib.method.pseudo_labels import PixelAdaptiveRefinement, foreground_mask
from more_lib.recipes.loading import changed
from more_lib.recipes.profiles import PROFILES
from more_lib.system.errors import InputError
from tests.evaluation.helpers import GREY, RED, SIDE, picture

CLASSES = ("cat", "dog")


@pytest.fixture
def ask(photo_model, own_recipe):
    """The prediction of one image, under changes of how the recipe evaluates."""

    def one(path, labels=None, map="lam", crf=False, **changes):
        recipe = replace(own_recipe, evaluation=replace(own_recipe.evaluation, **changes))
        (prediction,) = predict(photo_model, recipe, [path], labels, map=map, crf=crf)
        return prediction

    return one


def test_predicted_labels_by_default(photo_model, own_recipe, photos):
    cat, dog, nothing = predict(photo_model, own_recipe, find_images([photos]))
    assert [p.id for p in (cat, dog, nothing)] == ["cat", "dog", "nothing"]
    assert [p.labels for p in (cat, dog, nothing)] == [("cat",), ("dog",), ()]
    assert (cat.mask[:, :14] == 1).all() and (cat.mask[:, 18:] == 0).all()
    assert (dog.mask[:, :22] == 0).all() and (dog.mask[:, 26:] == 2).all()
    assert not nothing.mask.any() and nothing.maps.shape == (0, SIDE, SIDE)
    assert cat.mask.dtype == np.uint8 and dog.mask.shape == (24, 48)
    assert cat.maps.dtype == np.float32 and 0 <= cat.maps.min() and cat.maps.max() <= 1
    assert cat.probabilities == pytest.approx(1 / (1 + np.exp(-np.array([0.5, 40 / 255 - 0.5]))))


def test_given_labels_replace_the_predicted(ask, photos):
    cat = photos / "cat.png"
    assert ask(cat, {"cat.png": {"dog"}}).labels == ("dog",)
    assert ask(cat, {"cat": ["dog", "cat"]}).labels == CLASSES  # in the recipe's order
    empty = ask(cat, {"cat.png": []})
    assert empty.labels == () and not empty.mask.any()
    with pytest.raises(InputError, match=r"no labels for cat\.png"):
        ask(cat, {"dog.jpg": ["dog"]})
    with pytest.raises(InputError, match=r"cat\.png has the class 'cow', .* it knows cat, dog"):
        ask(cat, {"cat.png": ["cat", "cow"]})


def test_labels_belong_to_the_image_that_they_name():
    composed, parted = "caf\u00e9", "cafe\u0301"
    images = [Path("in") / name for name in ("a.jpg", "a.jpg.png", f"{parted}.jpg", "b.jpg.webp")]
    labels = {"a": ["cat"], "a.jpg.png": ["dog"], composed: ["cat", "dog"], "b.jpg": []}
    found = labels_by_name(images, labels)
    assert list(found.values()) == [["cat"], ["dog"], ["cat", "dog"], []]
    assert list(found) == [image.name for image in images]
    del labels["a"], labels["a.jpg.png"]
    with pytest.raises(InputError, match=r"no labels for a\.jpg\.png"):
        labels_by_name(images, labels | {"a.jpg": ["cat"]})
    with pytest.raises(InputError, match=r"a\.jpg has two rows, a\.jpg and a: keep one"):
        labels_by_name(images[:1], {"a": ["cat"], "a.jpg": ["dog"]})


@pytest.mark.parametrize("kind", ["lam", "cam", "fused"])
def test_same_mask_as_the_evaluation_makes(ask, photo_model, photos, kind):
    image = evaluation_transform(None)(Image.open(photos / "dog.jpg"))[None]
    with torch.no_grad():
        maps = multiscale_maps(photo_model, image, (1.0, 0.5))
    map = fuse(maps.lam, maps.cam) if kind == "fused" else getattr(maps, kind)
    wanted = foreground_mask(map, torch.tensor([[1, 1]]), 0.5)[0]
    prediction = ask(photos / "dog.jpg", {"dog": CLASSES}, kind, scales=(1.0, 0.5))
    assert len(wanted.unique()) > 1
    np.testing.assert_array_equal(prediction.mask, wanted)
    np.testing.assert_allclose(prediction.maps, map[0])


def test_threshold_is_the_recipes(ask, photos):
    few, many = ((ask(photos / "cat.png", threshold=t).mask > 0).sum() for t in (0.8, 0.2))
    assert many > few > 0


def test_maps_follow_the_edges_where_the_recipe_says_so_and_a_crf_refines_alone(ask, photos):
    one = photos / "cat.png"
    image = evaluation_transform(None)(Image.open(one))[None]
    plain = torch.from_numpy(ask(one).maps)[None]
    refined = PixelAdaptiveRefinement(PROFILES["mini"].masks.dilations)(image, plain) / 1.01**10
    found = ask(one, refinement="par")
    assert not np.allclose(found.maps, plain[0], atol=0.01)
    np.testing.assert_allclose(found.maps, refined[0], atol=1e-5)
    np.testing.assert_array_equal(found.mask, refined[0, 0] > 0.5)
    alone, both = (ask(one, crf=True, refinement=kind) for kind in ("none", "par"))
    np.testing.assert_array_equal(both.mask, alone.mask)
    np.testing.assert_array_equal(both.maps, alone.maps)


def test_decoder_takes_no_labels_and_given_ones_narrow_it(ask, photos):
    found = ask(photos / "cat.png", map="decoder")
    assert found.asked == CLASSES and ask(photos / "nothing.bmp", map="decoder").asked == CLASSES
    assert found.labels == ("cat",) and set(np.unique(found.mask)) == {0, 1}
    assert found.maps.shape == (1, SIDE, SIDE)
    background, cat, dog = np.exp([0.4, 1.0, 0.0])
    assert found.maps[0, 0, 0] == pytest.approx(cat / (background + cat + dog), abs=1e-5)
    narrowed = ask(photos / "cat.png", {"cat": ["dog"]}, "decoder")
    assert narrowed.labels == ("dog",) and not narrowed.mask.any()
    assert narrowed.maps[0, 0, 0] == pytest.approx(dog / (background + dog), abs=1e-5)


def test_crf_refines_in_the_size_the_network_saw(ask, photos, tmp_path):
    image = picture(GREY, GREY)
    ImageDraw.Draw(image).ellipse((5, 6, 24, 27), fill=RED)  # a map has patches of 4 pixels
    image.save(tmp_path / "cat.png")
    disc = np.asarray(image)[..., 0] == 255
    plain, refined = (ask(tmp_path / "cat.png", crf=crf) for crf in (False, True))
    scores = dense_crf(np.array(image), with_background(torch.from_numpy(plain.maps)))
    np.testing.assert_array_equal(refined.mask, scores.argmax(0))
    assert (plain.mask != disc).sum() > 10 > (refined.mask != disc).sum()
    decoded = ask(tmp_path / "cat.png", map="decoder", crf=True)
    assert (decoded.mask != disc).sum() < 10
    assert not ask(photos / "nothing.bmp", crf=True).mask.any()


@pytest.mark.parametrize("crf", [False, True])
def test_large_photographs_are_reduced_for_the_network_alone(ask, photo_model, tmp_path, crf):
    picture(size=(600, 300)).save(tmp_path / "large.png")
    large = ask(tmp_path / "large.png", crf=crf)
    assert large.image.size == (600, 300) and large.mask.shape == (300, 600)
    assert photo_model.inputs == [(2, 3, 24, 48)] and large.maps.shape == (1, 24, 48)
    assert 0.45 < (large.mask == 1).mean() < 0.55


def test_sizes_of_voc_and_coco_stay():
    sizes = (500, 375), (640, 640), (4000, 3000), (4000, 1)
    seen = [seen_size(size, PROFILES["voc"]) for size in sizes]
    assert seen == [(500, 375), (640, 640), (672, 504), (672, 1)]


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (90, 2), (7, 5)])
def test_tiny_and_narrow_images(ask, tmp_path, size):
    picture(size=size).save(tmp_path / "tiny.png")
    assert ask(tmp_path / "tiny.png", scales=(0.4, 1.0)).mask.shape == size[::-1]


def test_the_map_is_checked_at_once_and_images_one_at_a_time(photo_model, own_recipe, photos):
    with pytest.raises(InputError, match="'seed' is unknown; choose from lam, cam, fused, decod"):
        predict(photo_model, own_recipe, [photos / "cat.png"], map="seed")
    predictions = predict(photo_model, own_recipe, [photos / "cat.png", photos / "missing.png"])
    assert next(predictions).id == "cat"
    with pytest.raises(InputError, match=r"missing\.png is missing"):
        next(predictions)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_cameras_orientation_turns_image_and_mask_alike(ask, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(size=(40, 24)).save(tmp_path / "turned.png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "turned.png")).convert("RGB")
    upright.save(tmp_path / "upright.png", exif=Image.Exif())
    turned, straight = (ask(tmp_path / f"{name}.png") for name in ("turned", "upright"))
    assert turned.mask.shape == (upright.height, upright.width)
    assert turned.image.tobytes() == upright.tobytes()
    np.testing.assert_array_equal(turned.mask, straight.mask)


@pytest.mark.parametrize(
    ("wanted", "native", "used"),
    [("auto", True, "bf16"), ("auto", False, "fp32"), ("fp32", True, "fp32"), ("bf16", 0, "bf16")],
)
def test_masks_of_ones_own_are_made_in_what_is_fastest_here(
    own_recipe, monkeypatch, wanted, native, used
):
    """Unless the recipe names a precision; every map agrees."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)
    recipe = changed(own_recipe, [f"evaluation.precision={wanted}"])
    assert {own_protocol(recipe, map, crf=False).precision for map in MASK_MAPS} == {used}


def test_a_prediction_in_bf16_is_near_the_exact_one(own_recipe, photos):
    """A network's own rounding, which moves some pixels at a map's edge; the maps are float32."""
    torch.manual_seed(0)
    recipe = changed(own_recipe, ["backbone.depth=3", "evaluation.precision=fp32"])
    half, model = changed(recipe, ["evaluation.precision=bf16"]), MoRe.from_recipe(recipe).eval()
    labels = {"dog.jpg": ["cat", "dog"]}
    exact, near = (
        next(predict(model, each, [photos / "dog.jpg"], labels)) for each in (recipe, half)
    )
    assert near.maps.dtype == np.float32 and not np.array_equal(near.maps, exact.maps)
    assert np.abs(near.maps - exact.maps).max() < 0.05
    assert near.probabilities == pytest.approx(exact.probabilities, abs=0.01)
