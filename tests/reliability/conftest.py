"""What the tests of this folder share: the server of forks, a scene, and figures for the end."""

import pytest

FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def scene(tmp_path_factory):
    from tests.data.helpers import serving
    from tests.reliability.activities import Scene, Unreliable
    from tests.reliability.forks import start_server

    with pytest.MonkeyPatch.context() as patch, serving(Unreliable) as url:
        patch.setenv("NO_PROXY", "127.0.0.1")
        start_server()
        yield Scene(tmp_path_factory.mktemp("scene"), url).build()


@pytest.fixture
def figures(request):
    """Takes a line for the summary, which CONTRIBUTING's table quotes."""
    return request.config.stash.setdefault(FIGURES, []).append


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(FIGURES, []):
        terminalreporter.write_line(f"measured: {line}")
