"""What README's tables were written from: a small extract of one run of the profile mini.

``more_lib.readme`` writes it and the tables together; a test holds the two in step.
"""

import json
from importlib import resources


def mini_run() -> dict:
    """The record in ``mini_run.json``, as ``more_lib.readme.extract`` made it."""
    return json.loads((resources.files(__name__) / "mini_run.json").read_text(encoding="utf-8"))
