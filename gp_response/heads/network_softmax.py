"""A linearised classifier without its data: what conditions it again."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads.network_model import NetworkModel
from gp_response.likelihoods import Likelihood


class NetworkSoftmax:
    """`f(x; θ*) + J(x)(θ - θ*)` under the softmax, θ ~ N(θ₀, Λ₀⁻¹) with θ₀ where it makes θ* the mode given the first data.

    Made by `NetworkClassPosterior.head`. Its mode given other data is found by Newton's method to the rounding of its gradient.

    Args:
        kind: of posterior.
        model: network, prior, likelihood, solver.
        centre: `Λ₀^½ (θ₀ - θ*)`, (P,).
        dim: columns of a row.
    """

    by_differences = (
        True  # a refit is differentiated by differences: the sweeps through a network are no function of weights
    )

    def __init__(self, kind: type, model: NetworkModel, centre: Tensor, dim: int):
        self.kind, self.model, self.centre, self.dim = kind, model, centre, dim
        self.beta = model.beta

    @property
    def likelihood(self) -> Likelihood:
        return self.model.likelihood

    @property
    def solver(self) -> Any:
        return self.model.solver

    def condition(self, data: Dataset) -> Any:
        """The posterior given the training rows, a `NetworkClassPosterior` at their mode.

        Raises:
            InputError: rows of another width, labels that are no classes.
            SolverError: the mode was not found.
        """
        if data.dim != self.dim:
            raise InputError(f"the network takes rows of {self.dim} columns; the data have {data.dim}")
        data = data.to(device=self.centre.device)
        return self.kind(replace(self.model, beta=self.beta), data, centre=self.centre)

    def weight_scale(self, data: Dataset) -> float:
        """About the weight at which rows begin to outweigh the prior, at most 1."""
        return min(1.0, 2.0 / (self.beta * float(self.model.rows(data).lengths.square().max())))


__all__ = ["NetworkSoftmax"]
