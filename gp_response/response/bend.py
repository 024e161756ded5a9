"""Answers of second order at points: pairs of columns, the covariances between their sites, and the chain rule."""

from dataclasses import replace

import torch
from torch import Tensor

from gp_response.posterior import Certified, Posterior
from gp_response.response.assemble import Answer
from gp_response.response.chain import Slope, chained
from gp_response.response.cover import cover
from gp_response.response.energy import Energy
from gp_response.response.observable import Observable
from gp_response.response.pairs import Bent, Column, bend_of_sets, bend_of_sites
from gp_response.response.sites import covariances, stand


class Bender:
    """One posterior, observable, energy and list of pairs.

    Args:
        pairs: (q, 2) columns of the energy.

    Attributes:
        energy: of the columns that are in a pair, numbered anew.
    """

    MOST = 4096  # pairs answered together

    def __init__(self, posterior: Posterior, observable: Observable, energy: Energy, pairs: Tensor):
        self.posterior, self.observable = posterior, observable
        used, place = pairs.unique(return_inverse=True)
        self.energy = _of_columns(energy, used.to(energy.at.device))
        self.look, self.ground = posterior.look(observable.look()), stand(posterior, self.energy)
        self.sites = [torch.nonzero(self.energy.column == c).flatten() for c in range(len(used))]
        self.pairs, self.between, self.settled = self._between(place.reshape(pairs.shape))

    def _between(self, pairs: Tensor) -> tuple[Tensor, "_Between", Tensor]:
        """Pairs with a solved column first, and the covariances between their sites."""
        energy, there = self.energy, self.ground.probe
        if there is not None:
            place = energy.at
            return pairs, _Between(there.to(there), place, place), there.converged.all()
        solved = cover(pairs, len(self.sites))
        first = torch.isin(pairs[:, 0], solved)
        pairs = torch.where(first[:, None], pairs, pairs.flip(1))
        mine = energy.at[torch.isin(energy.column, solved.to(energy.column.device))].unique()
        others, other_place = energy.at.unique(return_inverse=True)
        whole = len(mine) == len(others)
        covariance, converged = self.posterior.among(mine, None if whole else others)
        place = torch.searchsorted(mine, energy.at).clamp_max(len(mine) - 1)
        return pairs, _Between(covariance, place, other_place), converged.all()

    def answer(self, where: Tensor) -> Answer:
        """Second derivatives at points `where` (p,) for every pair, (p, q)."""
        probe = self.posterior.probe(self.look[where])
        seen = covariances(self.posterior, probe, self.energy, self.ground)
        slope = self._slopes(seen)
        parts = []
        for some in self.pairs.split(self.MOST):
            first = (_of(slope, some[:, 0]), _of(slope, some[:, 1]))
            parts.append(chained(self.observable, where, probe, self.posterior.noise, first, self._bent(seen, some)))
        value, error = (torch.cat([part[k] for part in parts], dim=1) for k in range(2))
        return Answer(value, error, probe.converged & self.settled)

    def _bent(self, seen: Certified, pairs: Tensor) -> Bent:
        beta = self.posterior.beta
        if self.energy.one_each:
            one, two = (self._column(seen, pairs[:, k]) for k in range(2))
            return bend_of_sites(one, two, self.between.each(pairs[:, 0], pairs[:, 1]), beta)
        found = []
        for c, d in pairs.tolist():
            one, two = self.sites[c], self.sites[d]
            block = self.between.block(one, two)
            found.append(bend_of_sets(self._column(seen, one), self._column(seen, two), block, beta))
        return Bent(*(Certified(*(torch.cat([b[m][k] for b in found], dim=1) for k in range(2))) for m in range(2)))

    def _column(self, seen: Certified, sites: Tensor) -> Column:
        force = Certified(*(part[sites] for part in self.ground.force))
        return Column(Certified(*(part[:, sites] for part in seen)), force, self.energy.curvature[sites])

    def _slopes(self, seen: Certified) -> Slope:
        """First derivatives of means and variances by every used column, (p, c), with bounds."""
        (cov, cov_error), (force, force_error) = seen, self.ground.force
        beta, bend = self.posterior.beta, self.energy.curvature
        mean = Certified(beta * cov * force, beta * (cov_error * (force.abs() + force_error) + cov.abs() * force_error))
        variance = Certified(-beta * bend * cov**2, beta * bend.abs() * cov_error * (2.0 * cov.abs() + cov_error))
        return Slope(*(Certified(*(self._summed(p) for p in part)) for part in (mean, variance)))

    def _summed(self, per_site: Tensor) -> Tensor:
        out = per_site.new_zeros(len(per_site), self.energy.columns)
        return out.index_add(1, self.energy.column, per_site)


class _Between:
    """Covariances of sites with sites: of which rows of the matrix the first ones are, of which columns the second."""

    def __init__(self, covariance: Certified, first: Tensor, second: Tensor):
        self.covariance, self.first, self.second = covariance, first, second

    def each(self, one: Tensor, two: Tensor) -> Certified:
        return Certified(*(part[self.first[one], self.second[two]] for part in self.covariance))

    def block(self, one: Tensor, two: Tensor) -> Certified:
        return Certified(*(part[self.first[one]][:, self.second[two]] for part in self.covariance))


def _of(slope: Slope, columns: Tensor) -> Slope:
    return Slope(*(Certified(*(part[:, columns] for part in both)) for both in slope))


def _of_columns(energy: Energy, used: Tensor) -> Energy:
    """The sites of some columns, numbered anew in the order of `used` (sorted)."""
    mine = torch.isin(energy.column, used)
    parts = {name: getattr(energy, name)[mine] for name in ("at", "curvature", "target", "pull")}
    column = torch.searchsorted(used, energy.column[mine])
    return replace(energy, column=column, columns=len(used), constant=None, **parts)


__all__ = ["Bender"]
