"""The curvature of a data set's loss in a network's parameters, as a model's likelihood and weights make it."""

import torch

from gp_response.curvature import Network
from gp_response.data import Dataset
from gp_response.heads.tangent_map import Inputs
from gp_response.likelihoods import Categorical, Gaussian, Likelihood


class Curv:  # TEMPORARY until the operators are merged
    def __init__(self, network, x, hess, batch):
        self.N, self.x, self.hess, self.b = network, x, hess, batch or 512
        self.shape = (network.count,) * 2
        self.device = network.device
        self.dtype = network.dtype

    def matmat(self, V):
        tot = torch.zeros_like(V)
        for at in torch.arange(len(self.x)).split(self.b):
            x = self.x[at]
            J = self.N.push(x, V)
            tot += self.N.pull(x, self.hess(at, J))
        return tot


def curvature_of(
    network: Network, inputs: Inputs, data: Dataset, likelihood: Likelihood, kind: str, *, beta: float, batch: int | None
):
    """`β Σ ρ_i ∇²ℓ_i` or what stands for it, as an operator (P, P); known noise of rows is folded into their weights."""
    t = data.train
    x = inputs.of(t.x.to(network.dtype))
    out = network.output(x)
    w = t.weights.to(network.dtype) * beta
    if isinstance(likelihood, Gaussian):
        noise = likelihood.noise.detach()
        w = w / (noise if t.noise is None else noise + t.noise)
        h = lambda at, J: w[at][:, None, None] * J
    elif isinstance(likelihood, Categorical):
        p = torch.softmax(out, -1)
        h = lambda at, J: w[at][:, None, None] * (
            p[at][..., None] * J - p[at][..., None] * (p[at][..., None] * J).sum(1, keepdim=True)
        )
    else:
        hh = -likelihood.slopes(out[:, 0], t.y.to(out)).second
        h = lambda at, J: (w * hh)[at][:, None, None] * J
    return Curv(network, x, h, batch)


__all__ = ["curvature_of"]
