"""Where each data set comes from: ``sources.yaml``, its files with mirrors and checksums."""

from dataclasses import dataclass
from importlib import resources

import yaml


@dataclass(frozen=True)
class DataSet:
    """What a user has to know before taking the data."""

    name: str
    homepage: str
    licence: str


@dataclass(frozen=True)
class Source:
    """One file to download."""

    file: str  # its name on disk
    urls: tuple[str, ...]  # the publisher's own address first, mirrors of the same bytes after it
    checksum: str | None  # ``sha256:…`` or ``md5:…``, whichever is published; None where nothing is
    size: int  # bytes
    holds: str  # what is in it
    data_set: DataSet  # that it is a part of


_TABLE = yaml.safe_load((resources.files(__package__) / "sources.yaml").read_text("utf-8"))
_SETS = {name: DataSet(**row) for name, row in _TABLE["data_sets"].items()}
_FILES = {
    name: Source(**row | {"urls": tuple(row["urls"]), "data_set": _SETS[row["data_set"]]})
    for name, row in _TABLE["files"].items()
}
SOURCES = tuple(_FILES.values())
"""All files of the table."""

VOC, SBD, COCO, PETS = (_SETS[name] for name in ("VOC", "SBD", "COCO", "PETS"))
VOC_TRAINVAL, SBD_BENCHMARK = _FILES["VOC_TRAINVAL"], _FILES["SBD_BENCHMARK"]
COCO_TRAIN, COCO_VAL = _FILES["COCO_TRAIN"], _FILES["COCO_VAL"]
COCO_ANNOTATIONS = _FILES["COCO_ANNOTATIONS"]
PET_IMAGES, PET_ANNOTATIONS = _FILES["PET_IMAGES"], _FILES["PET_ANNOTATIONS"]
