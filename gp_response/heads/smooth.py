"""The exact posterior's marginals in a form that is smooth where a weight is zero.

The symmetric systems have site variances `D = 1/τ` or `√τ` in them, which have no derivative at τ = 0, where a new row's
weight starts. `I + τ K` is the same algebra; it is not symmetric and is solved by LU. It serves derivatives of refits
that insert rows, and nothing else.
"""

from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset, row_noise
from gp_response.heads.prior_mean import prior_mean_at


def smooth_marginals(head: Any, data: Dataset, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the field at x (p, d), each (p,), differentiable in `data.train.weights` from zero on."""
    train, noise = data.train, head.noise.detach().to(data.train.x)
    precision = head.beta * train.weights / row_noise(data, noise)
    cross = head.kernel.matrix(train.x, x).detach()
    system = precision[:, None] * head.kernel.matrix(train.x).detach()
    system = system + torch.eye(len(train.y), dtype=system.dtype, device=system.device)
    right = precision[:, None] * torch.cat([(train.y - prior_mean_at(head.prior_mean, train.x))[:, None], cross], dim=1)
    solved = torch.linalg.solve(system, right)
    mean = prior_mean_at(head.prior_mean, x) + cross.T @ solved[:, 0]
    return mean, head.kernel.diagonal(x).detach() - (cross * solved[:, 1:]).sum(dim=0)


__all__ = ["smooth_marginals"]
