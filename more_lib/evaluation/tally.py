"""What has been counted so far: it adds up over images and processes, and survives a kill."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from more_lib.evaluation.masks import Batch
from more_lib.evaluation.metrics import confusion_matrix
from more_lib.system.errors import InputError
from more_lib.system.files import atomic_file


class Tally:
    """Counts of P protocols over C classes, begun anew or taken up from the file ``note``.

    matrices: (P, C + 1, C + 1) int64 pixel counts, true classes in rows. logits: (N, C) float32
    and labels: (N, C) of 0 and 1, image-level, of the N images counted, in their order.
    num_exact: images whose dense CRF was summed exactly.

    Raises ``InputError`` when the note is damaged.
    """

    def __init__(self, num_protocols: int, num_classes: int, note: Path | None = None) -> None:
        shape = (num_protocols, num_classes + 1, num_classes + 1)
        self.matrices = np.zeros(shape, np.int64)
        self._logits = [np.zeros((0, num_classes), np.float32)]
        self._labels = [np.zeros((0, num_classes), np.float32)]
        self.num_images = self.num_exact = 0
        if note and note.is_file():
            self._take_up(note)

    @property
    def logits(self) -> np.ndarray:
        return np.concatenate(self._logits)

    @property
    def labels(self) -> np.ndarray:
        return np.concatenate(self._labels)

    def add(self, batch: Batch) -> None:
        """Count a batch that was read with labels and masks."""
        target = batch.masks.to(batch.predictions[0].device)
        for matrix, prediction in zip(self.matrices, batch.predictions, strict=True):
            matrix += confusion_matrix(prediction, target, len(matrix)).cpu().numpy()
        self._logits.append(batch.logits.float().numpy())
        self._labels.append(batch.labels.numpy())
        self.num_images += len(batch.ids)
        self.num_exact += batch.exact * len(batch.ids)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything counted, to send to another process or to a file."""
        return {
            "matrices": self.matrices,
            "logits": self.logits,
            "labels": self.labels,
            "num_exact": np.array(self.num_exact),
        }

    def save(self, note: Path) -> None:
        """Write the counts, whole or not at all."""
        with atomic_file(note) as temporary:
            np.savez(temporary, **self.arrays())

    @classmethod
    def together(cls, parts: Sequence[dict[str, np.ndarray]]) -> "Tally":
        """The whole from the ``arrays`` of n processes, of which each took every n-th image."""
        whole = {name: sum(part[name] for part in parts) for name in ("matrices", "num_exact")}
        for name in ("logits", "labels"):
            length, width = sum(len(part[name]) for part in parts), parts[0][name].shape[1]
            whole[name] = np.empty((length, width), np.float32)
            for index, part in enumerate(parts):
                whole[name][index :: len(parts)] = part[name]
        tally = cls(len(whole["matrices"]), whole["logits"].shape[1])
        tally._set(whole)
        return tally

    def _take_up(self, note: Path) -> None:
        try:
            with np.load(note) as kept:  # refuses pickles
                self._set({name: kept[name] for name in self.arrays()})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{note} is damaged ({error}): delete it, and begin anew") from error

    def _set(self, arrays: dict[str, np.ndarray]) -> None:
        self.matrices = arrays["matrices"]
        self._logits, self._labels = [arrays["logits"]], [arrays["labels"]]
        self.num_images, self.num_exact = len(arrays["logits"]), int(arrays["num_exact"])
