"""Packs: what goes in comes out and is found again; whatever is wrong with one is one line."""

import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from unittest.mock import patch

import pytest

from more_lib.classroom import packing
from more_lib.classroom.packing import networks, pack, unpack
from more_lib.data.prepare import emoji
from more_lib.evaluation import evaluate_or_load
from more_lib.recipes import load_recipe, to_dict
from more_lib.system.files import data_folder
from more_lib.training import train_or_load
from tests.data.helpers import contents, cut, refused

TREE = "EmojiVOC-v2-seed0"
NETWORK = "trained/mini-0123"
FILES = {f"{TREE}/JPEGImages/a.jpg": b"picture", f"{TREE}/manifest.json": b"{}"}
FILES |= {f"{NETWORK}/record.json": b"record", f"{NETWORK}/model.safetensors": b"weights" * 1000}
TINY = """backbone.name=mini_w48 optimizer.batch_size=2 optimizer.iterations=2 loss.dense_energy=0
optimizer.precision=fp32 schedule.segmentation=0 data.dataset=voc evaluation.scales=[1.0]""".split()


def member(name, content=b"", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info, content


def archive(path, content=FILES, members=None, text=None, **changes):
    """A pack by hand: of these files, or with other members than its manifest lists."""
    sums = {name: (len(each), hashlib.sha256(each).hexdigest()) for name, each in content.items()}
    manifest = {"format": 1, "kit": "0", "training": packing.TRAINING_VERSION}
    manifest |= {"scoring": packing.SCORING_VERSION, "recipe": to_dict(load_recipe("mini"))}
    manifest |= {"networks": ["mini-0123"], "files": sums} | changes
    text = json.dumps(manifest).encode() if text is None else text
    if members is None:
        members = [member(name, each) for name, each in content.items()]
    with tarfile.open(path, "w") as tar:
        for info, each in [member("manifest.json", text), *members]:
            tar.addfile(info, io.BytesIO(each))
    return path


@pytest.fixture
def found(monkeypatch):
    """As if every network were found again: these packs hold none that works."""
    monkeypatch.setattr(packing, "is_trained", lambda recipe: True)
    monkeypatch.setattr(packing, "validation_fingerprint", lambda data: "")
    monkeypatch.setattr(packing, "SETTLED", 0)


def written():
    """Files in the data folder, but what is known of their contents."""
    found = contents(data_folder()) if data_folder().exists() else {}
    return {name: each for name, each in found.items() if not name.startswith("contents/")}


def test_files_arrive_in_trees_that_all_may_read(tmp_path, found):
    file = archive(tmp_path / "a.tar")
    assert unpack(file) == ([TREE, NETWORK], []) and written() == FILES
    assert (data_folder() / NETWORK).stat().st_mode & 0o777 == 0o755
    assert unpack(file) == ([], [TREE, NETWORK])


def test_what_is_there_and_equal_is_kept_and_what_differs_is_named(tmp_path, found):
    file, own = archive(tmp_path / "a.tar"), data_folder() / NETWORK
    own.mkdir(parents=True)
    (own / "record.json").write_bytes(b"record")
    with refused(f"{own} is there", "model.safetensors is missing there", f"move {own} away"):
        unpack(file)
    (own / "model.safetensors").write_bytes(b"weights" * 1000)
    (own / "evaluation-7.json").write_bytes(b"one's own")
    before = (own / "record.json").stat().st_mtime_ns
    assert unpack(file) == ([TREE], [NETWORK])
    assert written() == FILES | {f"{NETWORK}/evaluation-7.json": b"one's own"}
    assert (own / "record.json").stat().st_mtime_ns == before
    picture = data_folder() / TREE / "JPEGImages/a.jpg"
    picture.write_bytes(b"another")
    with refused(f"{picture} differs"):
        unpack(file)
    assert picture.read_bytes() == b"another"


def damaged(name):
    return f"cut or changed at {name}: get it anew"


NAMES = list(FILES)
ITEMS = [member(name, content) for name, content in FILES.items()]
WRONG = {
    "changed": ([*ITEMS[:3], member(NAMES[3], b"Weights" * 1000)], damaged(NAMES[3])),
    "longer": ([member(NAMES[0], b"picture."), *ITEMS[1:]], damaged(NAMES[0])),
    "lacking": ([ITEMS[0], *ITEMS[2:]], damaged(NAMES[1])),
    "twice": ([ITEMS[0], ITEMS[0], *ITEMS[1:]], damaged(NAMES[1])),
    "more": ([*ITEMS, member("trained/x/y", b"!")], "holds trained/x/y, which its manifest lacks"),
    "link": ([member(NAMES[0], b"", tarfile.SYMTYPE, "/etc/passwd"), *ITEMS[1:]], "at " + NAMES[0]),
}
EMPTY = {NAMES[0]: b""}
KINDS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)


@pytest.mark.parametrize("case", WRONG)
def test_a_changed_pack_is_refused_and_leaves_nothing(case, tmp_path, found):
    members, said = WRONG[case]
    with refused(re.escape(said)):
        unpack(archive(tmp_path / "a.tar", members=members))
    assert written() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_links_devices_and_folders_are_no_members(kind, tmp_path, found):
    with refused(f"{NAMES[0]} is no plain file"):
        unpack(archive(tmp_path / "a.tar", EMPTY, [member(NAMES[0], b"", kind, "/etc/passwd")]))
    assert written() == {}


@pytest.mark.parametrize("share", [0.2, 0.5, 0.62, 0.75, 0.9])
def test_a_truncated_pack_names_the_member_that_it_ends_in(share, tmp_path, found):
    """At a share of the members' bytes, between members included."""
    file = archive(tmp_path / "a.tar")
    with tarfile.open(file) as tar:
        members = {each.name: each for each in tar}
    first, last = members[NAMES[0]].offset, members[NAMES[3]].offset_data + 7000
    end = int(first + share * (last - first)) // 512 * 512
    cut(file, file.stat().st_size - end)
    whole = [name for name in NAMES if members[name].offset_data + members[name].size <= end]
    with refused(re.escape(damaged(NAMES[len(whole)]))):
        unpack(file)
    assert written() == {}


OUTSIDE = ["/etc/passwd", "../x", f"{TREE}/../../x", f"{TREE}//x", f"{TREE}/./x", "other/x"]
OUTSIDE += ["trained/other/x", "trained/x", TREE, f"{TREE}/a\\b", "C:/x", f"{TREE}/.lock", ""]
OUTSIDE += [f"{TREE}/a\nb", "contents/x.json", f"{TREE}-2/x"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_of_the_packs_trees_are_refused(name, tmp_path, found):
    with refused(re.escape(f"{name!r} may not be in a pack")):
        unpack(archive(tmp_path / "a.tar", {name: b"!"}))
    assert written() == {} and not (tmp_path / "x").exists()


def test_networks_cannot_be_named_to_lead_elsewhere(tmp_path, found):
    with refused("may not be in a pack"):
        unpack(archive(tmp_path / "a.tar", {"trained/../x": b"!"}, networks=[".."]))


def test_a_recipe_of_data_elsewhere_is_neither_packed_nor_unpacked(tmp_path, found, monkeypatch):
    recipe = load_recipe("mini", ["data.root=/srv/data"])
    monkeypatch.setattr(packing, "load_recipe", lambda profile: recipe)
    with refused("profile mini has its elsewhere"):
        pack(tmp_path / "a.tar", "mini")
    with refused("may not be in a pack"):
        unpack(archive(tmp_path / "a.tar", recipe=to_dict(recipe)))


def test_a_file_that_is_there_is_not_replaced(tmp_path):
    (tmp_path / "a.tar").write_text("thesis")
    with refused("a.tar exists: move it, or name another file"):
        pack(tmp_path / "a.tar", "mini")
    assert (tmp_path / "a.tar").read_text() == "thesis"


@pytest.mark.parametrize("key", ["format", "training", "scoring"])
def test_a_pack_of_another_version_says_both(key, tmp_path, found):
    with refused(r"of another version \(kit 0, .*999", "pack it anew"):
        unpack(archive(tmp_path / "a.tar", **{key: 999}))


BROKEN = [b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"kit": 1}', b"{}"]


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: text[:8].decode(errors="replace"))
def test_a_manifest_that_says_nothing_is_damaged(text, tmp_path, found):
    with refused("manifest.json is damaged"):
        unpack(archive(tmp_path / "a.tar", text=text))


@pytest.mark.parametrize(
    "changes",
    [{"recipe": {"profile": 3}}, {"files": {"a": [-1, ""]}}, {"files": []}, {"also": 1}],
    ids=lambda changes: str(changes)[:20],
)
def test_fields_of_a_manifest_are_checked(changes, tmp_path, found):
    with refused("."):
        unpack(archive(tmp_path / "a.tar", **changes))
    assert written() == {}


def test_what_is_no_pack_is_said_to_be_none(tmp_path, found):
    text, other, empty = (tmp_path / name for name in ("a.txt", "b.tar", "c.tar"))
    text.write_text("no archive" * 1000)
    with tarfile.open(other, "w") as tar:
        tar.addfile(*[tarfile.TarInfo("README.md")])
    empty.write_bytes(b"")
    said = {text: "no pack", other: "does not begin with", empty: "no pack"}
    said |= {tmp_path: "cannot be read", tmp_path / "none": "is missing"}
    for file, sentence in said.items():
        with refused(sentence):
            unpack(file)


def test_a_network_that_is_not_found_again_is_said(tmp_path, found, monkeypatch):
    monkeypatch.setattr(packing, "is_trained", lambda recipe: False)
    with refused("which does not find its network 'baseline'"):
        unpack(archive(tmp_path / "a.tar"))


def test_the_second_backbone_is_the_notebooks():
    book = Path(__file__).parents[2] / "notebooks/07_paper_tables_and_figures.ipynb"
    text = book.read_text(encoding="utf-8")
    assert f'second_backbone: str = \\"{packing.SECOND_BACKBONE}\\"' in text


def test_a_network_that_was_removed_after_the_run_is_not_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "reproduce", lambda profile, runs, resume: None)
    monkeypatch.setattr(packing, "is_trained", lambda recipe: False)
    with refused("the network 'baseline' is gone", "move runs/mini away"):
        pack(tmp_path / "a.tar", "mini")
    assert not (tmp_path / "a.tar").exists()


@pytest.mark.slow
def test_networks_are_found_again_without_a_training(tmp_path, monkeypatch):
    """Packed in one data folder, unpacked in another, where a training would fail."""
    here, there = tmp_path / "here", tmp_path / "there"
    monkeypatch.setenv("MORE_DATA", str(here))
    emoji.prepare(here / "VOC2012", train=4, val=4, dev=1)
    recipe, asked = load_recipe("mini", TINY), []

    def notebooks(profile, runs, resume):
        asked.append((profile, runs, resume))
        for each in networks(recipe).values():
            evaluate_or_load(train_or_load(each))

    monkeypatch.setattr(packing, "load_recipe", lambda profile: recipe)
    monkeypatch.setattr(packing, "reproduce", notebooks)
    packed = pack(tmp_path / "a.tar", "mini")
    assert len(packed.networks) == 5 and asked == [("mini", "runs", True)]
    monkeypatch.setenv("MORE_DATA", str(there))
    with patch("more_lib.training.cache.fit", side_effect=AssertionError("it trains")):
        done = unpack(tmp_path / "a.tar")
        assert done.kept == []
        assert set(done.written) == {"VOC2012", *(f"trained/{name}" for name in packed.networks)}
        before = contents(there / "trained")
        with patch("more_lib.evaluation.scoring.score", side_effect=AssertionError("it scores")):
            pack(tmp_path / "b.tar", "mini")
    assert contents(there / "trained") == before
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    known = json.loads(next((there / "contents").glob("*.json")).read_text())
    assert known["files"]
