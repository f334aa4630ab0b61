"""One switch for every progress bar: ``MORE_PROGRESS=0`` silences them all.

Without it bars show in a terminal and in an interactive notebook, and stay out of pipes.
Batch runs set it, because an executed notebook would keep every redraw as output.
"""

import os
import sys

from tqdm.auto import tqdm


def progress_bar(iterable=None, *, description: str = "", shown: bool = True, **options) -> tqdm:
    """A tqdm bar over ``iterable``, or one to advance by hand, that obeys the switch.

    options: tqdm's ``total`` and ``unit``; with "B" it counts in kB, MB and GB. One that is not
    ``shown`` is silent anyway: of several processes one is enough to watch.
    """
    return tqdm(
        iterable,
        desc=description,
        unit_scale=options.get("unit") == "B",
        disable=not (shown and interactive()),
        dynamic_ncols=True,
        **options,
    )


def interactive() -> bool:
    """Whether somebody watches: a terminal, or a notebook that is not run in a batch."""
    choice = os.environ.get("MORE_PROGRESS")
    if choice is not None:
        return choice != "0"
    return sys.stderr.isatty() or "ipykernel" in sys.modules
