"""Exact finite response: what a change of the data of any size does, by a small linear system, without a refit."""

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gp_response.arguments import as_number
from gp_response.errors import SolverError
from gp_response.posterior import Certified, Posterior, Probe
from gp_response.response.among import among
from gp_response.response.asked import require_asked, require_posterior
from gp_response.response.conditioned_again import conditioned_again
from gp_response.response.energy import Energy
from gp_response.response.finite_whole import finite_whole
from gp_response.response.from_sites import viewed
from gp_response.response.joint_sites import joint_changes
from gp_response.response.observable import Derivatives, Marginals, Observable
from gp_response.response.perturbation import Perturbation
from gp_response.response.result import Susceptibility
from gp_response.response.set_change import change_of_set
from gp_response.response.sites import Sites, look
from gp_response.response.whole import Whole


def finite_response(
    posterior: Posterior, observable: Observable, perturbation: Perturbation, *, h: float = 1.0, progress: bool = False
) -> Susceptibility:
    """The exact change `⟨O⟩_h - ⟨O⟩_0` of every observable for each column at amplitude h, hyperparameters fixed.

    For a column that touches the rows J, with `S_JJ` their posterior covariance, `Δ` the change of their site
    precisions and `g` the finite force, the new field follows from `(I + Δ S_JJ)⁻¹` alone (Woodbury; for one row
    `δ b/(1 + δ a)`; see `set_change`). Columns do not act together: each is its own intervention.

    Under another likelihood a linearised network (`gr.laplace`) is conditioned again, once a column: there is no shorter way to
    the exact change. Then labels of classes may be changed, too (`relabel([3])`, h = 1 makes class 0 class 1), which have no
    derivative.

    Args:
        h: amplitude; 1 deletes a `delete` set, inserts an `insert` set, doubles a `reweight` row (-1 removes it).
        progress: show a bar over the blocks of rows whose own covariance is needed, or over columns.

    Returns:
        a `Susceptibility` of order "finite", or "conditioned again": `.matrix` (m, c) holds changes, not derivatives. Bounds
        of the second are those of the two posteriors, how far each may be from its mode included.

    Raises:
        InputError: a likelihood that is not Gaussian, and no network; an amplitude that is no finite number, one that leaves a
            variance of 0 or less.
        SolverError: the change removes more precision than the data hold. Weights below zero leave a Gaussian field as long as
            `1 + h β S_jj/σ²` stays positive, and are answered for, although no model can be refitted to them.
    """
    require_posterior(posterior, "finite_response")
    require_asked(observable, perturbation, "finite_response")
    h = as_number(h, "finite_response's h")
    if not posterior.conjugate:
        return conditioned_again(posterior, observable, perturbation, h=h, progress=progress)
    with torch.no_grad():
        observable = observable.under(posterior)
        energy = perturbation.finite_energy_of(posterior, h)
        columns = perturbation.columns_of(posterior)
        if isinstance(observable, Whole):
            value, settled = finite_whole(posterior, observable.kind, energy)
            return Susceptibility.named(
                posterior.data, observable, perturbation, beta=posterior.beta, matrix=value.value[None],
                error=value.error[None], flagged=~settled.all()[None], order="finite", h=h, columns=columns,
            )  # fmt: skip
        points, noise = posterior.look(observable.look()), perturbation.finite_noise(posterior.noise, h)
        sites = energy.parts if torch.equal(noise, posterior.noise) else None
        probe = viewed(posterior, observable, sites, len(points))(points)
        by_mean, by_variance, own = _changes(posterior, probe, energy, progress)
        at = Marginals(probe.mean.value, probe.variance.value, posterior.noise)
        after = Marginals(at.mean[:, None] + by_mean.value, at.variance[:, None] + by_variance.value, noise)
        change = observable.change(at, by_mean.value, by_variance.value)
        change = change + moved_by_noise(observable, at, after)
        error = error_of_change(observable, at, after, probe, by_mean, by_variance)
        return Susceptibility.of(
            posterior.data, observable, perturbation, beta=posterior.beta,
            matrix=observable.collect(change), error=observable.collect_error(error),
            converged=probe.converged & own, order="finite", h=h, columns=columns,
        )  # fmt: skip


def _changes(posterior: Posterior, probe: Probe, energy: Energy, progress: bool) -> tuple[Certified, Certified, Tensor]:
    """Changes of means and variances at a probe, (p, c) each, and whether the sites' solves converged."""
    if energy.also is not None:
        return joint_changes(posterior, probe, energy, progress)
    sites = look(posterior, probe, energy)
    step = alone if energy.one_each else _sets
    return step(posterior, sites, energy, progress)


def moved_by_noise(observable: Observable, at: Marginals, after: Marginals) -> Tensor:
    """What σ² of new observations adds to the change, (p, c), where it moves with the field to `after`, (p, c)."""
    if torch.equal(after.noise, at.noise):
        return torch.zeros_like(after.mean)
    return observable.change_by_noise(after._replace(noise=at.noise), after.noise)


def alone(posterior: Posterior, sites: Sites, energy: Energy, progress: bool):
    """What each site does on its own: scalars `1 + Δ_j S_jj`; all there is where every column has one."""
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
    """Columns with several sites: one |J| x |J| system each, out of one covariance of all sites with one another."""
    beta, converged = posterior.beta, torch.as_tensor(True)
    force = Certified(*(beta * part for part in sites.force))
    shared = among(posterior, energy, sites.probe, progress=progress) if bool((energy.curvature != 0).any()) else None
    changes = []
    for c in tqdm(range(energy.columns), desc="sets", disable=not progress, leave=False):
        mine = torch.nonzero(energy.column == c).flatten()
        block, settled = _nothing(mine, force.value) if shared is None else shared.block(mine)
        converged = converged & settled
        seen = Certified(*(part[:, mine] for part in sites.covariance))
        mine_force = Certified(*(part[mine] for part in force))
        changes.append(change_of_set(seen, block, beta * energy.curvature[mine], mine_force))
    by_mean = Certified.stacked([change.mean for change in changes])
    return by_mean, Certified.stacked([change.variance for change in changes]), converged


def _nothing(mine: Tensor, like: Tensor) -> tuple[Certified, bool]:
    """Where no precision moves, nobody asks how the sites are correlated."""
    zero = like.new_zeros(1, 1).expand(len(mine), len(mine))
    return Certified(zero, zero), True


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
            "use a smaller amplitude h, or, where Lanczos() only brackets these covariances, CG() or a higher rank"
        )


def error_of_change(
    observable: Observable, at: Marginals, after: Marginals, probe: Probe, by_mean: Certified, by_variance: Certified
) -> Tensor:
    """Bound on the change's error, (p, c): slopes where the field goes times the errors of (dμ, ds), the change of slope times
    the errors of the point (μ, s) itself, what both do to second order, and rounding."""
    start = Derivatives(*(part[:, None] for part in observable.derivatives(at)))
    end = observable.derivatives_after(at, after)
    moved, standing = (by_mean.error, by_variance.error), (probe.mean.error[:, None], probe.variance.error[:, None])
    first = end.mean.abs() * moved[0] + end.variance.abs() * moved[1]
    turn = (end.mean - start.mean).abs() * standing[0] + (end.variance - start.variance).abs() * standing[1]
    bends = {(0, 0): "mean_mean", (0, 1): "mean_variance", (1, 0): "mean_variance", (1, 1): "variance_variance"}
    second = torch.zeros_like(first)
    for (a, b), name in bends.items():
        here, there = getattr(start, name), getattr(end, name)
        second = second + there.abs() * (moved[a] * moved[b] + moved[a] * standing[b] + standing[a] * moved[b])
        second = second + (there - here).abs() * standing[a] * standing[b]
    return first + turn + 0.5 * second + observable.rounding_of_change(at, after)


__all__ = ["alone", "error_of_change", "finite_response", "moved_by_noise"]
