"""Published numbers, as the paper prints them and as the released logs hold them.

Facts for comparison, never used by a computation: notebook 05 sets the released log beside ours,
notebook 06 the protocols, the report the tables. Percentages are in per cent.
"""

import csv
from importlib import resources

from more_lib.system.errors import InputError

TABLES = {
    "table1": "paper, Table 1: pseudo labels on VOC 2012 train, mIoU of seed and mask",
    "table2": "paper, Table 2: segmentation, mIoU on VOC 2012 val and test, COCO 2014 val",
    "table3": "paper, Table 3: ablation on VOC 2012 val, mIoU, precision, recall",
    "table4": "paper, Table 4: IoU and confusion ratio of each class on VOC 2012 val",
    "table5": "paper, Table 5: minutes and GB of a training on VOC 2012, one RTX 3090",
    "voc_log_losses": "released VOC 2012 log: learning rate and losses, every 200 iterations",
    "voc_log_scores": "released VOC 2012 log: scores on val every 2,000 iterations, one scale, no "
    "CRF; maps with true image labels, the decoder without labels",
    "coco_log_scores": "released COCO 2014 log: the same scores at its last iteration",
}


def published(name: str) -> list[dict[str, str | float | None]]:
    """Rows of one of ``TABLES``: numbers as floats, an empty cell as None, names as text.

    Raises ``InputError`` for a name that ``TABLES`` lacks.
    """
    if name not in TABLES:
        raise InputError(f"published table {name!r} is unknown; there are: {', '.join(TABLES)}")
    text = (resources.files(__name__) / f"{name}.csv").read_text()
    return [
        {column: _number(cell) for column, cell in row.items()}
        for row in csv.DictReader(text.splitlines())
    ]


def _number(cell: str) -> str | float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell
