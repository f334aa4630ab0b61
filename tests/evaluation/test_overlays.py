"""Figures of predictions."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from more_lib.evaluation.overlays import plot_masks, plot_prediction
from more_lib.evaluation.predict import Prediction
from more_lib.system.errors import InputError
from tests.evaluation.helpers import GREY

CLASSES = ("cat", "dog")


def prediction_of(mask, labels):
    image = Image.new("RGB", mask.shape[::-1], GREY)
    maps = np.linspace(0, 1, len(labels) * 16, dtype=np.float32).reshape(-1, 4, 4)
    return Prediction("an image", image, labels, labels, np.array([0.9, 0.2]), mask, maps)


@pytest.mark.parametrize("labels", [(), ("dog",), CLASSES])
def test_overlay_names_every_class_and_outlines_its_mask(labels):
    mask = np.zeros((20, 30), np.uint8)
    mask[:, :10] = 2
    figure = plot_prediction(prediction_of(mask, labels), CLASSES)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    named = {"cat": "cat 0.90", "dog": "dog 0.20"}
    assert titles == (["image", *(named[n] for n in labels)] if labels else ["no class looked for"])
    lines = [len(ax.collections) for ax in figure.axes if ax.get_title() in named.values()]
    assert lines == [2 * (name == "dog") for name in labels]
    assert figure.png().startswith(b"\x89PNG")


def test_overlay_of_nothing_found_and_a_name_that_is_no_formula():
    prediction = prediction_of(np.zeros((4, 4), np.uint8), ())
    figure = plot_prediction(replace(prediction, asked=CLASSES, id="$5_{ and $6^"), CLASSES)
    assert figure.axes[0].get_title() == "no class found"
    assert figure.png().startswith(b"\x89PNG")


def test_overlay_of_a_large_photograph_is_small():
    mask = np.ones((1500, 2000), np.uint8)
    prediction = replace(prediction_of(mask, ("cat",)), id="x" * 200)
    figure = plot_prediction(prediction, CLASSES)
    assert figure.axes[0].images[0].get_array().shape[:2] == (480, 640)
    assert len(figure.get_suptitle()) == int(7 * figure.get_figwidth())


def test_plot_masks():
    mask = np.ones((12, 8), np.uint8)
    figure = plot_masks([prediction_of(mask, ("cat",))] * 2, CLASSES)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cat"]
    with pytest.raises(InputError, match="nothing to draw"):
        plot_masks([], CLASSES)
