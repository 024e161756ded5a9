"""Parameters as one vector, in float64 on the CPU, for optimisers that think of them so."""

import torch
from torch import Tensor, nn


def read(parameters: list[nn.Parameter]) -> Tensor:
    """All values, (d,)."""
    return torch.cat([p.detach().double().cpu().flatten() for p in parameters])


def read_gradient(parameters: list[nn.Parameter]) -> Tensor:
    """All gradients, (d,); zero where there is none."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return torch.cat([g.double().cpu().flatten() for g in grads])


def write(parameters: list[nn.Parameter], vector: Tensor) -> None:
    with torch.no_grad():
        for parameter, piece in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(piece.reshape(parameter.shape))


__all__ = ["read", "read_gradient", "write"]
