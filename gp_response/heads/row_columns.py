"""Columns of the inverse of an exact posterior's system, from which training rows see any point of the field."""

from typing import Any

import torch
from torch import Tensor

from gp_response.kernels.look import Look, prior_deviation
from gp_response.linalg.system import ROUNDING
from gp_response.posterior import Certified

EPS = torch.finfo(torch.float64).eps


class RowColumns:
    """`u_j = B⁻¹ e_j` of training rows (k,): `S_jx = D_j e_jᵀ A⁻¹ K_Xx` is then a product for any x, in which nothing cancels.

    (Solved for from the row as a point, `S_jx = k_jx - K_jX A⁻¹ K_Xx` is the small difference of two large numbers.)

    Args:
        posterior: an `ExactPosterior` in which all these rows have weight.
    """

    def __init__(self, posterior: Any, rows: Tensor):
        self.posterior, self.back = posterior, posterior.whitening.back[rows]
        unit = torch.zeros(len(posterior.data.train), len(rows), dtype=torch.float64, device=rows.device)
        unit[rows, torch.arange(len(rows), device=rows.device)] = 1.0
        self.solution = posterior.factor.solve(unit)
        self.converged = self.solution.converged & posterior.target.converged

    def toward(self, look: Look) -> Certified:
        """Covariance of the rows with readings, (k, p).

        For w = p k a residual ρ moves it by `|wᵀB⁻¹ρ| <= √(wᵀB⁻¹w) ‖ρ‖`, the root at most the prior deviation.
        """
        right, look = self.posterior.whitened(look), look.double()
        value = self.solution.value.T @ right
        error = self.solution.defect[:, None] * prior_deviation(self.posterior.kernel, look)
        error = torch.minimum(error, self.solution.error.T @ right.abs())
        error = error + ROUNDING * EPS * (self.solution.value.abs().T @ right.abs())
        return Certified(self.back[:, None] * value, self.back[:, None] * error)


__all__ = ["RowColumns"]
