"""Energies that are quadratic in readings of the field, as they act at a posterior's mean: the general `½ zᵀQz - bᵀz`.

Every coupling Q needed here pairs each site with one partner: itself where the energy is of the field's values, `V = ½a(f - t)²`;
the row's slope where a row moves, `V' = -τ(y - f)f'`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gp_response.kernels.look import Look
from gp_response.posterior import Certified, Posterior, Probe
from gp_response.response.energy import Energy
from gp_response.response.sites import stand

Reading = Probe | Look  # solved for, or read from where the observable stands


@dataclass(frozen=True)
class Quadratic:
    """c columns, each an energy at some of s sites: training rows first, then readings of anything else.

    Attributes:
        posterior: at whose mean it stands.
        rows: (a,) training rows of the first sites.
        readings: of the other sites, one after the other.
        column: (s,) the column each site belongs to. columns: c.
        force: (s,) `-∂V/∂z` at the mean.
        curvature, partner: (s,) Q as `curvature[i]` at (i, partner[i]), symmetric; None: each site is its own partner.
    """

    posterior: Posterior
    rows: Tensor
    readings: tuple[Reading, ...]
    column: Tensor
    columns: int
    force: Certified
    curvature: Tensor
    partner: Tensor | None = None

    @classmethod
    def of(cls, posterior: Posterior, energy: Energy) -> "Quadratic":
        """An energy of the field's values at training rows, other points, or both."""
        parts = sorted(energy.parts, key=lambda part: part.points is not None)
        grounds = [stand(posterior, part) for part in parts]
        readings = tuple(
            _each(posterior, part, ground.probe)
            for part, ground in zip(parts, grounds, strict=True)
            if ground.probe is not None
        )
        rows = [part.at for part in parts if part.points is None]
        return cls(
            posterior, torch.cat(rows) if rows else energy.at[:0], readings,
            torch.cat([part.column for part in parts]), energy.columns,
            Certified.joined([ground.force for ground in grounds]), torch.cat([part.curvature for part in parts]),
        )  # fmt: skip

    def seen(self, probe: Probe) -> Certified:
        """Covariance of a probe's points with the sites, (p, s)."""
        n = len(self.posterior.data.train)
        parts = []
        if len(self.rows):
            every = len(self.rows) == n and torch.equal(self.rows, torch.arange(n, device=self.rows.device))
            parts.append(probe.to_train(None if every else self.rows))
        parts += [probe.toward(r) if isinstance(r, Look) else probe.to(r) for r in self.readings]
        return Certified.joined(parts)

    def marginals(self, seen: Certified) -> tuple[Certified, Certified]:
        """First-order motions of means, `β S g`, and of variances, `-β S Q S`, by every column, (p, c) each."""
        beta, (cov, off) = self.posterior.beta, seen
        mean = _product(cov, off, *self.force)
        far = seen if self.partner is None else Certified(*(part[:, self.partner] for part in seen))
        square = _product(cov, off, *far)
        variance = Certified(-self.curvature * square.value, self.curvature.abs() * square.error)
        return tuple(Certified(*(beta * self._summed(p) for p in part)) for part in (mean, variance))  # type: ignore[return-value]

    def _summed(self, per_site: Tensor) -> Tensor:
        out = per_site.new_zeros(len(per_site), self.columns)
        return out.index_add(1, self.column, per_site)


def _each(posterior: Posterior, part: Energy, there: Probe) -> Probe:
    """A probe with a reading for each site, in their order."""
    whole = torch.equal(part.at, torch.arange(len(there.look), device=part.at.device))
    return there if whole else posterior.probe(there.look[part.at])


def _product(one: Tensor, one_error: Tensor, two: Tensor, two_error: Tensor) -> Certified:
    return Certified(one * two, one_error * (two.abs() + two_error) + one.abs() * two_error)


def of_columns(energy: Energy, used: Tensor) -> Energy:
    """The sites of some columns, numbered anew in the order of `used` (sorted)."""
    mine = torch.isin(energy.column, used)
    parts = {name: getattr(energy, name)[mine] for name in ("at", "curvature", "target", "pull")}
    column = torch.searchsorted(used, energy.column[mine])
    also = None if energy.also is None else of_columns(energy.also, used)
    return replace(energy, column=column, columns=len(used), constant=None, also=also, **parts)


__all__ = ["Quadratic", "Reading", "of_columns"]
