"""Exact finite response: what a change of the data of any size does, by a small linear system, without a refit."""

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gp_response.errors import InputError, SolverError
from gp_response.posterior import Certified, Posterior, Probe
from gp_response.response.observable import Marginals, Observable
from gp_response.response.perturbation import Energy, Perturbation
from gp_response.response.result import Susceptibility
from gp_response.response.sites import Sites, look


def finite_response(
    posterior: Posterior, observable: Observable, perturbation: Perturbation, *, h: float = 1.0, progress: bool = False
) -> Susceptibility:
    """The exact change `⟨O⟩_h - ⟨O⟩_0` of every observable for each column at amplitude h, hyperparameters fixed.

    For a column that touches the rows J, with `S_JJ` their posterior covariance, `Δ` the change of their site
    precisions and `g` the finite force, the new field follows from `(I + Δ S_JJ)⁻¹` alone (Woodbury; for one row
    `δ b/(1 + δ a)`). Columns do not act together: each is its own intervention.

    Args:
        h: amplitude; 1 deletes a `delete` set, inserts an `insert` set, doubles a `reweight` row (-1 removes it).
        progress: show a bar over the blocks of rows whose own covariance is needed.

    Returns:
        a `Susceptibility` of order "finite": `.matrix` (m, c) holds changes, not derivatives.

    Raises:
        SolverError: the change removes more precision than a row has (for instance `h = -2` on a weight of one).
    """
    if not posterior.conjugate:
        raise InputError(
            f"finite_response is exact for Gaussian likelihoods and this posterior has {posterior.likelihood!r}; use "
            "refit_response(head, data, ..., h=...) for the change, susceptibility for its derivative"
        )
    with torch.no_grad():
        observable = observable.under(posterior)
        probe = posterior.probe(observable.look())
        energy = perturbation.finite_energy(posterior.data, posterior.noise, h)
        sites = look(posterior, probe, energy)
        step = _single_sites if energy.one_each else _sets
        by_mean, by_variance, own = step(posterior, sites, energy, progress)
        at = Marginals(probe.mean.value, probe.variance.value, posterior.noise)
        change = observable.change(at, by_mean.value, by_variance.value)
        error = _error(observable, at, probe, by_mean, by_variance)
        return Susceptibility.of(
            posterior.data, observable, perturbation, beta=posterior.beta,
            matrix=observable.collect(change), error=observable.collect_error(error),
            converged=probe.converged & own, order="finite", h=h,
        )  # fmt: skip


def _single_sites(posterior: Posterior, sites: Sites, energy: Energy, progress: bool):
    """Every column one site: scalars `1 + Δ_j S_jj`."""
    own, own_error, converged = _own_variance(posterior, sites, energy, progress)
    delta, beta = posterior.beta * energy.curvature, posterior.beta
    pivot = 1.0 + delta * own
    _refuse_negative(pivot)
    pivot_error = delta.abs() * own_error
    (cov, cov_error), (force, force_error) = sites.covariance, sites.force
    gain = beta * force / pivot
    room = (pivot - pivot_error).clamp_min(1e-300)
    gain_error = (beta * force_error + gain.abs() * pivot_error) / room
    by_mean = Certified(cov * gain, cov_error * (gain.abs() + gain_error) + cov.abs() * gain_error)
    loss = delta / pivot
    loss_error = loss.abs() * pivot_error / room
    by_variance = Certified(
        -(cov**2) * loss,
        cov_error * (2.0 * cov.abs() + cov_error) * (loss.abs() + loss_error) + cov**2 * loss_error,
    )
    return by_mean, by_variance, converged


def _sets(posterior: Posterior, sites: Sites, energy: Energy, progress: bool):
    """Columns with several sites: one |J| x |J| system each."""
    p, beta = len(sites.covariance.value), posterior.beta
    mean, variance = (sites.covariance.value.new_zeros(p, energy.columns) for _ in range(2))
    mean_error, variance_error, converged = mean.clone(), variance.clone(), True
    for c in tqdm(range(energy.columns), desc="sets", disable=not progress, leave=False):
        mine = torch.nonzero(energy.column == c).flatten()
        block, settled = _own_block(posterior, sites, energy.at[mine])
        converged = converged & settled
        delta = beta * energy.curvature[mine]
        inverse = _inverse(delta, block.value)
        cov, cov_error = (part[:, mine] for part in sites.covariance)
        force, force_error = (beta * part[mine] for part in sites.force)
        gain = inverse @ force
        slack = inverse.abs() @ (force_error + delta.abs() * (block.error @ gain.abs()))
        mean[:, c] = cov @ gain
        mean_error[:, c] = cov_error @ (gain.abs() + slack) + cov.abs() @ slack
        loss = inverse * delta  # (I + ΔS)⁻¹Δ
        loss_error = loss.abs() @ block.error @ loss.abs()
        variance[:, c] = -((cov @ loss) * cov).sum(dim=1)
        spread = cov.abs() + cov_error
        variance_error[:, c] = ((spread @ (loss.abs() + loss_error)) * cov_error).sum(dim=1) * 2.0 + (
            (cov.abs() @ loss_error) * cov.abs()
        ).sum(dim=1)
    return Certified(mean, mean_error), Certified(variance, variance_error), torch.as_tensor(converged)


def _own_block(posterior: Posterior, sites: Sites, at: Tensor) -> tuple[Certified, bool]:
    """S_JJ of the sites J of one column, and whether its solves converged."""
    if sites.probe is None:
        there = posterior.probe(posterior.data.train.x[at])
        return there.to_train(at), bool(there.converged.all())
    whole = sites.probe.to(sites.probe)
    return Certified(*(part[at][:, at] for part in whole)), bool(sites.probe.converged.all())


def _inverse(delta: Tensor, block: Tensor) -> Tensor:
    """`(I + Δ S)⁻¹`, refused where the changed precisions leave no Gaussian field."""
    block = 0.5 * (block + block.T)
    system = torch.eye(len(delta), dtype=block.dtype, device=block.device) + delta[:, None] * block
    # The eigenvalues of I + ΔS are real; a non-positive determinant sign at any pivot means lost positivity.
    _refuse_negative(torch.linalg.eigvals(system).real)
    return torch.linalg.inv(system)


def _own_variance(posterior: Posterior, sites: Sites, energy: Energy, progress: bool) -> tuple[Tensor, Tensor, Tensor]:
    """S_jj of every site (s,)."""
    if sites.probe is not None:
        variance = sites.probe.responding
        return variance.value[energy.at], variance.error[energy.at], sites.probe.converged.all()
    if not bool((energy.curvature != 0).any()):  # relabelling moves no precision
        zero = torch.zeros_like(energy.curvature)
        return zero, zero, torch.as_tensor(True)
    own, converged = posterior.own_variance(energy.at, progress=progress)
    return own.value, own.error, converged.all()


def _refuse_negative(pivots: Tensor) -> None:
    if bool((pivots <= 0).any()):
        worst = int(pivots.argmin())
        raise SolverError(
            f"the change takes away more precision than the data hold (site {worst}: 1 + ΔS = {float(pivots[worst]):.3g}); "
            "use a smaller amplitude h"
        )


def _error(observable: Observable, at: Marginals, probe: Probe, by_mean: Certified, by_variance: Certified) -> Tensor:
    """Bound on the change's error: slopes along the change times the errors of (dμ, ds), and the change of slope times
    the error of the point (μ, s) itself."""
    d = observable.derivatives(at)
    bend_mean = _outer(d.mean_mean, by_mean) + _outer(d.mean_variance, by_variance)
    bend_variance = _outer(d.variance_variance, by_variance) + _outer(d.mean_variance, by_mean)
    slope = (d.mean.abs()[:, None] + bend_mean) * by_mean.error
    slope = slope + (d.variance.abs()[:, None] + bend_variance) * by_variance.error
    return slope + bend_mean * probe.mean.error[:, None] + bend_variance * probe.variance.error[:, None]


def _outer(second: Tensor, change: Certified) -> Tensor:
    return second.abs()[:, None] * change.value.abs()


__all__ = ["finite_response"]
