"""The covariance of an approximate posterior, taken at its word, beside how the approximation really responds.

For an exact posterior the two are one: `d⟨O⟩/dh = -β Cov(O, V)`. An approximation's own covariance may be anything, and how far
its response is from it measures the approximation, as violations of the fluctuation-dissipation theorem do in physics.
"""

import math
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads.sampling import Draws
from gp_response.likelihoods.quadrature import nodes
from gp_response.posterior import Certified, Posterior, Probe
from gp_response.response.asked import require_asked, require_posterior
from gp_response.response.energy import Energy
from gp_response.response.observable import Marginals, Observable
from gp_response.response.perturbation import Perturbation
from gp_response.response.refit import refit_response
from gp_response.response.result import Susceptibility
from gp_response.response.sampled import sampled_susceptibility
from gp_response.response.sites import Ground, by_column, covariances, stand

ORDER = 40  # of the Hermite series, where it does not end by itself


def fluctuation(posterior: Posterior, observable: Observable, perturbation: Perturbation) -> Susceptibility:
    """`-β Cov(O, V)` under the Gaussian that the posterior claims to be, with all of its predictive covariance.

    Pointwise functionals of two jointly Gaussian values have `Cov = Σ_k S^k/k! E[g⁽ᵏ⁾] E[h⁽ᵏ⁾]` (Mehler). For Gaussian noise V is
    quadratic and two terms are all; else the series is cut at order 40 and the rest bounded by Cauchy-Schwarz.

    Returns:
        as `susceptibility`; equal to it for exact posteriors.
    """
    require_posterior(posterior, "fluctuation")
    require_asked(observable, perturbation, "fluctuation")
    if isinstance(posterior, Draws):
        return sampled_susceptibility(posterior, observable, perturbation)
    with torch.no_grad():
        if hasattr(posterior, "classes"):
            raise InputError("fluctuation is not here yet for several classes; use susceptibility and refit_response")
        asked = observable.under(posterior)
        probe = posterior.probe(posterior.look(asked.look()))
        energy = perturbation.energy_of(posterior)
        ground = stand(posterior, energy)
        seen = _claimed(posterior, probe, energy, ground)
        at = Marginals(probe.mean.value, probe.variance.value, posterior.noise)
        if posterior.conjugate:
            d = asked.derivatives(at)
            local = d.mean[:, None] * seen.value * ground.force.value
            local = local - d.variance[:, None] * seen.value**2 * energy.curvature
            off = d.mean.abs()[:, None] * ground.force.value.abs()
            off = off + 2.0 * d.variance.abs()[:, None] * (seen.value * energy.curvature).abs()
            error = off * seen.error
        else:
            local, error = _series(posterior, asked, at, perturbation, energy, ground, seen)
        value, error = (posterior.beta * by_column(part, energy) for part in (local, error))
        return Susceptibility.of(
            posterior.data, asked, perturbation, beta=posterior.beta, matrix=asked.collect(value),
            error=asked.collect_error(error), converged=probe.converged, order="first",
        )  # fmt: skip


def fdt_gap(head: Any, data: Dataset, observable: Observable, perturbation: Perturbation) -> float:
    """`‖χ_refit - χ_fluctuation‖ / ‖χ_refit‖`: zero where the posterior's covariance is its response.

    Args:
        head: conditioned on the data, and differentiated through its own optimum.
    """
    claimed = fluctuation(head.condition(data), observable, perturbation).matrix.double()
    real = refit_response(head, data, observable, perturbation).matrix.double()
    return float((real - claimed).norm() / real.norm())


def _claimed(posterior: Posterior, probe: Probe, energy: Energy, ground: Ground) -> Certified:
    """Predictive covariance of the points with the sites, (p, s): what responds, and what is left out."""
    if ground.probe is not None:
        both = probe.predictive_to(ground.probe)
        return Certified(both.value[:, energy.at], both.error[:, energy.at])
    if not bool((posterior.rows_left_out.value > 0).any()):
        return covariances(posterior, probe, energy, ground)
    return probe.predictive_to(posterior.row_probe(energy.at))


def _series(
    posterior: Any, observable: Observable, at: Marginals, perturbation: Perturbation, energy: Energy, ground: Ground,
    seen: Certified,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`-Cov(O, V)` for every point and site, and what cutting the series leaves."""
    if ground.probe is None:
        mean, variance = posterior.fixed.mean[energy.at], posterior.fixed.variance[energy.at]
    else:
        mean, variance = ground.probe.mean.value[energy.at], ground.probe.variance.value[energy.at]
    points, _ = nodes(mean)
    mine = observable.functional(at.mean + at.variance.sqrt() * points[:, None], at)
    yours = perturbation.potential(posterior, mean + variance.sqrt() * points[:, None])
    left, left_rest = _coefficients(mine)
    right, right_rest = _coefficients(yours)
    correlation = (seen.value / (at.variance.sqrt()[:, None] * variance.sqrt())).clamp(-1.0, 1.0)
    total, power = torch.zeros_like(correlation), torch.ones_like(correlation)
    slope = torch.zeros_like(correlation)
    for k in range(1, ORDER + 1):
        product = left[k][:, None] * right[k]
        slope = slope + k * product.abs() * power.abs()
        power = power * correlation
        total = total - product * power
    rest = (left_rest[:, None] * right_rest).sqrt() * power.abs() * correlation.abs()
    return total, rest + slope * seen.error / (at.variance.sqrt()[:, None] * variance.sqrt())


def _coefficients(values: Tensor) -> tuple[list[Tensor], Tensor]:
    """`E[g He_k]/√k!` for k = 0 … ORDER of values (q, p) at the nodes, and the variance that these leave out, (p,)."""
    points, weights = nodes(values)
    before, now = torch.zeros_like(points), torch.ones_like(points)
    found = []
    for k in range(ORDER + 1):
        found.append((weights * now) @ values)
        before, now = now, (points * now - math.sqrt(k) * before) / math.sqrt(k + 1.0)
    variance = weights @ values.square() - found[0].square()
    kept = torch.stack([c.square() for c in found[1:]]).sum(dim=0)
    return found, (variance - kept).clamp_min(1e-15 * variance.abs())


__all__ = ["fdt_gap", "fluctuation"]
