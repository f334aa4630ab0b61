"""200 SIGKILLs at random moments: what is resumed ends as if nothing had happened.

Half of the moments are drawn from the time that a command takes, half from its changes of files:
then the kill comes while a file is written. ``MORE_KILLS`` is their number, ``MORE_KILLS_SEED``
gives other moments.
"""

import os
import random

import pytest

from tests.reliability.activities import ACTIVITIES, Unreliable, check_whole, result
from tests.reliability.forks import CALM, Attempt, Trouble

pytestmark = pytest.mark.reliability
KILLS = int(os.environ.get("MORE_KILLS", "200"))
SEED = int(os.environ.get("MORE_KILLS_SEED", "0"))
SHARES = {  # of 200
    "train": 30,
    "train in the cache": 30,
    "evaluate": 40,
    "predict": 40,
    "prepare COCO": 6,
    "prepare pets": 6,
    "prepare EmojiVOC": 8,
    "reproduce": 20,
    "fetch": 20,
}


@pytest.mark.parametrize("name", SHARES)
def test_what_is_killed_and_resumed_ends_as_if_it_had_run_through(
    name, scene, tmp_path, figures, monkeypatch
):
    activity, rng = ACTIVITIES[name], random.Random(f"{SEED} {name}")
    wanted = max(1, round(SHARES[name] * KILLS / 200))
    folder = activity.start(scene, tmp_path / "whole")
    whole = activity.attempt(scene, folder)
    assert whole.status == 0, whole.output + whole.errors
    expected, kills, refused, rounds = result(folder), 0, 0, 0
    while kills < wanted:
        rounds += 1
        folder, kept, status = activity.start(scene, tmp_path / "killed"), set(), None
        while status != 0:
            trouble = moment(rng, whole) if kills < wanted else CALM
            monkeypatch.setattr(Unreliable, "honest", kills == wanted)
            done, before = activity.attempt(scene, folder, trouble), kept
            status = done.status
            try:
                check_whole(folder, expected)
                kept = activity.kept(folder)
                assert before <= kept, "work was lost"
                if status not in (0, -9):
                    assert name == "fetch", "it does not go on"
                    done.check_refused()  # no address worked
            except AssertionError as error:
                where = f"seed {SEED}, after {kills} kills, {trouble}"
                raise AssertionError(f"{error}\n{where}\n{done.output}{done.errors}") from error
            kills, refused = kills + (status == -9), refused + (status == 2)
        assert result(folder) == expected
    given_up = f", {refused} times given up in one line" if refused else ""
    figures(
        f"{name}: {kills} kills (seed {SEED}){given_up}, {rounds} times to the end as without, "
        f"{whole.changes} changes of files and {whole.seconds:.1f} s each"
    )


def moment(rng: random.Random, whole: Attempt) -> Trouble:
    """A random moment of a command that ran through as ``whole``."""
    if rng.random() < 0.5:
        return Trouble(after=rng.uniform(0, whole.seconds))
    return Trouble(at=rng.randint(1, whole.changes))
