"""`M = shift + Qᵀ C Q` for rows Q that need not be orthonormal: its functions, and a preconditioner from them."""

from collections.abc import Callable

import torch
from torch import Tensor

from gp_response.linalg.rows import Rows


class Deflation:
    """A `SplitPreconditioner` with `L = M^½`, symmetric.

    Args:
        rows: the first m rows are Q.
        gram: `Q Qᵀ`, (m, m) float64.
        core: C, (m, m) float64.
        shift: a positive number.
        below: whether the system to be solved is known to exceed M.
    """

    def __init__(self, rows: Rows, gram: Tensor, core: Tensor, shift: float, *, below: bool):
        self.rows, self.shift, self.below = rows, shift, below
        root = torch.linalg.cholesky(gram)
        inner = root.T @ core @ root
        self.spectrum, turn = torch.linalg.eigh(0.5 * (inner + inner.T))
        self.modes = torch.linalg.solve_triangular(root.T, turn, upper=True)
        self.pivots = torch.zeros(0, dtype=torch.long, device=gram.device)
        self.root_diagonal = torch.full((1,), shift**0.5, dtype=torch.float64, device=gram.device).expand(rows.n)

    @property
    def rank(self) -> int:
        return len(self.spectrum)

    def core(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The (m, m) matrix D of `f(M) = f(shift) + Qᵀ D Q`."""
        at_shift = function(torch.full_like(self.spectrum, self.shift))
        return (self.modes * (function(self.shift + self.spectrum) - at_shift)) @ self.modes.T

    def apply(self, function: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        """`f(M) v` for v (n, t), in the precision of v with sums in float64."""
        low = self.core(function) @ self.rows.project(v, self.rank)
        return self.rows.lift(
            low, v.dtype, onto=v, times=float(function(torch.tensor(self.shift, dtype=torch.float64)))
        )

    def whiten(self, v: Tensor, precision: torch.dtype = torch.float64) -> Tensor:
        """`M^-½ v`; `precision` is not looked at."""
        return self.apply(torch.rsqrt, v)

    def whiten_transposed(self, v: Tensor, precision: torch.dtype = torch.float64) -> Tensor:
        """`M^-½ v`."""
        return self.apply(torch.rsqrt, v)

    def unwhiten(self, v: Tensor, precision: torch.dtype = torch.float64) -> Tensor:
        """`M^½ v`."""
        return self.apply(torch.sqrt, v)

    def solve(self, v: Tensor) -> Tensor:
        """`M⁻¹ v`."""
        return self.apply(torch.reciprocal, v)

    def logdet(self) -> Tensor:
        """`log det M`, 0-dim."""
        whole = self.rows.n * torch.tensor(self.shift, dtype=torch.float64).log()
        return (self.spectrum / self.shift).log1p().sum() + whole.to(self.spectrum)

    def inverse_diagonal(self) -> Tensor:
        """The diagonal of M⁻¹, (n,)."""
        core, found = self.core(torch.reciprocal), torch.full_like(self.root_diagonal, 1.0 / self.shift)
        for at in self.rows.slices(2 * self.rank):
            part = self.rows.data[: self.rank, at].double()
            found[at] += (part * (core @ part)).sum(dim=0)
        return found


__all__ = ["Deflation"]
