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
from gp_response.kernels.look import Look, own


def smooth_marginals(head: Any, data: Dataset, look: Look) -> tuple[Tensor, Tensor]:
    """Mean and variance of p readings of the field, each (p,), differentiable in `data.train.weights` from zero on."""
    train, noise = data.train, head.noise.detach().to(data.train.x)
    precision = head.beta * train.weights / row_noise(data, noise)
    direction = None if look.direction is None else look.direction.to(train.x)
    look = Look(look.points.to(train.x), direction, look.component)
    cross = look.through(head.kernel, lambda k, z: k.matrix(train.x, z)).detach()
    system = precision[:, None] * head.kernel.matrix(train.x).detach()
    system = system + torch.eye(len(train.y), dtype=system.dtype, device=system.device)
    right = precision[:, None] * torch.cat([(train.y - prior_mean_at(head.prior_mean, train.x))[:, None], cross], dim=1)
    solved = torch.linalg.solve(system, right)
    mean = look.start(lambda z: prior_mean_at(head.prior_mean, z)) + cross.T @ solved[:, 0]
    return mean, own(head.kernel, look).detach() - (cross * solved[:, 1:]).sum(dim=0)


__all__ = ["smooth_marginals"]
