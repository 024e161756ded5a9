"""Entries of `B⁻¹` from a float64 Cholesky factor, with a bound on their errors."""

from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.linalg.inverse_diagonal import inverse_error
from gp_response.linalg.system import System
from gp_response.linalg.triangular import symmetric_inverse


class InverseEntries(NamedTuple):
    """A lower triangular `L`, `L Lᵀ = B` (n, n), the diagonal part `c <= B`, (n,), and the bound of `inverse_error`: entry i, j of
    the inverse is off by at most `off · √((B⁻¹)_ii (B⁻¹)_jj)`."""

    lower: Tensor
    shift: Tensor
    off: float

    @classmethod
    def of(cls, system: System, lower: Tensor) -> "InverseEntries":
        return cls(lower, system.shift, inverse_error(system, lower))

    @property
    def known(self) -> bool:
        """Whether the bound says anything."""
        return self.off < 0.5

    def at(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (k,) and columns (l,) of the inverse, and bounds on their errors, (k, l) each: all of it takes `2 n³/3` flops, one
        row `2 n²`."""
        n, most = len(self.lower), self.shift.reciprocal()
        if 3 * len(rows) > n:
            inverse = symmetric_inverse(self.lower)
            value, most = inverse[rows][:, columns], inverse.diagonal()
        else:
            own = torch.arange(len(rows), device=rows.device)
            solved = self.lower.new_zeros(n, len(rows))
            solved[rows, own] = 1.0
            solved = torch.cholesky_solve(solved, self.lower)
            value, most = solved[columns].T, most.index_copy(0, rows, solved[rows, own])
        root = most.sqrt()
        return value, (self.off if self.known else float("inf")) * root[rows][:, None] * root[columns]


__all__ = ["InverseEntries"]
