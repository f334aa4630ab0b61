"""A class on one cache: students' processes at once, one of whom may be killed while it trains."""

import hashlib
import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from more_lib.classroom.catalogue import find
from more_lib.classroom.checking import check
from more_lib.data import open_tree
from more_lib.data.prepare import emoji
from more_lib.evaluation import evaluate_or_load
from more_lib.paper import ablation
from more_lib.recipes import load_recipe
from more_lib.training import train_or_load
from more_lib.training.resume import RunState
from tests.reliability.forks import Attempt, Trouble, attempt

TINY = """backbone.name=mini_w48 optimizer.batch_size=2 optimizer.precision=fp32
optimizer.iterations=4 optimizer.checkpoint_every=2 loss.dense_energy=0""".split()
HERE = "here"
WAITS = "waiting for another process that trains"


def attend(bell: str, *overrides: str) -> None:
    """What a student's notebooks do: three networks, their scores, a picture, a right answer.

    Begins when the file ``bell`` is there. Prints last, as JSON, what the networks are and how well
    they did.
    """
    print(HERE)
    _until(Path(bell).exists)
    recipe, found = load_recipe("mini", overrides), {}
    for name, each in ablation.trials(recipe).items():
        trained = train_or_load(each)
        state = b"".join(v.numpy().tobytes() for _, v in sorted(trained.model.state_dict().items()))
        scores = [result.matrix.tolist() for result in evaluate_or_load(trained).results]
        found[name] = [hashlib.sha256(state).hexdigest(), scores]
    tree = open_tree(recipe.data)
    assert tree.image(tree.ids(recipe.data.val_split)[0]).size == (96, 96)
    with redirect_stdout(StringIO()):
        assert check("01.2", find("01.2").solution)
    print(json.dumps(found))


def attend_until_killed(gate: str, *overrides: str) -> None:
    """The same at once, but killed after the first checkpoint when ``gate`` is taken away."""
    save = RunState.save

    def and_die(self: RunState, *arguments: object) -> None:
        save(self, *arguments)
        Path(gate).touch()
        _until(lambda: not Path(gate).exists())
        os.kill(os.getpid(), signal.SIGKILL)

    with patch.object(RunState, "save", and_die):
        attend("/", *overrides)


class Class:
    """Students who share the cache in ``folder``; forks of the server, which must have started."""

    def __init__(self, folder: Path):
        self.folder = folder
        tree = emoji.prepare(folder / "tree", train=4, val=4, dev=1)
        self.overrides = [f"data.root={tree}", *TINY]

    def cache(self, name: str) -> Path:
        return self.folder / name

    def student(self, cache: str, number: int, trouble: Trouble, *work: object) -> Attempt:
        place = {"MORE_DATA": str(self.cache(cache))}
        return attempt(
            *work,
            *self.overrides,
            logs=self._logs(cache, number),
            trouble=trouble,
            environment=place,
        )

    def attend(self, cache: str, count: int, bound: bool = False) -> tuple[list[Attempt], float]:
        """So many students at once, and the seconds until the last was done.

        bound: who may not write where permissions forbid it.
        """
        bell, trouble = self.folder / f"bell-{cache}-{count}", Trouble(bound=bound)
        with ThreadPoolExecutor(count) as pool:
            each = [
                pool.submit(self.student, cache, number, trouble, attend, str(bell))
                for number in range(count)
            ]
            _until(lambda: all(HERE in self._said(cache, number) for number in range(count)))
            bell.touch()
            began = time.monotonic()
            return [one.result() for one in each], time.monotonic() - began

    def attend_with_a_kill(self, cache: str, count: int) -> list[Attempt]:
        """The first trains and is killed when all others wait for it."""
        gate = self.folder / "gate"
        with ThreadPoolExecutor(count) as pool:
            work = (attend_until_killed, str(gate))
            first = pool.submit(self.student, cache, 0, Trouble(), *work)
            _until(gate.exists)
            others = [
                pool.submit(self.student, cache, number, Trouble(), attend, "/")
                for number in range(1, count)
            ]
            _until(lambda: all(WAITS in self._said(cache, each) for each in range(1, count)))
            gate.unlink()
            return [first.result(), *(each.result() for each in others)]

    def _logs(self, cache: str, number: int) -> Path:
        return self.folder / f"logs-{cache}-{number}"

    def _said(self, cache: str, number: int) -> str:
        file = self._logs(cache, number) / "out"
        return file.read_text() if file.exists() else ""


def networks_of(done: Attempt) -> dict:
    """What a student had in the end."""
    assert done.status == 0, done.output + done.errors
    return json.loads(done.output.splitlines()[-1])


def trained_by(students: list[Attempt]) -> list[str]:
    """The folders that students' processes say they trained, once for each who did."""
    return sorted(re.findall(r"model (\S+): trained now", "".join(s.output for s in students)))


def closed(folder: Path, close: bool) -> None:
    """Take or give the right to write in a folder."""
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o555 if close else 0o755) if path.is_dir() else (0o444 if close else 0o644))


def _until(done: object, patience: float = 120) -> None:
    end = time.monotonic() + patience
    while not done():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)
