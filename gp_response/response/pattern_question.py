"""What patterning is asked, checked: a response that can be inverted, a target, and weights that may move."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gp_response.arguments import as_integer, as_number, as_tensor
from gp_response.errors import InputError, unknown_name
from gp_response.response.perturbations import Reweight
from gp_response.response.result import Source, Susceptibility
from gp_response.response.stored import StoredSusceptibility
from gp_response.response.weight_room import WeightRoom, weight_room

ORDERS = ("first", "refit derivative")


@dataclass(frozen=True)
class Question:
    """A checked question: everything on the CPU in float64."""

    chi: Susceptibility
    rows: list[int]
    target: Tensor
    matrix: Tensor
    room: WeightRoom
    source: Source | None
    dtype: torch.dtype
    tolerance: float
    iterations: int


def question(
    chi: Any, target: Any, mass: str, bounds: Any, weights: Any, tolerance: float, iterations: int
) -> Question:
    chi = chi.part() if isinstance(chi, StoredSusceptibility) else chi
    _check_response(chi)
    share = "a number between 0 and 1, a share of each target"
    tolerance = as_number(tolerance, "pattern's tolerance", share)
    if not 0.0 < tolerance < 1.0:
        raise InputError(f"tolerance={tolerance!r}: expected {share}")
    iterations = as_integer(iterations, "pattern's iterations", "a whole number of 0 or more", least=0)
    rows, wanted = _target(chi, target)
    source: Source | None = chi.source
    start = _start(chi, source, weights)
    room = weight_room(
        start, _reweighting(source), None if source is None else source.posterior.data,
        chi.columns, bounds=bounds, mass=mass,
    )  # fmt: skip
    if source is not None and iterations and bool((room.lower[room.rows] < 0).any()):
        raise InputError(
            f"bounds reach down to {float(room.lower[room.rows].min()):g}, and no model can be conditioned on negative weights; "
            "use bounds of 0 or more, or iterations=0 for the linear answer"
        )
    return Question(
        chi, rows, wanted, chi.matrix.double().cpu()[rows], room, source, chi.matrix.dtype, tolerance, iterations
    )


def _reweighting(source: Source | None) -> Reweight | None:
    if source is None:
        return None
    if isinstance(source.perturbation, Reweight):
        return source.perturbation
    raise InputError(f"this response is to a {type(source.perturbation).__name__}; pattern needs one to gr.reweight()")


def _check_response(chi: Any) -> None:
    if not isinstance(chi, Susceptibility):
        raise InputError(
            f"pattern got a {type(chi).__name__}; expected what gr.susceptibility(..., gr.reweight()) returns"
        )
    if chi.kind != "reweight" or chi.order not in ORDERS:
        raise InputError(f"pattern inverts first-order responses to reweight; this is {chi.kind} ({chi.order})")
    if chi.convention != "rho":
        raise InputError(f"this response is in convention {chi.convention!r}; give the original one (rho)")
    if not bool(torch.isfinite(chi.matrix).all()):
        row = int(torch.nonzero(~torch.isfinite(chi.matrix).all(dim=1))[0])
        raise InputError(f"the response of {chi.rows[row]} holds NaN or inf; expected finite numbers")


def _target(chi: Susceptibility, target: Any) -> tuple[list[int], Tensor]:
    """Rows of the response that are asked for, and the wanted change of each."""
    rows = list(range(len(chi.rows)))
    if isinstance(target, Mapping):
        place = {name: k for k, name in enumerate(chi.rows)}
        for name in target:
            if name not in place:
                raise unknown_name("observable", str(name), chi.rows)
        rows = sorted(place[name] for name in target)
        target = [as_number(target[chi.rows[k]], f"the target of {chi.rows[k]}") for k in rows]
    expected = f"({len(rows)},) changes, one for each observable"
    wanted = as_tensor(target, "pattern's target", expected, dtype=torch.float64).detach().cpu()
    if not rows or wanted.shape != (len(rows),):
        raise InputError(
            f"target of shape {tuple(wanted.shape)}; expected ({len(chi.rows)},), a change for each observable"
        )
    if not bool(torch.isfinite(wanted).all()):
        bad = int(torch.nonzero(~torch.isfinite(wanted))[0])
        raise InputError(f"the target of {chi.rows[rows[bad]]} is {float(wanted[bad])}; expected a finite number")
    return rows, wanted


def _start(chi: Susceptibility, source: Source | None, weights: Any) -> Tensor:
    if source is not None:
        if weights is not None:
            raise InputError("this response knows its posterior and with it the weights; leave weights out")
        return source.posterior.data.train.weights
    if not chi.every_sample:
        raise InputError(
            "this response no longer knows its posterior, nor which rows its columns move; compute it again with "
            "gr.susceptibility, or use one of every sample (gr.reweight() without rows)"
        )
    start = torch.ones(len(chi.columns)) if weights is None else torch.as_tensor(weights)
    if start.shape != (len(chi.columns),) or not bool((torch.isfinite(start) & (start >= 0)).all()):
        raise InputError(f"weights of shape {tuple(start.shape)}; expected ({len(chi.columns)},), finite and 0 or more")
    return start


__all__ = ["Question", "question"]
