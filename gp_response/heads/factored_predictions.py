"""Predictions of an exact head at very many points: one Cholesky factor, one triangular solve a point, no certificate."""

from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.heads.prior_mean import prior_mean_at
from gp_response.heads.whitening import whiten
from gp_response.kernels.system import KernelSystem
from gp_response.linalg.cholesky import CholeskyFactor

BLOCK = 2000


@torch.no_grad()
def factored_predictions(head: Any, data: Dataset, x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and variance of the targets at x (p, d), (p,) each, and the log evidence, with one n x n matrix in memory.

    Args:
        head: `gr.Exact` with Gaussian noise that is the same for all rows.

    Raises:
        SolverError: the matrix does not fit into memory, or is not positive definite in float64.
    """
    white = whiten(data, head.noise.detach(), head.beta)
    train = data.train.x.double()
    system = KernelSystem(head.kernel, train, white.scale, white.shift, keep=0)
    factor = CholeskyFactor(system.dense(torch.float64), overwrite=True)
    centred = white.scale * (data.train.y.double() - prior_mean_at(head.prior_mean, train))
    target = torch.linalg.solve_triangular(factor.lower, centred[:, None], upper=False)
    means, variances = [], []
    for part in x.double().split(BLOCK):
        cross = white.scale[:, None] * head.kernel.matrix(train, part)
        cross = torch.linalg.solve_triangular(factor.lower, cross, upper=False)
        means.append(prior_mean_at(head.prior_mean, part) + (cross.T @ target)[:, 0])
        variances.append(head.kernel.diagonal(part) - cross.square().sum(dim=0) + head.noise)
    evidence = -0.5 * float(target.square().sum() + factor.logdet())
    evidence += float(white.log_normaliser(data, head.noise.detach(), head.beta))
    return torch.cat(means), torch.cat(variances), evidence


__all__ = ["factored_predictions"]
