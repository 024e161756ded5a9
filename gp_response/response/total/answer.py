"""One evaluation of the implicit derivative: hyperparameters, features, and the observables that follow them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gp_response.posterior import Certified
from gp_response.response.observable import Observable
from gp_response.response.total.columns import Columns, Read
from gp_response.response.total.localised import Localised
from gp_response.response.total.objective import Objective
from gp_response.response.total.optimum import Curved, Optimum, apart_from_flat, curved, held, newton_step
from gp_response.response.total.parameters import Parameters


@dataclass(frozen=True)
class Answer:
    """Derivatives in float64 with bounds.

    coordinates: of all hyperparameters by every column, (P, c), zero where held.
    hyperparameters, features: what that and the features' response make of the m observables, (m, c); features None where
        they are held fixed.
    """

    coordinates: Certified
    hyperparameters: Certified
    features: Certified | None
    optimum: Optimum


class Implicit:
    """An objective on perturbed data, and the observables asked of it.

    Args:
        build: (data, points, moved) -> the objective.
        parameters: the hyperparameters. features: weights that respond, if any.
        floors: (P,) lowest coordinates.
    """

    def __init__(
        self, objective: Objective, parameters: Parameters, features: list[nn.Parameter], floors: Tensor,
        columns: Columns, observable: Observable, damping: float | None,
    ):  # fmt: skip
        self.objective, self.parameters, self.features, self.floors = objective, parameters, features, floors
        self.columns, self.observable, self.damping = columns, observable, damping

    def evaluate(self) -> Answer:
        here = curved(self.objective, self.parameters)
        optimum, active = self._optimum(here)
        optimum.require()
        read = Read(self.observable, self.objective.marginal())
        none = torch.zeros(len(read), 0, dtype=torch.float64)
        slopes = torch.stack([read.along(here.along[k]) for k in active.tolist()], dim=1) if len(active) else none
        if self.features:
            return self._with_features(here, optimum, active, read, slopes)
        moved = self._dense(here, active)
        return Answer(self._every(moved, active), _through(slopes, moved), None, optimum)

    def _optimum(self, here: Curved) -> tuple[Optimum, Tensor]:
        fixed = held(self.parameters, here, self.floors)
        names = self.parameters.names
        active = torch.tensor([k for k, name in enumerate(names) if name not in fixed], dtype=torch.long)
        gradient, hessian = here.gradient[active], here.hessian[active][:, active]
        step, values, vectors = newton_step(gradient, hessian)
        weakest = vectors[:, 0] if len(values) else values
        return Optimum(
            tuple(names[k] for k in active.tolist()), self.objective.value(), gradient, step, values, weakest, held=fixed
        ), active  # fmt: skip

    def _dense(self, here: Curved, active: Tensor) -> Certified:
        """`dv/dh = (-H)⁻¹ ∂²M/∂v∂h`, (a, c), and what the residual of the solve leaves open."""
        if not len(active):
            empty = torch.zeros(0, len(self.columns.amplitude), dtype=torch.float64)
            return Certified(empty, empty)
        right = torch.stack([self.columns.pull(here.along[k].data) for k in active.tolist()])
        system = -here.hessian[active][:, active]
        values, vectors = torch.linalg.eigh(system)
        value = apart_from_flat(values, vectors, right)
        # One step of refinement; what is left lies along flat directions, along which nothing moves, or is rounding.
        value = value + apart_from_flat(values, vectors, right - system @ value)
        bound = apart_from_flat(values, vectors, right - system @ value).norm(dim=0)
        return Certified(value, bound.expand_as(value))

    def _with_features(self, here: Curved, optimum: Optimum, active: Tensor, read: Read, slopes: Tensor) -> Answer:
        inside = Localised(self.objective, self.parameters, active, here, self.damping)
        none = torch.zeros(inside.width, dtype=torch.float64)
        units = torch.eye(len(active), dtype=torch.float64)
        found = [self._adjoint(inside, unit, none) for unit in units]
        moved = _rows(found, len(self.columns.amplitude))
        total = Certified.stacked(
            [self._adjoint(inside, *inside.pulled(*read.cotangent(k))) for k in range(len(read))], dim=0
        )
        hyper = _through(slopes, moved)
        features = Certified(total.value - hyper.value, total.error + hyper.error)
        optimum = replace(optimum, damping=inside.damping, highest=inside.highest, tilt=inside.tilt)
        return Answer(self._every(moved, active), hyper, features, optimum)

    def _adjoint(self, inside: Localised, hyper: Tensor, weights: Tensor) -> Certified:
        """One row of responses by every column, (c,). The error is what the residual would be worth along S's lowest direction."""
        solved = inside.solve(hyper, weights)
        least = max(inside.damping - max(inside.highest, 0.0), 1e-300)
        return Certified(self.columns.pull(solved.answer.data), self.columns.pull(solved.missing.data).abs() / least)

    def _every(self, moved: Certified, active: Tensor) -> Certified:
        shape = (len(self.parameters), len(self.columns.amplitude))
        parts = [torch.zeros(shape, dtype=torch.float64).index_copy(0, active, part) for part in moved]
        return Certified(*parts)


def _through(slopes: Tensor, moved: Certified) -> Certified:
    return Certified(slopes @ moved.value, slopes.abs() @ moved.error)


def _rows(rows: list[Certified], columns: int) -> Certified:
    if not rows:
        empty = torch.zeros(0, columns, dtype=torch.float64)
        return Certified(empty, empty)
    return Certified.stacked(rows, dim=0)


__all__ = ["Answer", "Implicit"]
