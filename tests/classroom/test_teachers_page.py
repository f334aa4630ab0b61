"""The teacher's page: its exercises, minutes, sections, links and commands are there."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from more_lib.classroom.catalogue import EXERCISES
from more_lib.cli.commands import app

FOLDER = Path(__file__).resolve().parents[2] / "notebooks/exercises"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
SESSIONS = re.split(r"^### Session ", PAGE.partition("\n## Before")[0], flags=re.M)[1:]
ROWS = re.compile(r"^\| (in class|at home) \| ([\d., ]+) \| (\d+) \|$", re.M)


def placed(session):
    return {when: ids.split(", ") for when, ids, _ in ROWS.findall(session)}


def minutes(ids):
    return sum(EXERCISES[each].minutes for each in ids)


def test_each_exercise_is_placed_in_exactly_one_session():
    ids = [each for session in SESSIONS for row in placed(session).values() for each in row]
    assert len(SESSIONS) == 5 and sorted(ids) == sorted(EXERCISES)
    assert f"There are {len(EXERCISES)} in nine notebooks" in PAGE


def test_minutes_add_up():
    in_class = 0
    for session in SESSIONS:
        for _, ids, said in ROWS.findall(session):
            assert minutes(ids.split(", ")) == int(said)
        own = minutes(placed(session)["in class"])
        shown = int(re.search(r"\*\*Show\*\* \((\d+) minutes\)", session)[1])
        left = 5 if "five minutes left" in session else 90 - shown - own
        assert shown + own + left == 90 and 0 <= left <= 5
        in_class += own
    total = minutes(EXERCISES)
    said = f"All exercises together take {total} minutes, {in_class} of them in class."
    assert said in " ".join(PAGE.split())


def test_what_goes_wrong_is_told_of_the_sessions_own_exercises():
    for session in SESSIONS:
        named = re.findall(r"^- (\d\d\.\d): ", session, re.M)
        own = [each for row in placed(session).values() for each in row]
        assert len(named) >= 4 and set(named) <= set(own)
        assert "**Goals.**" in session


def test_sections_to_show_are_there():
    for name, text in re.findall(
        r"\]\(\.\./(\d\d_\w+\.ipynb)\)\s+(§[^\n\[]*(?:\n§[^\n\[]*)?)", PAGE
    ):
        cells = json.loads((FOLDER.parent / name).read_text(encoding="utf-8"))["cells"]
        headings = re.findall(r"^## (\d+) ", "\n".join("".join(c["source"]) for c in cells), re.M)
        numbers = [number for part in re.findall(r"§([\d–]+)", text) for number in part.split("–")]
        assert numbers and set(numbers) <= set(headings), name


def test_links_lead_somewhere():
    headings = {
        "#" + re.sub(r"\W+", "-", line.lower()) for line in re.findall(r"^#+ (.*)", PAGE, re.M)
    }
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert len(links) >= 10
    for link in links:
        assert link in headings or (FOLDER / link).exists(), link


LINES = re.findall(r"python -m more_lib ([^`#\n]+)", PAGE)


@pytest.mark.parametrize("line", sorted(set(map(str.strip, LINES))))
def test_its_commands_exist_with_their_options(line):
    words = shlex.split(line)
    names = words[: 2 if words[0] == "classroom" else 1]
    done = CliRunner().invoke(app, [*names, "--help"])
    assert done.exit_code == 0, done.output
    for word in words:
        assert not word.startswith("--") or word in done.output


def test_nbgraders_commands_are_named_in_order():
    named = re.findall(r"^nbgrader (\w+)", PAGE, re.M)
    assert named == [
        *("generate_assignment", "release_assignment", "zip_collect", "autograde"),
        *("generate_feedback", "export"),
    ]
