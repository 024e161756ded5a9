"""What posteriors of linearised networks share whose rows read one output each: a row is a site with a force and a precision."""

from abc import abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.heads.exact import Exact
from gp_response.heads.network_field import NetworkField
from gp_response.heads.network_model import NetworkModel
from gp_response.heads.tangent_kernel import TangentMean


class OneOutput(NetworkField):
    """A linearised network of one output a row of data, be it the only one or the one that the row names.

    Attributes:
        outputs: f(x_i; θ*), (n,) float64.
    """

    def __init__(self, model: NetworkModel, data: Dataset):
        self.outputs = model.rows(data).outputs().flatten()
        super().__init__(model, data)

    @property
    @abstractmethod
    def precisions(self) -> Tensor:
        """What each row adds to the precision of its output, βρ counted in, (n,)."""

    @property
    @abstractmethod
    def forces(self) -> Tensor:
        """What each row pulls its output at θ* with, βρ counted in, (n,)."""

    @cached_property
    def pull(self) -> Tensor:
        """`Λ₀(θ₀ - θ*)` whitened, (P,): what the prior pulls with where θ* is the mode."""
        return -self.gather(self.forces[:, None])[:, 0]

    def gather(self, forces: Tensor) -> Tensor:
        """`Jᵀ u` for u (n, t) on the rows of data, whitened, (P, t)."""
        return self.rows.gather(forces.reshape(len(self.rows), -1, forces.shape[1]))

    def spread(self, directions: Tensor) -> Tensor:
        """`J v` at the rows of data, (n, t), for whitened v (P, t)."""
        return self.rows.spread(directions).flatten(0, 1)

    @cached_property
    def head(self) -> Exact:
        """The same model in function space: the tangent kernel's process, which conditions again on any data."""
        model = self.model
        mean = TangentMean(model.tangent, self.pull / model.root)
        return Exact(self.kernel, mean=mean, beta=self.beta, likelihood=model.likelihood)

    @cached_property
    def row_roots(self) -> Tensor:
        """Bound on `√S_ii` of every row, (n,): by its own observation, or its prior."""
        if self.model.kind == "hessian":  # the rest may take precision away
            return super().row_roots
        return torch.minimum(super().row_roots, self.precisions.clamp_min(1e-300).rsqrt())

    def _size(self) -> Tensor:
        return (self.precisions * self.rows.lengths.square()).sum()


__all__ = ["OneOutput"]
