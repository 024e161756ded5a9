"""Second derivatives of a Gaussian field by the amplitudes of a quadratic energy, pair of columns by pair of columns.

With `g` the forces and `a` the curvatures of the sites, the first derivatives `dμ = β S g`, `dS = -β S a S` move S and g again:

    d²μ_x = -β² Σ_{s in c, t in d} S_st (a_t S_xt g_s + a_s S_xs g_t),    d²S_xx = 2β² Σ_{s in c, t in d} a_s a_t S_xs S_st S_tx.

Every bound is the same sum of absolute values, with each factor once at its largest and once as computed.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.posterior import Certified

EPS = torch.finfo(torch.float64).eps
ROOM = 64.0  # roundings of a product of six factors and of its sum


class Column(NamedTuple):
    """The sites of one column as the points see them: covariance (p, s), forces and curvatures (s,)."""

    seen: Certified
    force: Certified
    curvature: Tensor


class Bent(NamedTuple):
    """Second derivatives of means and variances, (p, q) each."""

    mean: Certified
    variance: Certified


def bend_of_sites(one: Column, two: Column, between: Certified, beta: float) -> Bent:
    """For q pairs of single sites: `one` and `two` hold the q first and the q second, between their covariances (q,)."""

    def mean(a: Tensor, b: Tensor, s: Tensor, g: Tensor, h: Tensor, ca: Tensor, cb: Tensor) -> Tensor:
        return s * (cb * b * g + ca * a * h)

    def variance(a: Tensor, b: Tensor, s: Tensor, g: Tensor, h: Tensor, ca: Tensor, cb: Tensor) -> Tensor:
        return ca * cb * a * s * b

    return _both(one, two, between, beta, mean, variance)


def bend_of_sets(one: Column, two: Column, between: Certified, beta: float) -> Bent:
    """For one pair of columns with several sites, between (s, t); q = 1."""

    def mean(a: Tensor, b: Tensor, s: Tensor, g: Tensor, h: Tensor, ca: Tensor, cb: Tensor) -> Tensor:
        return (b @ (cb * (g @ s)) + a @ (ca * (s @ h)))[:, None]

    def variance(a: Tensor, b: Tensor, s: Tensor, g: Tensor, h: Tensor, ca: Tensor, cb: Tensor) -> Tensor:
        return (((a * ca) @ s) * (b * cb)).sum(dim=1, keepdim=True)

    return _both(one, two, between, beta, mean, variance)


def _both(
    one: Column, two: Column, between: Certified, beta: float, mean: Callable[..., Tensor], variance: Callable[..., Tensor]
) -> Bent:  # fmt: skip
    parts = (one.seen, two.seen, between, one.force, two.force)
    exact = (one.curvature, two.curvature)
    return Bent(bounded(mean, -(beta**2), parts, exact), bounded(variance, 2.0 * beta**2, parts, exact))


def bounded(
    formula: Callable[..., Tensor], factor: float, parts: tuple[Certified, ...], exact: tuple[Tensor, ...]
) -> Certified:
    """`factor · formula`, a sum of products with positive coefficients, and how far it may be from that of the true parts."""
    value = formula(*(part.value for part in parts), *exact)
    size = formula(*(part.value.abs() for part in parts), *(part.abs() for part in exact))
    most = formula(*(part.value.abs() + part.error for part in parts), *(part.abs() for part in exact))
    return Certified(factor * value, abs(factor) * ((most - size) + ROOM * EPS * most))


__all__ = ["Bent", "Column", "bend_of_sets", "bend_of_sites", "bounded"]
