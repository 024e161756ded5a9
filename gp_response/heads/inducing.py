"""Inducing points."""

import torch
from torch import Tensor

from gp_response.kernels.on import On


def split_features(kernel):
    if isinstance(kernel, On):
        return kernel.kernels[0], kernel.features
    return kernel, None


def choose_inducing(kernel, x: Tensor, count: int, *, method: str = "greedy", weights=None, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return x[torch.randperm(len(x), generator=g)[:count]].clone()
