"""Finite changes at training rows and at other points at once: rows that move, and weight that goes to new rows."""

from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gp_response.posterior import Certified, Posterior, Probe
from gp_response.response.among import among
from gp_response.response.energy import Energy
from gp_response.response.set_change import change_of_set
from gp_response.response.sites import Ground, covariances, stand


class JointSites(NamedTuple):
    """All sites of an energy, of either kind, one after the other."""

    parts: list[Energy]
    grounds: list[Ground]

    @classmethod
    def of(cls, posterior: Posterior, energy: Energy) -> "JointSites":
        return cls(energy.parts, [stand(posterior, part) for part in energy.parts])

    def joined(self, name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in self.parts])

    def force(self) -> Certified:
        return Certified.joined([ground.force for ground in self.grounds])

    def seen(self, posterior: Posterior, probe: Probe) -> Certified:
        """Covariance of a probe with the sites, (p, s)."""
        pairs = zip(self.parts, self.grounds, strict=True)
        return Certified.joined([covariances(posterior, probe, part, ground) for part, ground in pairs])

    def block(self, posterior: Posterior, column: int, *, progress: bool = False) -> tuple[Tensor, Certified, bool]:
        """Places of a column's sites, their covariance (k, k), and whether its solves converged."""
        mine = [torch.nonzero(part.column == column).flatten() for part in self.parts]
        offsets = torch.tensor([0, *(len(part.at) for part in self.parts)]).cumsum(0)
        places = torch.cat([some + int(offset) for some, offset in zip(mine, offsets, strict=False)])
        if len(self.parts) == 1:
            one = among(posterior, self.parts[0], self.grounds[0].probe, progress=progress)
            return places, *one.block(mine[0])
        rows, there = self.parts[0].at[mine[0]], self.grounds[1].probe
        new = self.parts[1].at[mine[1]]
        assert there is not None
        own, settled = posterior.among(rows, progress=progress)
        far = there.to(there)
        across = Certified(*(part[new] for part in there.to_train(rows)))
        both = Certified(*(
            torch.cat([torch.cat([a, c.T], dim=1), torch.cat([c, b[new][:, new]], dim=1)])
            for a, b, c in zip(own, far, across, strict=True)
        ))  # fmt: skip
        return places, both, bool(settled.all() & there.converged.all())


def joint_changes(
    posterior: Posterior, probe: Probe, energy: Energy, progress: bool
) -> tuple[Certified, Certified, Tensor]:
    """Changes of means and variances at a probe by every column, (p, c) each, and whether all solves converged."""
    sites, beta = JointSites.of(posterior, energy), posterior.beta
    seen, force = sites.seen(posterior, probe), Certified(*(beta * part for part in sites.force()))
    delta, converged, changes = beta * sites.joined("curvature"), True, []
    for column in tqdm(range(energy.columns), desc="sets", disable=not progress, leave=False):
        at, block, settled = sites.block(posterior, column, progress=progress)
        converged = converged and settled
        mine = Certified(*(part[at] for part in force))
        changes.append(change_of_set(Certified(*(part[:, at] for part in seen)), block, delta[at], mine))
    by_mean = Certified.stacked([change.mean for change in changes])
    return by_mean, Certified.stacked([change.variance for change in changes]), torch.as_tensor(converged)


__all__ = ["JointSites", "joint_changes"]
