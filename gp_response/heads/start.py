"""Where an iteration begins when nothing can guard it: at what was found for nearly the same data."""

from typing import Any

import torch
from torch import Tensor

from gp_response.heads.prior_mean import prior_mean_at
from gp_response.heads.sites import LAPLACE


class Start:
    """Marginals of a site posterior at any rows; of a mode, whose sites see no variances, the means alone.

    Only that is kept which is small beside the posterior.
    """

    def __init__(self, posterior: Any):
        fixed, self.basis, self.prior_mean = posterior.fixed, posterior.basis, posterior.prior_mean
        self.rate, self.kernel, self.points = fixed.rate, posterior.basis.kernel, posterior.basis.points
        whitened = torch.linalg.solve_triangular(self.basis.lower.T, fixed.weights[:, None], upper=True)
        self.coefficients, self.lower = whitened[:, 0].detach(), None
        if posterior.kind == LAPLACE:
            self.basis = self.basis.without_factor()
        else:
            self.lower = torch.linalg.cholesky(fixed.precision)

    def marginals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances at rows x (n, d), (n,) each."""
        cross = self.kernel.matrix(self.points, self.basis.z(x))
        mean = prior_mean_at(self.prior_mean, x) + cross.T @ self.coefficients
        if self.lower is None:
            return mean, torch.ones_like(mean)
        features = torch.linalg.solve_triangular(self.basis.lower, cross, upper=False)
        within = torch.linalg.solve_triangular(self.lower, features, upper=False).square().sum(dim=0)
        left_out = (self.basis.diagonal(x) - features.square().sum(dim=0)).clamp_min(0.0)
        return mean, left_out + within


__all__ = ["Start"]
