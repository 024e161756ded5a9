"""Two classes through the logistic function."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gp_response.likelihoods.base import Likelihood, Slopes


class Bernoulli(Likelihood):
    """`p(y = 1 | f) = 1 / (1 + e⁻ᶠ)`, labels 0 and 1 (Rasmussen & Williams 2006, eq. 3.5)."""

    discrete = True

    def log_prob(self, f: Tensor, y: Tensor) -> Tensor:
        return logsigmoid(f) - (1.0 - y) * f

    def moments(self, f: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.sigmoid(f)
        return p, p * torch.sigmoid(-f)

    def predictive(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        p = self.log_density(mean, variance, torch.ones_like(mean)).exp()
        return p, p * (1.0 - p)

    def check(self, y: Tensor) -> None:
        self.refuse(y, (y != 0) & (y != 1), "0 or 1 (make the data set with standardise='x')")

    def slopes(self, f: Tensor, y: Tensor) -> Slopes:
        p, q = torch.sigmoid(f), torch.sigmoid(-f)
        return Slopes(y - p, -(p * q) + torch.zeros_like(y), -(p * q * (q - p)) + torch.zeros_like(y))

    def information(self, f: Tensor) -> Tensor:
        return torch.sigmoid(f) * torch.sigmoid(-f)

    def __repr__(self) -> str:
        return "Bernoulli()"


__all__ = ["Bernoulli"]
