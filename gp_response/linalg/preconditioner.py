"""Low rank plus diagonal: `M = c + F Fᵀ`, its inverse and its root.

Made from columns of the matrix itself, M never exceeds it: what is left out, a Schur complement, is positive semi-definite.
So `B >= M` and `B⁻¹ <= M⁻¹`, and the preconditioner of a solve also bounds its error.
"""

import torch
from torch import Tensor

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
    """Block randomly pivoted Cholesky with rejection (Epperly, Tropp & Webber 2024, "Embrace rejection", algorithm 2.1).

    Pivots are drawn with probabilities proportional to the diagonal that is left, a block at a time; a pivot whose
    diagonal the earlier ones of its block have eaten is rejected, so that they are distributed as if drawn one by one.

    Args:
        rank: columns, fewer where they leave nothing.
        generator: of the pivots, on the CPU.
        most: columns where after `rank` of them the diagonal left is still heavy.
        block: proposals at a time.
    """
    rest = (system.diagonal() - system.shift).clamp_min(0.0)
    total, rank, most = float(rest.sum()), min(rank, system.n), min(most or rank, system.n)
    least = float(system.shift.min())
    stop, heavy = max(least, 1e-14 * total), HEAVY * least * system.n
    factor = torch.empty(most, system.n, dtype=torch.float64, device=system.device)  # transposed: rows are contiguous
    pivots, have = [], 0
    while float(rest.sum()) > (stop if have < rank else heavy) and have < most:
        proposed = torch.multinomial(rest.cpu(), min(block, int((rest > 0).sum())), generator=generator).to(rest.device)
        rows = system.columns(proposed).T.addmm_(factor[:have, proposed].T, factor[:have], alpha=-1.0)
        chosen, lower = _accept(rows[:, proposed], rest[proposed], (rank if have < rank else most) - have, generator)
        if not len(chosen):
            break
        new = factor[have : have + len(chosen)]
        torch.linalg.solve_triangular(lower, rows[chosen], upper=False, out=new)
        pivots.append(proposed[chosen])
        have += len(chosen)
        rest = (rest - new.norm(dim=0).square()).clamp_min_(0.0)
        rest[proposed[chosen]] = 0.0
    at = torch.cat(pivots) if pivots else torch.zeros(0, dtype=torch.long, device=system.device)
    return _assembled(system, factor[:have], rest, at)


def _accept(block: Tensor, proposed: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The accepted of some proposals, and the Cholesky factor of their block."""
    device, block, proposed = block.device, block.cpu().clone(), proposed.cpu()
    uniform = torch.rand(len(proposed), generator=generator, dtype=torch.float64)
    rows: list[int] = []
    lower = torch.zeros_like(block)
    for i in range(len(proposed)):
        left = block[i, i]
        if len(rows) == most or left <= uniform[i] * proposed[i] or left <= 1e-13 * proposed.max():
            continue
        column = block[:, i] / left.sqrt()
        lower[:, len(rows)] = column
        rows.append(i)
        block.addr_(column, column, alpha=-1.0)
    chosen = torch.tensor(rows, dtype=torch.long)
    return chosen.to(device), lower[chosen, : len(rows)].tril().to(device)


def _assembled(system: System, rows: Tensor, rest: Tensor, pivots: Tensor) -> Preconditioner:
    known = bool((system.shift > 0).all())
    # Without a diagonal to split off, what is left on average stands for it; then nothing is bounded.
    diagonal = system.shift if known else torch.full_like(rest, max(float(rest.mean()), 1e-300))
    return Preconditioner(rows, diagonal, below=known, pivots=pivots, left=float(rest.sum()))


__all__ = ["MARGIN", "Preconditioner", "diagonal_only", "nystrom", "randomly_pivoted"]
