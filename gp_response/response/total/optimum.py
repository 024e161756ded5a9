"""Whether a head stands at an optimum of its evidence, what that optimum is like, and Newton's method to get there."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gp_response.errors import InputError, SolverError
from gp_response.response.total.objective import Along, Objective
from gp_response.response.total.parameters import Parameters, flat

IDLE = 1e-6  # nats a coordinate, of gradient and curvature: a parameter that the evidence does not see
SETTLED = 1e-4  # of a coordinate: a Newton step beyond it flags the result
REFUSED = 0.3  # a Newton step beyond it refuses: the head is nowhere near an optimum
FLAT = 1e-10  # of the largest eigenvalue: below it rounding decides, and nothing moves along such a direction
STEPS = 60


@dataclass(frozen=True)
class Optimum:
    """The evidence around the head's hyperparameters, in coordinates that are about their logarithms.

    Attributes:
        names: of the hyperparameters that respond, (P,); all arrays are in this order.
        objective: the log evidence, or its bound, with log priors, in nats.
        gradient: (P,) of the objective, in nats a coordinate; zero at an optimum.
        step: (P,) Newton's step from here: how far the optimum is.
        eigenvalues: (P,) of minus the Hessian, ascending; all positive at a maximum.
        weakest: the unit direction of the lowest eigenvalue, (P,): what the data say least about.
        held: what does not respond, and why, by name.
        polished: Newton steps that were taken before.
        damping: δ of the features' localising term; None where features are held fixed.
        highest, ceiling: bounds of the largest eigenvalue that the features' curvature has without δ, by Lanczos: from below,
            and from above but for a chance of 1e-6; None likewise.
        tilt: the norm of the features' gradient that the localised objective takes away; None likewise.
        products: second derivatives of the evidence along the features' weights that were taken here.
    """

    names: tuple[str, ...]
    objective: float
    gradient: Tensor
    step: Tensor
    eigenvalues: Tensor
    weakest: Tensor
    held: dict[str, str] = field(default_factory=dict)
    polished: int = 0
    damping: float | None = None
    highest: float | None = None
    ceiling: float | None = None
    tilt: float | None = None
    products: int = 0

    @property
    def shortfall(self) -> float:
        """What the objective lacks of its maximum, in nats, to second order."""
        return 0.5 * float(self.gradient @ self.step)

    @property
    def relative_gradient(self) -> float:
        """‖gradient‖ relative to the objective, or to one nat where that is less."""
        return float(self.gradient.norm()) / max(1.0, abs(self.objective))

    @property
    def maximum(self) -> bool:
        return not len(self.eigenvalues) or float(self.eigenvalues[0]) > FLAT * float(self.eigenvalues[-1].abs())

    @property
    def settled(self) -> bool:
        return self.maximum and self.distance <= SETTLED

    @property
    def distance(self) -> float:
        """The largest part of the Newton step."""
        return float(self.step.abs().max()) if len(self.step) else 0.0

    @property
    def direction(self) -> dict[str, float]:
        """The weakest direction by name, largest parts first, those below a tenth left out."""
        order = self.weakest.abs().argsort(descending=True).tolist()
        return {self.names[k]: float(self.weakest[k]) for k in order if abs(float(self.weakest[k])) > 0.1}

    @property
    def message(self) -> str:
        if not self.maximum:
            where = ", ".join(f"{name} {part:+.2f}" for name, part in self.direction.items())
            bend = float(self.eigenvalues[0])
            how = (
                "is flat"
                if abs(bend) <= FLAT * float(self.eigenvalues[-1].abs())
                else f"curves upwards ({-bend:.2g} nats)"
            )
            return f"no strict maximum: the evidence {how} along {where}"
        if not self.settled:
            worst = self.names[int(self.step.abs().argmax())]
            return f"not settled: the optimum is {self.distance:.1e} away in {worst} (Newton); use polish=True"
        return "at a maximum of the objective"

    def require(self) -> None:
        """Refuse what is no optimum at all."""
        if self.distance > REFUSED:
            worst = int(self.step.abs().argmax())
            raise InputError(
                f"the head's hyperparameters are no optimum of its evidence: Newton's step moves {self.names[worst]} by "
                f"{float(self.step[worst]):+.2g} in its logarithm, {self.shortfall:.2g} nats short; fit the head first, or "
                "use polish=True"
            )


@dataclass(frozen=True)
class Curved:
    """One evaluation: gradient (P,), Hessian (P, P) and everything else along each coordinate."""

    gradient: Tensor
    hessian: Tensor
    along: list[Along]


def curved(objective: Objective, parameters: Parameters) -> Curved:
    """Second derivatives along every coordinate of the hyperparameters, one after the other."""
    objective.settle()
    stretch, count = parameters.stretch(), len(parameters)
    others = len(objective.parameters) - len(parameters.tensors)
    rows = []
    for k in range(count):
        unit = torch.zeros(count, dtype=torch.float64)
        unit[k] = stretch[k]
        rest = [torch.zeros_like(p) for p in objective.parameters[len(parameters.tensors) :]] if others else []
        rows.append(objective.along([*parameters.split(unit), *rest]))
    size = len(parameters.tensors)
    slope = flat(objective.gradient()[:size])
    hessian = (
        torch.stack([flat(row.parameters[:size]) * stretch for row in rows]) if rows else torch.zeros(0, 0).double()
    )
    hessian = 0.5 * (hessian + hessian.T) + torch.diag(slope * parameters.bend())
    return Curved(slope * stretch, hessian, rows)


def newton_step(gradient: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`(-H)⁻¹g` without what is flat, and eigenvalues and eigenvectors of -H."""
    values, vectors = torch.linalg.eigh(-hessian)
    return apart_from_flat(values, vectors, gradient), values, vectors


def apart_from_flat(values: Tensor, vectors: Tensor, right: Tensor) -> Tensor:
    """`(-H)⁺ right` for right (P, ...) by the eigenvalues of -H, those that rounding decides taken for zero."""
    if not len(values):
        return right
    inverse = torch.where(values.abs() > FLAT * float(values.abs().max()), 1.0 / values, torch.zeros_like(values))
    return vectors @ (inverse.reshape(-1, *[1] * (right.dim() - 1)) * (vectors.T @ right))


def held(parameters: Parameters, here: Curved, floors: Tensor) -> dict[str, str]:
    """Which parameters do not respond: at a floor that the evidence pushes against, or without any say in it."""
    found, at = {}, parameters.read()
    for k, name in enumerate(parameters.names):
        slope, bend = float(here.gradient[k]), float(here.hessian[k, k])
        if float(at[k]) <= float(floors[k]) + 1e-9 and slope < 0.0:
            found[name] = f"at its floor, where the evidence pushes it down ({slope:.2g} nats a unit of its logarithm)"
        elif abs(slope) < IDLE and abs(bend) < IDLE:
            found[name] = f"the evidence does not depend on it (gradient {slope:.1e}, curvature {bend:.1e} nats)"
    return found


def polish(objective: Objective, parameters: Parameters, floors: Tensor) -> int:
    """Newton's method with exact second derivatives, to where steps no longer gain; the number of steps.

    Raises:
        SolverError: no maximum was reached.
    """
    best, before = objective.value(), float("inf")
    for steps in range(STEPS):
        here = curved(objective, parameters)
        free = _free(parameters, here, floors)
        step, values, vectors = newton_step(here.gradient[free], here.hessian[free][:, free])
        uphill = vectors @ ((vectors.T @ here.gradient[free]) / values.abs().clamp_min(1e-8))
        size, maximum = (float(step.abs().max()) if len(step) else 0.0), bool((values > 0).all())
        # Near the optimum steps shrink quadratically until rounding of the derivatives is all there is.
        if maximum and (size < 1e-9 or (size < SETTLED and size > 0.5 * before)):
            return steps
        before = size
        move = torch.zeros_like(here.gradient)
        move[free] = uphill / max(1.0, float(uphill.abs().max()))
        gained = _search(objective, parameters, floors, move, best)
        if gained is None:
            if size < SETTLED and maximum:
                return steps  # as near as rounding of the evidence lets it come
            raise SolverError(
                f"polishing stopped after {steps} steps at a gradient of {float(here.gradient[free].norm()):.2g} nats, where no "
                "step gains; start from a head that was fitted, or give a prior to what the data leave open"
            )
        best = gained
    raise SolverError(
        f"polishing did not settle in {STEPS} steps: a hyperparameter runs off to a limit; give it a prior, or take it out "
        "of the model"
    )


def _free(parameters: Parameters, here: Curved, floors: Tensor) -> Tensor:
    fixed = held(parameters, here, floors)
    return torch.tensor([k for k, name in enumerate(parameters.names) if name not in fixed], dtype=torch.long)


def _search(objective: Objective, parameters: Parameters, floors: Tensor, move: Tensor, best: float) -> float | None:
    """Halve the step until the objective does not fall by more than its rounding; None: it always does."""
    start, slack = parameters.read(), 1e-12 * (1.0 + abs(best))
    for halving in range(30):
        parameters.write(torch.maximum(start + 0.5**halving * move, floors))
        try:
            value = objective.value()
        except SolverError:
            continue
        if value >= best - slack:
            return max(value, best) if float(move.abs().max()) < 1e-5 else value
    parameters.write(start)
    return None


__all__ = ["Curved", "Optimum", "apart_from_flat", "curved", "held", "newton_step", "polish"]
