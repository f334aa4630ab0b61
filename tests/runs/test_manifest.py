"""The manifest alone; what runs make of it is in ``test_reproduce``."""

import re

import pytest

from more_lib.recipes.loading import load_recipe
from more_lib.runs import manifest as manifests


@pytest.fixture(autouse=True)
def no_data_is_made(monkeypatch):
    monkeypatch.setattr("more_lib.training.cache.provenance", lambda recipe: {"data_sha256": "d"})


def test_a_new_manifest_has_nothing_run_yet():
    entry = {"name": "01_one", "source_sha256": "a", "parameters": {}}
    manifest = manifests.new_manifest(load_recipe("mini"), ["seed=0"], [entry])
    assert manifest["notebooks"] == [{**entry, "seconds": None, "status": "not run"}]
    assert manifest["status"] == "unfinished" and manifest["data_sha256"] == "d"
    assert {"python", "torch", "papermill"} <= manifest["versions"].keys()


def test_outside_a_checkout_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "CHECKOUT", tmp_path)
    assert manifests.git_state() == {"commit": "unknown", "dirty": None}


def test_the_digest_of_the_library_is_that_of_its_sources(tmp_path, monkeypatch):
    package = tmp_path / "more_lib"
    (package / "room").mkdir(parents=True)
    for name in ("__init__.py", "room/a.py", "room/notes.txt"):
        (package / name).write_text(name)
    monkeypatch.setattr(manifests.more_lib, "__file__", str(package / "__init__.py"))
    digest = manifests._library_sha256()
    assert re.fullmatch("[0-9a-f]{64}", digest)
    (package / "room" / "notes.txt").write_text("changed")
    assert manifests._library_sha256() == digest
    (package / "room" / "a.py").write_text("changed")
    assert manifests._library_sha256() != digest
