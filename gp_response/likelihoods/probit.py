"""Two classes through the normal distribution function."""

import math

import torch
from torch import Tensor
from torch.special import erfcx, log_ndtr, ndtr

from gp_response.likelihoods.base import Likelihood, Slopes


class Probit(Likelihood):
    """`p(y = 1 | f) = Φ(f)`, labels 0 and 1 (Rasmussen & Williams 2006, eq. 3.6); GPyTorch's BernoulliLikelihood."""

    discrete = True

    def log_prob(self, f: Tensor, y: Tensor) -> Tensor:
        return log_ndtr((2.0 * y - 1.0) * f)

    def moments(self, f: Tensor) -> tuple[Tensor, Tensor]:
        p = ndtr(f)
        return p, p * ndtr(-f)

    def check(self, y: Tensor) -> None:
        self.refuse(y, (y != 0) & (y != 1), "0 or 1 (make the data set with standardise='x')")

    def slopes(self, f: Tensor, y: Tensor) -> Slopes:
        sign = 2.0 * y - 1.0
        z = sign * f
        ratio = _mills(z)
        bent = z + ratio
        return Slopes(sign * ratio, -ratio * bent, sign * ratio * (bent**2 + ratio * bent - 1.0))

    def information(self, f: Tensor) -> Tensor:
        return _mills(f) * _mills(-f)  # φ²/(Φ(f) Φ(-f))

    def predictive(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        p = ndtr(mean / (1.0 + variance).sqrt())
        return p, p * (1.0 - p)

    def log_density(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        return log_ndtr((2.0 * y - 1.0) * mean / (1.0 + torch.clamp_min(variance, 0.0)).sqrt())

    def __repr__(self) -> str:
        return "Probit()"


def _mills(z: Tensor) -> Tensor:
    """φ/Φ, also where Φ underflows."""
    return math.sqrt(2.0 / math.pi) / erfcx(-z / math.sqrt(2.0))


__all__ = ["Probit"]
