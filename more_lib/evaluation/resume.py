"""What ``predict`` has done in an output folder, written down so that it can go on after a stop.

The file ``.predictions.jsonl`` says first what all predictions share, and which images are begun:
only their files may be written over. Then a line is added for each image once its files are whole;
one that was cut short counts as not there. So whatever the moment of a kill, an image is done if
the record says so, and its files are those that the record names.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from more_lib.data.contents import digests
from more_lib.evaluation.output import Output
from more_lib.evaluation.protocols import Protocol
from more_lib.evaluation.scoring import SCORING_VERSION
from more_lib.recipes.loading import fingerprint, training_fingerprint
from more_lib.recipes.schema import Recipe
from more_lib.system.errors import InputError, printable
from more_lib.system.files import atomic_file, readable_disk_errors, sha256

NAME = ".predictions.jsonl"


@dataclass(frozen=True, eq=False)
class Record:
    """What is known of an output folder.

    settings: what decides every prediction beside the network. network: its digest, "" before the
    first image. images: by id what was done, None for what was only begun.
    """

    output: Output
    settings: dict
    network: str = ""
    images: dict[str, dict | None] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.output.folder / NAME

    @property
    def key(self) -> str:
        """What every line repeats, for another process may begin anew in the same folder."""
        return fingerprint([self.settings, self.network])

    def check_settings(self, settings: Mapping) -> None:
        """Raise ``InputError`` that names each setting that has another value now."""
        known = {**settings, **self.settings}
        names = [name for name in known if settings.get(name) != self.settings.get(name)]
        if names:
            raise InputError(
                f"{printable(self.output.folder)} was begun with other settings ("
                f"{', '.join(names)}): go on with those, name another --output, or start over with "
                "--force"
            )

    def begin(self, ids: Iterable[str], network: str) -> "Record":
        """The record, written anew: these images are begun, whatever was done of them.

        Raises ``InputError`` when what is there comes from another network.
        """
        if self.network not in ("", network):
            raise InputError(
                f"{printable(self.output.folder)} was begun with another network: go on with that, "
                "name another --output, or start over with --force"
            )
        images = self.images | dict.fromkeys(ids)
        begun = Record(self.output, self.settings, network, images)
        lines = [{"settings": self.settings, "network": network, "begun": list(images)}]
        lines += [done for done in images.values() if done]
        with atomic_file(self.file) as temporary:
            temporary.write_text("".join(map(_line, lines)), encoding="utf-8")
        return begun

    def add(self, image: Path, digest: str, labels: Collection[str] | None, row: Mapping) -> None:
        """Note that the files of an image are whole. digest: of the picture they belong to."""
        files = {file.parent.name: sha256(file) for file in self.output.files(image.stem)}
        done = {"id": image.stem, **_basis(image, digest, labels), "files": files, "row": row}
        done["of"] = self.key
        with readable_disk_errors(self.file), self.file.open("a", encoding="utf-8") as record:
            record.write(_line(done))

    def rows(
        self, images: Iterable[Path], labels: Mapping[str, Collection[str]] | None
    ) -> dict[Path, dict]:
        """Of the images whose predictions are there and right, the summary's rows.

        Not those whose picture or labels are others now, or that lack a file. Raises
        ``InputError`` for files that somebody has changed since.
        """
        known = {path: done for path in images if (done := self.images.get(path.stem))}
        files = {
            file: done["files"][file.parent.name]
            for path, done in known.items()
            for file in self.output.files(path.stem)
            if file.exists()
        }
        pairs = zip(files, digests(files), strict=True)
        changed = [file for file, digest in pairs if files[file] != digest]
        if changed:
            raise InputError(
                f"{len(changed)} files were changed since they were predicted, first "
                f"{printable(changed[0])}: delete them to have them made anew, name another "
                "--output, or start over with --force"
            )
        needed = {path: {*self.output.files(path.stem)} for path in known if path.exists()}
        whole = [path for path, each in needed.items() if each <= files.keys()]
        rows = {}
        for path, digest in zip(whole, digests(whole), strict=True):
            basis = _basis(path, digest, labels and labels[path.name])
            if basis.items() <= known[path].items():
                row = known[path]["row"].items()
                rows[path] = {k: tuple(v) if isinstance(v, list) else v for k, v in row}
        return rows

    def other_rows(self, asked: Collection[str]) -> list[dict]:
        """The summary's rows of other ids than those ``asked`` for, whose files are there."""
        rest = {id: done for id, done in self.images.items() if done and id not in asked}
        whole = [id for id in rest if all(file.exists() for file in self.output.files(id))]
        return [rest[id]["row"] for id in whole]


def settings_of(recipe: Recipe, protocol: Protocol, output: Output, values: list[int]) -> dict:
    """All that decides predictions but network, pictures and labels; as JSON gives it back."""
    asked = asdict(protocol) | {"npz": output.npz, "lam_similarity": recipe.masks.lam_similarity}
    del asked["split"]
    for name in {"refinement", "student"} - protocol.key.keys():
        del asked[name]  # which folders begun earlier do not name
    made = {"recipe": training_fingerprint(recipe), "mask values": values}
    return json.loads(json.dumps(asked | made | {"version": SCORING_VERSION}))


def read_record(output: Output) -> Record | None:
    """What an earlier call left in the output folder; None if there is nothing."""
    images: dict[str, dict | None] = {}
    try:
        head, *lines = (output.folder / NAME).read_bytes().splitlines(keepends=True)
        shared = json.loads(head)
        images |= dict.fromkeys(shared["begun"])
        record = Record(output, shared["settings"], shared["network"], images)
        for done in (json.loads(line) for line in lines if line.endswith(b"\n")):
            if done["of"] == record.key:
                images[done["id"]] = done
        return record
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{printable(output.folder / NAME)} is no record of predictions: name another "
            "--output, or start over with --force"
        ) from error


def network_digest(model: nn.Module) -> str:
    """sha256 over a network's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _basis(image: Path, digest: str, labels: Collection[str] | None) -> dict:
    """What the prediction of one image rests on."""
    return {
        "image": image.name,
        "sha256": digest,
        "labels": None if labels is None else sorted(labels),
    }


def _line(value: object) -> str:
    return json.dumps(value) + "\n"
