"""Counts through the exponential."""

from torch import Tensor, zeros_like

from gp_response.likelihoods.base import Likelihood, Slopes


class Poisson(Likelihood):
    """Counts y = 0, 1, 2, … with rate eᶠ."""

    discrete = True

    def log_prob(self, f: Tensor, y: Tensor) -> Tensor:
        return y * f - f.exp() - (y + 1.0).lgamma()

    def moments(self, f: Tensor) -> tuple[Tensor, Tensor]:
        return f.exp(), f.exp()

    def check(self, y: Tensor) -> None:
        self.refuse(y, (y < 0) | (y != y.round()), "a count: 0, 1, 2, … (make the data set with standardise='x')")

    def slopes(self, f: Tensor, y: Tensor) -> Slopes:
        rate = f.exp() + zeros_like(y)
        return Slopes(y - rate, -rate, -rate)

    def information(self, f: Tensor) -> Tensor:
        return f.exp()

    def predictive(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        rate = (mean + 0.5 * variance).exp()
        return rate, rate + rate**2 * variance.expm1()

    def expected_loss(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        return (mean + 0.5 * variance).exp() - y * mean + (y + 1.0).lgamma()

    def __repr__(self) -> str:
        return "Poisson()"


__all__ = ["Poisson"]
