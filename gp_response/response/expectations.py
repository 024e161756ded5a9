"""Expectations of functions of one Gaussian variable, with a test of whether their derivatives can be trusted.

The trapezoidal rule under the normal weight converges geometrically for analytic functions, at a rate that their steepness in
units of the standard deviation sets (Trefethen & Weideman 2014). Whether it has converged is seen from Stein's identities,

    E[g(m + s z) z] = s ∂E/∂m,    E[g(m + s z) (z² - 1)] = 2 s² ∂E/∂v,

whose left sides ask for no derivative of g: they fail for a rule too coarse, and for a g with a step or a kink, whose expectation
moves although its derivative, where it has one, does not say so.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import InputError

RULES = (128, 512, 2048)  # nodes; tests of large products need not pay for the finest
REACH = 12.0  # standard deviations: what exp(3 z) has beyond is 1e-18 of it
AGREE = 1e-10  # of the function's standard deviation
ROUNDED = 1e-13  # of the function's size: what sums of its values may be off by


@lru_cache
def _rule(count: int) -> tuple[Tensor, Tensor]:
    at = torch.linspace(-REACH, REACH, count, dtype=torch.float64)
    weights = (-0.5 * at.square()).exp()
    return at, weights / weights.sum()


def _spread(mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values of the variable at the nodes (..., q), the nodes and their weights (q,)."""
    at, weights = (part.to(mean) for part in _rule(count))
    return mean[..., None] + variance.clamp_min(1e-300).sqrt()[..., None] * at, at, weights


def smoothed(function: Callable[[Tensor], Tensor], mean: Tensor, variance: Tensor, count: int) -> Tensor:
    """`E g` under N(mean, variance), elementwise."""
    at, _, weights = _spread(mean, variance, count)
    return (function(at) * weights).sum(dim=-1)


class Size(NamedTuple):
    """Of a function of a Gaussian variable: `E|g|`, and the derivatives of `E g` by mean m and variance v, elementwise."""

    absolute: Tensor
    mean: Tensor
    variance: Tensor
    mean_mean: Tensor
    mean_variance: Tensor
    variance_variance: Tensor


def sizes(function: Callable[[Tensor], Tensor], mean: Tensor, variance: Tensor, scale: Tensor, count: int) -> Size:
    """By Stein's identities, at the price of one `smoothed`: for error bounds, whose digits do not matter.

    Args:
        scale: of what the variable may be at all; spreads below 1e-8 of it are taken for that, or differences would be rounding.
    """
    variance = torch.maximum(variance, (2.0**-26 * scale) ** 2)
    field, at, weights = _spread(mean, variance, count)
    value = function(field)
    centred, root = value - function(mean)[..., None], variance.clamp_min(1e-300).sqrt()
    first, second, third, fourth = (
        (centred * (weights * hermite)).sum(dim=-1) / root**k
        for k, hermite in enumerate((at, at**2 - 1.0, at**3 - 3.0 * at, at**4 - 6.0 * at**2 + 3.0), start=1)
    )
    return Size((value.abs() * weights).sum(dim=-1), first, 0.5 * second, second, 0.5 * third, 0.25 * fourth)


def settled(function: Callable[[Tensor], Tensor], mean: Tensor, variance: Tensor) -> int:
    """Nodes of the coarsest rule by which Stein's identities hold at all marginals (p,).

    Raises:
        InputError: they hold by none: g has a step or a kink there, is too steep, or is not differentiable by torch.
    """
    off = mean
    for count in RULES:
        off = torch.cat(
            [_mismatch(function, m, v, count) for m, v in zip(mean.split(256), variance.split(256), strict=True)]
        )
        if bool((off <= 1.0).all()):  # never where it is NaN
            return count
    worst = int(off.argmax())
    raise InputError(
        f"pointwise got a function whose derivatives are not those of its expectation at point {worst % len(mean)} (mean "
        f"{float(mean[worst]):.3g}, standard deviation {float(variance[worst]) ** 0.5:.3g}): it has a step or a kink there, is too "
        "steep, or is cut off from automatic differentiation; give a smooth one, such as torch.sigmoid(f / width)"
    )


def terms_of_slopes(function: Callable[[Tensor], Tensor], mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """`E|g'|` and `E|g' z|/2s`, (p,) each: of the sums that the derivatives of `E g` by m and v are, by the finest rule."""
    slope, at, weights = _slope(function, mean, variance, RULES[-1])[1:]
    root = variance.clamp_min(1e-300).sqrt()
    return slope.abs() @ weights, (slope * at).abs() @ weights / (2.0 * root)


def _slope(
    function: Callable[[Tensor], Tensor], mean: Tensor, variance: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """g and g' at the nodes, (p, q) each, the nodes and their weights."""
    with torch.enable_grad():
        field, at, weights = _spread(mean.detach(), variance.detach(), count)
        field = field.detach().requires_grad_(True)
        value = function(field)
        slope = torch.zeros_like(field)
        if value.requires_grad:
            slope = torch.autograd.grad(value.sum(), field)[0]
    return value.detach(), slope, at, weights


def _mismatch(function: Callable[[Tensor], Tensor], mean: Tensor, variance: Tensor, count: int) -> Tensor:
    """By how much the identities fail, in units of what is allowed, (p,)."""
    value, slope, at, weights = _slope(function, mean, variance, count)
    slope = slope * variance.clamp_min(1e-300).sqrt()[:, None]
    size = (value.square() @ weights).sqrt()
    centred = value - (value @ weights)[:, None]
    allowed = AGREE * (centred.square() @ weights).sqrt() + ROUNDED * size
    first = (centred * at - slope) @ weights
    second = (centred * (at.square() - 1.0) - slope * at) @ weights
    return torch.maximum(first.abs(), second.abs()) / allowed.clamp_min(1e-300)


__all__ = ["RULES", "Size", "settled", "sizes", "smoothed", "terms_of_slopes"]
