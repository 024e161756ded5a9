"""Entries of `B⁻¹` from a float64 Cholesky factor, with a bound on their errors."""

from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.linalg.inverse_diagonal import inverse_error
from gp_response.linalg.system import System
from gp_response.linalg.triangular import symmetric_inverse


class InverseEntries(NamedTuple):
    """A lower triangular `L`, `L Lᵀ = B` (n, n), and the bound of `inverse_error`: entry i, j of the inverse is off by at most
    `error · √((B⁻¹)_ii (B⁻¹)_jj)`."""

    lower: Tensor
    error: float

    @classmethod
    def of(cls, system: System, lower: Tensor) -> "InverseEntries":
        return cls(lower, inverse_error(system, lower))

    @property
    def known(self) -> bool:
        """Whether the bound says anything."""
        return self.error < 0.5

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Rows (k,) and columns (l,) of the inverse, (k, l): all of it takes `2 n³/3` flops, one row `2 n²`."""
        n = len(self.lower)
        if 3 * len(rows) > n:
            return symmetric_inverse(self.lower)[rows][:, columns]
        unit = self.lower.new_zeros(n, len(rows))
        unit[rows, torch.arange(len(rows), device=rows.device)] = 1.0
        return torch.cholesky_solve(unit, self.lower)[columns].T


__all__ = ["InverseEntries"]
