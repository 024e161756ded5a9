"""Answers of second order at points: pairs of columns, the covariances between their sites, and the chain rule."""

import torch
from torch import Tensor

from gp_response.kernels.look import Look
from gp_response.posterior import Certified, Posterior, Probe
from gp_response.response.assemble import Answer
from gp_response.response.chain import Slope, chained
from gp_response.response.cover import cover
from gp_response.response.observable import Observable
from gp_response.response.pairs import Bent, Column, bend
from gp_response.response.perturbation import Perturbation
from gp_response.response.quadratic import Quadratic


class Bender:
    """One posterior, observable, perturbation and list of pairs.

    Args:
        pairs: (q, 2) columns of the perturbation.

    Attributes:
        acts: energies of the columns that are in a pair, numbered anew.
        bent: of each pair, the energy that is of second order in their amplitudes; None where there is none.
    """

    MOST = 4096  # pairs answered together

    def __init__(self, posterior: Posterior, observable: Observable, perturbation: Perturbation, pairs: Tensor):
        self.posterior, self.observable = posterior, observable
        used, place = pairs.unique(return_inverse=True)
        self.acts: Quadratic = perturbation.quadratic(posterior, used)
        self.bent: Quadratic | None = perturbation.bent(posterior, pairs)
        noise = perturbation.noise_slope(posterior)
        self.noise = None if noise is None else noise[used]
        self.look = posterior.look(observable.look())
        self.sites = [torch.nonzero(self.acts.column == c).flatten() for c in range(len(used))]
        self.pairs, self.between, self.settled = self._between(place.reshape(pairs.shape))

    @property
    def width(self) -> int:
        """Numbers a point needs at once."""
        held = 0 if self.bent is None else len(self.bent.column)
        return max(len(self.acts.column), min(len(self.pairs), self.MOST)) + held

    def _between(self, pairs: Tensor) -> tuple[Tensor, "_Between", Tensor]:
        """Pairs with a solved column first, and the covariances between their sites."""
        if self.acts.readings:
            return pairs, *_between_all(self.acts)
        rows, column = self.acts.rows, self.acts.column
        solved = cover(pairs, len(self.sites))
        first = torch.isin(pairs[:, 0], solved)
        pairs = torch.where(first[:, None], pairs, pairs.flip(1))
        mine = rows[torch.isin(column, solved.to(column.device))].unique()
        others, other_place = rows.unique(return_inverse=True)
        whole = len(mine) == len(others)
        covariance, converged = self.posterior.among(mine, None if whole else others)
        place = torch.searchsorted(mine, rows).clamp_max(len(mine) - 1)
        return pairs, _Between(covariance, place, other_place), converged.all()

    def answer(self, where: Tensor) -> Answer:
        """Second derivatives at points `where` (p,) for every pair, (p, q)."""
        probe = self.posterior.probe(self.look[where])
        seen = self.acts.seen(probe)
        slope = Slope(*self.acts.marginals(seen))
        own = None if self.bent is None else Slope(*self.bent.marginals(self.bent.seen(probe)))
        parts = []
        for at in torch.arange(len(self.pairs), device=self.pairs.device).split(self.MOST):
            some = self.pairs[at]
            first = (_of(slope, some[:, 0]), _of(slope, some[:, 1]))
            bent = self._bent(seen, some)
            if own is not None:
                bent = Bent(*(Certified.summed(both) for both in zip(bent, _of(own, at), strict=True)))
            noise = None if self.noise is None else (self.noise[some[:, 0]], self.noise[some[:, 1]])
            parts.append(chained(self.observable, where, probe, self.posterior.noise, first, bent, noise))
        value, error = (torch.cat([part[k] for part in parts], dim=1) for k in range(2))
        return Answer(value, error, probe.converged & self.settled)

    def _bent(self, seen: Certified, pairs: Tensor) -> Bent:
        sizes = {len(sites) for sites in self.sites}
        if len(sizes) == 1:
            return self._of_equals(seen, torch.stack(self.sites), pairs)
        return _side_by_side([self._of_pair(seen, self.sites[c][None], self.sites[d][None]) for c, d in pairs.tolist()])

    def _of_equals(self, seen: Certified, sites: Tensor, pairs: Tensor) -> Bent:
        """Columns (c, k) with as many sites each: pairs together, as many as keep blocks small."""
        step = max(1, self.MOST // sites.shape[1] ** 2)
        return _side_by_side([self._of_pair(seen, sites[some[:, 0]], sites[some[:, 1]]) for some in pairs.split(step)])

    def _of_pair(self, seen: Certified, one: Tensor, two: Tensor) -> Bent:
        return bend(self._column(seen, one), self._column(seen, two), self.between.block(one, two), self.posterior.beta)

    def _column(self, seen: Certified, sites: Tensor) -> Column:
        acts = self.acts
        force = Certified(*(part[sites] for part in acts.force))
        partner = None
        if acts.partner is not None:
            partner = (acts.partner[sites][:, :, None] == sites[:, None, :]).long().argmax(dim=2)
        return Column(Certified(*(part[:, sites] for part in seen)), force, acts.curvature[sites], partner)


def _side_by_side(found: list[Bent]) -> Bent:
    return Bent(*(Certified.joined(parts) for parts in zip(*found, strict=True)))


class _Between:
    """Covariances of sites with sites: of which rows of the matrix the first ones are, of which columns the second."""

    def __init__(self, covariance: Certified, first: Tensor, second: Tensor):
        self.covariance, self.first, self.second = covariance, first, second

    def block(self, one: Tensor, two: Tensor) -> Certified:
        """Of sites (q, k) and (q, l), (q, k, l)."""
        at, to = self.first[one][:, :, None], self.second[two][:, None, :]
        return Certified(*(part[at, to] for part in self.covariance))


def _between_all(acts: Quadratic) -> tuple[_Between, Tensor]:
    """Covariances of all sites with one another, and whether their solves converged: a solve for each reading."""
    posterior, rows = acts.posterior, acts.rows
    there: list[Probe] = [posterior.probe(r) if isinstance(r, Look) else r for r in acts.readings]
    distinct, place = rows.unique(return_inverse=True)
    grid = [[one.to(two) for two in there] for one in there]
    settled = torch.cat([probe.converged for probe in there]).all()
    if len(distinct):
        own, converged = posterior.among(distinct)
        across = [probe.to_train(distinct) for probe in there]
        turned = [Certified(*(part.T for part in block)) for block in across]
        grid = [[own, *turned], *([block, *row] for block, row in zip(across, grid, strict=True))]
        settled = settled & converged.all()
    value, error = (torch.cat([torch.cat([b[k] for b in row], dim=1) for row in grid]) for k in range(2))
    others = torch.arange(len(acts.column) - len(rows), device=rows.device) + len(distinct)
    place = torch.cat([place, others])
    return _Between(Certified(value, error), place, place), settled


def _of(slope: Slope, columns: Tensor) -> Slope:
    return Slope(*(Certified(*(part[:, columns] for part in both)) for both in slope))


__all__ = ["Bender"]
