"""The exact Gaussian posterior, read from one factored system (see `whitening`).

The covariance with the training rows is `S_xX = K_xX A⁻¹ D`: one solve, and no subtraction.
"""

from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.heads.trace import Trace
from gp_response.heads.whitening import whiten
from gp_response.kernels import Kernel
from gp_response.linalg.cholesky import ROUNDING
from gp_response.linalg.extended import residual
from gp_response.linalg.memory import require_memory_for_factor
from gp_response.posterior import Certified, Posterior, Probe
from gp_response.solvers import Factor, Solution


class ExactPosterior(Posterior):
    """A GP conditioned on data; made by `Exact.condition`.

    Args:
        kernel: its hyperparameters are read now and again at each call: do not train it any more.
        data: n training rows.
        noise: σ², 0-dim tensor of the data's dtype.
        mean: constant prior mean.
        beta: inverse temperature.
        solver: anything with `factor(matrix)`.
    """

    def __init__(self, kernel: Kernel, data: Dataset, *, noise: Tensor, mean: float, beta: float, solver: Any):
        self.kernel, self.data, self.solver = kernel, data, solver
        self.noise, self.prior_mean, self.beta = noise, mean, beta
        require_memory_for_factor(len(data.train), data.train.x.dtype, data.train.x.device)
        self.whitening = whiten(data, noise, beta)
        self.factor: Factor = solver.factor(self.whitening.system(kernel.matrix(data.train.x)))
        self.target: Solution = self.factor.solve(self.whitening.scale * (data.train.y - mean))
        self.trace: Trace | None = None

    def probe(self, x: Tensor) -> "ExactProbe":
        return ExactProbe(self, self.points(x))

    def prior_cov(self, x: Tensor, y: Tensor) -> Tensor:
        return self.kernel.matrix(x, y)

    @property
    def residuals(self) -> Certified:
        value, error = self.target.value * self.whitening.back, self.target.defect * self.whitening.back
        unseen = self.whitening.unseen()
        if len(unseen) == 0:
            return Certified(value, error)
        mean = self.probe(self.data.train.x[unseen]).mean
        value, error = value.clone(), error.clone()
        value[unseen], error[unseen] = self.data.train.y[unseen] - mean.value, mean.error
        return Certified(value, error)

    def log_evidence(self) -> Tensor:
        """`log ∫ p₀(f) exp(-β Σ ρ_i ℓ_i)`, 0-dim; the ordinary log marginal likelihood when β = ρ = 1."""
        white = self.whitening.scale * (self.data.train.y - self.prior_mean)
        fit = -0.5 * (white.dot(self.target.value) + self.factor.logdet())
        return fit + self.whitening.log_normaliser(self.data, self.noise, self.beta)


class ExactProbe(Probe):
    """p points seen from an exact posterior: the columns of `V = B⁻¹ p K_Xx` are kept."""

    def __init__(self, posterior: ExactPosterior, points: Tensor):
        self.posterior, self.points = posterior, points
        self.whitened = posterior.whitening.scale[:, None] * posterior.kernel.matrix(posterior.data.train.x, points)
        self.solution = posterior.factor.solve(self.whitened)
        self.size = self.solution.value.norm(dim=0)
        self.converged = self.solution.converged & posterior.target.converged
        self.mean, self.variance = self._mean(), self._variance()

    def _mean(self) -> Certified:
        target = self.posterior.target
        # Thousands of terms of either sign add up to little; plain summation would lose what a refit moves.
        start = torch.full_like(self.size, self.posterior.prior_mean)[:, None]
        value = residual(start, -self.whitened.T, target.value[:, None])[:, 0]
        # b B⁻¹ρ = v ρ, plus what v itself may be off by.
        error = (self.size + self.solution.defect) * target.defect
        return Certified(value, error + self._rounding(self.whitened.abs().T @ target.value.abs() + value.abs()))

    def _variance(self) -> Certified:
        prior = self.posterior.kernel.diagonal(self.points)
        drop = (self.whitened * self.solution.value).sum(dim=0)
        error = (self.size + self.solution.defect) * self.solution.defect
        # Rounding may leave a variance below zero by less than its error bound; zero is then the better value.
        return Certified((prior - drop).clamp_min(0.0), error + self._rounding(prior + drop.abs()))

    def to_train(self, rows: Tensor | None = None) -> Certified:
        back = self.posterior.whitening.back if rows is None else self.posterior.whitening.back[rows]
        value = self.solution.value.T if rows is None else self.solution.value.T[:, rows]
        value, error = value * back, self.solution.defect[:, None] * back
        unseen = torch.nonzero(back == 0).flatten()
        if len(unseen):
            at = unseen if rows is None else rows[unseen]
            direct = self.to(self.posterior.probe(self.posterior.data.train.x[at]))
            value, error = value.index_copy(1, unseen, direct.value), error.index_copy(1, unseen, direct.error)
        return Certified(value, error)

    def to(self, other: "ExactProbe") -> Certified:
        prior = self.posterior.kernel.matrix(self.points, None if other is self else other.points)
        drop = self.whitened.T @ other.solution.value
        error = (self.size + self.solution.defect)[:, None] * other.solution.defect
        reach = self.whitened.norm(dim=0)[:, None] * other.size
        return Certified(prior - drop, error + self._rounding(prior.abs() + reach))

    def _rounding(self, size: Tensor) -> Tensor:
        return ROUNDING * torch.finfo(size.dtype).eps * size


__all__ = ["ExactPosterior", "ExactProbe"]
