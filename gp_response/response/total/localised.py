"""Trained features respond too: the same implicit derivative with thousands of weights, by products with the Hessian alone.

Features were stopped early on minibatches, so they stand at no optimum of the evidence, and there the evidence may curve
upwards. What responds is the localised objective

    J(θ, w) = M(θ, w) - ½ δ ‖w - w₀‖² - ∇_w M(θ₀, w₀) · (w - w₀),

whose optimum is where training ended: the tilt takes the gradient away that early stopping left, and δ says how far data may
move the weights. Hyperparameters are eliminated (they are few). What is left of minus the Hessian is `S = δ - H` over the
weights alone, `H = H_ww + H_wθ (-H_θθ)⁻¹ H_θw`, and the response of an observable with gradients (g_θ, g_w) to a column c is

    g_θᵀ(-H_θθ)⁻¹ b_θ + gᵀ S⁻¹ b,    g = g_w + H_wθ (-H_θθ)⁻¹ g_θ,

with b the same of `∂²M/∂(θ,w)∂h_c`. One second derivative of the evidence along w gives H w and bᵀw for every column.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.linalg.lanczos import Lanczos
from gp_response.response.total.columns import Columns
from gp_response.response.total.objective import Along, Objective
from gp_response.response.total.optimum import Curved
from gp_response.response.total.parameters import Parameters, flat

LANCZOS, MOST = 40, 120  # steps for the largest curvature, and where the damping given needs it known better
CHANCE = 1e-6  # that a bound with a random start fails
ROOM = 1e-9  # of S/δ, for the rounding of its eigenvalues


class Image(NamedTuple):
    """`H v` (W, t) and `bᵀ v` for every column (t, c)."""

    curved: Tensor
    read: Tensor


class Localised:
    """Minus the Hessian of J over the active hyperparameters' coordinates and W feature weights.

    Args:
        objective: settled; its parameters are those of `parameters`, then the features'.
        parameters: the hyperparameters. active: (a,) which of their coordinates respond.
        here: the evidence's second derivatives along every hyperparameter.
        damping: δ; None takes twice the largest eigenvalue of H, and at least one.

    Attributes:
        highest, ceiling: bounds of H's largest eigenvalue: from below, and from above but for a chance of 1e-6.
        products: second derivatives along weights so far.
    """

    def __init__(
        self, objective: Objective, parameters: Parameters, active: Tensor, here: Curved, columns: Columns,
        damping: float | None,
    ):  # fmt: skip
        self.objective, self.parameters, self.active, self.columns = objective, parameters, active, columns
        self.count, self.products = len(parameters.tensors), 0
        self.weights = objective.parameters[self.count :]
        self.width = sum(w.numel() for w in self.weights)
        self.tilt = float(flat(objective.gradient()[self.count :]).norm())
        rows = [flat(here.along[k].parameters[self.count :]) for k in active.tolist()]
        self.across = torch.stack(rows) if rows else torch.zeros(0, self.width, dtype=torch.float64)
        self.own = -here.hessian[active][:, active]
        read = [columns.pull(here.along[k].data) for k in active.tolist()]
        self.read = torch.stack(read) if read else torch.zeros(0, len(columns.amplitude), dtype=torch.float64)
        self.highest, self.ceiling = self._largest(damping)
        self.damping = max(1.0, 2.0 * self.highest) if damping is None else float(damping)
        self._check()

    @property
    def floor(self) -> float:
        """Lower bound of S/δ, but for a chance of 1e-6."""
        return 1.0 - max(0.0, self.ceiling) / self.damping - ROOM

    def right(self, hyper: Tensor, weights: Tensor) -> Tensor:
        """g of gradients by coordinates (r, a) and by weights (r, W), as columns (W, r)."""
        return weights.T + self.across.T @ self._inverse(hyper.T)

    def direct(self, hyper: Tensor) -> Tensor:
        """What coordinates (r, a) alone respond by every column, (r, c)."""
        return self._inverse(hyper.T).T @ self.read

    def image(self, vectors: Tensor) -> Image:
        """One second derivative of the evidence for each of t vectors (W, t)."""
        found = [self._along(v) for v in vectors.T]
        self.products += len(found)
        through = self._inverse(self.across @ vectors)
        curved = torch.stack([flat(one.parameters[self.count :]) for one in found], dim=1)
        read = torch.stack([self.columns.pull(one.data) for one in found])
        return Image(curved + self.across.T @ through, read + through.T @ self.read)

    def pulled(self, mean: Tensor, variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of what has these cotangents by the marginals: by coordinates (a,) and by weights (W,)."""
        found = self.objective.pullback(mean, variance, noise)
        hyper = flat(found[: self.count]) * self.parameters.stretch()
        return hyper[self.active], flat(found[self.count :])

    def _along(self, weights: Tensor) -> Along:
        pieces = weights.split([w.numel() for w in self.weights])
        of_weights = [piece.reshape(w.shape) for piece, w in zip(pieces, self.weights, strict=True)]
        still = [torch.zeros_like(p) for p in self.parameters.tensors]
        return self.objective.along([*still, *of_weights])

    def _inverse(self, right: Tensor) -> Tensor:
        """`(-H_θθ)⁻¹ right` for right (a, r)."""
        return torch.linalg.solve(self.own, right) if len(right) else right

    def _largest(self, damping: float | None) -> tuple[float, float]:
        """The largest eigenvalue of H from below and from above, by Lanczos."""
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(self.width, 1, generator=generator, dtype=torch.float64)
        run = Lanczos(lambda v: self.image(v).curved, start, most=MOST)
        highest, ceiling = -float("inf"), float("inf")
        while not run.exhausted:
            run.step()
            if run.steps < LANCZOS and not run.exhausted:
                continue
            highest, ceiling = float(run.gauss().nodes.max()), float(run.above(CHANCE))
            if ceiling < (max(1.0, 1.5 * highest) if damping is None else damping) or highest >= (
                damping or float("inf")
            ):
                break
        return highest, ceiling

    def _check(self) -> None:
        if not self.damping > max(0.0, self.highest):
            raise InputError(
                f"damping={self.damping:g}: the evidence curves upwards by {self.highest:.3g} along some of the features' "
                f"weights, so that these have no optimum; give damping above that, e.g. {2.0 * self.highest:.2g}"
            )
        if not self.damping > self.ceiling:
            raise InputError(
                f"damping={self.damping:g}: the evidence curves upwards by {self.highest:.3g} along some of the features' "
                f"weights, and {MOST} Lanczos steps do not exclude {self.ceiling:.3g}; give damping above that"
            )


__all__ = ["CHANCE", "Image", "Localised"]
