"""Strengths of the inverse problem chosen by what they predict of observables left out.

Each fold of observables is left out in turn, weights are found for the targets of the rest, and what the response says they do
to those left out is compared with the targets there. Observables are few: with a target for each that does not follow from
the others there is nothing to generalise, and the strongest wins; for many neighbouring ones it is cross-validation as in ridge
regression (Golub, Heath & Wahba 1979).
"""

from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.response.nearest_weights import Strengths, nearest
from gp_response.response.weight_room import WeightRoom

FOLDS = 5
RIDGES = tuple(10.0**-k for k in range(9))  # in units of the largest squared singular value of the response
SPARSITIES = (0.5, 0.2, 0.1, 0.03, 0.01, 0.0)  # in units of the largest move of a row without
LEVELS = 12  # ranks tried at most


def choose_strengths(
    room: WeightRoom, matrix: Tensor, target: Tensor, *, ridge: Any, sparsity: Any, rank: Any
) -> Strengths:  # fmt: skip
    """Given numbers as they are, each "auto" by cross-validation with those before it (rank, ridge, sparsity) held.

    Raises:
        InputError: a strength that is none; "auto" with a single observable.
    """
    _check(ridge, sparsity, rank, len(target))
    numbers = [0.0 if given == "auto" else float(given) for given in (ridge, sparsity)]
    found = Strengths(numbers[0], numbers[1], None if rank == "auto" else rank)
    if rank == "auto":
        levels = range(1, len(target) + 1)[:: max(1, len(target) // LEVELS)]
        found = _best(room, matrix, target, [found._replace(rank=r) for r in levels])
    if ridge == "auto":
        scale = float(torch.linalg.matrix_norm(room.by_u(matrix), 2)) ** 2
        found = _best(room, matrix, target, [found._replace(ridge=share * scale) for share in RIDGES])
    if sparsity == "auto":
        largest = float(room.moves(nearest(room, matrix, target, found).change).abs().max())
        found = _best(room, matrix, target, [found._replace(sparsity=share * largest) for share in SPARSITIES])
    return found


def left_out_error(room: WeightRoom, matrix: Tensor, target: Tensor, strengths: Strengths) -> float:
    """Mean squared difference of predicted and wanted changes of observables left out, relative to the mean squared target."""
    missed = torch.zeros_like(target)
    folds = min(FOLDS, len(target))
    for fold in range(folds):
        out = torch.arange(len(target)) % folds == fold
        change = nearest(room, matrix[~out], target[~out], strengths).change
        missed[out] = matrix[out] @ change - target[out]
    return float(missed.square().mean() / target.square().mean().clamp_min(1e-300))


def _best(room: WeightRoom, matrix: Tensor, target: Tensor, candidates: list[Strengths]) -> Strengths:
    """The first of the candidates, strongest first, with the least error."""
    return min(candidates, key=lambda one: left_out_error(room, matrix, target, one))


def _check(ridge: Any, sparsity: Any, rank: Any, count: int) -> None:
    for name, value in (("ridge", ridge), ("sparsity", sparsity)):
        if value != "auto" and not (_is_number(value) and 0.0 <= float(value) < float("inf")):
            raise InputError(f"{name}={value!r}: expected a number of 0 or more, or 'auto'")
    whole = isinstance(rank, int) and not isinstance(rank, bool)
    if rank not in (None, "auto") and not (whole and 1 <= rank <= count):
        raise InputError(
            f"rank={rank!r}: expected a whole number from 1 to {count} (observables), 'auto', or None for all"
        )
    if "auto" in (ridge, sparsity, rank) and count < 2:
        raise InputError("'auto' leaves observables out in turn and there is one; give the strength as a number")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


__all__ = ["choose_strengths", "left_out_error"]
