"""Derivatives of refits by extrapolated differences, and steps that refits bear."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.posterior import Certified

LEVELS = {2: 4, 1: 6}  # of extrapolation, by the powers of the step in the error: even ones, or all
SHARE = 0.05  # of a row's weight that is stepped
FROM_ZERO = 0.2  # of the weight at which a new row begins to outweigh the prior


class Step(NamedTuple):
    """The largest step of a difference; one_sided: there is nothing on the other side of zero."""

    size: float
    one_sided: bool


def difference(at: Callable[[float], Tensor], step: float, *, before: Tensor | None = None) -> Certified:
    """The derivative of `at` at zero, by central differences or, given `before`, which is `at(0)`, from the right alone; and
    how far the last two orders of extrapolation are apart."""
    power = 2 if before is None else 1
    steps = [step / 2**k for k in range(LEVELS[power])]
    if before is None:
        row = [(at(s) - at(-s)) / (2.0 * s) for s in steps]
    else:
        row = [(at(s) - before) / s for s in steps]
    best = Certified(row[-1], torch.full_like(row[-1], float("inf")))
    for order in range(1, len(steps)):
        factor = 2.0 ** (power * order)
        last, row = row, [(factor * b - a) / (factor - 1.0) for a, b in itertools.pairwise(row)]
        # Ridders (1982): extrapolation ends, entry by entry, where rounding takes over.
        for value, (a, b) in zip(row, itertools.pairwise(last), strict=True):
            off = torch.maximum((value - a).abs(), (value - b).abs())
            better = off < best.error
            best = Certified(torch.where(better, value, best.value), torch.where(better, off, best.error))
    return best


def step_of_weights(head: Any, before: Dataset, after: Dataset, h: float) -> Step | None:
    """A step over which refits change smoothly where h moved the weights of rows, new rows last; None where it moved none.

    head: `weight_scale(data)` says what weight is little for rows that had none.
    """
    old, now = (data.train.weights.double() for data in (before, after))
    old = torch.cat([old, old.new_zeros(len(now) - len(old))])
    rate = (now - old) / h
    moved, new = rate != 0, (rate != 0) & (old == 0)
    if not bool(moved.any()):
        return None
    little = SHARE * old
    if bool(new.any()):
        little = torch.where(new, FROM_ZERO * head.weight_scale(after.keep(new)) / int(new.sum()), little)
    return Step(float((little[moved] / rate[moved].abs()).min()), bool(new.any()))


__all__ = ["Step", "difference", "step_of_weights"]
