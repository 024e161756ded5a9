"""Small networks and their posteriors written out as matrices, against which `gr.laplace` is held."""

import itertools

import numpy
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from gp_response.data import Dataset

EXTENDED = 500  # parameters


def mlp(*widths: int, seed: int = 0) -> nn.Module:
    """A tanh network in float64."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


class Apart(nn.Module):
    """Two outputs, each of a network of its own."""

    def __init__(self, dim: int):
        super().__init__()
        self.nets = nn.ModuleList([mlp(dim, 5, 1, seed=s) for s in (1, 2)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([net(x) for net in self.nets], dim=1)


def jacobian(net: nn.Module, x: Tensor, names: list[str] | None = None) -> Tensor:
    """J (n, C, P) by reverse mode, written out."""
    chosen = {name: p.detach() for name, p in net.named_parameters() if names is None or name in names}
    found = jacrev(lambda parts: functional_call(net, parts, (x,)))(chosen)
    return torch.cat([part.flatten(2) for part in found.values()], dim=2)


def covariance(net: nn.Module, data: Dataset, x: Tensor, *, noise: float, prior: Tensor | float, beta: float) -> Tensor:
    """`J(x) Λ⁻¹ J(x)ᵀ` of the first output under Gaussian noise."""
    inside, outside = jacobian(net, data.train.x)[:, 0], jacobian(net, x)[:, 0]
    known = 0.0 if data.train.noise is None else data.train.noise
    weight = beta * data.train.weights / (noise + known)
    return solved(inside, weight, torch.as_tensor(prior).double().expand(inside.shape[1]), outside)


def solved(inside: Tensor, weight: Tensor, prior: Tensor, outside: Tensor) -> Tensor:
    """`J_* (JᵀWJ + Λ₀)⁻¹ J_*ᵀ`, refined in extended precision, which few parameters afford."""
    precision = inside.T @ (weight[:, None] * inside) + torch.diag(prior)
    value = torch.linalg.solve(precision, outside.T)
    if inside.shape[1] > EXTENDED:
        return outside @ value
    j, w, d, right, x = (part.numpy().astype(numpy.longdouble) for part in (inside, weight, prior, outside.T, value))
    for _ in range(2):
        left = right - j.T @ (w[:, None] * (j @ x)) - d[:, None] * x
        x = x + torch.linalg.solve(precision, torch.from_numpy(left.astype(float))).numpy()
    return torch.from_numpy((right.T @ x).astype(float))


__all__ = ["Apart", "covariance", "jacobian", "mlp", "solved"]
