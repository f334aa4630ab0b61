"""The manifest alone; what runs make of it is in ``test_reproduce``."""

import re

import pytest

from more_lib.recipes.loading import load_recipe
from more_lib.runs import manifest as manifests


def test_a_new_manifest_has_nothing_run_yet(monkeypatch):
    monkeypatch.setattr("more_lib.training.cache.provenance", lambda recipe: {"data_sha256": "d"})
    monkeypatch.setattr("more_lib.data.validation_fingerprint", lambda data: "v")
    entry = {"name": "01_one", "source_sha256": "a", "parameters": {}}
    manifest = manifests.new_manifest(load_recipe("mini"), ["seed=0"], [entry])
    assert manifest["notebooks"] == [{**entry, "seconds": None, "status": "not run"}]
    assert manifest["status"] == "unfinished" and manifest["data_sha256"] == "d"
    assert manifest["validation_sha256"] == "v"
    assert {"python", "torch", "papermill"} <= manifest["versions"].keys()


def test_outside_a_checkout_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "CHECKOUT", tmp_path)
    assert manifests.git_state() == {"commit": "unknown", "dirty": None}
    assert manifests.commit_name() == "unknown"
    for dirty, name in ((False, "abc"), (True, "abc-dirty")):
        monkeypatch.setattr(manifests, "git_state", lambda d=dirty: {"commit": "abc", "dirty": d})
        assert manifests.commit_name() == name


@pytest.mark.parametrize("name", ["room/a.py", "room/profile.yaml"])
def test_the_digest_of_the_library_covers_code_and_tables(name, tmp_path, monkeypatch):
    package = tmp_path / "more_lib"
    (package / "room/__pycache__").mkdir(parents=True)
    for file in ("__init__.py", "room/a.py", "room/profile.yaml"):
        (package / file).write_text(file)
    monkeypatch.setattr(manifests.more_lib, "__file__", str(package / "__init__.py"))
    digest = manifests._library_sha256()
    assert re.fullmatch("[0-9a-f]{64}", digest)
    (package / "room/__pycache__/a.pyc").write_text("compiled")
    assert manifests._library_sha256() == digest
    (package / name).write_text("changed")
    assert manifests._library_sha256() != digest
