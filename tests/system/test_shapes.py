"""Shapes are checked together, and the message shows them all."""

import pytest
import torch

from more_lib.system.errors import InputError
from more_lib.system.shapes import check_shapes


def test_letters_bind_sizes_across_tensors():
    tokens, features = torch.zeros(2, 5, 8), torch.zeros(2, 8, 3, 4)
    sizes = check_shapes(tokens=(tokens, "B C D"), features=(features, "B D h w"))
    assert sizes == {"B": 2, "C": 5, "D": 8, "h": 3, "w": 4}


@pytest.mark.parametrize(
    "shape, text, fits",
    [
        ((2, 3, 8, 8), "B 3 H W", True),
        ((2, 4, 8, 8), "B 3 H W", False),
        ((8, 8), "... h w", True),
        ((5, 4, 8, 8), "... h w", True),
        ((8,), "... h w", False),
        ((2, 2), "K K", True),
        ((2, 3), "K K", False),
        ((2, 3), "B C D", False),
    ],
)
def test_numbers_repeats_and_further_dimensions(shape, text, fits):
    if fits:
        check_shapes(x=(torch.zeros(shape), text))
    else:
        with pytest.raises(InputError):
            check_shapes(x=(torch.zeros(shape), text))


def test_the_message_names_every_tensor_and_every_wanted_shape():
    with pytest.raises(InputError) as error:
        check_shapes(maps=(torch.zeros(2, 5, 3, 3), "B C h w"), labels=(torch.zeros(2, 4), "B C"))
    said = "maps (2, 5, 3, 3), labels (2, 4) must be (B, C, h, w), (B, C)"
    assert str(error.value) == said
