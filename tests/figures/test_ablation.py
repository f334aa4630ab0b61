"""The ablation's figure draws what the rows say, and refuses a map that they lack."""

import pytest

from more_lib.figures.ablation import plot_ablation
from more_lib.figures.maps import Picture
from more_lib.paper.ablation import CONDITIONS, MAIN
from more_lib.system.errors import InputError


def rows(std=False, **changes):
    """LAM and CAM of the main conditions; ``changes`` replace values of the baseline's LAM."""
    found = []
    for index, name in enumerate(MAIN):
        scores = {"miou": 0.1 + 0.2 * index, "confusion_ratio": 6.0 - 2 * index}
        spread = {"miou_std": 0.02, "confusion_ratio_std": 0.5} if std else {}
        title = CONDITIONS[name].title
        found += [{"title": title, "map": kind, **scores, **spread} for kind in ("LAM", "CAM")]
    found[0] |= changes
    return found


def widths(ax):
    return [bar.get_width() for bar in ax.patches]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_a_bar_a_condition_for_both_scores():
    figure = plot_ablation(rows())
    assert isinstance(figure, Picture) and "LAM" in figure.get_suptitle()
    left, right = figure.axes
    assert widths(left) == pytest.approx([10, 30, 50])
    assert widths(right) == pytest.approx([6, 4, 2])
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names == [CONDITIONS[name].title for name in MAIN]
    assert texts(left) == ["10.0", "30.0", "50.0"]
    assert not left.containers[0].errorbar
    assert figure.png().startswith(b"\x89PNG")


def test_several_seeds_get_error_bars():
    left, right = plot_ablation(rows(std=True), "CAM", "Both").axes
    assert left.containers[-1].errorbar is not None
    assert texts(left)[0] == "10.0 ± 2.0" and texts(right)[0] == "6.00 ± 0.50"


def test_a_score_without_a_value_is_written_out():
    left, right = plot_ablation(rows(miou=None, confusion_ratio=None, miou_std=None)).axes
    assert texts(left)[0] == texts(right)[0] == "no value"
    assert widths(right)[0] == 0


def test_nothing_but_missing_values_can_be_drawn():
    only = [{"condition": "more", "map": "LAM", "miou": 0.0, "confusion_ratio": None}]
    assert plot_ablation(only).png().startswith(b"\x89PNG")


@pytest.mark.parametrize("given", [[], rows()])
def test_a_map_that_no_row_has_is_refused(given):
    with pytest.raises(InputError, match="no row of map 'decoder'"):
        plot_ablation(given, "decoder")
