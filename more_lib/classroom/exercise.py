"""An exercise is data: the answer, cases to try others on, and the slips that people make.

An answer is right when it gives what the reference gives, value and gradient, on every case.
Whoever gives what a slip gives has probably made that slip, and is told its sentence. So the same
data grade and explain; the cases have to tell every slip from the truth and from the others.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import torch


class Case(NamedTuple):
    """One call of the answer."""

    name: str  # goes on after "on": "two patches by hand", "an image with one class"
    args: tuple[Any, ...]
    idea: str = ""  # what the case is there for, said when it fails and no slip explains it


@dataclass(frozen=True)
class Exercise:
    """One exercise of ``notebooks/exercises``: its text stands there, its truth here.

    answer: a function, which takes a keyword ``slip`` beside its arguments and then makes that
    mistake; or a value, where a number or a choice is asked for. slips: sentences, without the
    solution in them, by the slip's name, or by the wrong value. cases: from a random generator, the
    hand case first, then random ones and borders; None for a value. reference: what holds the
    answer, from the library, where it has it. axes: names of the result's dimensions. gradient:
    whether the answer must also pass on the right gradient to its floating tensors. tolerance:
    relative, and absolute where the value is below 1.
    """

    id: str  # "03.4": chapter and number
    title: str
    goal: str
    difficulty: int  # 1 to 3
    minutes: int
    answer: Any
    slips: Mapping[Any, str]
    cases: Callable[[torch.Generator], list[Case]] | None = None
    reference: Callable | None = None
    axes: tuple[str, ...] = ()
    gradient: bool = False
    tolerance: float = 1e-4

    @property
    def solution(self) -> Callable:
        """The right answer as a function, without arguments where it is a value."""
        return self.reference or (self.answer if self.cases else lambda: self.answer)

    @property
    def parameters(self) -> list[str]:
        """Names of the function's arguments."""
        return [name for name in signature(self.answer).parameters if name != "slip"]

    def wrong(self, slip: Any) -> Callable:
        """The answer with this slip, as a function."""
        return partial(self.answer, slip=slip) if self.cases else lambda: slip

    def tries(self, seed: int) -> list[Case]:
        """The cases with this seed; a value is one call without arguments."""
        with as_usual():
            return self.cases(torch.Generator().manual_seed(seed)) if self.cases else [Case("", ())]


@contextmanager
def as_usual() -> Iterator[None]:
    """torch as it starts: a notebook's settings make cases and values that nobody else has."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)
