"""A linearised network of one output under a likelihood that is not Gaussian: Laplace's approximation around the trained network."""

from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads.exact import Exact
from gp_response.heads.network_model import NetworkModel
from gp_response.heads.network_posterior import OneOutput
from gp_response.heads.sites import LAPLACE, Coupling, Pull, coupling, pull, pull_by_label
from gp_response.heads.tangent_kernel import TangentMean
from gp_response.likelihoods import Likelihood
from gp_response.posterior import Certified


class NetworkSites(OneOutput):
    """A linearised network conditioned on labels such as classes or counts; made by `laplace`.

    Each row is a site: the force `g = d log p/df` on the network's output and the precision `h = -d² log p/df²`, as of any
    Laplace approximation; see `SitePosterior`.
    """

    conjugate = False

    def __init__(self, model: NetworkModel, data: Dataset):
        model.likelihood.check(data.train.y)
        self.law = model.likelihood
        self.problem = SimpleNamespace(y=data.train.y.double())
        self.weight = model.beta * data.train.weights.double()
        self._relative = 0.0
        super().__init__(model, data)

    @property
    def likelihood(self) -> Likelihood:
        return self.law

    @property
    def precisions(self) -> Tensor:
        """`βρ_i h_i`, (n,)."""
        return self.weight * self.row_pull().precision

    @property
    def forces(self) -> Tensor:
        return self.weight * self.row_pull().force
