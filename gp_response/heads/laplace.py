"""The Laplace approximation of a trained network, as a posterior that every response can be asked of."""

from typing import Any

import torch
from torch import Tensor, nn

from gp_response.curvature import Curv, Network
from gp_response.data import Dataset, dataset
from gp_response.errors import InputError, unknown_name
from gp_response.heads.network_model import NetworkModel
from gp_response.heads.network_posterior import NetworkPosterior
from gp_response.heads.tangent_map import Inputs, TangentMap
from gp_response.likelihoods import Gaussian, Likelihood
from gp_response.solvers.dense import Dense


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
) -> NetworkPosterior:
    data, inputs = as_rows(data)
    network = Network(net, parameters).double()
    tangent = TangentMap(network, inputs)
    precision = torch.as_tensor(prior_precision, dtype=torch.float64)

    def make(model, data):
        t = data.train
        w = t.weights.double() / (model.noise if t.noise is None else model.noise + t.noise)
        return Curv(model.tangent.network, model.tangent.inputs.of(t.x.double()), w, model.beta, lambda at, J: J, model.batch)

    model = NetworkModel(tangent, precision + localise, likelihood, make, curvature, float(beta), solver or Dense(), batch_size)
    return NetworkPosterior(model, data)


def as_rows(data: Dataset | tuple[Any, Any]) -> tuple[Dataset, Inputs]:
    """Data as rows of numbers, and what the module takes for a row."""
    if isinstance(data, Dataset):
        return data, Inputs((data.dim,))
    x = torch.as_tensor(data[0])
    integers = None if x.is_floating_point() else x.dtype
    shape = tuple(x.shape[1:]) or (1,)
    return dataset(x.reshape(len(x), -1), data[1], standardise=False), Inputs(shape, integers)
