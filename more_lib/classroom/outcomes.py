"""What an answer does on a case, and how that differs from what the right one does."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from more_lib.classroom.exercise import Case, Exercise, as_usual


class Outcome(NamedTuple):
    """One call: the value or the error, and the gradients."""

    value: Any = None
    error: type[BaseException] | None = None
    said: str = ""  # the error's first line
    changed: str = ""  # the argument that was written to
    slopes: tuple[tuple[str, Tensor], ...] = ()  # by floating tensors among the arguments


def outcome(function: Callable, case: Case, exercise: Exercise) -> Outcome:
    """Call on copies of the case's arguments: whatever the function does is in the result."""
    args, names = deepcopy(case.args), exercise.parameters if case.args else []
    try:
        with as_usual():
            value = function(*args)
            given = zip(names, args, case.args, strict=True)
            changed = next((name for name, now, was in given if _differs(now, was)), "")
            with_slopes = exercise.gradient and not changed
            slopes = _slopes(function, case, names) if with_slopes else ()
    except Exception as error:
        return Outcome(error=type(error), said=(str(error).strip().splitlines() or [""])[0])
    return Outcome(value, None, "", changed, slopes)


def fault(right: Outcome, yours: Outcome, exercise: Exercise) -> str:
    """How ``yours`` differs from ``right``, as half a sentence; "" where it does not."""
    if yours.error or right.error:
        name = yours.error.__name__ if yours.error else "nothing"
        said = f": {yours.said}" if yours.said else ""
        return "" if right.error is yours.error else f"it raises {name}{said}"
    if yours.changed:
        return "" if right.changed else f"it changes its argument {yours.changed}: work on a copy"
    if yours.value is None:
        return "it returns nothing: end it with return"
    if isinstance(right.value, str):
        if not isinstance(yours.value, str):
            return "the answer is a text, in quotes"
        same = yours.value.strip().casefold() == right.value.casefold()
        return "" if same else f"not {yours.value.strip()!r}"
    parts = (right.value,), (yours.value,)
    if isinstance(right.value, tuple):
        parts = right.value, yours.value
        if not isinstance(yours.value, tuple | list) or len(yours.value) != len(right.value):
            return f"it must return {len(right.value)} things, as `return a, b`"
    for one, other in zip(*parts, strict=True):
        if what := _value_fault(one, other, exercise):
            return what
    return _slope_fault(right, yours, exercise.tolerance)


def _value_fault(truth: Any, given: Any, exercise: Exercise) -> str:
    """The first of type, shape, dtype, nan and values that is wrong."""
    right, yours = _tensor(truth), _tensor(given)
    if right is None:  # only a slip returns what is no tensor
        return "" if yours is None else "it returns something else"
    number = "number" if right.is_floating_point() else "whole number (int64)"
    kind = "yes or no (bool)" if right.dtype == torch.bool else f"a {number}"
    kind = f"a tensor of {kind.removeprefix('a ')}s" if right.ndim and "(b" not in kind else kind
    if yours is None:
        return f"it returns a {type(given).__name__}; {kind} is asked for"
    yours = yours.reshape(()) if right.ndim == 0 and yours.numel() == 1 else yours
    if yours.shape != right.shape:
        axes = f", which is ({', '.join(exercise.axes)})" if exercise.axes else ""
        wanted = f"{tuple(right.shape)}{axes}" if right.ndim else "one number"
        turned = sorted(yours.shape) == sorted(right.shape)
        hint = ": the axes are in another order" if turned else ""
        return f"it returns the shape {tuple(yours.shape)}, and {wanted} is asked for{hint}"
    exact, both = not right.is_floating_point(), {right.dtype, yours.dtype}
    if exact and (yours.is_floating_point() or (torch.bool in both and len(both) == 2)):
        dtype = str(yours.dtype).removeprefix("torch.")
        return f"it returns {dtype}; {kind} is asked for"
    right, yours = right.double(), yours.double()
    if (yours.isnan() & ~right.isnan()).any():
        return "it returns nan: look for 0/0, log 0 or inf - inf"
    same = _close(right, yours, 0 if exact else exercise.tolerance)
    return "" if same else _difference(right, yours, exercise.axes)


def _difference(right: Tensor, yours: Tensor, axes: tuple[str, ...]) -> str:
    """How values of one shape differ, by what often goes wrong; never the right ones."""
    if right.ndim == 0:
        return "the value is another one"
    one = torch.ones((), dtype=right.dtype)
    for axis, name in enumerate(axes):
        if right.shape[axis] > 1 and _close(one, right.sum(axis)):
            others = [each for i, each in enumerate(axes) if _close(one, yours.sum(i))]
            if name not in others:
                theirs = f"yours over the {others[0]}" if others else "yours do not"
                return f"values sum to 1 over the {name}, {theirs}"
    ratio = (yours / right)[right.abs() > 1e-6]
    if ratio.numel() > 1 and ratio.isfinite().all() and _close(ratio.mean() * right, yours):
        factor = float(ratio.mean())
        return "the sign is wrong" if abs(factor + 1) < 1e-3 else f"all is {factor:.5g} times right"
    wrong = ~torch.isclose(yours, right, rtol=1e-4, atol=1e-4, equal_nan=True)
    return f"{int(wrong.sum())} of {wrong.numel()} values are wrong, the first at " + str(
        wrong.nonzero()[0].tolist()
    )


def _slope_fault(right: Outcome, yours: Outcome, tolerance: float) -> str:
    for (name, slope), (_, mine) in zip(right.slopes, yours.slopes, strict=True):
        if not _close(slope, mine, tolerance):
            what = f"the gradient of {name} is another one" if mine.any() else ""
            what = what or f"no gradient reaches {name}"
            what = what if slope.any() else f"a gradient reaches {name}, which must not learn here"
            return f"the value is right, but {what}"
    return ""


def _slopes(function: Callable, case: Case, names: list[str]) -> tuple[tuple[str, Tensor], ...]:
    """Gradient of the value by each floating tensor; zeros where none arrives."""
    args = [arg.clone().requires_grad_() if _learns(arg) else deepcopy(arg) for arg in case.args]
    leaves = {name: arg for name, arg in zip(names, args, strict=True) if _learns(arg)}
    value = function(*args)
    found = [None] * len(leaves)
    if isinstance(value, Tensor) and value.requires_grad:
        found = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
    pairs = zip(leaves.items(), found, strict=True)
    return tuple((name, torch.zeros_like(x) if g is None else g) for (name, x), g in pairs)


def _learns(arg: Any) -> bool:
    return isinstance(arg, Tensor) and arg.is_floating_point()


def _differs(now: Any, was: Any) -> bool:
    if isinstance(was, Tensor):
        return now.shape != was.shape or not _close(was, now, 0)
    if isinstance(was, list | tuple):
        return len(now) != len(was) or any(map(_differs, now, was))
    return False if callable(was) else bool(now != was)


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return None if value.is_complex() else value.detach().cpu()
    if isinstance(value, bool | int | float | list | np.ndarray | np.generic):
        try:
            return torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError, RuntimeError):
            return None
    return None


def _close(right: Tensor, yours: Tensor, tolerance: float = 1e-4) -> bool:
    given = yours.double(), right.double()
    return bool(torch.isclose(*given, tolerance, tolerance, equal_nan=True).all())
