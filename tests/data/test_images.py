"""Image files: VOC's palette, and the files that training and prediction take alike."""

import numpy as np
import pytest

from more_lib.data.folder import FolderTree
from more_lib.data.images import IMAGE_ENDINGS, PALETTE, find_images, mask_image
from more_lib.recipes.classes import VOC_CLASSES
from tests.data.helpers import noise


def test_class_ids_and_colours_are_vocs_own():
    assert len(VOC_CLASSES) == 20 and VOC_CLASSES[0] == "aeroplane"
    assert VOC_CLASSES.index("person") + 1 == 15 and VOC_CLASSES[-1] == "tvmonitor"
    # Read off the colour map that the VOC development kit documents.
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128)}
    known |= {20: (0, 64, 128), 255: (224, 224, 192)}
    assert {value: tuple(PALETTE[value].tolist()) for value in known} == known
    assert PALETTE.dtype == np.uint8 and len(np.unique(PALETTE, axis=0)) == 256


def test_a_mask_s_image_shows_the_palette_s_colours_and_holds_the_values():
    values = np.arange(256, dtype=np.uint8).reshape(8, 32)
    image = mask_image(values)
    assert image.mode == "P" and np.array_equal(np.asarray(image), values)
    assert np.array_equal(np.asarray(image.convert("RGB")), PALETTE[values])
    reversed_colours = mask_image(values, PALETTE[::-1]).convert("RGB")
    assert reversed_colours.getpixel((0, 0)) == (224, 224, 192)


@pytest.mark.parametrize("ending", [*IMAGE_ENDINGS, ".JPG"])
def test_training_and_prediction_take_the_same_files(tmp_path, ending):
    (tmp_path / "labels.csv").write_text(f"image,classes\none{ending},cat\n")
    noise(0).save(tmp_path / f"one{ending}")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / ".hidden.png").touch()
    assert find_images([tmp_path]) == [tmp_path / f"one{ending}"]
    tree = FolderTree(tmp_path)
    assert tree.ids("all") == ["one"] and tree.image("one").size == (40, 30)
    assert tree.scan("all") == {}
    tree.image_path("one").write_bytes(tree.image_path("one").read_bytes()[:700])
    assert list(tree.scan("all")) == ["one"]
