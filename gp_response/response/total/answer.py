"""One evaluation of the implicit derivative: hyperparameters, features, and the observables that follow them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gp_response.posterior import Certified
from gp_response.response.observable import Observable
from gp_response.response.total.columns import Columns, Read
from gp_response.response.total.inverse import responses
from gp_response.response.total.localised import Localised
from gp_response.response.total.objective import Objective
from gp_response.response.total.optimum import Curved, Optimum, apart_from_flat, curved, held, newton_step
from gp_response.response.total.parameters import Parameters
from gp_response.solvers import CG, Lanczos


@dataclass(frozen=True)
class Answer:
    """Derivatives in float64 with bounds.

    coordinates: of all hyperparameters by every column, (P, c), zero where held.
    hyperparameters, features: what that and the features' response make of the m observables, (m, c); features None where
        they are held fixed. both: their sum.
    moved, settled: which rows of coordinates (P,) and of observables (m,) met the solver's tolerance, bool.
    """

    coordinates: Certified
    hyperparameters: Certified
    features: Certified | None
    both: Certified
    moved: Tensor
    settled: Tensor
    optimum: Optimum


class Implicit:
    """An objective on perturbed data, and the observables asked of it.

    Args:
        build: (data, points, moved) -> the objective.
        parameters: the hyperparameters. features: weights that respond, if any.
        floors: (P,) lowest coordinates.
        solver: of the features' part.
    """

    def __init__(
        self, objective: Objective, parameters: Parameters, features: list[nn.Parameter], floors: Tensor,
        columns: Columns, observable: Observable, damping: float | None, solver: CG | Lanczos,
    ):  # fmt: skip
        self.solver, self.objective, self.parameters, self.features, self.floors = (
            solver,
            objective,
            parameters,
            features,
            floors,
        )
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
        hyper, sure = _through(slopes, moved), torch.ones(len(self.parameters), dtype=torch.bool)
        return Answer(self._every(moved, active), hyper, None, hyper, sure, sure.new_ones(len(read)), optimum)

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
        inside = Localised(self.objective, self.parameters, active, here, self.columns, self.damping)
        count = len(active)
        pulled = [inside.pulled(*read.cotangent(k)) for k in range(len(read))]
        hyper = torch.cat([torch.eye(count, dtype=torch.float64), torch.stack([own for own, _ in pulled])])
        weights = torch.stack([w for _, w in pulled])
        weights = torch.cat([weights.new_zeros(count, inside.width), weights])
        found, converged = responses(inside, hyper, weights, self.solver)
        moved, both = (Certified(*(part[at] for part in found)) for at in (slice(count), slice(count, None)))
        by_hyper = _through(slopes, moved)
        features = Certified(both.value - by_hyper.value, both.error + by_hyper.error)
        optimum = replace(
            optimum, damping=inside.damping, highest=inside.highest, ceiling=inside.ceiling, tilt=inside.tilt,
            products=inside.products,
        )  # fmt: skip
        sure = torch.ones(len(self.parameters), dtype=torch.bool).index_copy(0, active, converged[:count])
        return Answer(self._every(moved, active), by_hyper, features, both, sure, converged[count:], optimum)

    def _every(self, moved: Certified, active: Tensor) -> Certified:
        shape = (len(self.parameters), len(self.columns.amplitude))
        parts = [torch.zeros(shape, dtype=torch.float64).index_copy(0, active, part) for part in moved]
        return Certified(*parts)


def _through(slopes: Tensor, moved: Certified) -> Certified:
    return Certified(slopes @ moved.value, slopes.abs() @ moved.error)


__all__ = ["Answer", "Implicit"]
