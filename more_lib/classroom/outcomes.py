"""What an answer does on a case, and how that differs from what the solution does."""

import inspect
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from more_lib.classroom.exercise import Case, Exercise

NUMBERS = (bool, int, float, list, np.ndarray, np.generic)


class Outcome(NamedTuple):
    """One call: the value or the error, and the gradients."""

    value: Any = None
    error: type[BaseException] | None = None
    said: str = ""  # the error's first line
    changed: str = ""  # the argument that was written to
    slopes: tuple[Tensor, ...] = ()  # one for each floating tensor among the arguments


def outcome(function: Callable, case: Case, gradient: bool = False) -> Outcome:
    """Call on copies of the case's arguments: whatever the function does is in the result."""
    args = deepcopy(case.args)
    try:
        value = function(*args)
        names = _names(function, len(args))
        pairs = zip(names, args, case.args, strict=True)
        changed = next((name for name, now, was in pairs if _differs(now, was)), "")
        slopes = _slopes(function, case) if gradient and not changed else ()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return Outcome(error=type(error), said=lines[0])
    return Outcome(value, None, "", changed, slopes)


def fault(right: Outcome, yours: Outcome, exercise: Exercise) -> str:
    """How ``yours`` differs from ``right``, as half a sentence; "" where it does not."""
    if yours.error or right.error:
        same = right.error and yours.error and right.error.__name__ == yours.error.__name__
        return "" if same else f"it raises {_error(yours)}"
    if yours.changed:
        return "" if right.changed else f"it changes its argument {yours.changed}: work on a copy"
    if yours.value is None:
        return "it returns nothing: end it with return"
    if isinstance(right.value, str):
        return _text_fault(right.value, yours.value)
    parts = (right.value, yours.value)
    if isinstance(right.value, tuple):
        count = len(right.value)
        if not isinstance(yours.value, tuple | list) or len(yours.value) != count:
            return f"it must return {count} things, as `return a, b`"
    else:
        parts = (right.value,), (yours.value,)
    for one, other in zip(*parts, strict=True):
        if what := _value_fault(_tensor(one), other, exercise):
            return what
    return _slope_fault(right.slopes, yours.slopes, exercise)


def _text_fault(right: str, yours: Any) -> str:
    if not isinstance(yours, str):
        return "the answer is a text, in quotes"
    return "" if yours.strip().casefold() == right.casefold() else f"not {yours.strip()!r}"


def _value_fault(right: Tensor | None, given: Any, exercise: Exercise) -> str:
    """The first of kind, shape, dtype, nan and values that is wrong."""
    yours = _tensor(given)
    if right is None:  # only a slip returns what is no tensor
        return "" if yours is None else "it returns something else"
    if yours is None:
        return f"it returns a {type(given).__name__}; {_kind(right)} is asked for"
    if right.ndim == 0 and yours.numel() == 1:
        yours = yours.reshape(())
    if yours.shape != right.shape:
        return _shape_fault(right, yours, exercise.axes)
    exact = not right.is_floating_point()
    if exact and (yours.dtype == torch.bool) != (right.dtype == torch.bool):
        return f"it returns {_dtype(yours)}; {_kind(right)} is asked for"
    if exact and yours.is_floating_point():
        return f"it returns {_dtype(yours)}; {_kind(right)} is asked for"
    right, yours = right.double(), yours.double()
    if (yours.isnan() & ~right.isnan()).any():
        return "it returns nan: look for 0/0, log 0 or inf - inf"
    if _close(right, yours, 0 if exact else exercise.tolerance):
        return ""
    return _difference(right, yours, exercise.axes)


def _shape_fault(right: Tensor, yours: Tensor, axes: Sequence[str]) -> str:
    wanted = f"{tuple(right.shape)}" + (f", which is ({', '.join(axes)})" if axes else "")
    if not right.ndim:
        wanted = "one number"
    turned = sorted(yours.shape) == sorted(right.shape)
    hint = ": the axes are in another order" if turned else ""
    return f"it returns the shape {tuple(yours.shape)}, and {wanted} is asked for{hint}"


def _difference(right: Tensor, yours: Tensor, axes: Sequence[str]) -> str:
    """How values of one shape differ, by what often goes wrong; never the right ones."""
    if right.ndim == 0:
        return "the value is another one"
    for axis, name in enumerate(axes):
        one = torch.ones((), dtype=right.dtype)
        if right.ndim == len(axes) and right.shape[axis] > 1 and _close(right.sum(axis), one):
            others = [n for i, n in enumerate(axes) if _close(yours.sum(i), one) and i != axis]
            if others:
                return f"values sum to 1 over the {name}, yours over the {others[0]}"
            if not _close(yours.sum(axis), one):
                return f"values sum to 1 over the {name}, yours do not"
    if right.ndim > 1 and right.shape[-1] == right.shape[-2] and _close(right.mT, yours):
        return "the last two axes are exchanged"
    ratio = (yours / right)[right.abs() > 1e-6]
    if ratio.numel() > 1 and ratio.isfinite().all() and _close(ratio, ratio.mean()):
        factor = float(ratio.mean())
        return "the sign is wrong" if abs(factor + 1) < 1e-3 else f"all is {factor:.3g} times right"
    wrong = ~torch.isclose(yours, right, rtol=1e-3, atol=1e-4, equal_nan=True)
    place = wrong.nonzero()[0].tolist() if wrong.any() else []
    return f"{int(wrong.sum())} of {wrong.numel()} values are wrong, the first at {place}"


def _slope_fault(right: Sequence[Tensor], yours: Sequence[Tensor], exercise: Exercise) -> str:
    """Which argument's gradient is wrong; both sides have the same arguments."""
    hints = inspect.signature(exercise.answer).parameters.values() if right else ()
    names = [each.name for each in hints if each.annotation in (Tensor, "Tensor")]
    for name, slope, mine in zip(names, right, yours, strict=False):
        if _close(slope, mine, exercise.tolerance):
            continue
        if not slope.any():
            return f"the value is right, but a gradient reaches {name}, which must not learn here"
        if not mine.any():
            return f"the value is right, but no gradient reaches {name}"
        return f"the value is right, but the gradient of {name} is another one"
    return ""


def _slopes(function: Callable, case: Case) -> tuple[Tensor, ...]:
    """Gradient of the (summed) value by each floating tensor; zeros where none arrives."""
    args = [arg.clone().requires_grad_() if _learns(arg) else deepcopy(arg) for arg in case.args]
    leaves = [arg for arg in args if _learns(arg)]
    value = function(*args)
    if not isinstance(value, Tensor) or not value.requires_grad:
        return tuple(map(torch.zeros_like, leaves))
    found = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    pairs = zip(leaves, found, strict=True)
    return tuple(torch.zeros_like(leaf) if g is None else g for leaf, g in pairs)


def _learns(arg: Any) -> bool:
    return isinstance(arg, Tensor) and arg.is_floating_point()


def _names(function: Callable, count: int) -> list[str]:
    try:
        names = list(inspect.signature(function).parameters)[:count]
    except ValueError:
        names = []
    return names if len(names) == count else [f"number {i + 1}" for i in range(count)]


def _differs(now: Any, was: Any) -> bool:
    if isinstance(was, Tensor):
        return now.shape != was.shape or not torch.equal(now.nan_to_num(7), was.nan_to_num(7))
    if isinstance(was, list | tuple):
        return len(now) != len(was) or any(map(_differs, now, was))
    return False if callable(was) else bool(now != was)


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return None if value.is_complex() else value.detach().cpu()
    if isinstance(value, NUMBERS):
        try:
            return torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError, RuntimeError):
            return None
    return None


def _close(right: Tensor, yours: Tensor, tolerance: float = 1e-4) -> bool:
    given = yours.double(), right.double()
    return bool(torch.isclose(*given, tolerance, tolerance, equal_nan=True).all())


def _kind(right: Tensor) -> str:
    if right.dtype == torch.bool:
        return "yes or no (bool)"
    number = "number" if right.is_floating_point() else "whole number (int64)"
    return f"a {number}" if right.ndim == 0 else f"a tensor of {number}s"


def _dtype(yours: Tensor) -> str:
    return str(yours.dtype).removeprefix("torch.")


def _error(yours: Outcome) -> str:
    if yours.error is None:
        return "no error"
    return yours.error.__name__ + (f": {yours.said}" if yours.said else "")
