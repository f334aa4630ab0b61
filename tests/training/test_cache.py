"""Trained networks in their folders: the key, the record, and what is refused."""

import json

import pytest
import torch

from more_lib.method.backbones import mini_vit
from more_lib.recipes import changed, load_recipe
from more_lib.system.errors import InputError
from more_lib.system.files import data_folder, sha256
from more_lib.system.weights import save_weights
from more_lib.training import cache, load_trained, released_network, train, train_or_load
from tests.training.helpers import small_recipe, small_released_weights


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """One iteration of the mini profile, without the decoder's losses."""
    return small_recipe(tmp_path_factory.mktemp("start"), "optimizer.iterations=1")


def test_train_or_load_trains_once_and_says_so(recipe, capsys):
    first, again = train_or_load(recipe), train_or_load(recipe)
    said = capsys.readouterr().out.splitlines()
    assert (first.loaded, again.loaded) == (False, True)
    assert said[0].startswith("classes (images of 8): aeroplane 2, ")
    assert "trained now" in said[1] and "loaded from the cache" in said[2]
    assert first.folder == again.folder == cache.cached_folder(recipe)
    record = first.record
    assert record["seconds"] > 0 and 0.1 < record["peak_memory_gb"] < 64
    # A network from before the version loads as well.
    assert record.pop("training_version") == cache.TRAINING_VERSION
    (first.folder / "record.json").write_text(json.dumps(record))
    assert load_trained(first.folder, recipe).record == record


def test_a_network_trained_now_answers_like_the_same_one_loaded(recipe, tmp_path):
    halves = changed(recipe, ["optimizer.precision=bf16"])
    now = train(halves, tmp_path / "halves").model.eval()
    later = load_trained(tmp_path / "halves", halves).model.eval()
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():  # accelerate had left bf16 in the first one's forward
        assert torch.equal(now(images).class_logits, later(images).class_logits)


def test_the_cache_key_follows_recipe_data_backbone_and_version(recipe, tmp_path, monkeypatch):
    save_weights(mini_vit(), tmp_path / "other.safetensors")
    other = changed(recipe, [f"backbone.weights={tmp_path / 'other.safetensors'}"])
    assert cache.provenance(other)["data_sha256"] == cache.provenance(recipe)["data_sha256"]
    folder = cache.cached_folder(recipe)
    assert cache.cached_folder(changed(recipe, ["evaluation.threshold=0.3"])) == folder
    faster = changed(recipe, ["optimizer.lr=1e-3"])
    assert len({folder, cache.cached_folder(other), cache.cached_folder(faster)}) == 3
    monkeypatch.setattr(cache, "TRAINING_VERSION", cache.TRAINING_VERSION + 1)
    assert cache.cached_folder(recipe) != folder


def test_bad_requests_are_refused_in_one_line(recipe, tmp_path):
    with pytest.raises(InputError, match="8 images, fewer than one batch of 9"):
        train(changed(recipe, ["optimizer.batch_size=9"]), tmp_path / "a")
    with pytest.raises(InputError, match="no.file"):
        train(changed(recipe, [f"backbone.weights={tmp_path / 'no.file'}"]), tmp_path / "b")
    with pytest.raises(InputError, match="holds no finished training"):
        load_trained(tmp_path / "nowhere", recipe)
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"training_fingerprint": "somebody else's"}))
    with pytest.raises(InputError, match="finished training"):
        train(recipe, tmp_path)
    with pytest.raises(InputError, match="trained by another recipe"):
        load_trained(tmp_path, recipe)
    assert "somebody" in record.read_text()  # a finished training is never overwritten
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="fp16 needs a CUDA GPU"):
            train(changed(recipe, ["optimizer.precision=fp16"]), tmp_path / "c")


def test_precisions_follow_one_another_in_one_process(recipe, tmp_path):
    """Auto is bf16 where the hardware multiplies it."""
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    expected = {"fp32": "fp32", "bf16": "bf16", "auto": "bf16" if native else "fp32"}
    for wanted, got in expected.items():
        trained = train(changed(recipe, [f"optimizer.precision={wanted}"]), tmp_path / wanted)
        assert trained.record["precision"] == got


def test_the_released_checkpoint_is_a_trained_network(tmp_path):
    file, recipe = tmp_path / "more_voc.pth", load_recipe("voc")
    torch.save(small_released_weights(20), file)
    trained = released_network(file, recipe)
    digest = sha256(file)
    assert trained.record == {"weights_sha256": digest, "released": "more_voc.pth"}
    assert trained.folder == data_folder() / "released" / digest[:12]
    assert trained.loaded and trained.recipe is recipe and not trained.folder.exists()
    assert trained.model(torch.zeros(1, 3, 64, 64)).class_logits.shape == (1, 20)
    with pytest.raises(InputError, match=r"more_voc.pth .*\(.* 80 classes of profile coco\)"):
        released_network(file, load_recipe("coco"))
