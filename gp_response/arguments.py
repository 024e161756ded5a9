"""Arguments as a caller gives them, made into tensors and numbers, or refused in one line that says what was got."""

import math
import numbers
import operator
import reprlib
from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError

_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = 60


def shown(value: Any) -> str:
    """A value in a line, whatever it is: arrays by shape and type."""
    if hasattr(value, "shape") and hasattr(value, "dtype") and tuple(value.shape):
        return f"a {type(value).__name__} of shape {tuple(value.shape)} and type {value.dtype}"
    return " ".join(_SHORT.repr(value).split())


def as_tensor(value: Any, what: str, expected: str, **options: Any) -> Tensor:
    """`torch.as_tensor(value, **options)`, or an error that says `what` got it and what was `expected`.

    Raises:
        InputError: text, None, objects, rows of different lengths, complex numbers.
    """
    try:
        found = torch.as_tensor(value, **options)
        if found.dtype == torch.float32 and not options and not hasattr(value, "dtype"):
            found = torch.as_tensor(value, dtype=torch.float64)  # Python's numbers are
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{what} got {shown(value)}; expected {expected}") from None
    if found.is_complex():
        raise InputError(f"{what} got complex numbers; expected {expected}")
    return found


def as_number(value: Any, what: str, expected: str = "a finite number") -> float:
    """A finite number as a float: a Python or numpy number, or a tensor of one.

    Raises:
        InputError: anything else; `what` names the argument.
    """
    one = isinstance(value, numbers.Real) or (getattr(value, "ndim", None) == 0 and not isinstance(value, str))
    if not one or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{what} got {shown(value)}; expected {expected}")
    return float(value)


def as_integer(value: Any, what: str, expected: str, *, least: int, most: int | None = None) -> int:
    """A whole number of `least` or more and, where given, `most` or less: Python's or numpy's.

    Raises:
        InputError: anything else, True and False among it.
    """
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < least or (most is not None and found > most):
        raise InputError(f"{what} got {shown(value)}; expected {expected}")
    return found


def as_places(value: Any, what: str, width: int, count: int, of: str) -> Tensor:
    """(q, width) numbers of things, of which there are `count`, as long integers; `of` names them.

    Raises:
        InputError: another shape, none, no whole numbers, or one out of range.
    """
    expected = f"(q, {width}) numbers of {of}, 0 to {count - 1}"
    asked = as_tensor(value, what, expected)
    whole = not asked.is_floating_point() and asked.dtype != torch.bool
    if asked.ndim != 2 or asked.shape[1] != width or not len(asked) or not whole:
        raise InputError(f"{what} got {shown(asked)}; expected {expected}")
    beyond = asked[(asked < 0) | (asked >= count)]
    if len(beyond):
        raise InputError(f"{what} got {int(beyond[0])}; expected {expected}")
    return asked.long()


__all__ = ["as_integer", "as_number", "as_places", "as_tensor", "shown"]
