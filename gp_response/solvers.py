"""Solvers: frozen dataclasses whose fields are the tolerances, and solutions that carry what was measured."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from linear_operator import LinearOperator, to_dense
from torch import Tensor

from gp_response.errors import InputError
from gp_response.linalg.cholesky import CholeskyFactor


@dataclass(frozen=True)
class Solution:
    """`value` with `A value ≈ B`, and how well, per column.

    Attributes:
        value: the shape of B.
        residual: `‖b - A v‖ / ‖b‖` per column, recomputed from A (shape B.shape[1:]).
        iterations: refinement steps or iterations spent.
        converged: bool per column, residual at or below the tolerance asked.
        defect: bound on `‖b - A v‖` per column that includes the rounding of measuring it.
    """

    value: Tensor
    residual: Tensor
    iterations: int
    converged: Tensor
    defect: Tensor


@runtime_checkable
class Factor(Protocol):
    """A matrix prepared for many solves."""

    def solve(self, rhs: Tensor) -> Solution: ...

    def logdet(self) -> Tensor: ...


@runtime_checkable
class Solver(Protocol):
    """What a head needs of a solver."""

    def factor(self, matrix: Tensor) -> Factor: ...

    def solve(self, matrix: Tensor, rhs: Tensor) -> Solution: ...


@dataclass(frozen=True)
class Cholesky:
    """Direct solves by a Cholesky factor, refined and measured.

    Attributes:
        tolerance: relative residual asked of every column; None means 1e-10 in float64 and 1e-4 in float32.
            A column above it is flagged in `Solution.converged`, not hidden.
        refine: steps of iterative refinement after each solve.
    """

    tolerance: float | None = None
    refine: int = 1

    def __post_init__(self):
        if self.tolerance is not None and not 0.0 < self.tolerance < 1.0:
            raise InputError(f"Cholesky(tolerance={self.tolerance!r}): expected a number between 0 and 1, or None")
        if not isinstance(self.refine, int) or self.refine < 0:
            raise InputError(f"Cholesky(refine={self.refine!r}): expected an integer of 0 or more")

    def factor(self, matrix: Tensor | LinearOperator) -> "FactoredCholesky":
        """Factor A (n, n), a tensor or LinearOperator, once for many right-hand sides."""
        return FactoredCholesky(self, CholeskyFactor(to_dense(matrix), refine=self.refine))

    def solve(self, matrix: Tensor | LinearOperator, rhs: Tensor) -> Solution:
        """`A⁻¹ B` for A (n, n) symmetric positive definite and B (n,) or (n, t).

        Raises:
            SolverError: A is not positive definite in its precision. Nothing is added to its diagonal.
        """
        return self.factor(matrix).solve(rhs)

    def tolerance_for(self, dtype: torch.dtype) -> float:
        if self.tolerance is not None:
            return self.tolerance
        return 1e-10 if dtype == torch.float64 else 1e-4


@dataclass(frozen=True)
class FactoredCholesky:
    """A factored matrix together with the solver that asked for it."""

    solver: Cholesky
    inner: CholeskyFactor

    def solve(self, rhs: Tensor) -> Solution:
        n = self.inner.matrix.shape[0]
        if rhs.ndim not in (1, 2) or rhs.shape[0] != n:
            raise InputError(f"right-hand side of shape {tuple(rhs.shape)}; expected ({n},) or ({n}, t)")
        value, residual, defect = self.inner.solve(rhs if rhs.ndim == 2 else rhs[:, None])
        if rhs.ndim == 1:
            value, residual, defect = value[:, 0], residual[0], defect[0]
        converged = residual <= self.solver.tolerance_for(rhs.dtype)
        return Solution(value, residual, self.solver.refine, converged, defect)

    def logdet(self) -> Tensor:
        return self.inner.logdet()


__all__ = ["Cholesky", "Factor", "FactoredCholesky", "Solution", "Solver"]
