"""What does not change when the data of a linearised network do: the network, its prior, its likelihood and how it is solved."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.heads.network_rows import NetworkRows
from gp_response.heads.network_system import NetworkSystem
from gp_response.heads.tangent_map import TangentMap
from gp_response.likelihoods import Gaussian, Likelihood


@dataclass(frozen=True, eq=False)
class NetworkModel:
    """A linearised network with a Gaussian prior.

    Attributes:
        tangent: the linearised network.
        precision: Λ₀, localising precision included, 0-dim or (P,) float64.
        likelihood: of a row given its outputs.
        curvature: makes G from data, `curvature(model, data)`.
        kind: "ggn", "hessian" or "fisher".
        beta: inverse temperature.
        solver: with `factor(system)`.
        batch: rows swept together; None: as `NetworkRows` has it.
    """

    tangent: TangentMap
    precision: Tensor
    likelihood: Likelihood
    curvature: Any
    kind: str
    beta: float
    solver: Any
    batch: int | None = None

    @property
    def root(self) -> Tensor:
        """Λ₀^½."""
        return self.precision.sqrt()

    @property
    def noise(self) -> Tensor:
        """σ², 0-dim float64; NaN where the likelihood is not Gaussian."""
        if isinstance(self.likelihood, Gaussian):
            return self.likelihood.noise.detach().double().to(self.precision.device)
        return torch.full((), float("nan"), dtype=torch.float64, device=self.precision.device)

    def rows(self, data: Dataset) -> NetworkRows:
        return NetworkRows(self.tangent, data.train.x, self.root, batch=self.batch)

    def system(self, data: Dataset, size: float, floor: float | None) -> NetworkSystem:
        """The whitened precision of the parameters given data; `size` bounds the trace of its part from data."""
        return NetworkSystem(self.curvature(self, data), self.root, size=size, floor=floor)


__all__ = ["NetworkModel"]
