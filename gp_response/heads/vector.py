"""Parameters as one vector of about logarithms, in float64 on the CPU, for optimisers that think of them so.

A raw value is about the logarithm of a hyperparameter where it is negative and the hyperparameter itself where it is large
(softplus). A unit of it is then nothing to a lengthscale of 300, and an optimum along lengthscales and outputscale,
where kernels become polynomials, looks like one long before it is. Entries are `r` for raw values up to one and
`1 + log r` above: with them a unit is about a factor of e everywhere.

Coordinates of inducing points are no logarithms. A loss bends by each of m points about 1/m as much as by a hyperparameter; in
units of √m of the coordinates' own, it bends alike by all, which quasi-Newton methods otherwise spend their first steps on.
"""

import math

import torch
from torch import Tensor, nn


def read(parameters: list[nn.Parameter], points: nn.Parameter | None = None) -> Tensor:
    """All values, (d,); `points` is the parameter that holds inducing points (m, d'), if one does."""
    return torch.cat([_entries(_raw(p), _unit(p, points)) for p in parameters])


def read_gradient(parameters: list[nn.Parameter], points: nn.Parameter | None = None) -> Tensor:
    """All gradients by the entries of the vector, (d,); zero where there is none."""
    return torch.cat([_slope(p, _unit(p, points)) for p in parameters])


def write(parameters: list[nn.Parameter], vector: Tensor, points: nn.Parameter | None = None) -> None:
    with torch.no_grad():
        for parameter, piece in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
            unit = _unit(parameter, points)
            raw = torch.where(piece > 1.0, torch.exp(piece - 1.0), piece) if unit is None else unit * piece
            parameter.copy_(raw.reshape(parameter.shape))


def to_vector(raw: Tensor) -> Tensor:
    """Raw values as entries of the vector."""
    return torch.where(raw > 1.0, 1.0 + raw.clamp_min(1.0).log(), raw)


def _unit(parameter: nn.Parameter, points: nn.Parameter | None) -> float | None:
    """The unit of a parameter that is no hyperparameter."""
    return math.sqrt(len(parameter)) if parameter is points else None


def _entries(raw: Tensor, unit: float | None) -> Tensor:
    return to_vector(raw) if unit is None else raw / unit


def _slope(parameter: nn.Parameter, unit: float | None) -> Tensor:
    grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return grad.double().cpu().flatten() * (_raw(parameter).clamp_min(1.0) if unit is None else unit)


def _raw(parameter: nn.Parameter) -> Tensor:
    return parameter.detach().double().cpu().flatten()


__all__ = ["read", "read_gradient", "to_vector", "write"]
