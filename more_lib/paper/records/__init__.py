"""What was measured on our machines and is shown where it cannot be measured again in minutes.

``mini_run.json`` is an extract of one run of the profile mini, ``runs.reading.record_of`` makes it;
``speed.json`` is what ``bench speed`` found; the others are studies of many trainings
(``paper.studies``). ``paper.results`` shows all of them.
"""

import json
from importlib import resources


def mini_run() -> dict:
    """The record in ``mini_run.json``."""
    return json.loads((resources.files(__name__) / "mini_run.json").read_text(encoding="utf-8"))


def speed() -> dict:
    """What ``bench speed`` measured, in ``speed.json``."""
    return json.loads((resources.files(__name__) / "speed.json").read_text(encoding="utf-8"))


def study(name: str) -> dict | None:
    """A study's record, as ``studies.run_study`` made it; None where there is none."""
    file = resources.files(__name__) / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
