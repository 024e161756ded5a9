"""Observables summed up from answers at blocks of their points, so that no more points are looked from than memory allows."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.response.observable import Observable


class Answer(NamedTuple):
    """At q points: values (q, c), bounds on their errors (q, c), and whether each point's solve converged (q,)."""

    value: Tensor
    error: Tensor
    converged: Tensor


class Rows(NamedTuple):
    """For k observables: matrix (k, c), error (k, c), and flagged (k,): a solve not converged or a bound not finite."""

    matrix: Tensor
    error: Tensor
    flagged: Tensor


def count_observables(observable: Observable) -> int:
    return len(observable.points) if observable.weights is None else len(observable.weights)


def points_of(observable: Observable, start: int, stop: int) -> Tensor:
    """The points that observables start to stop read, (q,) indices."""
    if observable.weights is None:
        return torch.arange(start, stop, device=observable.points.device)
    return torch.nonzero((observable.weights[start:stop] != 0).any(dim=0)).flatten()


def assemble(
    observable: Observable, start: int, stop: int, columns: int, *, step: int, answer: Callable[[Tensor], Answer], like: Tensor
) -> Rows:  # fmt: skip
    """Observables start to stop for c columns, asking `answer` about at most `step` points at a time.

    Args:
        answer: takes indices (q,) into the observable's points.
        like: a tensor of the result's dtype and device.
    """
    matrix, error = like.new_zeros(stop - start, columns), like.new_zeros(stop - start, columns)
    weak = torch.zeros(stop - start, dtype=torch.bool, device=like.device)
    for where in points_of(observable, start, stop).split(step):
        got = answer(where)
        if observable.weights is None:
            at = slice(int(where[0]) - start, int(where[-1]) + 1 - start)
            matrix[at], error[at], weak[at] = got.value, got.error, ~got.converged
            continue
        weights = observable.weights[start:stop, where].to(like)
        rows = torch.nonzero((weights != 0).any(dim=1)).flatten()
        matrix.index_add_(0, rows, _weighted(weights[rows], got.value))
        error.index_add_(0, rows, _weighted(weights[rows].abs(), got.error))
        weak |= ((weights != 0) & ~got.converged).any(dim=1)
    # A bound that could not be had (0 · ∞ on the way) is no bound: infinite, and flagged.
    error = torch.where(error.isnan(), torch.full_like(error, float("inf")), error)
    return Rows(matrix, error, weak | error.isinf().any(dim=1))


def _weighted(weights: Tensor, part: Tensor) -> Tensor:
    """`weights @ part`, where an entry that is no number reaches only the rows that read it: 0 · ∞ is nothing here."""
    lost = ~part.isfinite()
    if not bool(lost.any()):
        return weights @ part
    reached = (weights != 0).to(part) @ lost.to(part) > 0
    return (weights @ part.masked_fill(lost, 0.0)).masked_fill(reached, float("nan"))


__all__ = ["Answer", "Rows", "assemble", "count_observables", "points_of"]
