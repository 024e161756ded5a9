"""Covariances of a perturbation's sites with one another: each distinct site is solved for once, whatever columns share it."""

from typing import NamedTuple

from torch import Tensor

from gp_response.linalg.blocks import byte_budget
from gp_response.posterior import Certified, Posterior, Probe
from gp_response.response.energy import Energy


class Among(NamedTuple):
    """`S_st` of the distinct sites, (u, u), each site's place among them, (s,), and whether each one's solve converged, (u,)."""

    covariance: Certified
    place: Tensor
    converged: Tensor

    def block(self, mine: Tensor) -> tuple[Certified, bool]:
        """Of the sites `mine` (k,): their covariance (k, k), and whether their solves converged."""
        at = self.place[mine]
        return Certified(*(part[at][:, at] for part in self.covariance)), bool(self.converged[at].all())


class EachAmong(NamedTuple):
    """The same for more distinct sites than memory holds the covariance of: solved for when a block is asked for."""

    posterior: Posterior
    at: Tensor

    def block(self, mine: Tensor) -> tuple[Certified, bool]:
        covariance, converged = self.posterior.among(self.at[mine])
        return covariance, bool(converged.all())


def among(posterior: Posterior, energy: Energy, there: Probe | None, *, progress: bool = False) -> Among | EachAmong:
    """Covariances between the sites of an energy.

    Args:
        there: the probe at sites that are no training rows, else None.
    """
    if there is not None:
        return Among(there.to(there), energy.at, there.converged)
    rows, place = energy.at.unique(return_inverse=True)
    if 4 * 8 * len(rows) ** 2 > byte_budget(None, rows.device):
        return EachAmong(posterior, energy.at)
    covariance, converged = posterior.among(rows, progress=progress)
    return Among(covariance, place, converged)


__all__ = ["Among", "EachAmong", "among"]
