"""Response of a Gaussian approximation whose sites move: its stationarity condition differentiated, adjoint to observables.

With `S` the responding covariance, and a perturbation's own force δg and curvature δh at its sites,

    dμ = S G,        G = β δg + (∂g/∂v) dv,
    dv = -(S∘S) H,   H = β δh + (∂h/∂μ) dμ + (∂h/∂v) dv,

where the derivatives of the rows' sites carry βρ (`Coupling`; all zero for Gaussian noise). An observable asks for
`a dμ* + b dv* = pᵀG + qᵀH` with `p = a S_*X`, `q = -b S_*X²`; its adjoints

    λ_G = p + S (∂h/∂μ) λ_H,    λ_H = q - (S∘S) [(∂g/∂v) λ_G + (∂h/∂v) λ_H]

give the answer to every perturbation at once, `β Σ (λ_G δg + λ_H δh)`: one fixed point an observable, not one a row. For the
mode (Laplace) sites know nothing of v and the adjoints are closed.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gp_response.posterior import Certified
from gp_response.response.assemble import Answer
from gp_response.response.energy import Energy
from gp_response.response.observable import Derivatives
from gp_response.response.sites import Ground, by_column

TOLERANCE, MOST = 1e-13, 500
LOOSE = 1e-6  # an adjoint further from its fixed point is flagged


class Adjoint(NamedTuple):
    """λ_G and λ_H at the training rows, (n, p), and how far from the fixed point they are relative to their size, (p,)."""

    force: Tensor
    precision: Tensor
    change: Tensor


def coupled_answer(
    posterior: Any, probe: Any, d: Derivatives, energy: Energy, ground: Ground, seen: Certified
) -> Answer:
    """Derivatives of local expectations with derivatives d at a probe's points, by every column of an energy, (p, c).

    Args:
        posterior: a site posterior: `coupling`, `smear`, `smear_squared`.
        seen: covariance of the points with the sites, (p, s).
    """
    if posterior.coupling is None:
        return _of_modes(posterior, probe, d, energy, ground, seen)
    there = probe.to_train()
    adjoint = adjoints(posterior, d, there.value)
    coupling, beta = posterior.coupling, posterior.beta
    back = coupling.precision_mean[:, None] * adjoint.precision
    if ground.probe is None:
        at_force, at_precision = adjoint.force.T[:, energy.at], adjoint.precision.T[:, energy.at]
    else:
        cross = ground.probe.to_train().value[energy.at]
        moved = coupling.force_variance[:, None] * adjoint.force
        moved = moved + coupling.precision_variance[:, None] * adjoint.precision
        at_force = d.mean[:, None] * seen.value + (cross @ back).T
        at_precision = -d.variance[:, None] * seen.value**2 - (cross.square() @ moved).T
    force, curvature = ground.force.value, energy.curvature
    value = beta * by_column(at_force * force + at_precision * curvature, energy)
    size = beta * by_column((at_force * force).abs() + (at_precision * curvature).abs(), energy)
    # Of the rows' own covariances only their relative error is known; it enters through the back reaction.
    rough = posterior.relative_error
    roots = posterior.row_roots if ground.probe is None else _roots(ground.probe.responding)
    loose = roots[energy.at] * _back_error(posterior, d, there, adjoint, back)[:, None]
    own = beta * by_column(
        seen.error * (d.mean.abs()[:, None] * force.abs())
        + d.variance.abs()[:, None] * curvature.abs() * seen.error * (2.0 * seen.value.abs() + seen.error)
        + ((at_force - d.mean[:, None] * seen.value).abs() * rough + loose) * force.abs()
        + at_force.abs() * ground.force.error,
        energy,
    )
    slack = 10.0 * (adjoint.change + posterior.fixed.change)[:, None] * size
    return Answer(
        value, own + slack + _bend(d, probe, seen.value, force, curvature, beta, energy),
        probe.converged & (adjoint.change < LOOSE),
    )  # fmt: skip


def _back_error(posterior: Any, d: Derivatives, there: Certified, adjoint: Adjoint, back: Tensor) -> Tensor:
    """What the back reaction may be off by at a site, per root of its own variance, (p,).

    `|S v|_i <= √S_ii √(vᵀSv)`, for what v = (∂h/∂μ) λ_H is off by through covariances of the points, and for the relative error of
    products with S.
    """
    off = d.variance.abs()[:, None] * there.error * (2.0 * there.value.abs() + there.error)
    moved = off @ (posterior.coupling.precision_mean.abs() * posterior.row_roots)
    reaction = adjoint.force - (d.mean[:, None] * there.value).T
    return moved + posterior.relative_error * (back * reaction).sum(dim=0).clamp_min(0.0).sqrt()


def _roots(variance: Certified) -> Tensor:
    return (variance.value + variance.error).sqrt()


def _of_modes(posterior: Any, probe: Any, d: Derivatives, energy: Energy, ground: Ground, seen: Certified) -> Answer:
    """Where only modes are read, and sites see no variances: `dμ = S β δg` is all."""
    force, slope = ground.force, d.mean.abs()[:, None]
    value = posterior.beta * by_column(d.mean[:, None] * seen.value * force.value, energy)
    off = slope * (seen.error * force.value.abs() + (seen.value.abs() + seen.error) * force.error)
    off = off + (d.mean_mean.abs() * probe.mean.error)[:, None] * (seen.value * force.value).abs()
    return Answer(
        value, posterior.beta * by_column(off, energy) + 10.0 * posterior.change * value.abs(), probe.converged
    )


def adjoints(posterior: Any, d: Derivatives, to_train: Tensor) -> Adjoint:
    """The adjoints of p local expectations, from the covariance of their points with the rows (p, n)."""
    coupling = posterior.coupling
    p, q = (d.mean[:, None] * to_train).T, -(d.variance[:, None] * to_train**2).T
    up, down, across = (part[:, None] for part in coupling)

    def forces(precision: Tensor) -> Tensor:
        return p + posterior.smear(up * precision)

    if not bool(down.any() | across.any()):
        return Adjoint(forces(q), q, torch.zeros_like(d.mean))
    precision, rate, last = q, 1.0, None
    for _ in range(MOST):
        force = forces(precision)
        step = q - posterior.smear_squared(down * force + across * precision) - precision
        scale = (precision.norm(dim=0) + (posterior.scale_of_sites * force.norm(dim=0))).clamp_min(1e-300)
        change = step.norm(dim=0) / scale
        if bool((change < TOLERANCE).all()):
            break
        if last is not None and bool((change > 1.5 * last).any()):
            rate = max(0.1, 0.7 * rate)
        precision, last = precision + rate * step, change
    return Adjoint(forces(precision), precision, change)


def _bend(
    d: Derivatives, probe: Any, seen: Tensor, force: Tensor, curvature: Tensor, beta: float, energy: Energy
) -> Tensor:
    """What the error of the point where derivatives are taken adds, to first order."""
    off_mean, off_variance = probe.mean.error, probe.variance.error
    mean = d.mean_mean.abs() * off_mean + d.mean_variance.abs() * off_variance
    variance = d.mean_variance.abs() * off_mean + d.variance_variance.abs() * off_variance
    return beta * by_column(
        mean[:, None] * (seen * force).abs() + variance[:, None] * (seen**2 * curvature).abs(), energy
    )


__all__ = ["Adjoint", "adjoints", "coupled_answer"]
