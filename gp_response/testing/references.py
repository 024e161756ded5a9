"""Posteriors by textbook formulas in function space, with dense matrices of the training rows, to hold heads against."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from gp_response.data import Dataset, row_noise
from gp_response.heads.inducing import split_features
from gp_response.heads.prior_mean import prior_mean_at
from gp_response.heads.sites import LAPLACE
from gp_response.kernels.casting import call_in_dtype_of
from gp_response.likelihoods import Likelihood
from gp_response.likelihoods.quadrature import nodes
from gp_response.posterior import Posterior


class Reference(NamedTuple):
    """Mean (p,), responding covariance (p, p), and the prior covariance that inducing points leave out (p, p)."""

    mean: Tensor
    cov: Tensor
    left_out: Tensor


def dense_reference(head: Any, data: Dataset, x: Tensor, posterior: Posterior) -> Reference:
    """What a head should say at x (p, d), in float64.

    Gaussian noise: `Q_xx - Q_xX (Q_XX + D)⁻¹ Q_Xx` (Rasmussen & Williams 2006, eqs. 2.25-2.26) with Q the kernel, or for
    inducing points its Nyström approximation, which is what responds. Other likelihoods: the same with the precisions W that the
    likelihood has at the head's own marginals, and `m + Q_xX g` with its forces there, which is the mean the head gives
    only where that is stationary (ibid., eqs. 3.17 and 3.24; Opper & Archambeau 2009).
    """
    train = data.train
    with torch.no_grad():
        prior, seen = (_matrix(head, x, x), _nystrom(head, x, x))
        cross, own = _nystrom(head, x, train.x), _nystrom(head, train.x, train.x)
        before, here = (prior_mean_at(head.prior_mean, points.double()) for points in (train.x, x))
        weight = head.beta * train.weights.double()
        if posterior.likelihood is None:
            precision = weight / row_noise(data, head.noise.detach().double())
            solved = torch.linalg.solve(_system(own, precision), precision * (train.y.double() - before))
            mean = here + cross @ solved
        else:
            force, precision = _sites(posterior.likelihood, posterior, train.x, train.y.double())
            precision = weight * precision
            mean = here + cross @ (weight * force)
        gain = torch.linalg.solve(_system(own, precision), precision[:, None] * cross.T)
        return Reference(mean, seen - cross @ gain, prior - seen)


def _system(own: Tensor, precision: Tensor) -> Tensor:
    """`1 + W K`, solved by LU, which asks neither for W > 0 nor for an invertible K."""
    return torch.eye(len(own), dtype=own.dtype, device=own.device) + precision[:, None] * own


def _sites(likelihood: Likelihood, posterior: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """First and minus second derivative of log p, (n,): at the mean, or expected under the marginals, by autodiff."""
    mean, variance = posterior.mean(x).double(), posterior.variance(x).double()

    first = grad(likelihood.log_prob)
    second = grad(first)
    if posterior.kind == LAPLACE:
        return vmap(first)(mean, y), -vmap(second)(mean, y)
    at, weights = nodes(mean)
    f = mean[:, None] + variance.sqrt()[:, None] * at
    one, two = (vmap(vmap(slope, in_dims=(0, None)))(f, y) @ weights for slope in (first, second))
    return one, -two


def _matrix(head: Any, x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) in the precision the head computes in."""
    if getattr(head, "points", None) is None:
        return head.kernel.matrix(x, y).double()
    base, a, b = _in_z_space(head, x, y)
    return base.matrix(a, b)


def _nystrom(head: Any, x: Tensor, y: Tensor) -> Tensor:
    """`k_xZ K_ZZ⁻¹ k_Zy`, or k(x, y) for a head without inducing points."""
    if getattr(head, "points", None) is None:
        return _matrix(head, x, y)
    base, a, b = _in_z_space(head, x, y)
    points = head.points.detach()
    return base.matrix(a, points) @ torch.linalg.solve(base.matrix(points, points), base.matrix(points, b))


def _in_z_space(head: Any, x: Tensor, y: Tensor) -> tuple[Any, Tensor, Tensor]:
    base, features = split_features(head.kernel)
    if features is None:
        return base, x.double(), y.double()
    a, b = (call_in_dtype_of(p.double(), features, lambda f, q: f(q), p.double()) for p in (x, y))
    return base, a, b


__all__ = ["Reference", "dense_reference"]
