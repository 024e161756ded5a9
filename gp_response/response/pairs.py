"""Second derivatives of a Gaussian field by the amplitudes of quadratic energies, pair of columns by pair of columns.

With `g` the forces at the sites and Q the curvatures, the first derivatives `dμ = β S g`, `dS = -β S Q S` move S and g again:

    d²μ_x = -β² [S_xd Q_d S_dc g_c + S_xc Q_c S_cd g_d],    d²S_xx = 2β² S_xc Q_c S_cd Q_d S_dx.

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
    """The k sites of one column in each of q pairs, as p points see them.

    Attributes:
        seen: (p, q, k). force, curvature: (q, k).
        partner: (q, k), which of the k sites each one's curvature couples it to; None: itself.
    """

    seen: Certified
    force: Certified
    curvature: Tensor
    partner: Tensor | None


class Bent(NamedTuple):
    """Second derivatives of means and variances, (p, q) each."""

    mean: Certified
    variance: Certified


def bend(one: Column, two: Column, between: Certified, beta: float) -> Bent:
    """For q pairs: `one` has the k sites of the first columns, `two` the l of the second, between their covariances (q, k, l)."""

    def mean(a: Tensor, b: Tensor, s: Tensor, g: Tensor, h: Tensor, ca: Tensor, cb: Tensor) -> Tensor:
        there = _paired(torch.einsum("qk,qkl->ql", g, s), two.partner)
        here = _paired(torch.einsum("qkl,ql->qk", s, h), one.partner)
        return torch.einsum("pql,ql->pq", b, cb * there) + torch.einsum("pqk,qk->pq", a, ca * here)

    def variance(a: Tensor, b: Tensor, s: Tensor, g: Tensor, h: Tensor, ca: Tensor, cb: Tensor) -> Tensor:
        # S_xc Q_c: where Q leads each site's covariance to.
        left, right = _paired(ca * a, one.partner), _paired(cb * b, two.partner)
        return (torch.einsum("pqk,qkl->pql", left, s) * right).sum(dim=2)

    parts, exact = (one.seen, two.seen, between, one.force, two.force), (one.curvature, two.curvature)
    return Bent(bounded(mean, -(beta**2), parts, exact), bounded(variance, 2.0 * beta**2, parts, exact))


def _paired(part: Tensor, partner: Tensor | None) -> Tensor:
    """Each site's entry at its partner, (…, q, k); partners are mutual."""
    return part if partner is None else part.gather(-1, partner.expand_as(part))


def bounded(
    formula: Callable[..., Tensor], factor: float, parts: tuple[Certified, ...], exact: tuple[Tensor, ...]
) -> Certified:
    """`factor · formula`, a sum of products with positive coefficients, and how far it may be from that of the true parts."""
    value = formula(*(part.value for part in parts), *exact)
    size = formula(*(part.value.abs() for part in parts), *(part.abs() for part in exact))
    most = formula(*(part.value.abs() + part.error for part in parts), *(part.abs() for part in exact))
    return Certified(factor * value, abs(factor) * ((most - size) + ROOM * EPS * most))


__all__ = ["Bent", "Column", "bend", "bounded"]
