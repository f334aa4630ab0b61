"""Figure 5: do class tokens of the same class lie together? (notebook 07)

Two measures in the tokens' own space, and a map of them in the plane by t-SNE. The map is for
looking only: t-SNE keeps neighbours and bends distances, so nothing is measured in it.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from torch import nn

from more_lib.evaluation.masks import evaluation_mode
from more_lib.evaluation.scoring import Device
from more_lib.system.errors import InputError
from more_lib.system.shapes import check_shapes

PERPLEXITY = 30.0  # about how many neighbours t-SNE gives each token, where there are enough


class ClassTokens(NamedTuple):
    """Tokens of the classes that are in the images: M in all, by image, then by class."""

    vectors: np.ndarray  # (M, D) float32
    classes: np.ndarray  # (M,) int64, the class 0..C-1 that each stands for


class Separation(NamedTuple):
    """How well tokens of different classes keep apart, by the cosine between them.

    silhouette: mean of (b - a) / max(a, b), a a token's mean cosine distance to the others of its
        class, b to the nearest other class: 1 where classes are tight and far apart, 0 where they
        touch, below 0 among another class's tokens. A class's only token counts 0.
    nearest_alike: share of tokens whose nearest other is of their class; an only one's is not.
    """

    silhouette: float  # in [-1, 1]
    nearest_alike: float  # in [0, 1]
    tokens: int
    classes: int


class TokenMap(NamedTuple):
    """Tokens in the plane, for ``figures.plot_token_maps``, and how they separate."""

    points: np.ndarray  # (M, 2) float32; axes and scale mean nothing
    classes: np.ndarray  # (M,) int64
    separation: Separation


def present_tokens(
    model: nn.Module, batches: Iterable[Mapping], device: Device = None
) -> ClassTokens:
    """The class tokens, after the graph where there is one, of each image's own classes.

    model: ``model(images)`` returns ``class_tokens`` (B, C, D); runs in evaluation mode on
    ``device`` (where it is, if None) and is left as it was. batches: "image" (B, 3, H, W),
    normalised, and "labels" (B, C) of 0 and 1. Raises ``InputError`` when no image has a class.
    """
    vectors, classes = [], []
    with evaluation_mode(model, device) as place, torch.inference_mode():
        for batch in batches:
            present = batch["labels"] > 0
            tokens = model(batch["image"].to(place)).class_tokens.float().cpu()
            vectors.append(tokens[present].numpy())
            classes.append(present.nonzero()[:, 1].numpy())
    if not any(map(len, classes)):
        raise InputError("there is no class token to look at; give images that have a class")
    return ClassTokens(np.concatenate(vectors), np.concatenate(classes))


def separation(tokens: ClassTokens) -> Separation:
    """Measure tokens in their own space; costs M^2 D, so give some hundreds or thousands.

    Raises ``InputError`` for tokens that are not (M, D) and finite with M classes, for fewer than
    two classes, and where no class has two tokens.
    """
    vectors, classes = tokens
    check_shapes(vectors=(vectors, "M D"), classes=(classes, "M"))
    if not np.isfinite(vectors).all():
        raise InputError("class tokens hold nan or inf; check the network's weights")
    number = len(np.unique(classes))
    if not 2 <= number < len(classes):
        raise InputError(
            f"{len(classes)} tokens of {number} classes cannot be compared; give more images, so "
            "that there are two classes or more, one of them twice"
        )
    # Asked without points of its own, it gives each one's neighbours other than itself.
    neighbors = NearestNeighbors(n_neighbors=1, metric="cosine").fit(vectors)
    nearest = neighbors.kneighbors(return_distance=False)[:, 0]
    return Separation(
        silhouette=float(silhouette_score(vectors, classes, metric="cosine")),
        nearest_alike=float((classes[nearest] == classes).mean()),
        tokens=len(classes),
        classes=number,
    )


def token_map(tokens: ClassTokens, seed: int = 0) -> TokenMap:
    """Lay the tokens' directions out in the plane by t-SNE, and measure their separation.

    On vectors of length 1 squared distances are 2 (1 - cosine). It starts from the first two
    principal components; one seed gives one map on one machine with one number of threads. Raises
    what ``separation`` raises, and ``InputError`` when all tokens point the same way.
    """
    measured = separation(tokens)
    directions = normalize(tokens.vectors)
    if np.allclose(directions, directions[0], atol=1e-6):
        raise InputError("all class tokens point the same way; train the network first")
    perplexity = min(PERPLEXITY, (len(directions) - 1) / 3)
    layout = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return TokenMap(layout.fit_transform(directions), tokens.classes, measured)
