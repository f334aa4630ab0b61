"""Networks: weights that are damaged, hostile or another network's, records that lie."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from more_lib.method.weight_files import mini_weights
from more_lib.system.files import sha256
from tests.reliability.bad_inputs.building import (
    Build,
    Case,
    case,
    change,
    copy,
    cut,
    fifo,
    folder,
    gone,
    link,
    several,
    sparse,
    write,
)
from tests.reliability.bad_inputs.running import run

EVALUATE = "evaluate --checkpoint model"
PREDICT = "predict photos/images/a.jpg --checkpoint model --output out"
RELEASED = "predict photos/images/a.jpg --released bad.pth --profile voc --output out"
TRAIN = "train --recipe small.yaml --data photos --folder out"
WEIGHTS, RECORD, RECIPE = "model/model.safetensors", "model/record.json", "model/recipe.yaml"


class Hostile:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return Path.mkdir, (Path("hacked"),)


def tensors(edit: Callable[[dict[str, np.ndarray]], object], path: str = WEIGHTS) -> Build:
    """The network's own weights, edited, in a file that is whole."""

    def build(place: Path) -> None:
        state = load_file(place / WEIGHTS)
        edit(state)
        save_file(state, place / path)
        record(lambda r: r.update(weights_sha256=sha256(place / WEIGHTS)))(place)

    return build


def spoil(value: float, key: str = "decoder") -> Callable[[dict], None]:
    """One number of one tensor is this."""

    def edit(state: dict[str, np.ndarray]) -> None:
        name = next(name for name in state if key in name and name.endswith("weight"))
        state[name].flat[0] = value

    return edit


def header(text: str | bytes, length: int | None = None) -> Build:
    """A safetensors file of this header, which may lie about its length."""
    content = text if isinstance(text, bytes) else text.encode()
    size = struct.pack("<Q", len(content) if length is None else length)
    return write(WEIGHTS, size + content + bytes(64))


def weights(name: str, build: Build, *said: str) -> Case:
    return case(f"weights, {name}", EVALUATE, build, WEIGHTS, *said)


def record(edit: Callable[[dict], object]) -> Build:
    def build(place: Path) -> None:
        content = json.loads((place / RECORD).read_text())
        write(RECORD, json.dumps(edit(content) or content))(place)

    return build


def scores(content: str) -> Build:
    """Scores that an earlier evaluation kept, with another content."""

    def build(place: Path) -> None:
        assert run(EVALUATE, place).status == 0
        for file in place.glob("model/evaluation-*.json"):
            file.write_text(content)

    return build


def released(name: str, build: Build, *said: str) -> Case:
    return case(f"released, {name}", RELEASED, build, "bad.pth", *said)


def saved(value: object, path: str = "bad.pth") -> Build:
    """What ``torch.save`` makes of a value."""
    return several(write(path, b""), lambda place: torch.save(value, place / path))


def checkpoint(state: object) -> Build:
    """An unfinished training whose checkpoint has this state, with the right digest."""

    def build(place: Path) -> None:
        at = "out/checkpoints/iteration_00000001"
        saved(state, f"{at}/state.pt")(place)
        write(f"{at}/sha256", sha256(place / at / "state.pt"))(place)
        copy(RECIPE, "out/recipe.yaml")(place)

    return build


def nan_backbone(place: Path) -> None:
    """The shipped weights with a NaN among them."""
    state = load_file(mini_weights("mini_w48"))
    spoil(float("nan"), "blocks")(state)
    save_file(state, place / "nan.safetensors")


HUGE = '{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
LIE = '{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,16]}}'
OVERLAP = "".join(
    f'"{name}":{{"dtype":"F32","shape":[4],"data_offsets":[0,16]}},' for name in "abcdefgh"
)
STATE = "model optimizer schedule log iteration seconds random scaler origin".split()
PICKLED = pickle.dumps(Hostile())

CASES = [
    weights("missing", gone(WEIGHTS), "check the path"),
    weights("empty", write(WEIGHTS, b""), "again"),
    weights("cut short", cut(WEIGHTS), "again"),
    weights("a folder", folder(WEIGHTS)),
    weights("text", write(WEIGHTS, "404 not found"), "not a safetensors file"),
    weights("a pickle with code", write(WEIGHTS, PICKLED), "not a safetensors file"),
    weights("a header of 2^62 bytes", header("{}", 2**62), "not a safetensors file"),
    weights("a header that is no JSON", header("{" * 1000), "not a safetensors file"),
    weights("a header of 4 TB", header(HUGE), "not a safetensors file"),
    weights("a header that lies about sizes", header(LIE), "not a safetensors file"),
    weights("tensors that overlap", header(f"{{{OVERLAP[:-1]}}}"), "not a safetensors file"),
    weights("a pipe", fifo(WEIGHTS)),
    weights("zeros without end", link(WEIGHTS, "/dev/zero")),
    weights("100 GB of zeros", sparse(WEIGHTS, 100 * 2**30), "not a safetensors file"),
    weights("NaN", tensors(spoil(float("nan"))), "decoder", "finite"),
    weights("an infinite number", tensors(spoil(float("inf"), "encoder")), "encoder", "finite"),
    weights("a tensor missing", tensors(lambda s: s.pop(min(s))), "missing", "saved from"),
    weights("a tensor too many", tensors(lambda s: s.update(x=np.zeros(1))), "unexpected: x"),
    weights(
        "another shape",
        tensors(
            lambda s: s.update({k: v[..., :1] for k, v in s.items() if k == "encoder.class_tokens"})
        ),
        "class_tokens",
    ),
    weights(
        "whole numbers",
        tensors(lambda s: s.update({k: v.astype(np.int32) for k, v in s.items()})),
        "integer",
        "real",
    ),
    case("predict, weights of NaN", PREDICT, tensors(spoil(float("nan"))), WEIGHTS, "finite"),
    case("predict, weights cut short", PREDICT, cut(WEIGHTS), WEIGHTS, "again"),
    case("no such checkpoint", "evaluate --checkpoint absent", None, "--checkpoint", "absent"),
    case("a file for a checkpoint", "evaluate --checkpoint small.yaml", None, "small.yaml"),
    case("an empty folder for a checkpoint", "evaluate --checkpoint here", folder("here"), "here"),
    case(
        "a folder of photographs for a checkpoint",
        "predict photos --checkpoint photos",
        None,
        "photos",
        "train",
    ),
    case(
        "a recipe of another network",
        EVALUATE,
        change(RECIPE, "decoder_width: 8", "decoder_width: 16"),
        "model",
        "another recipe",
    ),
    case("a recipe without classes", EVALUATE, change(RECIPE, "  - dog\n", ""), "model"),
    case("a recipe cut short", EVALUATE, cut(RECIPE, 0.3), "model"),
    case("a recipe that is binary", EVALUATE, write(RECIPE, b"\xff\x00\x80"), RECIPE, "YAML"),
    case(
        "a recipe of a profile that is none",
        EVALUATE,
        change(RECIPE, "profile: mini", "profile: maxi"),
        RECIPE,
        "maxi",
    ),
    case(
        "a recipe whose profile is a list",
        PREDICT,
        change(RECIPE, "profile: mini", "profile: [mini]"),
        RECIPE,
        "profile",
    ),
    case("no record", EVALUATE, gone(RECORD), "model", "no finished training"),
    case("a record cut short", EVALUATE, cut(RECORD), "model", "record.json"),
    case("a record that is a list", EVALUATE, record(lambda r: [1]), "model", "record.json"),
    case(
        "a record without a fingerprint",
        EVALUATE,
        record(lambda r: r.pop("training_fingerprint") and None),
        "model",
    ),
    case(
        "a record of another training",
        EVALUATE,
        record(lambda r: r.update(training_fingerprint="0" * 12)),
        "model",
    ),
    case(
        "a record of other weights",
        EVALUATE,
        record(lambda r: r.update(weights_sha256="0" * 64)),
        WEIGHTS,
        "not what was trained",
    ),
    case(
        "kept scores that are nested without end",
        EVALUATE,
        scores("[" * 200_000),
        "model/evaluation-",
        "delete it",
    ),
    case("kept scores cut short", EVALUATE, scores('{"results": ['), "evaluation-", "delete it"),
    case("a record nested without end", EVALUATE, write(RECORD, "[" * 200_000), "model"),
    case(
        "an unfinished training",
        EVALUATE,
        several(gone(RECORD), gone(WEIGHTS)),
        "model",
        "no finished training",
    ),
    case("train into a finished folder", TRAIN.replace("out", "model"), None, "model", "another"),
    case("train into an unfinished folder", TRAIN, checkpoint({}), "out", "--resume"),
    case(
        "resume another training",
        f"{TRAIN} --resume",
        checkpoint({**dict.fromkeys(STATE), "origin": {"seed": 7}}),
        "out/checkpoints",
        "another training",
    ),
    case(
        "resume as another recipe",
        TRAIN.replace("out", "model") + " --resume --set seed=9",
        None,
        "model",
        "another recipe",
    ),
    case("released, missing", RELEASED, None, "--released", "bad.pth"),
    released("a folder", folder("bad.pth")),
    released("empty", write("bad.pth", b""), "state dict"),
    released("text", write("bad.pth", "404 not found"), "state dict"),
    released("a pickle with code", write("bad.pth", PICKLED), "state dict"),
    released("code within a checkpoint", saved({"model": {"a": torch.ones(1), "b": Hostile()}})),
    released(
        "a checkpoint cut short", several(saved({"model": {"a": torch.ones(999)}}), cut("bad.pth"))
    ),
    released("a list", saved([torch.ones(1)]), "mapping"),
    released("no tensors", saved({"epoch": 3}), "missing"),
    released("other keys", saved({"state_dict": {"conv.weight": torch.ones(1)}}), "missing"),
    released("a number for weights", saved(3)),
    case(
        "backbone.weights that are missing",
        f"{TRAIN} --set backbone.weights=absent.safetensors",
        None,
        "backbone.weights",
        "absent.safetensors",
    ),
    case(
        "backbone.weights of a whole network",
        f"{TRAIN} --set backbone.weights={WEIGHTS}",
        None,
        WEIGHTS,
        "missing",
    ),
    case(
        "backbone.weights that are text",
        f"{TRAIN} --set backbone.weights=small.yaml",
        None,
        "small.yaml",
        "safetensors",
    ),
    case(
        "backbone.weights that are a folder",
        f"{TRAIN} --set backbone.weights=photos",
        None,
        "photos",
    ),
    case(
        "backbone.weights of NaN",
        f"{TRAIN} --set backbone.weights=nan.safetensors",
        nan_backbone,
        "nan.safetensors",
        "finite",
    ),
    case(
        "a backbone that was never downloaded",
        f"{TRAIN} --set backbone.name=vit_small_patch16_224.augreg_in21k_ft_in1k",
        None,
        "backbone.name",
        "backbone.weights",
    ),
]
