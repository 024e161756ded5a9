"""What a likelihood is: log p(y | f) of one observation, and its derivatives in the field."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad

from gp_response.errors import InputError
from gp_response.likelihoods.marginal import log_marginal
from gp_response.likelihoods.quadrature import nodes


class Slopes(NamedTuple):
    """First, second and third derivative of log p(y | f) in f, elementwise."""

    first: Tensor
    second: Tensor
    third: Tensor


class Likelihood(nn.Module):
    """log p(y | f), elementwise. A subclass gives `log_prob`, `moments` and `check`; `slopes` where a closed form is faster.

    Expectations over the field are Gauss-Hermite sums of 64 points, good to eight digits while the field's deviation is at most
    about three times the width of log p's features, three digits at ten times. The log predictive density has no such limit for
    concave log p.

    Attributes:
        discrete: labels are counts or classes, which cannot be moved by a little.
        concave: log p is concave in f, so that every site adds precision.
    """

    discrete = False
    concave = True

    def log_prob(self, f: Tensor, y: Tensor) -> Tensor:
        """log p(y | f) of broadcastable f and y, in nats."""
        raise NotImplementedError

    def moments(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of an observation given the field, elementwise."""
        raise NotImplementedError

    def check(self, y: Tensor) -> None:
        """Raise InputError for labels that this likelihood cannot have made."""

    def slopes(self, f: Tensor, y: Tensor) -> Slopes:
        """Derivatives of log p in f, by automatic differentiation unless overridden."""

        def summed(of: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
            return lambda at: of(at).sum()

        first = grad(summed(lambda at: self.log_prob(at, y)))
        second = grad(summed(first))
        third = grad(summed(second))
        f = f + torch.zeros_like(y)
        return Slopes(first(f), second(f), third(f))

    def information(self, f: Tensor) -> Tensor:
        """Fisher information `E[-d² log p(y | f)/df²]` over observations y given the field, elementwise.

        Raises:
            InputError: a likelihood that has not said it.
        """
        raise InputError(f"{type(self).__name__} has no Fisher information; use the empirical Fisher matrix or the GGN")

    def safe_curvature(self, f: Tensor, y: Tensor) -> Tensor:
        """A non-negative curvature whose quadratic model never overshoots; -d²log p/df² where that is concave."""
        return -self.slopes(f, y).second

    def log_density(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        """`log ∫ p(y | f) N(f; mean, variance) df`, elementwise: the log predictive density of labels y (n,)."""
        if self.concave:
            return log_marginal(self, mean, variance, y)
        at, weights = nodes(mean)
        f = mean[..., None] + variance.clamp_min(0.0).sqrt()[..., None] * at
        return torch.logsumexp(self.log_prob(f, y[..., None]) + weights.log(), dim=-1)

    def predictive(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of a new observation where the field is N(mean, variance), elementwise."""
        at, weights = nodes(mean)
        centre, spread = self.moments(mean[..., None] + variance.clamp_min(0.0).sqrt()[..., None] * at)
        first = (centre * weights).sum(dim=-1)
        return first, ((spread + (centre - first[..., None]) ** 2) * weights).sum(dim=-1)

    def expected_loss(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        """`-E log p(y | f)` under N(mean, variance), elementwise."""
        at, weights = nodes(mean)
        f = mean[..., None] + variance.clamp_min(1e-300).sqrt()[..., None] * at
        return -(self.log_prob(f, y[..., None]) * weights).sum(dim=-1)

    def refuse(self, y: Tensor, bad: Tensor, expected: str) -> None:
        """Raise InputError about the first label of y (n,) marked in `bad`."""
        if bool(bad.any()):
            row = int(torch.nonzero(bad)[0])
            raise InputError(f"{type(self).__name__} got the label {float(y[row]):g} in row {row}; expected {expected}")


__all__ = ["Likelihood", "Slopes"]
