"""Bad inputs of every kind end a command with status 2 and one line that helps; nothing else."""

from pathlib import Path

import pytest
import torch

from tests.reliability.bad_inputs import (
    archives,
    commands,
    labels,
    networks,
    pictures,
    recipes,
    sources,
    voc,
)
from tests.reliability.bad_inputs.networks import TRAIN, Hostile, checkpoint
from tests.reliability.bad_inputs.running import MOST_MEMORY, SECONDS, Ended, copied, run, template
from tests.reliability.conftest import FIGURES

pytestmark = pytest.mark.reliability

TOPICS = (recipes, labels, pictures, voc, sources, archives, networks, commands)
CASES = [case for topic in TOPICS for case in topic.CASES]
KEPT_IN_DATA = {"bad_files", "contents"}  # lists of faults, which messages name, and digests


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return template(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def ends(request):
    """Takes how each command ended; the most that any took goes to the summary."""
    all_ends: list[Ended] = []
    yield all_ends
    seconds, memory = (
        max(getattr(end, name) for end in all_ends) for name in ("seconds", "memory")
    )
    line = f"{len(all_ends)} bad inputs: at most {seconds:.1f} s and {memory / 1e9:.2f} GB"
    request.config.stash.setdefault(FIGURES, []).append(line)


def listing(place: Path) -> dict[str, object]:
    """What is in a folder: the content of small files, the size of others, where links lead."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place)
        if name.match("model/evaluation-*.json"):  # whole, and found again by the next try
            continue
        if name.parts[0] == "data" and (len(name.parts) == 1 or name.parts[1] in KEPT_IN_DATA):
            continue
        content = path.readlink() if path.is_symlink() else path.is_dir()
        if path.is_file() and not path.is_symlink():
            size = path.stat().st_size
            content = path.read_bytes() if size < 2**20 else size
        found[name.as_posix()] = content
    return found


def test_there_are_cases_enough_and_each_has_a_name_of_its_own():
    assert len({case.name for case in CASES}) == len(CASES) >= 150


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_input_ends_in_one_line(case, original, ends, tmp_path):
    place = copied(original, tmp_path / "place")
    case.build(place)
    before = listing(place)
    ended = run(case.command, place)
    assert ended.status == 2, f"status {ended.status}: {ended.out[-500:]} {ended.err[-1500:]}"
    assert ended.err.startswith("error: ") and ended.err.count("\n") == 1, ended.err
    assert len(ended.err) < 2000
    for part in case.said:
        assert part.lower() in ended.err.lower(), f"{part!r} is not in: {ended.err}"
    assert listing(place) == before
    ends.append(ended)
    assert ended.seconds < SECONDS and ended.memory < MOST_MEMORY, ended


@pytest.mark.parametrize("state", [Hostile(), {}, {"origin": 3}, torch.ones(1)])
def test_a_checkpoint_of_no_use_is_left_aside_and_runs_no_code(state, original, tmp_path):
    place = copied(original, tmp_path / "place")
    checkpoint(state)(place)
    ended = run(f"{TRAIN} --resume", place)
    assert ended.status == 0, ended.err
    assert "iteration_00000001 is damaged" in ended.err and "trained model: out" in ended.out
    assert not (place / "hacked").exists()
