"""What every test gets: a data folder of its own, no network, no bars, no display."""

import os

# Before any library reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MORE_PROGRESS"] = "0"
os.environ["MPLBACKEND"] = "Agg"
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # they share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // int(workers), 1)))

import pytest


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path, monkeypatch):
    """No test sees or fills the user's cache."""
    monkeypatch.setenv("MORE_DATA", str(tmp_path / "more_data"))


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: none of them is left to one process at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item):
    """Tests marked ``gpu`` are skipped where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
