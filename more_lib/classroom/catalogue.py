"""All exercises, chapter by chapter, and the one that an id names."""

from importlib import import_module

from more_lib.classroom.exercise import Exercise
from more_lib.recipes.validation import nearest
from more_lib.system.errors import InputError

NUMBERS = (*range(1, 9), 10)  # 09 is the explorer
CHAPTERS = [import_module(f"more_lib.classroom.chapter_{number:02}") for number in NUMBERS]
EXERCISES = {exercise.id: exercise for chapter in CHAPTERS for exercise in chapter.EXERCISES}


def find(exercise_id: str) -> Exercise:
    """The exercise of an id such as "03.4"; raises ``InputError`` for one that is none."""
    if exercise_id not in EXERCISES:
        guess = nearest(str(exercise_id), EXERCISES) or f": give one of {', '.join(EXERCISES)}"
        raise InputError(f"exercise {exercise_id!r} is unknown{guess}")
    return EXERCISES[exercise_id]
