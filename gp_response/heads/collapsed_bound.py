"""The parts of Titsias' collapsed bound: everything that n rows come into only through moments of their features.

In units of the sites' variances `S = σ²/(βρ)`, with `C = 1 + S^-½ Q S^-½` of the Nyström approximation `Q = Φᵀ Φ`,

    tᵀ(Q + S)⁻¹t = tᵀS⁻¹t - ‖R⁻¹ Φ S⁻¹ t‖²,    log det C = log det (1 + Φ S⁻¹ Φᵀ),    R Rᵀ = 1 + Φ S⁻¹ Φᵀ  (m, m).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gp_response.data import Dataset, row_noise
from gp_response.heads.feature_moments import feature_moments
from gp_response.heads.prior_mean import prior_mean_at


class Collapsed(NamedTuple):
    """Each 0-dim.

    Attributes:
        quadratic: `tᵀ(Q + S)⁻¹t`.
        logdet: `log det C`.
        left_out: trace of `S^-½ (K - Q) S^-½`, what the features leave out.
        gibbs: `Σ βρ_i log 2πσ_i²`, the normaliser of the noise.
    """

    quadratic: Tensor
    logdet: Tensor
    left_out: Tensor
    gibbs: Tensor

    def bound(self) -> Tensor:
        """Titsias' lower bound of the log evidence."""
        return -0.5 * (self.quadratic + self.logdet + self.left_out + self.gibbs)


def residual_of_mean(head: Any, data: Dataset) -> Tensor:
    """`y - m₀(x)` of the training rows, (n,) float64."""
    train = data.train
    return train.y.double() - prior_mean_at(head.prior_mean, train.x.double())


def collapsed(head: Any, data: Dataset, target: Tensor) -> Collapsed:
    """The parts for targets t (n,), once differentiable in them, in hyperparameters, points and features."""
    basis, train = head.basis(), data.train
    noise = row_noise(data, head.noise.to(train.x.device)).double()
    weight, scale = _weights(head.beta * train.weights.double(), noise)
    gram, pulled = feature_moments(basis, train.x, weight, target)
    gram, pulled = scale * gram, scale * pulled
    lower = torch.linalg.cholesky(gram + torch.eye(len(basis), dtype=torch.float64, device=train.x.device))
    seen = torch.linalg.solve_triangular(lower, pulled[:, None], upper=False)
    quadratic = scale * (weight * target.square()).sum() - seen.square().sum()
    left_out = scale * (weight * basis.diagonal(train.x)).sum() - gram.diagonal().sum()
    gibbs = head.beta * (train.weights.double() * (2.0 * torch.pi * noise).log()).sum()
    return Collapsed(quadratic, 2.0 * lower.diagonal().log().sum(), left_out, gibbs)


def _weights(power: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """`1/S` of every row and a factor; what all rows share is kept out of the sums, where its gradient would cost n m²."""
    if noise.ndim:
        return power / noise, noise.new_ones(())
    return power, 1.0 / noise


__all__ = ["Collapsed", "collapsed", "residual_of_mean"]
