"""Many points seen from few sites: a solve for each site and none for the points.

A covariance is the same from either side. Looked at from the points it takes a solve for each of them, whatever the number of
sites; looked at from the sites it takes one for each of those, and means need none (`Posterior.mean_of`). What is not known then is
the variance at the points, so that observables whose derivatives depend on it are looked at from their points all the same.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gp_response.kernels.look import Look
from gp_response.posterior import Certified, Posterior, Probe
from gp_response.response.energy import Energy
from gp_response.response.observable import Observable

MANY = 64  # points from which on it matters: bounds of means are wider than those of two solves
FEW = 0.25  # sites a point
UNKNOWN = 1e60  # a bound that bounds nothing, and whose products are finite: what it meets is a derivative of zero


class FromSites(Probe):
    """Readings (p,) that are not solved for.

    Args:
        rows: (k,) the sites, distinct training rows, sorted.
        solved: what sees readings from them (`Posterior.from_rows`).
    """

    def __init__(self, posterior: Posterior, rows: Tensor, solved: Any, look: Look):
        self.posterior, self.rows, self.solved, self.look = posterior, rows, solved, look.double()
        self.mean = posterior.mean_of(self.look)
        zero = torch.zeros_like(self.mean.value)
        self.variance = Certified(zero, torch.full_like(zero, UNKNOWN))
        self.converged = solved.converged.all().expand(len(look))

    def to_train(self, rows: Tensor | None = None) -> Certified:
        value, error = self.solved.toward(self.look)
        at = slice(None) if rows is None else torch.searchsorted(self.rows, rows)
        return Certified(value[at].T, error[at].T)

    def to(self, other: Probe) -> Certified:
        value, error = other.toward(self.look)
        return Certified(value.T, error.T)


def viewed(
    posterior: Posterior, observable: Observable, energies: Sequence[Energy] | None, points: int
) -> Callable[[Look], Probe]:
    """How to look at an observable's points: by a solve each, or from the sites of energies, where these are few rows.

    Args:
        energies: all that moves the field; None where something else does, too.
        points: how many there are.
    """
    if energies is None or observable.reads_variance or points < MANY or any(e.points is not None for e in energies):
        return posterior.probe
    rows = torch.cat([energy.at for energy in energies]).unique()
    if not len(rows) or len(rows) > min(FEW * points, posterior._step()):
        return posterior.probe
    solved = posterior.from_rows(rows)
    return posterior.probe if solved is None else partial(FromSites, posterior, rows, solved)


__all__ = ["FromSites", "viewed"]
