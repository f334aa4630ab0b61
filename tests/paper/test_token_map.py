"""Separation against numbers worked out by hand; the map keeps what is apart apart."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from more_lib.paper.token_map import ClassTokens, present_tokens, separation, token_map
from more_lib.system.errors import InputError


def tokens(vectors, classes):
    return ClassTokens(np.array(vectors, dtype=np.float32), np.array(classes))


def clusters(sizes, spread=0.1, width=8, seed=0):
    """Tokens around the first axes, one a class, in a mixed order."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    noise = spread * rng.standard_normal((len(classes), width))
    return tokens(np.eye(width)[classes] + noise, classes)


class Lookup(nn.Module):
    """Class tokens (B, 3, 2) that say which image and which class they are of."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        assert not self.drop.training and not torch.is_grad_enabled()
        numbers = images[:, 0, 0, 0]
        pairs = [[(number, float(index)) for index in range(3)] for number in numbers.tolist()]
        return SimpleNamespace(class_tokens=torch.tensor(pairs) + self.weight)


def batch(numbers, labels):
    images = torch.tensor(numbers, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 4, 4)
    return {"image": images, "labels": torch.tensor(labels, dtype=torch.float32)}


class TestPresentTokens:
    def test_only_those_of_the_images_own_classes_by_image_then_by_class(self):
        batches = [batch([5, 6], [[1, 0, 1], [0, 1, 0]]), batch([7], [[0, 0, 1]])]
        found = present_tokens(model := Lookup().train(), batches)
        assert found.vectors.tolist() == [[5, 0], [5, 2], [6, 1], [7, 2]]
        assert found.vectors.dtype == np.float32
        assert found.classes.tolist() == [0, 2, 1, 2]
        assert model.training and model.drop.training  # left as it was

    @pytest.mark.parametrize("batches", [[], [batch([5], [[0, 0, 0]])]])
    def test_no_class_no_token(self, batches):
        with pytest.raises(InputError, match="no class token"):
            present_tokens(Lookup(), batches)


# (0, 1) between: a = 1 - 2/√5, b = 1. (1, 2): the same a, b = 1 - 1/√5. Both (1, 0): a = 0.
NEAR, FAR = 1 - 2 / 5**0.5, 1 - 1 / 5**0.5
BETWEEN = (3 - NEAR + (FAR - NEAR) / FAR) / 4
BY_HAND = {  # tokens, classes, silhouette, share of nearest alike
    # a = 0 within, b = 1 to the other class, whatever the lengths.
    "perfect": ([[1, 0], [5, 0], [0, 1], [0, 3]], [4, 4, 7, 7], 1, 1),
    # Each: a = 1, b = (0 + 1) / 2, so (b - a) / a = -1/2; and its twin is of the other class.
    "swapped": ([[1, 0], [0, 1], [0, 2], [3, 0]], [0, 0, 1, 1], -0.5, 0),
    "between": ([[1, 0], [0, 1], [2, 0], [1, 2]], [0, 1, 0, 1], BETWEEN, 1),
    "a class seen once has no nearest": ([[1, 0], [1, 0], [0, 1]], [0, 0, 1], 2 / 3, 2 / 3),
}


class TestSeparation:
    @pytest.mark.parametrize("name", BY_HAND)
    def test_by_hand(self, name):
        vectors, classes, silhouette, alike = BY_HAND[name]
        found = separation(tokens(vectors, classes))
        assert found == pytest.approx((silhouette, alike, len(classes), 2))

    def test_order_and_length_do_not_matter_and_more_noise_separates_less(self):
        given = clusters([5, 9, 4], spread=0.6)
        order = np.random.default_rng(1).permutation(len(given.classes))
        lengths = np.random.default_rng(2).uniform(0.1, 9, (len(order), 1))
        other = ClassTokens((given.vectors * lengths)[order], given.classes[order])
        assert separation(other) == pytest.approx(separation(given))
        tight, loose = (separation(clusters([20] * 4, spread)) for spread in (0.1, 0.7))
        assert tight.silhouette > loose.silhouette and tight.nearest_alike > loose.nearest_alike

    @pytest.mark.parametrize(
        "bad, message",
        [
            (tokens([[1, 0], [0, 1]], [0, 0]), "2 tokens of 1 classes"),
            (tokens([[1, 0], [0, 1]], [0, 1]), "one of them twice"),
            (tokens([[1, 0], [0, np.nan], [0, 1]], [0, 1, 1]), "nan or inf"),
            (tokens([[1, 0], [0, 1]], [0, 1, 1]), r"vectors \(2, 2\), classes \(3,\)"),
            (tokens([1, 0, 1], [0, 1, 1]), r"must be \(M, D\)"),
        ],
    )
    def test_what_cannot_be_measured(self, bad, message):
        with pytest.raises(InputError, match=message):
            separation(bad)
        with pytest.raises(InputError, match=message):
            token_map(bad)


class TestTokenMap:
    def test_classes_that_are_apart_stay_apart(self):
        given = clusters([12, 15, 10])
        found = token_map(given)
        assert found.points.shape == (37, 2) and np.isfinite(found.points).all()
        np.testing.assert_array_equal(found.classes, given.classes)
        assert found.separation == separation(given)
        distances = np.linalg.norm(found.points[:, None] - found.points, axis=2)
        np.fill_diagonal(distances, np.inf)
        assert (given.classes[distances.argmin(1)] == given.classes).all()
        np.testing.assert_array_equal(token_map(given).points, found.points)  # the same each time

    def test_few_tokens_are_enough_but_equal_ones_have_no_map(self):
        found = token_map(tokens([[1, 0, 0], [0, 1, 0], [0, 1, 1]], [0, 1, 1]))
        assert np.isfinite(found.points).all()
        with pytest.raises(InputError, match="same way; train the network"):
            token_map(tokens([[1, 2], [2, 4], [1, 2]], [0, 1, 1]))
