"""Cholesky factors that measure what they return."""

from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import InputError, SolverError
from gp_response.linalg.extended import residual

# Rounding of the matrix entries themselves, in units of eps: a kernel entry carries a few (scaling, distance, exp).
ROUNDING = 8.0


class Measured(NamedTuple):
    """A solve and what was measured about it, per column."""

    value: Tensor
    relative_residual: Tensor
    defect: Tensor


class CholeskyFactor:
    """`A = L Lᵀ` for a symmetric positive definite matrix, kept with A so that residuals are measured.

    Args:
        matrix: (n, n) symmetric positive definite.
        refine: steps of iterative refinement after each solve, with residuals in twice the matrix's precision.

    Raises:
        SolverError: the matrix is not positive definite in this precision.
    """

    def __init__(self, matrix: Tensor, *, refine: int = 1):
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InputError(f"Cholesky got a matrix of shape {tuple(matrix.shape)}; expected (n, n)")
        self.matrix, self.refine = matrix, refine
        try:
            self.lower = torch.linalg.cholesky(matrix)
        except torch.linalg.LinAlgError as error:
            raise SolverError(_not_positive_definite(matrix)) from error
        self.frobenius = torch.linalg.matrix_norm(matrix)

    def solve(self, rhs: Tensor) -> Measured:
        """`A⁻¹ rhs` for rhs (n, t); residuals are recomputed from A in extended precision, never inferred from the factor."""
        value = torch.cholesky_solve(rhs, self.lower)
        for _ in range(self.refine):
            value = value + torch.cholesky_solve(residual(rhs, self.matrix, value), self.lower)
        left = residual(rhs, self.matrix, value).norm(dim=0)
        size = rhs.norm(dim=0)
        eps = torch.finfo(rhs.dtype).eps
        defect = left + ROUNDING * eps * (self.frobenius * value.norm(dim=0) + size)
        return Measured(value, left / torch.where(size > 0, size, torch.ones_like(size)), defect)

    def logdet(self) -> Tensor:
        return 2.0 * self.lower.diagonal().log().sum()


def _not_positive_definite(matrix: Tensor) -> str:
    diagonal = matrix.detach().diagonal()
    name = str(matrix.dtype).removeprefix("torch.")
    if not bool(torch.isfinite(matrix.detach().sum())):
        return f"the {len(diagonal)} x {len(diagonal)} system holds NaN or inf; check the kernel's values on this data"
    advice = "raise the noise" if matrix.dtype == torch.float64 else "use float64 data or raise the noise"
    return (
        f"the {len(diagonal)} x {len(diagonal)} system is not positive definite in {name} "
        f"(largest diagonal entry {float(diagonal.max()):.3g}); {advice}"
    )


__all__ = ["CholeskyFactor", "Measured"]
