"""First-order response: `d⟨O⟩/dh = -β Cov(O, V)` in closed form, with an error bound for every entry."""

import torch
from torch import Tensor

from gp_response.posterior import Certified, Posterior, Probe
from gp_response.response.observable import Derivatives, Marginals, Observable
from gp_response.response.perturbation import Perturbation
from gp_response.response.result import Susceptibility
from gp_response.response.sites import by_column, look


def susceptibility(posterior: Posterior, observable: Observable, perturbation: Perturbation) -> Susceptibility:
    """How each observable moves per unit of each perturbation, at fixed hyperparameters.

    A perturbation adds `h V` to the energy `Σ ρ_i ℓ_i`; by the fluctuation-dissipation theorem the derivative of the
    refitted expectation is a posterior covariance (Kubo 1966; Giordano, Broderick & Jordan 2018, theorem 1). For a
    Gaussian field it is closed: means move by `β S g`, variances by `-β S² a`, with `S` the posterior covariance
    between point and site, `a` the curvature of V and `g` its force at the posterior mean.

    Args:
        posterior: from a head.
        observable: m functionals, e.g. `value(x)`.
        perturbation: c columns, e.g. `reweight()`.

    Returns:
        a `Susceptibility` with `.matrix` (m, c), `.error` (m, c) and names; one solve per observable point.
    """
    with torch.no_grad():
        probe = posterior.probe(observable.points)
        energy = perturbation.energy(posterior.data, posterior.noise)
        sites = look(posterior, probe, energy)
        by_mean, by_variance = _field_response(sites, energy.curvature, posterior.beta)
        at = Marginals(probe.mean.value, probe.variance.value, posterior.noise)
        d = observable.derivatives(at)
        by_mean = Certified(*(by_column(part, energy) for part in by_mean))
        by_variance = Certified(*(by_column(part, energy) for part in by_variance))
        value = d.mean[:, None] * by_mean.value + d.variance[:, None] * by_variance.value
        error = _error(d, probe, by_mean, by_variance)
        return Susceptibility.of(
            posterior.data, observable, perturbation, beta=posterior.beta,
            matrix=observable.collect(value), error=observable.collect_error(error),
            converged=probe.converged, order="first",
        )  # fmt: skip


def _field_response(sites, curvature: Tensor, beta: float) -> tuple[Certified, Certified]:
    """dμ and ds at every point (p,) for every site (s,), with bounds."""
    (cov, cov_error), (force, force_error) = sites.covariance, sites.force
    by_mean = Certified(
        beta * cov * force,
        beta * (cov_error * (force.abs() + force_error) + cov.abs() * force_error),
    )
    by_variance = Certified(
        -beta * curvature * cov**2,
        beta * curvature.abs() * cov_error * (2.0 * cov.abs() + cov_error),
    )
    return by_mean, by_variance


def _error(d: Derivatives, probe: Probe, by_mean: Certified, by_variance: Certified) -> Tensor:
    """Bound on the error of `∂_μ dμ + ∂_s ds`: that of dμ, ds, and of the point (μ, s) where the derivatives are taken."""
    off_mean, off_variance = probe.mean.error[:, None], probe.variance.error[:, None]
    slope = d.mean.abs()[:, None] * by_mean.error + d.variance.abs()[:, None] * by_variance.error
    bend_mean = d.mean_mean.abs()[:, None] * off_mean + d.mean_variance.abs()[:, None] * off_variance
    bend_variance = d.mean_variance.abs()[:, None] * off_mean + d.variance_variance.abs()[:, None] * off_variance
    return slope + bend_mean * by_mean.value.abs() + bend_variance * by_variance.value.abs()


__all__ = ["susceptibility"]
