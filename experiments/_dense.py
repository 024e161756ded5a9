"""Responses of an exact Gaussian process that share no solver with what they judge."""

import torch
from torch import Tensor

import gp_response as gr
from gp_response.linalg.extended import residual


@torch.no_grad()
def dense_responses(head: gr.Exact, x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """χ of predictions at (m, d) by every weight, (m, n): χ_ij = σ² S_ij α_j with S = (K + σ²)⁻¹ K_X*.

    By a dense float64 Cholesky factor of the matrix of the points as they are, refined three times with residuals in twice
    that precision.
    """
    x, y, at = x.double(), y.double(), at.double()
    system = head.kernel.matrix(x)
    system.diagonal().add_(head.noise)
    right = torch.cat([head.kernel.matrix(x, at), y[:, None]], dim=1)
    lower = torch.linalg.cholesky(system)
    solved = torch.cholesky_solve(right, lower)
    for _ in range(3):
        solved = solved + torch.cholesky_solve(residual(right, system, solved), lower)
    return solved[:, :-1].T * solved[:, -1] * head.noise
