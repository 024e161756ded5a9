"""`log ∫ p(y | f) N(f; mean, variance) df` for log-concave p, however narrow p or the integrand is beside the normal."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

DEEP = 40.0  # nats below the peak where the integrand ends
COUNT = 512  # of the trapezoidal rule, which converges exponentially for analytic integrands that vanish at both ends
HALVINGS = 60
REACH = (2.0 * DEEP) ** 0.5  # of the standard normal's own fall: no log-concave factor widens it
ROWS = 4096


def log_marginal(likelihood: Any, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
    """The log predictive density of labels y, elementwise, by the trapezoidal rule around the integrand's peak."""
    mean, variance, y = torch.broadcast_tensors(mean, variance, y)
    parts = zip(*(part.flatten().split(ROWS) for part in (mean, variance.clamp_min(0.0).sqrt(), y)), strict=True)
    return torch.cat([_part(likelihood, *part) for part in parts]).reshape(mean.shape)


def _part(likelihood: Any, mean: Tensor, deviation: Tensor, y: Tensor) -> Tensor:
    """In units of the deviation, z = (f - mean)/deviation."""

    def height(z: Tensor) -> Tensor:
        f = mean + deviation * z if z.ndim == 1 else mean[:, None] + deviation[:, None] * z
        return likelihood.log_prob(f, y if z.ndim == 1 else y[:, None]) - 0.5 * z**2

    slope = vmap(grad(lambda z, m, s, label: likelihood.log_prob(m + s * z, label) - 0.5 * z**2))
    # The slope falls at least as fast as -z, which brackets its zero.
    zero = torch.zeros_like(mean)
    reach = slope(zero, mean, deviation, y)
    peak = _crossing(lambda z: slope(z, mean, deviation, y), reach.clamp_max(0.0), reach.clamp_min(0.0))
    top = height(peak)
    right = _crossing(lambda z: height(z) - top + DEEP, peak, peak + REACH)
    left = _crossing(lambda z: top - DEEP - height(z), peak - REACH, peak)
    at = left[:, None] + (right - left)[:, None] * torch.linspace(0.0, 1.0, COUNT, dtype=mean.dtype, device=mean.device)
    step = (right - left) / (COUNT - 1)
    return torch.logsumexp(height(at), dim=1) + step.log() - 0.5 * math.log(2.0 * math.pi)


def _crossing(falling: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where a falling function crosses zero between low and high, (n,), by bisection."""
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        above = falling(middle) > 0
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return 0.5 * (low + high)


__all__ = ["log_marginal"]
