"""What the paper prints and the released logs hold: facts for comparison, used by no computation.

Notebook 05 sets the released log beside ours, notebook 06 the protocols, notebook 07 the tables,
the claims and the differences between paper and code. Percentages are in per cent.
"""

from importlib import resources

import pandas as pd

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
    "claims": "the paper's claims, and what of a run is held against what (paper.claims)",
    "switches": "where paper and released code differ, as overrides (paper.switches)",
}


def published(name: str) -> pd.DataFrame:
    """One of ``TABLES``: a column a quantity, its numbers as printed; an empty cell is missing.

    Raises ``InputError`` for a name that ``TABLES`` lacks.
    """
    if name not in TABLES:
        raise InputError(f"published table {name!r} is unknown; there are: {', '.join(TABLES)}")
    with (resources.files(__name__) / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)
