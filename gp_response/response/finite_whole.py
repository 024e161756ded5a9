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
from gp_response.response.set_change import Removed, removed

EPS = torch.finfo(torch.float64).eps


class Column(NamedTuple):
    """Of one column: places of its sites, S (k, k), δ (k,), M (k, k) with what belongs to it, whether its solves converged."""

    at: Tensor
    block: Certified
    delta: Tensor
    lost: Removed
    converged: bool


def finite_whole(posterior: Posterior, kind: str, energy: Energy) -> tuple[Certified, Tensor]:
    """Changes of "evidence" or "learning_coefficient" by every column, (c,), and which are settled, bool (c,)."""
    change = {"evidence": _evidence, "learning_coefficient": _learning_coefficient}.get(kind)
    if change is None:
        raise InputError(f"{kind} is held fixed by finite_response; total_susceptibility(head, data, ...) moves it")
    sites = JointSites.of(posterior, energy)
    columns = [_column(posterior, sites, c) for c in range(energy.columns)]
    found = [change(posterior, sites, energy, column, c) for c, column in enumerate(columns)]
    value, error = Certified.stacked(found)
    error = torch.where(error.isnan(), torch.full_like(error, float("inf")), error)
    return Certified(value, error), torch.tensor([column.converged for column in columns]) & error.isfinite().cpu()


def _column(posterior: Posterior, sites: JointSites, column: int) -> Column:
    at, block, settled = sites.block(posterior, column)
    delta = posterior.beta * sites.joined("curvature")[at]
    return Column(at, block, delta, removed(block, delta), settled)


def _evidence(posterior: Posterior, sites: JointSites, energy: Energy, column: Column, c: int) -> Certified:
    (s, s_error), lost = column.block, column.lost
    force = Certified(*(posterior.beta * part[column.at] for part in sites.force()))
    left = force.value - lost.value @ (s @ force.value)  # (I + δS)⁻¹ g
    pulled = s @ left
    value = 0.5 * force.value.dot(pulled) - 0.5 * lost.logdet
    # An error E of S moves the square by leftᵀE left and `(E left)ᵀ R K⁻¹ R E left`, one of g by what it meets twice.
    spread, across = s_error @ left.abs(), torch.eye(len(s)).to(s) - s @ lost.value
    error = 0.5 * left.abs().dot(spread) + 0.5 * _beyond(lost, spread[:, None])[0] + pulled.abs().dot(force.error)
    error = error + force.error.dot(across.abs() @ spread + 0.5 * (across @ s).abs() @ force.error)
    error = error + 0.5 * (lost.value.abs() * s_error).sum() + 0.25 * _square(lost, s_error)
    start = _start(posterior, energy, c)
    size = (force.value * pulled).abs().sum() + lost.logdet.abs() + (lost.value * s).abs().sum()
    return Certified(start.value + value, start.error + 2.0 * error + 32.0 * EPS * size)  # third order: a factor of two


def _beyond(lost: Removed, moved: Tensor) -> Tensor:
    """Bound on `vᵀ R K⁻¹ R v` for |v| <= each column of moved (k, n), (n,)."""
    return lost.norm * (lost.root * moved.mT).square().sum(dim=-1)


def _square(lost: Removed, s_error: Tensor) -> Tensor:
    """Bound on `tr (K⁻¹ R E R)²`, half of which log det(I + δS) is off by beyond its first order."""
    return (lost.norm * torch.linalg.matrix_norm(lost.root[:, None] * s_error * lost.root)) ** 2


def _start(posterior: Posterior, energy: Energy, c: int) -> Certified:
    """`-βV` at the mean, and what the left-out variance adds."""
    value, error = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for part in energy.parts:
        motion = SiteMotion(posterior, part)
        at_mean = motion.energy_at_mean()
        value, error = value - posterior.beta * at_mean.value[c], error + posterior.beta * at_mean.error[c]
    return Certified(value, error)


def _learning_coefficient(posterior: Posterior, sites: JointSites, energy: Energy, column: Column, c: int) -> Certified:
    (s, s_error), lost, m = column.block, column.lost, column.lost.value
    weight = precisions(posterior)
    reach, reach_error = _to_train(posterior, sites, column)
    within = s - s @ m @ s
    drop = ((m @ reach) * reach).sum(dim=0)
    value = 0.5 * column.delta.dot(within.diagonal()) - 0.5 * weight.dot(drop)
    spread = m.abs() @ reach.abs()
    moved = s_error @ spread
    off = 2.0 * ((spread + m.abs() @ moved) * reach_error).sum(dim=0) + (reach_error * (m.abs() @ reach_error)).sum(
        dim=0
    )
    off = off + (spread * moved).sum(dim=0) + _beyond(lost, moved)
    across = (torch.eye(len(s)).to(s) - s @ m).abs().T  # S - SMS is off by its products with E on both sides
    met = s_error @ across
    own = (across * met).sum(dim=0) + _beyond(lost, met)
    error = 0.5 * column.delta.abs().dot(own) + 0.5 * weight.dot(off)
    size = column.delta.abs().dot(s.abs().diagonal()) + weight.dot((spread * reach.abs()).sum(dim=0))
    return Certified(value, 2.0 * error + (len(s) + 32.0) * EPS * size)  # third order: a factor of two


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
