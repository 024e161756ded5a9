"""The precision of a network's parameters as a matrix, factored."""

from dataclasses import dataclass
from typing import Any

import torch

from gp_response.linalg.cholesky import CholeskyFactor
from gp_response.linalg.memory import require_memory_for_factor
from gp_response.linalg.system import DenseSystem
from gp_response.solvers.direct import Cholesky, FactoredCholesky

COPIES = 4  # columns, their transpose, the matrix kept for residuals, its factor


@dataclass(frozen=True)
class Dense:
    """All P x P entries of the precision of a network's P parameters in float64, and its Cholesky factor: for P up to some
    thousands, where it is exact to rounding.

    Attributes:
        tolerance: relative residual asked of every column; None means 1e-10.
        refine: most steps of iterative refinement after each solve.
    """

    tolerance: float | None = None
    refine: int = 10

    def __post_init__(self):
        Cholesky(self.tolerance, self.refine)  # checks both

    def factor(self, system: Any) -> FactoredCholesky:
        """Factor a system given by its products.

        Raises:
            SolverError: it does not fit into memory, or is not positive definite.
        """
        require_memory_for_factor(system.n, torch.float64, system.device, copies=COPIES)
        matrix = system.dense(torch.float64)
        held = DenseSystem(matrix, floor=system.floor, off=system.off)
        return FactoredCholesky(Cholesky(self.tolerance, self.refine), held, CholeskyFactor(matrix))


__all__ = ["Dense"]
