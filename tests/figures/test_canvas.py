"""The canvas: small PNGs, VOC's colours, images of any kind, shared scales, outlines."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from more_lib.data.images import PALETTE
from more_lib.figures import canvas
from more_lib.figures.maps import show_dataset, show_images, show_maps
from more_lib.recipes.classes import VOC_CLASSES
from more_lib.system.errors import InputError
from tests.figures import helpers
from tests.figures.helpers import CAT, CLASSES, CREAM, DOG, decoded, drawn, image, maps, mask


def test_notebooks_show_figures_by_themselves():
    formatters = pytest.importorskip("IPython.core.formatters")
    figure = show_maps(image(), {"LAM": maps(2, 3), "CAM": maps(16, 24)})
    data, _ = formatters.DisplayFormatter().format(figure)
    assert data["image/png"].startswith(b"\x89PNG")
    assert data["text/plain"] == "<Picture size 690x290 with 4 Axes>"  # no address


def test_noisy_figures_lose_low_bits_and_no_others_do(monkeypatch):
    noisy = show_images([image(), image(1)], title="noise")
    noisy.savefig(exact := io.BytesIO(), format="png")
    np.testing.assert_array_equal(decoded(noisy.png()), decoded(exact.getvalue()))
    monkeypatch.setattr(canvas, "MAX_PNG", len(noisy.png()) * 9 // 10)
    small = noisy.png()
    assert len(small) <= canvas.MAX_PNG
    difference = decoded(small).astype(int) - decoded(exact.getvalue())
    assert 0 < np.abs(difference).max() <= 9  # half a step of 4 bits


def test_class_colours_are_vocs():
    assert canvas.class_colors(CLASSES).tolist() == [[0, 0, 0], list(CAT), list(DOG)]
    np.testing.assert_array_equal(canvas.class_colors(VOC_CLASSES), PALETTE[:21])
    # Other data has classes that VOC lacks: all different, in VOC's order.
    np.testing.assert_array_equal(canvas.class_colors(("cat", "unicorn")), PALETTE[:3])


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list])
def test_colorize(kind):
    colours = canvas.colorize(kind([[0, 1], [2, 255]]), CLASSES)
    np.testing.assert_array_equal(colours, [[(0, 0, 0), CAT], [DOG, CREAM]], strict=False)
    assert colours.dtype == np.uint8


@pytest.mark.parametrize("values", [[[3]], [[-1]], [[0.5]], [[254]]])
def test_colorize_refuses_what_is_no_mask(values):
    with pytest.raises(InputError, match="give integers from 0 to 2, and 255"):
        canvas.colorize(np.array(values), CLASSES)


def test_any_kind_of_image_is_drawn_alike():
    pixels = (image() * 255).astype(np.uint8)
    scaled = torch.from_numpy(pixels / 255).permute(2, 0, 1)
    kinds = [pixels, Image.fromarray(pixels), scaled, scaled.float(), torch.from_numpy(pixels)]
    for ax in show_images(kinds).axes:
        np.testing.assert_allclose(drawn(ax), pixels / 255, atol=1e-6)


def test_what_is_no_image():
    for images, message in (
        ([image() * 4 - 2], "denormalize it first"),
        ([image()[..., 0]], r"shape \(16, 24\)"),
        ([image()[..., :2]], r"shape \(24, 2, 16\)|shape \(2, 16, 24\)"),
        ([], "nothing to draw"),
    ):
        with pytest.raises(InputError, match=message):
            show_images(images)


def test_many_images_wrap():
    names = [f"image {i}" for i in range(9)]
    figure = show_images([image()] * 9, names)
    assert helpers.titles(figure) == names and len(figure.axes) == 9
    assert {ax.get_subplotspec().rowspan.start for ax in figure.axes} == {0, 1}


def test_legend_names_only_what_is_there_in_its_colour():
    figure = show_dataset([image()], [mask(2)], CLASSES)
    assert helpers.legend(figure) == ["background", "dog"]
    colours = [patch.get_facecolor()[:3] for patch in figure.legends[0].get_patches()]
    np.testing.assert_allclose(np.multiply(colours, 255), [(0, 0, 0), DOG])


def test_maps_share_one_scale_over_the_whole_image():
    low, high = maps(2, 3) - 1, maps(16, 24) * 3
    figure = show_maps(image(), {"LAM": low, "CAM": high})
    *panels, bar = figure.axes
    assert helpers.titles(figure) == ["image", "LAM", "CAM"] and bar.get_ylabel() == "map value"
    limits = (float(low.min()), float(high.max()))
    for ax in panels[1:]:
        assert ax.images[-1].get_clim() == pytest.approx(limits)
        assert tuple(ax.images[-1].get_extent()) == (-0.5, 23.5, 15.5, -0.5)
    assert bar.get_ylim() == pytest.approx(limits)
    np.testing.assert_allclose(drawn(panels[1]), low)


@pytest.mark.parametrize(
    ("given", "limits"),
    [([np.nan, 0.25, 0.75], (0.25, 0.75)), ([1, 1, 1], (0, 1)), ([3, 3, 3], (0, 3)),
     ([np.nan] * 3, (0, 1))],
)  # fmt: skip
def test_a_map_without_values_hides_no_other_and_a_constant_one_has_its_colour(given, limits):
    figure = show_maps(image(), {str(n): np.full((2, 3), value) for n, value in enumerate(given)})
    for ax in figure.axes[1:-1]:
        assert ax.images[-1].get_clim() == limits


def test_a_legend_of_long_names_has_room_for_each():
    breeds = tuple(f"{number} of the long-haired terriers" for number in range(20))
    figure = show_dataset([image()], [np.arange(20).reshape(4, 5) + 1], breeds)
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_outline_runs_along_the_edges_of_what_is_chosen():
    ax = canvas.new_panels(["one"], "outline")[1][0]
    canvas.outline_patches(ax, torch.tensor([[0, 1, 1], [0, 0, 0]], dtype=bool), (4, 9))
    edges = {tuple(map(tuple, line)) for line in ax.collections[0].get_segments()}
    across = {((x, y), (x + 3, y)) for x in (2.5, 5.5) for y in (-0.5, 1.5)}  # patches of 3 x 2
    assert edges == across | {((x, -0.5), (x, 1.5)) for x in (2.5, 8.5)}


def test_pixels_are_what_savefig_writes():
    figure, (ax,) = canvas.new_panels(["a name"], "a title")
    canvas.draw_overlay(ax, np.full((4, 6, 3), 90, np.uint8), np.arange(6.0).reshape(2, 3))
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert np.array_equal(figure.pixels(), np.asarray(Image.open(file).convert("RGB")))
