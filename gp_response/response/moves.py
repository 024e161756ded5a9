"""Exact changes of a field at any amplitude of each column, by the modes in which its sites act independently.

For a column of sites J with changes `hδ` of one sign s, `R = |δ|^½` and `R S_JJ R = Q Λ Qᵀ`, the change at amplitude h is

    dμ_x = h Σ_k u_xk w_k / (1 + h s λ_k),    dS_xx = -h s Σ_k u_xk² / (1 + h s λ_k),    u = S_xJ R Q,    w = Qᵀ R⁻¹ g :

a sum over modes, each like a single site. One eigenvalue problem a column then serves every amplitude, and none a single site.
Sites of both signs take another: with `S_JJ = CᵀC` the modes are those of `C δ Cᵀ = Q Λ Qᵀ`, and variances weigh λ_k instead of s.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.posterior import Posterior, Probe
from gp_response.response.among import among
from gp_response.response.energy import Energy
from gp_response.response.joint_sites import JointSites
from gp_response.response.sites import Sites, look

EPS = torch.finfo(torch.float64).eps


class Moves(NamedTuple):
    """Columns of one mode each, vectorised: dμ = linear h + reach size h/(1 + h rate), ds = -weight reach² h/(1 + h rate).

    reach and linear (p, c); size, rate and weight (1, c); floor (c,), an amplitude above which each column stays, or None.
    """

    reach: Tensor
    size: Tensor
    rate: Tensor
    weight: Tensor
    linear: Tensor
    floor: Tensor | None = None

    def at(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Changes of means and variances at amplitudes h (1, c) or (p, c), (p, c) each; not finite where there is none."""
        gain = h / (1.0 + h * self.rate)
        return self.linear * h + self.reach * self.size * gain, -self.weight * self.reach.square() * gain

    def slope(self) -> tuple[Tensor, Tensor]:
        """First derivatives of both by h, (p, c) each."""
        return self.linear + self.reach * self.size, -self.weight * self.reach.square()

    def bend(self) -> tuple[Tensor, Tensor]:
        """Second derivatives of both by h, (p, c) each."""
        both = self.weight * self.rate * self.reach.square()
        return -2.0 * self.rate * self.reach * self.size, 2.0 * both

    @property
    def rates(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest rate of each column, (c,)."""
        return self.rate[0], self.rate[0]


class SetMoves(NamedTuple):
    """One column of many modes, whose moves are the sums of theirs: reach (p, k), size, rate and weight (k,), linear (p, 1)."""

    reach: Tensor
    size: Tensor
    rate: Tensor
    weight: Tensor
    linear: Tensor
    floor: Tensor | None = None

    def at(self, h: Tensor) -> tuple[Tensor, Tensor]:
        gain = h / (1.0 + h * self.rate)  # (1, k) or (p, k)
        both = self.reach * gain
        mean = self.linear * h + (both @ self.size)[:, None]
        return mean, -((both * self.reach) @ self.weight)[:, None]

    def slope(self) -> tuple[Tensor, Tensor]:
        mean = self.linear + (self.reach @ self.size)[:, None]
        return mean, -(self.reach.square() @ self.weight)[:, None]

    def bend(self) -> tuple[Tensor, Tensor]:
        mean = -2.0 * (self.reach @ (self.rate * self.size))
        return mean[:, None], 2.0 * (self.reach.square() @ (self.weight * self.rate))[:, None]

    @property
    def rates(self) -> tuple[Tensor, Tensor]:
        return self.rate.min()[None], self.rate.max()[None]


def moves(posterior: Posterior, probe: Probe, energy: Energy) -> list[Moves | SetMoves]:
    """What every column does at a probe's points: all single sites together, or each set on its own."""
    if energy.also is not None:
        return _joint(posterior, probe, energy)
    sites = look(posterior, probe, energy)
    if energy.one_each:
        return [_singles(posterior, sites, energy)]
    shared = among(posterior, energy, sites.probe) if bool((energy.curvature != 0).any()) else None
    found: list[Moves | SetMoves] = []
    for c in range(energy.columns):
        mine = torch.nonzero(energy.column == c).flatten()
        delta = posterior.beta * energy.curvature[mine]
        force, seen = posterior.beta * sites.force.value[mine], sites.covariance.value[:, mine]
        if shared is None or not bool(delta.any()):
            found.append(_straight(seen, force))
        else:
            found.append(_set(seen, force, delta, shared.block(mine)[0].value))
    return found


def _singles(posterior: Posterior, sites: Sites, energy: Energy) -> Moves:
    beta = posterior.beta
    seen, force, delta = sites.covariance.value, beta * sites.force.value, beta * energy.curvature
    if sites.probe is not None:
        own = sites.probe.responding.value[energy.at]
    elif bool((delta != 0).any()):
        rows, place = energy.at.unique(return_inverse=True)
        own = posterior.own_variance(rows)[0].value[place]
    else:
        own = torch.zeros_like(delta)
    still = delta == 0
    root = torch.where(still, torch.ones_like(delta), delta.abs().sqrt())
    reach = torch.where(still, torch.zeros_like(seen), seen * root)
    linear = torch.where(still, seen * force, torch.zeros_like(seen))
    return Moves(reach, (force / root)[None], (delta * own)[None], delta.sign()[None], linear)


def _joint(posterior: Posterior, probe: Probe, energy: Energy) -> list[Moves | SetMoves]:
    """Columns with sites at training rows and elsewhere."""
    sites, beta = JointSites.of(posterior, energy), posterior.beta
    seen, force = sites.seen(posterior, probe).value, beta * sites.force().value
    delta, found = beta * sites.joined("curvature"), []
    for c in range(energy.columns):
        mine, block, _ = sites.block(posterior, c)
        found.append(_set(seen[:, mine], force[mine], delta[mine], block.value))
    return list(found)


def _straight(seen: Tensor, force: Tensor) -> SetMoves:
    """No precision moves: the mean is linear, and the variance stays."""
    none = seen.new_zeros(len(seen), 1)
    zero = seen.new_zeros(1)
    return SetMoves(none, zero, zero, zero, (seen @ force)[:, None])


def _set(seen: Tensor, force: Tensor, delta: Tensor, block: Tensor) -> SetMoves:
    acts = delta != 0
    sign = delta[acts].sign()
    if bool((sign != sign[0]).any()) or bool(force[~acts].any()):
        return _of_both_signs(seen, force, delta, block)
    root = delta[acts].abs().sqrt()
    scaled = block[acts][:, acts] * root[:, None] * root
    values, vectors = torch.linalg.eigh(0.5 * (scaled + scaled.T))
    reach = (seen[:, acts] * root) @ vectors
    rate = sign[0] * values.clamp_min(0.0)
    weight = sign[0].expand_as(rate)
    return SetMoves(reach, vectors.T @ (force[acts] / root), rate, weight, seen.new_zeros(len(seen), 1))


def _of_both_signs(seen: Tensor, force: Tensor, delta: Tensor, block: Tensor) -> SetMoves:
    values, vectors = torch.linalg.eigh(0.5 * (block + block.T))
    some = values > EPS * len(values) * values[-1]
    # What divides by the root here multiplies it there: directions in which the sites hardly vary stay harmless.
    root, vectors = values[some].sqrt(), vectors[:, some]
    rate, modes = torch.linalg.eigh(root[:, None] * (vectors.T @ (delta[:, None] * vectors)) * root)
    reach, size = ((seen @ vectors) / root) @ modes, modes.T @ (root * (vectors.T @ force))
    return SetMoves(reach, size, rate, rate, seen.new_zeros(len(seen), 1))


__all__ = ["Moves", "SetMoves", "moves"]
