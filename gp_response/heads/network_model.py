"""What does not change when the data of a linearised network do: the network, its prior, its likelihood and how it is solved."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset, samples_of
from gp_response.heads.network_curvature import curvature_of
from gp_response.heads.network_rows import NetworkRows
from gp_response.heads.network_system import NetworkSystem, Start
from gp_response.heads.tangent_map import TangentMap
from gp_response.likelihoods import Gaussian, Likelihood


@dataclass(frozen=True, eq=False)
class NetworkModel:
    """A linearised network with a Gaussian prior.

    Attributes:
        tangent: the linearised network.
        precision: Λ₀, localising precision included, 0-dim or (P,) float64.
        likelihood: of a row given its outputs.
        kind: of curvature, "ggn", "hessian" or "fisher".
        beta: inverse temperature.
        solver: with `factor(system)`.
        batch: rows swept together; None: as `NetworkRows` has it.
    """

    tangent: TangentMap
    precision: Tensor
    likelihood: Likelihood
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

    def anew(self) -> "NetworkModel":
        """The same for other data or parameters, the basis of which is not the one that the solver keeps in a folder."""
        if getattr(self.solver, "checkpoint", None) is None:
            return self
        return replace(self, solver=replace(self.solver, checkpoint=None))

    def narrowed(self, parameters: Any) -> "NetworkModel":
        """The same with fewer parameters; the others stay at θ*."""
        network = self.tangent.network.narrowed(parameters)
        precision = self.precision
        if precision.ndim:
            parts = self.tangent.network.tree(precision)
            precision = torch.cat([parts[name].reshape(-1) for name in network.names])
        return replace(self.anew(), tangent=replace(self.tangent, network=network), precision=precision)

    def rows(self, data: Dataset) -> NetworkRows:
        return NetworkRows(self.tangent, samples_of(data).x, self.root, batch=self.batch)

    def curvature(self, data: Dataset) -> Any:
        """Of the data's loss at θ*, as an operator (P, P)."""
        network, inputs = self.tangent.network, self.tangent.inputs
        return curvature_of(network, inputs, data, self.likelihood, self.kind, beta=self.beta, batch=self.batch)

    def system(self, data: Dataset, size: float, start: Start) -> NetworkSystem:
        """The whitened precision of the parameters given data; `size` bounds the trace of its part from data.

        Raises:
            SolverError: it is not positive definite, as may be for the Hessian.
        """
        system = NetworkSystem(self.curvature(data), self.root, size=size, start=start)
        return system if self.kind != "hessian" else system.with_floor()


__all__ = ["NetworkModel"]
