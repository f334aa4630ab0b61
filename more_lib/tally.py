"""What has been counted so far: it adds up over images and processes, and survives a kill."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from more_lib.errors import InputError
from more_lib.metrics import confusion_matrix
from more_lib.segmentation import Batch
from more_lib.storage import atomic_file


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
        self.num_exact = 0
        if note and note.is_file():
            self._take_up(note)

    @property
    def num_images(self) -> int:
        return sum(map(len, self._logits))

    @property
    def logits(self) -> np.ndarray:
        return np.concatenate(self._logits)

    @property
    def labels(self) -> np.ndarray:
        return np.concatenate(self._labels)

    def add(self, batch: Batch, exact: bool = False) -> None:
        """Count a batch that was read with labels and masks."""
        for matrix, prediction in zip(self.matrices, batch.predictions, strict=True):
            target = batch.masks.to(prediction.device)
            matrix += confusion_matrix(prediction, target, len(matrix)).cpu().numpy()
        self._logits.append(batch.logits.float().numpy())
        self._labels.append(batch.labels.numpy())
        self.num_exact += exact * len(batch.ids)

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
        matrices = sum(part["matrices"] for part in parts)
        whole = cls(len(matrices), matrices.shape[1] - 1)
        whole.matrices = matrices
        whole.num_exact = sum(int(part["num_exact"]) for part in parts)
        for name in ("logits", "labels"):
            images = np.empty((sum(len(part[name]) for part in parts), matrices.shape[1] - 1))
            for index, part in enumerate(parts):
                images[index :: len(parts)] = part[name]
            setattr(whole, f"_{name}", [images.astype(np.float32)])
        return whole

    def _take_up(self, note: Path) -> None:
        try:
            with np.load(note) as kept:  # refuses pickles
                found = {name: kept[name] for name in self.arrays()}
            if any(found[n].shape[1:] != now.shape[1:] for n, now in self.arrays().items()):
                raise ValueError("other classes")
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{note} is damaged ({error}): delete it, and begin anew") from error
        self.matrices, self.num_exact = found["matrices"], int(found["num_exact"])
        self._logits, self._labels = [found["logits"]], [found["labels"]]
