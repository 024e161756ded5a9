"""What each observation does to a Gaussian approximation of the posterior: a force on its mean and a precision.

At marginals N(μ, v) of the field a row with log p(y | f) has the force g and the precision h of one unit of its weight:

    Laplace       g = ℓ'(μ),    h = -ℓ''(μ)        the field is approximated around its mode
    variational   g = E ℓ'(f),  h = -E ℓ''(f)      the best Gaussian in the sense of KL (Opper & Archambeau 2009)

Where the likelihood is not Gaussian the sites move when the marginals do; `Coupling` has those derivatives. They are what the
response of the approximation has beyond a covariance (linear-response variational Bayes, Giordano, Broderick & Jordan 2018).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp

from gp_response.likelihoods import Gaussian, Likelihood
from gp_response.likelihoods.quadrature import nodes

LAPLACE, VARIATIONAL = "laplace", "variational"


class Pull(NamedTuple):
    """Force g and precision h of one unit of weight, (n,)."""

    force: Tensor
    precision: Tensor


class Coupling(NamedTuple):
    """How the sites of one unit of weight answer the marginals, (n,): ∂h/∂μ, ∂g/∂v, ∂h/∂v."""

    precision_mean: Tensor
    force_variance: Tensor
    precision_variance: Tensor


def pull(likelihood: Likelihood, kind: str, mean: Tensor, variance: Tensor, y: Tensor) -> Pull:
    """The sites of labels y at marginals N(mean, variance), all (n,)."""
    if kind == LAPLACE or isinstance(likelihood, Gaussian):  # of a quadratic, the mean is all that is seen
        slopes = likelihood.slopes(mean, y)
        return Pull(slopes.first, -slopes.second)
    f, weights, _ = _cloud(mean, variance)
    slopes = likelihood.slopes(f, y[..., None])
    return Pull((slopes.first * weights).sum(dim=-1), -(slopes.second * weights).sum(dim=-1))


def coupling(likelihood: Likelihood, kind: str, mean: Tensor, variance: Tensor, y: Tensor) -> Coupling:
    """Derivatives of `pull`, those of the quadrature itself, so that they are the refit's to the last digit."""
    if kind == LAPLACE or isinstance(likelihood, Gaussian):
        third = likelihood.slopes(mean, y).third
        zero = torch.zeros_like(third)
        return Coupling(-third, zero, zero)
    f, weights, along = _cloud(mean, variance)
    slopes = likelihood.slopes(f, y[..., None])
    return Coupling(
        -(slopes.third * weights).sum(dim=-1),
        (slopes.second * along * weights).sum(dim=-1),
        -(slopes.third * along * weights).sum(dim=-1),
    )


def pull_by_label(likelihood: Likelihood, kind: str, mean: Tensor, variance: Tensor, y: Tensor) -> Pull:
    """∂g/∂y and ∂h/∂y, (n,); for likelihoods with continuous labels."""

    def at(labels: Tensor) -> tuple[Tensor, Tensor]:
        sites = pull(likelihood, kind, mean, variance, labels)
        return sites.force, sites.precision

    return Pull(*jvp(at, (y,), (torch.ones_like(y),))[1])


def _cloud(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Field values at the quadrature's nodes (n, q), weights (q,), and ∂f/∂v (n, q)."""
    at, weights = nodes(mean)
    root = variance.clamp_min(1e-300).sqrt()[..., None]
    return mean[..., None] + root * at, weights, at / (2.0 * root)


__all__ = ["LAPLACE", "VARIATIONAL", "Coupling", "Pull", "coupling", "pull", "pull_by_label"]
