"""What the explorer of notebook 09 knows: networks, pictures, and what a view of them shows.

Nothing of the method is here: a view is a protocol of ``evaluation`` for one picture, and one patch
of it to look at. The widgets are in ``classroom.screen``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from more_lib.data import open_tree
from more_lib.data.images import read_image
from more_lib.data.transforms import evaluation_transform
from more_lib.evaluation.masks import (
    ImageMaps,
    Scores,
    crf_method,
    drawn_maps,
    protocol_views,
    scores_of,
    whole_patches,
)
from more_lib.evaluation.metrics import confusion_matrix, scores
from more_lib.evaluation.predict import seen_size
from more_lib.evaluation.protocols import MAP_NAMES, Protocol, map_protocol
from more_lib.figures.explorer import Seen, draw_seen, png
from more_lib.method.crf import dense_crf
from more_lib.method.gcr import Graph
from more_lib.method.localization import Group, Views
from more_lib.method.methods import method_of
from more_lib.recipes import saved_recipe
from more_lib.system.errors import InputError
from more_lib.system.files import absolute
from more_lib.training import Trained, load_trained

KEPT = 64  # passes through a network, and refined masks, that stay in memory
CPU = torch.device("cpu")


@dataclass(frozen=True)
class View:
    """All that decides what one row of the explorer shows.

    picture: an id of the validation split, or the name of an added file. category: the class.
    network: its name. map: one that it draws, of ``MAP_NAMES``. threshold: what a map must exceed;
    neither the decoder nor a CRF asks for one. views: scales, and whether mirror images are seen
    too. patch: row and column; beyond the picture's grid, the last one.
    """

    picture: str
    category: str
    network: str
    map: str = "lam"
    threshold: float = 0.5
    views: Group = ((1.0,), True)
    crf: bool = False
    patch: tuple[int, int] = (0, 0)

    @property
    def title(self) -> str:
        """The settings on a line."""
        free = self.map != "decoder" and not self.crf
        parts = [self.network, f"{MAP_NAMES[self.map]} of {self.category}", self.picture]
        parts += [f"threshold {self.threshold:.2f}"] * free + [f"scales {views_text(self.views)}"]
        return " · ".join(parts + ["CRF"] * self.crf)


def views_text(views: Group) -> str:
    """``1 1.5 + flip``."""
    scales, flip = views
    return " ".join(f"{scale:g}" for scale in scales) + flip * " + flip"


class Tokens(NamedTuple):
    """One picture's tokens at scale 1, after GCR where there is a graph."""

    patches: Tensor  # (N, D), of length 1
    classes: Tensor  # (C, D), likewise; (1, D) where one token stands for all classes
    grid: tuple[int, int]  # (h, w)
    graph: Graph | None  # (1, C, K) each; neighbours count the patches from 0


class Explorer:
    """Networks by name and pictures by name, and what they show together.

    networks: the first one's validation split is what there is to look at. A network is run once
    for a picture and its scales; what it said is kept.
    """

    def __init__(self, networks: Mapping[str, Trained]) -> None:
        if not networks:
            raise InputError("the explorer has no network: give at least one")
        self.networks = dict(networks)
        for trained in self.networks.values():
            trained.model.eval()
        data = next(iter(self.networks.values())).recipe.data
        self.tree = open_tree(data)
        self.pictures = list(self.tree.ids(data.val_split))
        self._added: dict[str, Image.Image] = {}
        self._tokens, self._views, self._scores, self._image, self._truth = map(
            lru_cache(KEPT), (self._tokens, self._views, self._scores, self._image, self._truth)
        )

    def classes(self, network: str) -> tuple[str, ...]:
        """The names of the classes that a network knows."""
        return self.networks[network].recipe.data.classes

    def maps(self, network: str) -> list[str]:
        """The maps that a network's method draws, of ``MAP_NAMES`` and in its order."""
        return drawn_maps(self.networks[network].recipe)

    def own_map(self, network: str) -> str:
        """The one of them that the method itself makes masks of."""
        return method_of(self.networks[network].recipe).maps[0]

    def add_picture(self, name: str, content: bytes) -> str:
        """Take in the content of a picture's file; returns the name that it got.

        Raises ``InputError`` as ``read_image`` does, and then nothing has changed.
        """
        with TemporaryDirectory() as folder:
            file = Path(folder) / "picture"
            file.write_bytes(content)
            try:
                image = read_image(file)
            except InputError as error:
                raise InputError(str(error).replace(str(file), name)) from None
        name = _free(name, self.pictures)
        self._added[name] = image
        self.pictures.append(name)
        return name

    def add_network(self, folder: str | Path) -> str:
        """Take in a folder that ``train`` has written; returns the name that it got.

        Raises ``InputError`` as ``load_trained`` does, and then nothing has changed.
        """
        folder = absolute(folder)
        trained = load_trained(folder, saved_recipe(folder))
        trained.model.eval()
        name = _free(folder.resolve().name, self.networks)
        self.networks[name] = trained
        return name

    def labels(self, picture: str) -> tuple[str, ...] | None:
        """The classes that a picture of the split shows by its labels; None of an added one."""
        if picture in self._added:
            return None
        present = self.tree.labels(picture)
        return tuple(name for name, y in zip(self.tree.classes, present, strict=True) if y)

    def grid(self, view: View) -> tuple[int, int]:
        """Patches (h, w) of a view's picture, as its network cuts it at scale 1."""
        return self._tokens(view.picture, view.network).grid

    def image(self, picture: str) -> Image.Image:
        """A picture, RGB and upright."""
        return self._image(picture)

    def see(self, view: View) -> Seen:
        """What a view shows. Raises ``InputError`` for what a network or picture cannot give."""
        known, image = self.classes(view.network), self._image(view.picture)
        if view.category not in known:
            raise InputError(f"{view.network} knows no {view.category}; choose another class")
        if view.map not in (drawn := self.maps(view.network)):
            names = ", ".join(MAP_NAMES[kind] for kind in drawn)
            missing = MAP_NAMES.get(view.map, view.map)
            raise InputError(f"{view.network} draws no {missing}; choose among {names}")
        number = known.index(view.category) + 1
        values, scored = self._scores(replace(view, threshold=0.5, patch=(0, 0)))
        if not isinstance(scored.background, Tensor):
            scored = replace(scored, background=view.threshold)
        mask = scored.mask(image.size[::-1]).numpy()
        truth, judged = self._truth(view.picture, known), {}
        if truth is not None:
            of_all = scores(confusion_matrix(mask, truth, len(known) + 1))
            each = {"IoU": of_all.iou, "precision": of_all.precision}
            each |= {"FP/TP": of_all.confusion_ratio, "recall": of_all.recall}
            judged = {name: float(row[number]) for name, row in each.items()}
        return Seen(
            np.asarray(image), values.numpy(), mask, truth, number, judged, **self._patch(view)
        )

    def png(self, view: View) -> bytes:
        """What a view shows, drawn."""
        return png(draw_seen(self.see(view), self.classes(view.network), self.title(view)))

    def title(self, view: View) -> str:
        """The settings on a line, and what the network's recipe does to maps besides."""
        recipe = self.networks[view.network].recipe
        refined = recipe.evaluation.refinement == "par" and not view.crf  # which refines alone
        return view.title + " · refined by PAR" * refined

    def _patch(self, view: View) -> dict:
        """The fields of ``Seen`` that tell of the chosen patch."""
        tokens, known = self._tokens(view.picture, view.network), self.classes(view.network)
        row, column = (min(k, side - 1) for k, side in zip(view.patch, tokens.grid, strict=True))
        place = row * tokens.grid[1] + column
        told = {
            "patch": (row, column),
            "likeness": (tokens.patches @ tokens.patches[place]).view(tokens.grid).numpy(),
            "tokens": (tokens.classes @ tokens.patches[place]).numpy(),
        }
        if tokens.graph is None:
            return told | {"gathered": None, "neighbors": None}
        neighbors, weights = tokens.graph.neighbors[0], tokens.graph.weights[0]
        framed = torch.zeros(len(tokens.patches), dtype=torch.bool)
        own = neighbors[known.index(view.category)]
        framed[own[own >= 0]] = True
        taken = neighbors == place
        gathered = torch.where(taken.any(1), (weights * taken).sum(1), torch.nan)
        return told | {"gathered": gathered.numpy(), "neighbors": framed.view(tokens.grid).numpy()}

    def _image(self, picture: str) -> Image.Image:
        return self._added[picture] if picture in self._added else self.tree.image(picture)

    def _truth(self, picture: str, known: tuple[str, ...]) -> np.ndarray | None:
        """The mask in the numbers of a network's classes; None where nobody has drawn one.

        Pixels of a class that the network does not know are not counted.
        """
        if picture in self._added or not self.tree.mask_path(picture).is_file():
            return None
        number = {name: n for n, name in enumerate(known, 1)}
        of = np.full(256, 255, np.uint8)
        of[: len(self.tree.classes) + 1] = [0, *(number.get(n, 255) for n in self.tree.classes)]
        return of[self.tree.mask(picture)]

    def _inputs(
        self, picture: str, network: str, scales: Sequence[float] = ()
    ) -> tuple[Image.Image, Tensor]:
        """A picture as a network sees it, and that in whole patches, (1, 3, H, W)."""
        trained, image = self.networks[network], self._image(picture)
        seen = image.resize(seen_size(image.size, trained.recipe), Image.Resampling.BICUBIC)
        pixels = evaluation_transform(None)(seen)[None]
        return seen, whole_patches(pixels, trained.model.patch_size, scales)

    @torch.inference_mode()
    def _tokens(self, picture: str, network: str) -> Tokens:
        model, (_, inputs) = self.networks[network].model, self._inputs(picture, network)
        output, graph = model(inputs, with_decoder=False), None
        classes, patches = output.class_tokens, output.features.flatten(2).mT
        if layer := getattr(model, "graph", None):  # only MoRe may have one
            before = model(inputs, with_gcr=False, with_decoder=False).class_tokens
            graph = layer.graph(before, patches)
            if layer.switches.tails == "tokens_and_patches":  # class tokens become negative
                graph = graph._replace(neighbors=graph.neighbors - classes.shape[1])
        unit = (F.normalize(each[0].float(), dim=1) for each in (patches, classes))
        return Tokens(*unit, output.features.shape[2:], graph)

    @torch.inference_mode()
    def _views(self, picture: str, network: str, group: Group) -> tuple[Views, Tensor, Tensor]:
        """All maps that a network draws over some views, its input, the image's logits (C,)."""
        trained = self.networks[network]
        _, inputs = self._inputs(picture, network, group[0])
        kinds = [_protocol(trained, kind, group) for kind in self.maps(network)]
        similarity = trained.recipe.masks.lam_similarity
        views, logits = protocol_views(trained.model, inputs, kinds, similarity)
        return views, inputs, logits[0]

    @torch.inference_mode()
    def _scores(self, view: View) -> tuple[Tensor, Scores]:
        """The class's map, and what competes for the pixels: all classes of the decoder, else those
        of the labels, or the predicted ones of an added picture, and the one that is asked for."""
        views, inputs, logits = self._views(view.picture, view.network, view.views)
        known, labels = self.classes(view.network), self.labels(view.picture)
        if labels is None:
            labels = [name for name, logit in zip(known, logits, strict=True) if logit > 0]
        wanted = known if view.map == "decoder" else {*labels, view.category}
        numbers = [number for number, name in enumerate(known, 1) if name in wanted]
        trained = self.networks[view.network]
        protocol = _protocol(trained, view.map, view.views)
        if view.crf:  # which refines alone
            protocol = replace(protocol, refinement="none")
        maps = ImageMaps(views, inputs, 0, numbers, trained.recipe)
        found = scores_of(maps, protocol, numbers)
        values = found.values[numbers.index(known.index(view.category) + 1)]
        if view.crf:
            seen, _ = self._inputs(view.picture, view.network)
            beliefs = found.probabilities(seen.size[::-1])
            found = found.refined(dense_crf(np.asarray(seen), beliefs, method=crf_method(CPU)))
        return values, found


def _protocol(trained: Trained, kind: str, group: Group) -> Protocol:
    labels = "none" if kind == "decoder" else "true"
    return replace(map_protocol(trained.recipe, kind, labels), scales=group[0], flip=group[1])


def _free(name: str, taken: Mapping | list) -> str:
    """The name, with a number where it is taken."""
    names = [name, *(f"{name} ({number})" for number in range(2, len(taken) + 3))]
    return next(each for each in names if each not in taken)
