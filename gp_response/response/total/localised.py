"""Trained features respond too: the same implicit derivative with thousands of weights, by products with the Hessian alone.

Features were stopped early on minibatches, so they stand at no optimum of the evidence, and there the evidence may curve
upwards. What responds is the localised objective

    J(θ, w) = M(θ, w) - ½ δ ‖w - w₀‖² - ∇_w M(θ₀, w₀) · (w - w₀),

whose optimum is where training ended: the tilt takes the gradient away that early stopping left, and δ says how far data may
move the weights. Hyperparameters are eliminated (they are few), and `S = δ - H_ww - H_wθ (-H_θθ)⁻¹ H_θw` is inverted by
conjugate gradients, adjoint to each observable: one solve gives its response to every column.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import InputError, SolverError
from gp_response.linalg.lanczos import Lanczos
from gp_response.response.total.objective import Along, Objective
from gp_response.response.total.optimum import Curved
from gp_response.response.total.parameters import Parameters, flat

LANCZOS = 40
TOLERANCE, MOST = 1e-10, 2000


class Adjoint(NamedTuple):
    """`λ = (-∇²J)⁻¹ v`: along it, and along its residual ρ; ‖ρ‖ and what S is at least."""

    answer: Along
    missing: Along
    residual: float
    coordinates: Tensor


class Localised:
    """Minus the Hessian of J over the active hyperparameters' coordinates and W feature weights.

    Args:
        objective: settled; its parameters are those of `parameters`, then the features'.
        parameters: the hyperparameters. active: (a,) which of their coordinates respond.
        here: the evidence's second derivatives along every hyperparameter.
        damping: δ; None takes twice the largest eigenvalue that S has without it, and at least one.
    """

    def __init__(
        self, objective: Objective, parameters: Parameters, active: Tensor, here: Curved, damping: float | None
    ):
        self.objective, self.parameters, self.active = objective, parameters, active
        self.count = len(parameters.tensors)
        self.weights = objective.parameters[self.count :]
        self.width = sum(w.numel() for w in self.weights)
        self.tilt = float(flat(objective.gradient()[self.count :]).norm())
        rows = [flat(here.along[k].parameters[self.count :]) for k in active.tolist()]
        self.across = torch.stack(rows) if rows else torch.zeros(0, self.width, dtype=torch.float64)
        self.own = -here.hessian[active][:, active]
        self.highest = self._highest()
        self.damping = max(1.0, 2.0 * self.highest) if damping is None else float(damping)
        self._check()

    def solve(self, hyper: Tensor, weights: Tensor) -> Adjoint:
        """For a right-hand side of coordinates (a,) and weights (W,)."""
        right = weights + self.across.T @ self._inverse(hyper)
        found, left = conjugate_gradients(self.product, right)
        coordinates = self._inverse(hyper + self.across @ found)
        answer = self.along(coordinates, found)
        missing = self.along(self._inverse(self.across @ left), left)
        return Adjoint(answer, missing, float(left.norm()), coordinates)

    def product(self, weights: Tensor) -> Tensor:
        """S w, (W,)."""
        return self.damping * weights - self._bare(weights)

    def pulled(self, mean: Tensor, variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of what has these cotangents by the marginals: by coordinates (a,) and by weights (W,)."""
        found = self.objective.pullback(mean, variance, noise)
        hyper = flat(found[: self.count]) * self.parameters.stretch()
        return hyper[self.active], flat(found[self.count :])

    def along(self, coordinates: Tensor, weights: Tensor) -> Along:
        raw = torch.zeros(len(self.parameters), dtype=torch.float64)
        raw[self.active] = coordinates
        pieces = weights.split([w.numel() for w in self.weights])
        of_weights = [piece.reshape(w.shape) for piece, w in zip(pieces, self.weights, strict=True)]
        return self.objective.along([*self.parameters.split(raw * self.parameters.stretch()), *of_weights])

    def _bare(self, weights: Tensor) -> Tensor:
        """`(H_ww + H_wθ (-H_θθ)⁻¹ H_θw) w`."""
        found = self.along(torch.zeros(len(self.active), dtype=torch.float64), weights)
        own = flat(found.parameters[self.count :])
        return own + self.across.T @ self._inverse(self.across @ weights)

    def _inverse(self, right: Tensor) -> Tensor:
        return torch.linalg.solve(self.own, right[:, None])[:, 0] if len(right) else right

    def _highest(self) -> float:
        """The largest eigenvalue of the bare operator, from below, by Lanczos."""
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(self.width, generator=generator, dtype=torch.float64)
        found = Lanczos(lambda v: self._bare(v[:, 0])[:, None], start[:, None], most=LANCZOS)
        while not found.exhausted:
            found.step()
        return float(found.gauss().nodes.max())

    def _check(self) -> None:
        if not self.damping > max(0.0, self.highest):
            raise InputError(
                f"damping={self.damping:g}: the evidence curves upwards by {self.highest:.3g} along some of the features' "
                f"weights, so that these have no optimum; give damping above that, e.g. {2.0 * self.highest:.2g}"
            )


def conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor) -> tuple[Tensor, Tensor]:
    """The solution of `S x = right`, (W,), and its true residual.

    Raises:
        SolverError: S is not positive definite, or the tolerance was not met.
    """
    value, left = torch.zeros_like(right), right.clone()
    step, size = left.clone(), float(left @ left)
    goal = (TOLERANCE * float(right.norm())) ** 2
    for _ in range(MOST):
        if size <= goal:
            break
        image = product(step)
        curvature = float(step @ image)
        if curvature <= 0.0:
            raise SolverError("the localised objective curves upwards along some weights; give a larger damping")
        value, left = value + (size / curvature) * step, left - (size / curvature) * image
        now = float(left @ left)
        step, size = left + (now / size) * step, now
    true = right - product(value)
    if float(true.norm()) > 1e3 * TOLERANCE * float(right.norm()):
        raise SolverError(
            f"conjugate gradients left {float(true.norm() / right.norm()):.1e} of the right-hand side after {MOST} steps; "
            "give a larger damping"
        )
    return value, true


__all__ = ["Adjoint", "Localised"]
