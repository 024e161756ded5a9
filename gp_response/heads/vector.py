"""Parameters as one vector of about logarithms, in float64 on the CPU, for optimisers that think of them so.

A raw value is about the logarithm of a hyperparameter where it is negative and the hyperparameter itself where it is large
(softplus). A unit of it is then nothing to a lengthscale of 300, and an optimum along lengthscales and outputscale,
where kernels become polynomials, looks like one long before it is. Entries are `r` for raw values up to one and
`1 + log r` above: with them a unit is about a factor of e everywhere.
"""

import torch
from torch import Tensor, nn


def read(parameters: list[nn.Parameter]) -> Tensor:
    """All values, (d,)."""
    return to_vector(_raw(parameters))


def read_gradient(parameters: list[nn.Parameter]) -> Tensor:
    """All gradients by the entries of the vector, (d,); zero where there is none."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return torch.cat([g.double().cpu().flatten() for g in grads]) * _raw(parameters).clamp_min(1.0)


def write(parameters: list[nn.Parameter], vector: Tensor) -> None:
    raw = torch.where(vector > 1.0, torch.exp(vector - 1.0), vector)
    with torch.no_grad():
        for parameter, piece in zip(parameters, raw.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(piece.reshape(parameter.shape))


def to_vector(raw: Tensor) -> Tensor:
    """Raw values as entries of the vector."""
    return torch.where(raw > 1.0, 1.0 + raw.clamp_min(1.0).log(), raw)


def _raw(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([p.detach().double().cpu().flatten() for p in parameters])


__all__ = ["read", "read_gradient", "to_vector", "write"]
