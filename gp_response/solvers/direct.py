"""Direct solves by a Cholesky factor, refined and measured."""

import time
from dataclasses import dataclass

import torch
from linear_operator import LinearOperator
from torch import Tensor

from gp_response.errors import InputError
from gp_response.linalg.cholesky import CholeskyFactor
from gp_response.linalg.system import System
from gp_response.linalg.transforms import inside_transform
from gp_response.solvers.solution import Solution, as_columns, as_system


@dataclass(frozen=True)
class Cholesky:
    """Direct solves by a Cholesky factor, refined and measured.

    Attributes:
        tolerance: relative residual asked of every column; None means 1e-10, and 1e-4 for right-hand sides in float32.
            A column above it is flagged in `Solution.converged`, not hidden.
        refine: most steps of iterative refinement after each solve; refinement stops by itself where it gains nothing.
        precision: "float64", "float32" (half the memory and time, refined with residuals in float64), or None: that of
            the data, and float64 where float32 is not positive definite.
    """

    tolerance: float | None = None
    refine: int = 10
    precision: str | None = None

    def __post_init__(self):
        if self.tolerance is not None and not 0.0 < self.tolerance < 1.0:
            raise InputError(f"Cholesky(tolerance={self.tolerance!r}): expected a number between 0 and 1, or None")
        if not isinstance(self.refine, int) or self.refine < 0:
            raise InputError(f"Cholesky(refine={self.refine!r}): expected an integer of 0 or more")
        if self.precision not in (None, "float32", "float64"):
            raise InputError(f"Cholesky(precision={self.precision!r}): expected 'float32', 'float64' or None")

    def factor(self, matrix: Tensor | LinearOperator | System) -> "FactoredCholesky":
        """Factor A (n, n), a tensor, LinearOperator or System, once for many right-hand sides.

        Raises:
            SolverError: A is not positive definite in its precision. Nothing is added to its diagonal.
        """
        system = as_system(matrix)
        return FactoredCholesky(self, system, CholeskyFactor.of(system, self.precision))

    def solve(self, matrix: Tensor | LinearOperator | System, rhs: Tensor) -> Solution:
        """`A⁻¹ B` for A (n, n) symmetric positive definite and B (n,) or (n, t)."""
        return self.factor(matrix).solve(rhs)

    def tolerance_for(self, dtype: torch.dtype) -> float:
        if self.tolerance is not None:
            return self.tolerance
        return 1e-10 if dtype == torch.float64 else 1e-4


@dataclass(frozen=True)
class FactoredCholesky:
    """A factored matrix together with the solver that asked for it."""

    solver: Cholesky
    system: System
    inner: CholeskyFactor

    def solve(self, rhs: Tensor) -> Solution:
        """`A⁻¹ rhs` for rhs (n,) or (n, t), in its precision."""
        started = time.perf_counter()
        columns = rhs[:, None] if inside_transform() and rhs.ndim == 1 else rhs
        columns = columns if inside_transform() else as_columns(rhs, self.system.n)
        tolerance = self.solver.tolerance_for(rhs.dtype)
        value, left, defect, steps = self.inner.solve(self.system, columns.double(), refine=self.solver.refine)
        size = columns.double().norm(dim=0)
        residual = left.norm(dim=0) / torch.where(size > 0, size, torch.ones_like(size))
        solution = Solution(
            value, residual, steps, residual <= tolerance, defect, left, self._error(value, left),
            {"precision": [self.inner.precision], "seconds": time.perf_counter() - started},
        )  # fmt: skip
        solution = solution if rhs.dtype == torch.float64 else solution.rounded(self.system, columns, tolerance)
        return solution if rhs.ndim == 2 else solution.column()

    def logdet(self) -> Tensor:
        return self.inner.logdet()

    def _error(self, value: Tensor, left: Tensor) -> Tensor:
        """`|B⁻¹ρ|_i <= (B⁻¹)_ii^½ (ρᵀB⁻¹ρ)^½`, where B >= floor."""
        floor = self.system.floor
        if floor is None:
            return torch.full_like(value, float("inf"))
        rest = (left.norm(dim=0) + self.system.rounding(value, extended=True)) / floor
        return rest.expand_as(value).clone()


__all__ = ["Cholesky", "FactoredCholesky"]
