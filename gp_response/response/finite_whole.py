"""Exact finite changes of the evidence and of the learning coefficient by changed sites.

With finite forces g (β counted in) and changes δ of precisions at sites of posterior covariance S, `M = (I + δS)⁻¹δ`:

    Δ log Z = -βV(μ) + ½ gᵀS(g - MSg) - ½ log det(I + δS),
    Δ ½Στ_iS_ii = ½ Σ_s δ_s (S - SMS)_ss - ½ Σ_i τ_i (S_iJ M S_Ji).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.posterior import Certified, Posterior
from gp_response.response.energy import Energy
from gp_response.response.joint_sites import JointSites
from gp_response.response.motion import SiteMotion, precisions
from gp_response.response.set_change import removed

EPS = torch.finfo(torch.float64).eps


class Column(NamedTuple):
    """Of one column: places of its sites, S (k, k), δ (k,), M (k, k), log det(I + δS), whether its solves converged."""

    at: Tensor
    block: Certified
    delta: Tensor
    lost: Tensor
    logdet: Tensor
    converged: bool


def finite_whole(posterior: Posterior, kind: str, energy: Energy) -> tuple[Certified, Tensor]:
    """Changes of "evidence" or "learning_coefficient" by every column, (c,), and which are settled, bool (c,)."""
    change = {"evidence": _evidence, "learning_coefficient": _learning_coefficient}.get(kind)
    if change is None:
        raise InputError(f"{kind} is held fixed by finite_response; total_susceptibility(head, data, ...) moves it")
    sites = JointSites.of(posterior, energy)
    columns = [_column(posterior, sites, c) for c in range(energy.columns)]
    found = [change(posterior, sites, energy, column, c) for c, column in enumerate(columns)]
    settled = torch.tensor([column.converged for column in columns])
    return Certified(torch.stack([f.value for f in found]), torch.stack([f.error for f in found])), settled


def _column(posterior: Posterior, sites: JointSites, column: int) -> Column:
    at, block, settled = sites.block(posterior, column)
    delta = posterior.beta * sites.joined("curvature")[at]
    lost, logdet = removed(block.value, delta)
    return Column(at, block, delta, lost, logdet, settled)


def _evidence(posterior: Posterior, sites: JointSites, energy: Energy, column: Column, c: int) -> Certified:
    s, s_error = column.block
    force = Certified(*(posterior.beta * part[column.at] for part in sites.force()))
    left = force.value - column.lost @ (s @ force.value)  # (I + δS)⁻¹ g
    pulled = s @ left
    value = 0.5 * force.value.dot(pulled) - 0.5 * column.logdet
    error = 0.5 * left.abs() @ s_error @ left.abs() + pulled.abs().dot(force.error)
    error = error + 0.5 * (column.lost.abs() * s_error).sum()
    start = _start(posterior, energy, c)
    # Second-order terms of the block's error are left to a factor of two.
    size = (force.value * pulled).abs().sum() + column.logdet.abs() + (column.lost * s).abs().sum()
    return Certified(start.value + value, start.error + 2.0 * error + 32.0 * EPS * size)


def _start(posterior: Posterior, energy: Energy, c: int) -> Certified:
    """`-βV` at the mean, and what the left-out variance adds."""
    value, error = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for part in energy.parts:
        motion = SiteMotion(posterior, part)
        at_mean = motion.energy_at_mean()
        value, error = value - posterior.beta * at_mean.value[c], error + posterior.beta * at_mean.error[c]
    return Certified(value, error)


def _learning_coefficient(posterior: Posterior, sites: JointSites, energy: Energy, column: Column, c: int) -> Certified:
    s, s_error = column.block
    weight = precisions(posterior)
    reach, reach_error = _to_train(posterior, sites, column)
    within = s - s @ column.lost @ s
    drop = ((column.lost @ reach) * reach).sum(dim=0)
    value = 0.5 * column.delta.dot(within.diagonal()) - 0.5 * weight.dot(drop)
    spread = column.lost.abs() @ reach.abs()
    off = 2.0 * (spread * reach_error).sum(dim=0)
    moved = column.lost.abs() @ s_error @ column.lost.abs()
    off = off + (reach.abs() * (moved @ reach.abs())).sum(dim=0)
    own = (
        s_error
        + s_error @ column.lost.abs() @ s.abs()
        + s.abs() @ column.lost.abs() @ s_error
        + s.abs() @ moved @ s.abs()
    )
    error = 0.5 * column.delta.abs().dot(own.diagonal()) + 0.5 * weight.dot(off)
    size = column.delta.abs().dot(s.abs().diagonal()) + weight.dot((spread * reach.abs()).sum(dim=0))
    return Certified(value, 2.0 * error + (len(s) + 32.0) * EPS * size)


def _to_train(posterior: Posterior, sites: JointSites, column: Column) -> Certified:
    """Covariances of a column's sites with all rows, (k, n)."""
    found, start = [], 0
    for part, ground in zip(sites.parts, sites.grounds, strict=True):
        mine = column.at[(column.at >= start) & (column.at < start + len(part.at))] - start
        at = part.at[mine]
        probe = ground.probe
        if probe is None:
            found.append(posterior.row_probe(at).to_train())
        else:
            found.append(Certified(*(block[at] for block in probe.to_train())))
        start += len(part.at)
    return Certified(*(torch.cat([block[k] for block in found]) for k in range(2)))


__all__ = ["finite_whole"]
