"""The Laplace approximation of a trained network, as a posterior that every response can be asked of."""

from typing import Any

import torch
from torch import Tensor, nn

from gp_response.curvature import Network
from gp_response.data import Dataset, dataset
from gp_response.errors import InputError, unknown_name
from gp_response.heads.network_classes import NetworkClassPosterior
from gp_response.heads.network_model import NetworkModel
from gp_response.heads.network_posterior import NetworkPosterior
from gp_response.heads.network_sites import NetworkSites
from gp_response.heads.tangent_map import Inputs, TangentMap
from gp_response.likelihoods import Categorical, Gaussian, Likelihood
from gp_response.solvers.dense import Dense


class Curv:
    def __init__(self, network, x, hess, batch):
        self.N, self.x, self.hess, self.b = network, x, hess, batch or 512
        self.shape=(network.count,)*2; self.device=network.device; self.dtype=network.dtype
    def matmat(self, V):
        tot = torch.zeros_like(V)
        for at in torch.arange(len(self.x)).split(self.b):
            x=self.x[at]
            J = self.N.push(x, V)
            tot += self.N.pull(x, self.hess(at, J))
        return tot


def laplace(
    net: nn.Module,
    data: Dataset | tuple[Any, Any],
    *,
    likelihood: Likelihood,
    parameters: Any = "all",
    prior_precision: float | Tensor | str = 1.0,
    localise: float = 0.0,
    curvature: str = "ggn",
    solver: Any = None,
    beta: float = 1.0,
    batch_size: int | None = None,
) -> NetworkPosterior | NetworkClassPosterior | NetworkSites:
    data, inputs = as_rows(data)
    network = Network(net, parameters).double()
    several = isinstance(likelihood, Categorical)
    tangent = TangentMap(network, inputs, likelihood.classes if several else None)
    precision = torch.as_tensor(prior_precision, dtype=torch.float64)

    def make(model, data):
        t = data.train
        x = inputs.of(t.x.double())
        out = network.output(x)
        w = t.weights.double() * model.beta
        if isinstance(likelihood, Gaussian):
            w = w / (model.noise if t.noise is None else model.noise + t.noise)
            h = lambda at, J: w[at][:, None, None] * J
        elif several:
            p = torch.softmax(out, -1)
            h = lambda at, J: w[at][:, None, None] * (p[at][..., None] * J - p[at][..., None] * (p[at][..., None] * J).sum(1, keepdim=True))
        else:
            hh = -likelihood.slopes(out[:, 0], t.y.double()).second
            h = lambda at, J: (w*hh)[at][:, None, None] * J
        return Curv(network, x, h, model.batch)

    model = NetworkModel(tangent, precision + localise, likelihood, make, curvature, float(beta), solver or Dense(), batch_size)
    if several:
        return NetworkClassPosterior(model, data)
    return NetworkPosterior(model, data) if isinstance(likelihood, Gaussian) else NetworkSites(model, data)


def as_rows(data: Dataset | tuple[Any, Any]) -> tuple[Dataset, Inputs]:
    """Data as rows of numbers, and what the module takes for a row."""
    if isinstance(data, Dataset):
        return data, Inputs((data.dim,))
    x = torch.as_tensor(data[0])
    integers = None if x.is_floating_point() else x.dtype
    shape = tuple(x.shape[1:]) or (1,)
    return dataset(x.reshape(len(x), -1), data[1], standardise=False), Inputs(shape, integers)
