"""Cholesky factors whose solves are refined with residuals of the matrix itself."""

from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import SolverError
from gp_response.linalg.memory import require_memory_for_factor
from gp_response.linalg.system import System
from gp_response.linalg.transforms import inside_transform

WORTH = 0.5  # refinement goes on while a step leaves less than this fraction of the residual, or of the step before
EPS, TINY = torch.finfo(torch.float64).eps, torch.finfo(torch.float64).tiny


class Measured(NamedTuple):
    """A solve (n, t), what is left of the right-hand side (n, t), a bound on its norm (t,), and the refinement steps."""

    value: Tensor
    left: Tensor
    defect: Tensor
    steps: int


class CholeskyFactor:
    """`A = L Lᵀ` for a symmetric positive definite (n, n) matrix.

    Args:
        matrix: A.
        overwrite: whether L may take the memory of A.

    Raises:
        SolverError: the matrix is not positive definite in its precision.
    """

    def __init__(self, matrix: Tensor, *, overwrite: bool = False):
        self.precision = str(matrix.dtype).removeprefix("torch.")
        if inside_transform():
            self.lower = torch.linalg.cholesky(matrix)
            return
        finite = bool(torch.isfinite(matrix.sum()))
        matrix = matrix if overwrite else matrix.clone()
        # LAPACK works on columns and would copy rows; transposing a symmetric matrix changes nothing but its layout.
        matrix = matrix.mT if matrix.is_contiguous() else matrix
        info = torch.empty((), dtype=torch.int32, device=matrix.device)
        torch.linalg.cholesky_ex(matrix, out=(matrix, info))
        if bool(info) or not finite:
            raise SolverError(_refusal(matrix, int(info), finite))
        self.lower = matrix

    @classmethod
    def of(cls, system: System, precision: str | None) -> "CholeskyFactor":
        """Factor a system in "float32", "float64", or None: its own precision, and float64 where that one fails."""
        dtype = system.dtype if precision is None else getattr(torch, precision)
        matrix = _dense(system, dtype)
        try:
            return cls(matrix, overwrite=True)
        except SolverError:
            if precision is not None or dtype == torch.float64:
                raise
        del matrix
        return cls(_dense(system, torch.float64), overwrite=True)

    def back(self, rhs: Tensor) -> Tensor:
        """`L⁻ᵀ L⁻¹ rhs`, in float64."""
        return torch.cholesky_solve(rhs.to(self.lower.dtype), self.lower).to(rhs)

    def solve(self, system: System, rhs: Tensor, *, refine: int) -> Measured:
        """`A⁻¹ rhs` for rhs (n, t) float64; residuals are recomputed in extended precision, never inferred from the factor."""
        value = self.back(rhs)
        left = system.residual(rhs, value, extended=True)
        last, steps, worth = value.norm(dim=0), 0, True
        while steps < refine and worth:
            size = left.norm(dim=0)
            scale = torch.where(size > 0, size, torch.ones_like(size))
            step = self.back(left / scale) * scale
            new, length = value + step, step.norm(dim=0)
            new_left = system.residual(rhs, new, extended=True)
            now, contracts = new_left.norm(dim=0), length <= WORTH * last
            # A backward stable solve leaves the residual of its rounded value, which says nothing of how good that is: steps do.
            better = (now < size) | (contracts & (now <= size / WORTH))
            value, left = torch.where(better, new, value), torch.where(better, new_left, left)
            steps += 1
            # Inside a transform nothing can be looked at: one step, which is what float64 needs.
            if inside_transform():
                break
            next_step = length * length / last.clamp_min(TINY)
            more = contracts & better & (next_step > EPS * value.norm(dim=0))
            worth, last = bool(((now < WORTH * size) | more).any()), length
        return Measured(value, left, left.norm(dim=0) + system.rounding(value, extended=True), steps)

    def logdet(self) -> Tensor:
        return 2.0 * self.lower.diagonal().double().log().sum()


def _dense(system: System, dtype: torch.dtype) -> Tensor:
    if not inside_transform():
        require_memory_for_factor(system.n, dtype, system.device)
    return system.dense(dtype)


def _refusal(matrix: Tensor, pivot: int, finite: bool) -> str:
    size = f"the {len(matrix)} x {len(matrix)} system"
    if not finite:
        return f"{size} holds NaN or inf; check the kernel's values on this data"
    name = str(matrix.dtype).removeprefix("torch.")
    advice = "raise the noise" if matrix.dtype == torch.float64 else "use precision='float64', or raise the noise"
    return f"{size} is not positive definite in {name} (at pivot {pivot}); {advice}"


__all__ = ["CholeskyFactor", "Measured"]
