"""What the paper prints and the released logs hold: facts for comparison, used by no computation.

Notebook 05 sets the released log beside ours, notebook 06 the protocols, notebook 07 the tables,
the claims and the differences between paper and code. Percentages are in per cent.
"""

from importlib import resources

import pandas as pd

from more_lib.system.errors import InputError


def published(name: str) -> pd.DataFrame:
    """One of ``TABLES``: a column a quantity, its numbers as printed; an empty cell is missing.

    Raises ``InputError`` for a name that ``TABLES`` lacks.
    """
    if name not in TABLES:
        raise InputError(f"published table {name!r} is unknown; there are: {', '.join(TABLES)}")
    return _read(name)


def _read(name: str) -> pd.DataFrame:
    with (resources.files(__name__) / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


TABLES = dict(_read("tables").itertuples(index=False))
"""What each table is, by its name."""
