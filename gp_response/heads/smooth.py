"""The exact posterior in a form that is smooth where a weight is zero.

The symmetric systems have site variances `D = 1/τ` or `√τ` in them, which have no derivative at τ = 0, where a new row's
weight starts. `I + τ K` is the same algebra; it is not symmetric and is solved by LU. It serves derivatives of refits
that insert rows, and nothing else.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gp_response.data import Dataset, row_noise
from gp_response.heads.prior_mean import prior_mean_at
from gp_response.kernels.look import Look, own
from gp_response.posterior import Certified


class SmoothReading(NamedTuple):
    """Means and variances of p readings, (p,) each; nothing bounds their errors."""

    mean: Certified
    variance: Certified


class SmoothPosterior:
    """What an observable reads of a posterior, differentiable in `data.train.weights` from zero on.

    Args:
        head: an exact head with Gaussian noise.
        data: n rows, of weight zero or more.
    """

    conjugate, likelihood = True, None

    def __init__(self, head: Any, data: Dataset):
        self.kernel, self.prior_mean, self.beta, self.data = head.kernel, head.prior_mean, head.beta, data
        x = data.train.x
        self.noise = head.noise.detach().to(x)
        self.row_noise = row_noise(data, self.noise)
        self.precision = self.beta * data.train.weights / self.row_noise
        self.prior = self.kernel.matrix(x).detach()
        self.system = self.precision[:, None] * self.prior + torch.eye(len(x), dtype=x.dtype, device=x.device)
        self.target = data.train.y - prior_mean_at(self.prior_mean, x)

    def probe(self, look: Look) -> SmoothReading:
        """Mean and variance of each reading."""
        train = self.data.train.x
        direction = None if look.direction is None else look.direction.to(train)
        look = Look(look.points.to(train), direction, look.component)
        cross = look.through(self.kernel, lambda k, z: k.matrix(train, z)).detach()
        right = self.precision[:, None] * torch.cat([self.target[:, None], cross], dim=1)
        solved = torch.linalg.solve(self.system, right)
        mean = look.start(lambda z: prior_mean_at(self.prior_mean, z)) + cross.T @ solved[:, 0]
        variance = own(self.kernel, look).detach() - (cross * solved[:, 1:]).sum(dim=0)
        return SmoothReading(_unbounded(mean), _unbounded(variance))

    def log_evidence(self) -> Tensor:
        """`log ∫ p₀(f) exp(-β Σ ρ_i ℓ_i)`, 0-dim: `log det (I + τK)` has the determinants of all noise in it."""
        fit = self.target @ torch.linalg.solve(self.system, self.precision * self.target)
        gibbs = self.beta * (self.data.train.weights * (2.0 * torch.pi * self.row_noise).log()).sum()
        return -0.5 * (fit + torch.linalg.slogdet(self.system).logabsdet + gibbs)

    def own_variance(self, rows: Tensor) -> tuple[Certified, Tensor]:
        """Variance at training rows (k,), the diagonal of `K (I + τK)⁻¹`, and that it was found.

        Where τ > 0 that is `(1 - diag (I + τK)⁻¹)/τ`, which does not sum n terms of either sign.
        """
        inverse, seen = torch.linalg.inv(self.system), self.precision[rows] > 0
        summed = (self.prior[rows] * inverse.T[rows]).sum(dim=1)
        share = (1.0 - inverse.diagonal()[rows]) / torch.where(seen, self.precision[rows], 1.0)
        return _unbounded(torch.where(seen, share, summed)), torch.ones_like(rows, dtype=torch.bool)


def _unbounded(value: Tensor) -> Certified:
    return Certified(value, torch.full_like(value, float("inf")))


__all__ = ["SmoothPosterior", "SmoothReading"]
