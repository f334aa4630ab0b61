"""Trained networks in their folders: the key, the record, and what is refused."""

import json
import os
import signal
from multiprocessing import get_context

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


@pytest.mark.slow
def test_train_or_load_trains_once_and_says_so(recipe, capsys):
    first, again = train_or_load(recipe), train_or_load(recipe)
    said = capsys.readouterr().out.splitlines()
    assert (first.loaded, again.loaded) == (False, True)
    assert said[0].startswith("classes (images of 8): aeroplane 2, ")
    assert said[1].startswith("note: of 1 iterations some terms see none")  # but no decoder
    assert said[2] == "note: the warm-up of 20 iterations never ends"
    assert "trained now" in said[3] and "loaded from the cache" in said[4]
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


FOREIGN = {
    "a recipe of the user's": ("recipe.yaml", b"# mine\nseed: 3\n"),
    "one that is no YAML": ("recipe.yaml", b"\xff\xfe["),
    "a log without a recipe": ("log.jsonl", b"what I did"),
    "weights without a recipe": ("model.safetensors", b"mine"),
    "checkpoints without a recipe": ("checkpoints/mine.pt", b"mine"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name, content", FOREIGN.values(), ids=FOREIGN)
def test_no_file_of_the_users_is_replaced(recipe, tmp_path, name, content):
    folder = tmp_path / "run"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(content)
    for resume in (False, True):
        said = f"{name.partition('/')[0]} is not of this training and would be replaced: move it"
        with pytest.raises(InputError, match=said):
            train(recipe, folder, resume)
        assert [path for path in folder.rglob("*") if path.is_file()] == [folder / name]
        assert (folder / name).read_bytes() == content


@pytest.mark.slow
def test_what_an_interrupted_training_left_is_its_own_and_no_others(recipe, tmp_path, monkeypatch):
    def breaks(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache, "fit", breaks)
        train(recipe, tmp_path / "run")
    file = tmp_path / "run" / "recipe.yaml"
    assert sorted(os.listdir(file.parent)) == ["log.jsonl", "recipe.yaml"]
    kept = file.read_bytes()
    with pytest.raises(InputError, match="recipe.yaml is not of this training"):
        train(changed(recipe, ["optimizer.lr=1e-3"]), file.parent)
    for other in (kept + b"# my note\n", kept.replace(b"seed: 0", b"seed:  0"), kept[:-9]):
        file.write_bytes(other)
        with pytest.raises(InputError, match="recipe.yaml is not of this training"):
            train(recipe, file.parent)
        assert file.read_bytes() == other
    file.write_bytes(kept.replace(b"  depth: 0\n", b""))  # written before there was that value
    kept, mine = (file.with_name(f"evaluation-{n}.json") for n in ("0123456789ab", "mine"))
    kept.touch()  # scores of a network that was here before
    mine.touch()
    # What decides no weight may change.
    assert not train(changed(recipe, ["evaluation.threshold=0.3"]), file.parent).loaded
    assert mine.exists() and not kept.exists()


def test_a_folder_that_nothing_can_be_trained_in_stays_as_it_was(recipe, tmp_path):
    with pytest.raises(InputError, match="no.file"):
        train(changed(recipe, ["backbone.weights=no.file"]), tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_other_weights_or_data_than_were_trained_are_refused(recipe, tmp_path, capsys):
    trained = train(recipe, tmp_path / "run")
    file = trained.folder / "model.safetensors"
    save_weights({key: 2 * value for key, value in trained.model.state_dict().items()}, file)
    with pytest.raises(InputError, match=f"{file} is not what was trained: restore it, or train"):
        load_trained(trained.folder, recipe)
    with pytest.raises(InputError, match="is not what was trained"):
        train(recipe, trained.folder, resume=True)
    save_weights(trained.model.state_dict(), file)
    capsys.readouterr()
    assert train(recipe, trained.folder, resume=True).loaded
    assert capsys.readouterr().out == f"{trained.folder} is finished: nothing was trained\n"
    fewer = changed(recipe, ["data.skip=[train_00000]"])
    with pytest.raises(InputError, match="was trained with another data_sha256: name another"):
        train(fewer, trained.folder, resume=True)
    record = {key: value for key, value in trained.record.items() if key != "weights_sha256"}
    (trained.folder / "record.json").write_text(json.dumps(record))
    load_trained(trained.folder, recipe)  # an older record does not say


def test_a_finished_training_is_loaded_without_a_write(recipe, monkeypatch):
    folder = train_or_load(recipe).folder
    before = {path: path.stat().st_mtime_ns for path in (folder, *folder.iterdir())}
    for name in ("open", "mkdir", "unlink"):
        changes = getattr(os, name)

        def refuses(path, *given, changes=changes, name=name, **more):
            writes = name != "open" or (given and given[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            assert not (writes and str(path).startswith(str(folder))), f"{name} {path}"
            return changes(path, *given, **more)

        monkeypatch.setattr(os, name, refuses)
    assert train_or_load(recipe).loaded
    assert {path: path.stat().st_mtime_ns for path in before} == before


def train_in_a_process(recipe, folder, resume, answers, kill=None):
    """Train, say what came of it, or be killed where the first checkpoint has been written."""
    torch.set_num_threads(1)
    save = cache.RunState.save

    def killed(self, *given):
        save(self, *given)
        answers.put("killed")
        answers.close()
        answers.join_thread()
        os.kill(os.getpid(), signal.SIGKILL)

    if kill:
        cache.RunState.save = killed
    try:
        trained = train(recipe, folder, resume)
        answers.put((trained.loaded, len(trained.log()), trained.record["weights_sha256"]))
    except InputError as error:
        answers.put(str(error))


@pytest.fixture
def long(recipe):
    """Long enough for others to arrive; with checkpoints."""
    settings = "optimizer.iterations=12 optimizer.checkpoint_every=3 optimizer.log_every=1"
    return changed(recipe, [*settings.split(), "data.crop_size=32", "schedule.segmentation=12"])


@pytest.mark.slow
def test_of_several_at_once_one_trains_and_the_others_find_it(long, tmp_path):
    context, folder = get_context("spawn"), tmp_path / "run"
    answers = context.Queue()
    each = [(long, folder, resume, answers) for resume in (None, None, False)]
    processes = [context.Process(target=train_in_a_process, args=given) for given in each]
    for process in processes:
        process.start()
    got = [answers.get(timeout=120) for _ in processes]
    refusals = [answer for answer in got if isinstance(answer, str)]
    trained = [answer for answer in got if not isinstance(answer, str)]
    assert sum(not loaded for loaded, *_ in trained) == 1
    digest = sha256(folder / "model.safetensors")
    assert {answer[1:] for answer in trained} == {(12, digest)}
    assert all("holds a finished training" in refusal for refusal in refusals)
    assert len(trained) + len(refusals) == 3
    names = {path.name for path in folder.iterdir()}
    assert names == {"recipe.yaml", "log.jsonl", "checkpoints", "model.safetensors", "record.json"}


@pytest.fixture
def one_thread():
    """As many as ``train_in_a_process`` has: sums of several differ by rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_where_the_one_that_trains_is_killed_the_next_goes_on_from_its_checkpoint(
    long, tmp_path, capfd, one_thread
):
    context, folder = get_context("spawn"), tmp_path / "run"
    answers, whole = context.Queue(), train(long, tmp_path / "whole")
    first = context.Process(target=train_in_a_process, args=(long, folder, None, answers, True))
    first.start()
    while not (folder / "log.jsonl").exists():
        assert first.is_alive()
    capfd.readouterr()
    trained = train(long, folder, resume=None)
    assert answers.get(timeout=10) == "killed"
    first.join()
    said = capfd.readouterr().out
    assert said.index("waiting for another process that trains run") < said.index("after iteration")
    assert not trained.loaded and trained.record["weights_sha256"] == whole.record["weights_sha256"]
    assert [line["iteration"] for line in trained.log()] == list(range(1, 13))


@pytest.mark.slow
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
