"""Where each data set comes from: one table of files, mirrors, checksums and licences.

Sizes and sha256 digests are those that TensorFlow Datasets records; SBD's md5 is torchvision's.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """What a user has to know before taking the data."""

    name: str
    homepage: str
    licence: str


@dataclass(frozen=True)
class Source:
    """One file to download.

    Args:
        file: its name on disk.
        urls: the publisher's own address first, mirrors of the same bytes after it.
        checksum: ``sha256:…`` or ``md5:…``, whichever is published; None where nothing is.
        size: bytes.
        holds: what is in it.
        data_set: the data set that it is a part of.
    """

    file: str
    urls: tuple[str, ...]
    checksum: str | None
    size: int
    holds: str
    data_set: DataSet


VOC = DataSet(
    "PASCAL VOC 2012",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    "photographs under Flickr's terms of use, for research; cite the VOC 2012 challenge",
)
SBD = DataSet(
    "Semantic Boundaries Dataset",
    "http://home.bharathh.info/pubs/codes/SBD/download.html",
    "no licence stated; photographs are VOC's; cite Hariharan et al., ICCV 2011",
)
COCO = DataSet(
    "COCO 2014",
    "https://cocodataset.org/#termsofuse",
    "annotations CC BY 4.0, photographs under Flickr's terms of use; cite Lin et al., ECCV 2014",
)
PETS = DataSet(
    "Oxford-IIIT Pet",
    "https://www.robots.ox.ac.uk/~vgg/data/pets/",
    "CC BY-SA 4.0; cite Parkhi et al., CVPR 2012",
)

_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
_OXFORD_MIRROR = "https://thor.robots.ox.ac.uk/datasets/pets"
_BERKELEY = "eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours"
_COCO = "http://images.cocodataset.org"
# The bucket behind that name: its own name brings a certificate.
_COCO_MIRROR = "https://s3.amazonaws.com/images.cocodataset.org"

VOC_TRAINVAL = Source(
    file="VOCtrainval_11-May-2012.tar",
    urls=(
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "https://d2l-data.s3-accelerate.amazonaws.com/VOCtrainval_11-May-2012.tar",
        "https://pjreddie.com/media/files/VOCtrainval_11-May-2012.tar",
    ),
    checksum="sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    size=1_999_639_040,
    holds="photographs, image labels, split lists, masks of 2,913 images",
    data_set=VOC,
)
SBD_BENCHMARK = Source(
    file="benchmark.tgz",
    urls=(
        f"https://www2.{_BERKELEY}/benchmark.tgz",
        f"http://www.{_BERKELEY}/benchmark.tgz",
    ),
    checksum="md5:82b4d87ceb2ed10f6038a1cba92111cb",
    size=1_419_539_633,
    holds="masks of 11,355 VOC photographs",
    data_set=SBD,
)
COCO_TRAIN = Source(
    file="train2014.zip",
    urls=(
        f"{_COCO}/zips/train2014.zip",
        f"{_COCO_MIRROR}/zips/train2014.zip",
        "https://pjreddie.com/media/files/train2014.zip",
    ),
    checksum="sha256:ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
    size=13_510_573_713,
    holds="82,783 training photographs",
    data_set=COCO,
)
COCO_VAL = Source(
    file="val2014.zip",
    urls=(
        f"{_COCO}/zips/val2014.zip",
        f"{_COCO_MIRROR}/zips/val2014.zip",
        "https://pjreddie.com/media/files/val2014.zip",
    ),
    checksum="sha256:fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
    size=6_645_013_297,
    holds="40,504 validation photographs",
    data_set=COCO,
)
COCO_ANNOTATIONS = Source(
    file="annotations_trainval2014.zip",
    urls=(
        f"{_COCO}/annotations/annotations_trainval2014.zip",
        f"{_COCO_MIRROR}/annotations/annotations_trainval2014.zip",
    ),
    checksum="sha256:031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    size=252_872_794,
    holds="instances of both splits",
    data_set=COCO,
)
PET_IMAGES = Source(
    file="images.tar.gz",
    urls=(f"{_OXFORD}/images.tar.gz", f"{_OXFORD_MIRROR}/images.tar.gz"),
    checksum="sha256:67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
    size=791_918_971,
    holds="7,390 photographs",
    data_set=PETS,
)
PET_ANNOTATIONS = Source(
    file="annotations.tar.gz",
    urls=(f"{_OXFORD}/annotations.tar.gz", f"{_OXFORD_MIRROR}/annotations.tar.gz"),
    checksum="sha256:52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
    size=19_173_078,
    holds="breeds, split lists, trimaps",
    data_set=PETS,
)
SOURCES = (
    VOC_TRAINVAL,
    SBD_BENCHMARK,
    COCO_TRAIN,
    COCO_VAL,
    COCO_ANNOTATIONS,
    PET_IMAGES,
    PET_ANNOTATIONS,
)
"""All of them."""
