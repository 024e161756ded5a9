"""Low rank plus diagonal: `M = c + F Fᵀ`, its inverse and its root.

Made from columns of the matrix itself, M never exceeds it: what is left out, a Schur complement, is positive semi-definite.
So `B >= M` and `B⁻¹ <= M⁻¹`, and the preconditioner of a solve also bounds its error.
"""

import torch
from torch import Tensor

from gp_response.linalg.pivoted import pivoted_rows
from gp_response.linalg.system import System

# Relative room for the rounding of F in float64, so that `B >= M` survives it.
MARGIN = 1e-3
FEW = 32
HEAVY = 10.0  # mean of the diagonal left, in units of the shift, beyond which more columns are worth their price


class Preconditioner:
    """`M = c + F Fᵀ` for F (n, r) and c (n,) > 0, in float64, with copies in the precision a solve works in.

    Args:
        rows: Fᵀ, (r, n), overwritten; r = 0 is the diagonal alone.
        diagonal: c, (n,).
        below: whether `B >= M` is known.
        pivots: rows of B that F was made from, (k,).
        left: sum of the diagonal of `B - M`: the condition number after preconditioning is at most `1 + left / min c`.
    """

    def __init__(self, rows: Tensor, diagonal: Tensor, *, below: bool, pivots: Tensor, left: float):
        self.root_diagonal = diagonal.sqrt()
        self.rows = rows.div_(self.root_diagonal)
        self.below, self.pivots, self.left = below, pivots, left
        spectrum, self.basis = torch.linalg.eigh(self.rows @ self.rows.T)
        self.spectrum = spectrum.clamp_min(0.0)
        # (I + F'F'ᵀ)^∓½ - I = F' core F'ᵀ: (√(1+g) - 1)/g without cancellation, and the inverse likewise.
        up = (1.0 + self.spectrum).sqrt()
        self._down, self._up = (
            (self.basis * weight) @ self.basis.T for weight in (-1.0 / (up * (1.0 + up)), 1.0 / (1.0 + up))
        )
        self._rows = {torch.float64: self.rows}

    @property
    def rank(self) -> int:
        return len(self.rows)

    def whiten(self, v: Tensor, precision: torch.dtype = torch.float64) -> Tensor:
        """`L⁻¹ v` for v (n, t), where `M = L Lᵀ` with `L = √c (I + F'F'ᵀ)^½` and F' = F/√c.

        precision: of the long sums and of F'; rounding F' changes M by little, and the same way in both directions.
        """
        return self._correct(v / self.root_diagonal[:, None], self._down, precision)

    def whiten_transposed(self, v: Tensor, precision: torch.dtype = torch.float64) -> Tensor:
        """`L⁻ᵀ v`."""
        return self._correct(v, self._down, precision) / self.root_diagonal[:, None]

    def unwhiten(self, v: Tensor, precision: torch.dtype = torch.float64) -> Tensor:
        """`L v`."""
        return self._correct(v, self._up, precision) * self.root_diagonal[:, None]

    def solve(self, v: Tensor) -> Tensor:
        """`M⁻¹ v`."""
        return self.whiten_transposed(self.whiten(v))

    def sample(self, low: Tensor, full: Tensor) -> Tensor:
        """`√c full + F low` ~ N(0, M) for standard normal low (r, t) and full (n, t)."""
        return self.root_diagonal[:, None] * (full + self.rows.T @ low)

    def logdet(self) -> Tensor:
        """`log det M`, 0-dim."""
        return self.spectrum.log1p().sum() + 2.0 * self.root_diagonal.log().sum()

    def inverse_diagonal(self) -> Tensor:
        """The diagonal of M⁻¹, (n,)."""
        turned = (self.basis * (1.0 + self.spectrum).rsqrt()).T @ self.rows
        return (1.0 - turned.norm(dim=0).square()).clamp_min(0.0) / self.root_diagonal**2

    def _correct(self, v: Tensor, core: Tensor, precision: torch.dtype) -> Tensor:
        """`(I + F' core F'ᵀ) v`; the core, whose small entries count, in float64."""
        if not self.rank:
            return v
        if precision not in self._rows:
            self._rows[precision] = self.rows.to(precision)
        rows = self._rows[precision]
        low = (core @ (rows @ v.to(precision)).double()).to(precision)
        # Few columns are multiplied from the other side, twice as fast.
        return v + ((low.T @ rows).T if v.shape[1] < FEW else rows.T @ low)


def diagonal_only(system: System) -> Preconditioner:
    """No preconditioner but the diagonal that is split off."""
    empty = torch.zeros(0, system.n, dtype=torch.float64, device=system.device)
    return _assembled(system, empty, system.diagonal() - system.shift, empty.new_zeros(0, dtype=torch.long))


def nystrom(system: System, points: Tensor) -> Preconditioner:
    """`K_m K_mm⁻¹ K_mᵀ` for the given m rows (Williams & Seeger 2001), the inducing-point form."""
    columns = system.columns(points)
    core = columns[points]
    jitter = 1e-12 * float(core.diagonal().sum())  # what is added here only makes M smaller
    lower = torch.linalg.cholesky(0.5 * (core + core.T) + jitter * torch.eye(len(core)).to(core))
    rows = torch.linalg.solve_triangular(lower, columns.T, upper=False)
    rest = (system.diagonal() - system.shift - rows.norm(dim=0).square()).clamp_min(0.0)
    return _assembled(system, rows, rest, points)


def randomly_pivoted(
    system: System, rank: int, *, generator: torch.Generator, most: int | None = None, block: int = 128
) -> Preconditioner:
    """Block randomly pivoted Cholesky; see `pivoted_rows`.

    Args:
        rank: columns, fewer where they leave nothing.
        generator: of the pivots, on the CPU.
        most: columns where after `rank` of them the diagonal left is still heavy.
        block: proposals at a time.
    """
    rest = (system.diagonal() - system.shift).clamp_min(0.0)
    least = float(system.shift.min())
    found = pivoted_rows(
        system.columns, rest, rank, stop=max(least, 1e-14 * float(rest.sum())), generator=generator, most=most,
        heavy=HEAVY * least * system.n, block=block,
    )  # fmt: skip
    return _assembled(system, found.rows, found.rest, found.pivots)


def _assembled(system: System, rows: Tensor, rest: Tensor, pivots: Tensor) -> Preconditioner:
    known = bool((system.shift > 0).all())
    # Without a diagonal to split off, what is left on average stands for it; then nothing is bounded.
    diagonal = system.shift if known else torch.full_like(rest, max(float(rest.mean()), 1e-300))
    return Preconditioner(rows, diagonal, below=known, pivots=pivots, left=float(rest.sum()))


__all__ = ["MARGIN", "Preconditioner", "diagonal_only", "nystrom", "randomly_pivoted"]
