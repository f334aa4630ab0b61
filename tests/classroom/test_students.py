"""Thirty students at once: on one cache that nobody may write, and on an empty one."""

import pytest

from tests.classroom.students import WAITS, Class, closed, networks_of, trained_by
from tests.data.helpers import contents

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    from tests.reliability.forks import start_server

    start_server()
    return Class(tmp_path_factory.mktemp("class"))


@pytest.fixture(scope="module")
def alone(group):
    """What one student has, whom nobody disturbs; the cache ``warm`` is so then."""
    (done,), _ = group.attend("warm", 1)
    assert len(trained_by([done])) == 3
    return networks_of(done)


def test_thirty_read_a_cache_that_they_cannot_write(group, alone):
    cache = group.cache("warm")
    before = contents(cache)
    closed(cache, True)
    try:
        students, seconds = group.attend("warm", 30, bound=True)
    finally:
        closed(cache, False)
    assert all(networks_of(each) == alone for each in students)
    assert trained_by(students) == [] and contents(cache) == before
    print(f"the last was done {seconds:.1f} s after all had begun")


def test_of_six_on_an_empty_cache_one_trains_and_is_killed(group, alone):
    """Then another goes on: one network of each recipe, the undisturbed one's, for all who live."""
    killed, *living = group.attend_with_a_kill("empty", 6)
    assert killed.status == -9 and trained_by([killed]) == []
    assert all(networks_of(each) == alone for each in living)
    assert all(WAITS in each.output for each in living)
    folders = sorted(path.name for path in (group.cache("empty") / "trained").iterdir())
    assert len(folders) == 3 and trained_by(living) == folders  # each by exactly one
    assert sum("resumes after iteration 2" in each.output for each in living) == 1
    assert list(group.cache("empty").rglob(".*")) == []  # no lock, nothing half-written
