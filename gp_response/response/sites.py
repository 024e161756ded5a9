"""What a perturbation's sites look like from the observable's points: covariances and forces, with error bounds."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.posterior import Certified, Posterior, Probe
from gp_response.response.energy import Energy


class Sites(NamedTuple):
    """Posterior covariance of p points with s sites, (p, s), and the force `-dV/df` on each site's mean, (s,)."""

    covariance: Certified
    force: Certified
    probe: Probe | None


def look(posterior: Posterior, probe: Probe, energy: Energy) -> Sites:
    """Covariances and forces for an energy."""
    ground = stand(posterior, energy)
    return Sites(covariances(posterior, probe, energy, ground), ground.force, ground.probe)


class Ground(NamedTuple):
    """What does not depend on the observable: the force on each site, and the probe at sites that are no training rows."""

    force: Certified
    probe: Probe | None


def stand(posterior: Posterior, energy: Energy) -> Ground:
    """Forces for an energy. For training rows they use residuals that cancel nothing."""
    if not posterior.conjugate:
        # Sites stand at the posterior's own means: what is left of their quadratic is the force.
        there = None if energy.points is None else posterior.probe(energy.points)
        off = posterior.residuals.error.max() if there is None else there.mean.error[energy.at]
        return Ground(Certified(energy.pull, energy.curvature.abs() * off), there)
    if energy.points is not None:
        require_anywhere(posterior, "a perturbation with new rows")
        there = posterior.probe(energy.points)
        residual = Certified(energy.target - there.mean.value[energy.at], there.mean.error[energy.at])
    else:
        there, own = None, posterior.residuals
        shift = energy.target - posterior.data.train.y[energy.at]
        residual = Certified(own.value[energy.at] + shift, own.error[energy.at])
    force = energy.curvature * residual.value + energy.pull
    return Ground(Certified(force, energy.curvature.abs() * residual.error), there)


def covariances(posterior: Posterior, probe: Probe, energy: Energy, ground: Ground) -> Certified:
    """Posterior covariance of a probe's points with the sites, (p, s)."""
    if ground.probe is None:
        return probe.to_train(None if _all_rows(energy, posterior) else energy.at)
    between = probe.to(ground.probe)
    return Certified(between.value[:, energy.at], between.error[:, energy.at])


def _all_rows(energy: Energy, posterior: Posterior) -> bool:
    n = len(posterior.data.train)
    return (
        energy.one_each and len(energy.at) == n and bool((energy.at == torch.arange(n, device=energy.at.device)).all())
    )


def require_anywhere(posterior: Any, what: str) -> None:
    """Refuse a posterior of which nothing but the training rows' labels, weights and noise can change."""
    if posterior.rows_alone is not None:
        raise InputError(
            f"{what} changes more than labels, weights and noise of the training rows. {posterior.rows_alone}"
        )


def by_column(per_site: Tensor, energy: Energy) -> Tensor:
    """Sum sites (…, s) into columns (…, c)."""
    if energy.one_each:
        return per_site
    out = per_site.new_zeros(*per_site.shape[:-1], energy.columns)
    return out.index_add(-1, energy.column, per_site)


__all__ = ["Ground", "Sites", "by_column", "covariances", "look", "require_anywhere", "stand"]
