"""An exact posterior as a function of the points, differentiable in them: one float64 Cholesky factor, no error bounds."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.heads.exact_posterior import ExactPosterior
from gp_response.heads.prior_mean import prior_mean_at
from gp_response.linalg.cholesky import CholeskyFactor
from gp_response.posterior import Posterior
from gp_response.solvers import FactoredCholesky

_FIELDS: WeakKeyDictionary[Posterior, "Field"] = WeakKeyDictionary()


class Field:
    """Mean and covariance at points (..., q, d) in float64, by the whitened system `B = p (K + D) p` (see `whitening`)."""

    def __init__(self, posterior: ExactPosterior) -> None:
        # Not the posterior itself: it is the key under which this is kept.
        self.kernel, self.prior_mean, self.data = posterior.kernel, posterior.prior_mean, posterior.data
        self.white, self.x = posterior.whitening, posterior.data.train.x.double()
        with torch.no_grad():
            self.lower = _lower(posterior)
            self.target = torch.cholesky_solve(posterior.whitened_target()[:, None], self.lower)[:, 0]

    def whitened(self, points: Tensor) -> Tensor:
        """`p k(X, points)`, (n, k) for points (k, d)."""
        return self.white.scale[:, None] * self.kernel.matrix(self.x, points)

    def half(self, points: Tensor) -> Tensor:
        """`L⁻¹ p k(X, points)`, (n, k)."""
        return torch.linalg.solve_triangular(self.lower, self.whitened(points), upper=False)

    def mean(self, points: Tensor) -> Tensor:
        """(k,) for points (k, d)."""
        return prior_mean_at(self.prior_mean, points) + self.whitened(points).T @ self.target

    def joint(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (..., q) and covariance (..., q, q) of points (..., q, d)."""
        batch, q = points.shape[:-2], points.shape[-2]
        flat = points.reshape(-1, points.shape[-1])
        whitened = self.whitened(flat)
        half = torch.linalg.solve_triangular(self.lower, whitened, upper=False)
        half = half.T.reshape(*batch, q, len(self.x))
        mean = prior_mean_at(self.prior_mean, flat) + whitened.T @ self.target
        cov = self.kernel.matrix(points) - half @ half.mT
        return mean.reshape(*batch, q), 0.5 * (cov + cov.mT)

    def to_train(self, points: Tensor) -> Tensor:
        """Covariance with the training rows, (k, n) for points (k, d); rows of weight zero are left out, as zeros."""
        solved = torch.cholesky_solve(self.whitened(points), self.lower)
        return solved.T * self.white.back


def field_of(posterior: Any) -> Field:
    """Its field; factored once a posterior.

    Raises:
        InputError: no exact posterior.
    """
    if not isinstance(posterior, ExactPosterior):
        raise InputError(
            f"acquisition got a {type(posterior).__name__}; expected an exact posterior, from gr.Exact or gr.from_gpytorch"
        )
    if posterior not in _FIELDS:
        _FIELDS[posterior] = Field(posterior)
    return _FIELDS[posterior]


def new_noise(posterior: Posterior) -> Tensor:
    """Noise variance of a new row, 0-dim: σ², or the mean of the known noise where that is all there is."""
    alone = float(posterior.noise) == 0.0
    return posterior.row_noise.mean() if alone else posterior.noise


def _lower(posterior: ExactPosterior) -> Tensor:
    factor = posterior.factor
    if isinstance(factor, FactoredCholesky) and factor.inner.lower.dtype == torch.float64:
        return factor.inner.lower.tril()
    matrix = posterior.kernel.matrix(posterior.data.train.x.double())
    return CholeskyFactor(posterior.whitening.system(matrix), overwrite=True).lower.tril()


__all__ = ["Field", "field_of", "new_noise"]
