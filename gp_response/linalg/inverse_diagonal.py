"""The diagonal of the inverse of a system `B >= 1`: from a Cholesky factor, or enclosed where none can be had.

With a factor of `B̃ = B + E`, `‖E‖ <= κ < 1`, the Loewner order does the certificate: `(1 - κ) B <= B̃ <= (1 + κ) B`, so every
diagonal entry of `B⁻¹` lies within a fraction κ of that of `B̃⁻¹`. E is not bounded a priori, which would overstate it
thousandfold, but measured: `‖E z‖` for 16 Gaussian z, in twice the working precision, bounds `‖E‖_F` up to chance 1e-11.

Without a factor, `B >= M` gives `(B⁻¹)_ii <= (M⁻¹)_ii`, for M the preconditioner or a field restricted to the neighbours of
row i, and any principal submatrix that holds row i gives `(B⁻¹)_ii >= ((B_JJ)⁻¹)_ii`, since fewer data never tell more. Rows that
are asked for are solved.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gp_response.linalg.extended import residual
from gp_response.linalg.preconditioner import MARGIN
from gp_response.linalg.split_preconditioner import SplitPreconditioner
from gp_response.linalg.system import System
from gp_response.linalg.triangular import inverse_column_squares

EPS = torch.finfo(torch.float64).eps
SAMPLES, FACTOR = 16, 8.0  # P(χ²_16/16 < 1/8²) < 1e-11: E of rank one is the worst case
CORE, NEAR, HALO = 256, 512, 1024  # rows enclosed together, and the rows that bound them from above and from below
JITTER = 1e-11  # of the largest entry, where a field is restricted to rows that may be equal


class Enclosure(NamedTuple):
    """Per row (n,): an estimate, rigorous bounds around it, the standard error of the estimate (0 where it is no random
    number), and whether the row's bounds are as tight as its solver was asked for."""

    value: Tensor
    lower: Tensor
    upper: Tensor
    standard_error: Tensor
    settled: Tensor

    def times(self, scale: Tensor) -> "Enclosure":
        """Of a scaled diagonal; scale (n,) > 0."""
        value, lower, upper, error = (part * scale for part in self[:4])
        return Enclosure(value, lower, upper, error, self.settled)


def factored(system: System, lower: Tensor, *, seed: int = 0) -> Enclosure:
    """From a float64 Cholesky factor of `B >= 1`; `n³/3` flops beside the factor."""
    part = inverse_error(system, lower, seed=seed)
    value = inverse_column_squares(lower)
    known = part < 0.5
    width = value * part if known else torch.full_like(value, float("inf"))
    low = (value - width).clamp_min(0.0)
    return Enclosure(
        value, low, value + width, torch.zeros_like(value), torch.full_like(value, known, dtype=torch.bool)
    )


def inverse_error(system: System, lower: Tensor, *, seed: int = 0) -> float:
    """Bound κ on the error of products `yᵢᵀyⱼ` of columns of `L⁻¹` as entries of `B⁻¹`, in units of `‖yᵢ‖ ‖yⱼ‖`; of no
    meaning from one half on."""
    off = factor_error(system, lower, seed=seed)
    # Substitution solves (L + Δ) y = e with |Δ| <= γ|L|, so ‖y‖² is off by 2 γ ‖L⁻¹‖ ‖L‖_F of itself, and the sum by γ.
    gamma = 0.5 * EPS * (len(lower) + 2)
    shrink = max(1.0 - off, 1e-300) ** 0.5
    return off + 1.01 * gamma * (2.0 * float(system.diagonal().sum() * (1.0 + off)) ** 0.5 / shrink + 1.0)


def factor_error(system: System, lower: Tensor, *, seed: int = 0) -> float:
    """Bound κ on `‖L Lᵀ - B‖`, measured, with the uncertainty of B's own entries."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(system.n, SAMPLES, generator=generator, dtype=torch.float64).to(lower.device)
    inner = lower.T @ z
    lost = residual(inner, lower.T, z)  # inner - Lᵀz
    outer = lower @ inner
    off = system.residual(outer, z, extended=True) - residual(outer, lower, inner) - lower @ lost
    measured = FACTOR * float(off.square().sum().div(SAMPLES).sqrt())
    worst = torch.zeros(system.n, 1, dtype=torch.float64, device=lower.device)
    worst[int(system.diagonal().argmax())] = 1.0
    return measured + float(system.rounding(worst, extended=True))


def enclosed(
    system: System,
    preconditioner: SplitPreconditioner,
    solve: Callable[[Tensor], Any],
    *,
    probes: int = 32,
    rows: Tensor | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Enclosure:
    """Without a factor: bounds for every row, an estimate between them, and solves for chosen rows.

    Args:
        preconditioner: with `B >= M` (`below`), else the upper bound is `1 / floor`.
        solve: `solve(rhs)` with `.value`, `.left`, `.defect`, `.converged`, as solvers return it.
        probes: random right-hand sides of the estimate `E[z ∘ (B⁻¹ - M⁻¹) z] + diag M⁻¹` (Bekas, Kokiopoulou & Saad 2007,
            with the preconditioner taken off), kept where it says more than the middle of the bounds; 0 for none.
        rows: (k,) to be solved for, one solve each; their bounds are then those of the solves.
    """
    with tqdm(total=system.n, desc="enclosing", disable=not progress, leave=False) as bar:
        low, high = bounds(system, preconditioner.pivots, bar)
    if preconditioner.below:
        high = torch.minimum(high, preconditioner.inverse_diagonal() * (1.0 + MARGIN) + MARGIN**2)
    high = torch.maximum(high, low)
    # Where the bounds are orders apart, the middle of their logarithms; where they are close, simply the middle.
    value = torch.where(low > 0, (low * high).sqrt(), 0.5 * high)
    error, settled = torch.zeros_like(low), torch.zeros_like(low, dtype=torch.bool)
    if probes:
        drawn, spread = _estimate(preconditioner, solve, probes, seed, low)
        better = spread < 0.5 * (high - low)  # elsewhere the middle of the bounds says more than chance does
        value, error = torch.where(better, drawn.clamp(low, high), value), torch.where(better, spread, error)
    if rows is not None and len(rows):
        value, low, high, error, settled = (part.clone() for part in (value, low, high, error, settled))
        value[rows], low[rows], high[rows], settled[rows] = _solved(system, solve, rows)
        error[rows] = 0.0
    return Enclosure(value, low, high, error, settled)


def _estimate(m: SplitPreconditioner, solve: Callable, probes: int, seed: int, like: Tensor) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = (2.0 * torch.randint(2, (len(like), probes), generator=generator) - 1.0).to(like)
    sample = z * (solve(z).value - m.solve(z))
    spread = sample.std(dim=1) if probes > 1 else torch.full_like(like, float("inf"))
    return m.inverse_diagonal() + sample.mean(dim=1), spread / probes**0.5


def _solved(system: System, solve: Callable, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`(B⁻¹)_ii = x_i + xᵀρ + ρᵀB⁻¹ρ` for `x = B⁻¹e_i` up to its residual ρ: what is not known is of second order."""
    parts = []
    for some in rows.split(128):
        unit = torch.zeros(system.n, len(some), dtype=torch.float64, device=system.device)
        unit[some, torch.arange(len(some), device=system.device)] = 1.0
        found = solve(unit)
        first = found.value.gather(0, some[None])[0] + (found.value * found.left).sum(dim=0)
        size, left = found.value.norm(dim=0), found.left.norm(dim=0)
        # The residual may itself be off by defect - left: once against x, once in the square.
        slack = (found.defect - left).clamp_min(0.0) * size + system.n * EPS * (size * left + first.abs() * EPS)
        second = found.defect**2 / (system.floor or 1e-300)
        slack = slack + 4.0 * EPS * first.abs()
        parts.append((first + 0.5 * second, (first - slack).clamp_min(0.0), first + second + slack, found.converged))
    value, low, high, settled = (torch.cat(column) for column in zip(*parts, strict=True))
    return value, low, high, settled


def bounds(system: System, pivots: Tensor, bar: tqdm | None = None) -> tuple[Tensor, Tensor]:
    """Bounds below and above `(B⁻¹)_ii` for every row, (n,) each, from the rows J that tell most about each group of rows."""
    diagonal = system.diagonal()
    low, high = torch.empty_like(diagonal), torch.full_like(diagonal, 1.0 / (system.floor or 1e-300))
    for core in _groups(system, pivots):
        columns = system.columns(core)
        told = (columns.abs() / diagonal.sqrt()[:, None]).amax(dim=1)
        told[core] = float("inf")
        chosen = told.topk(min(HALO, system.n)).indices  # most telling first: the core, then its neighbours
        at = torch.empty(system.n, dtype=torch.long, device=core.device)
        at[chosen] = torch.arange(len(chosen), device=core.device)
        columns = system.columns(chosen)
        low[core] = _below(system, columns[chosen], chosen)[at[core]]
        if bool((system.shift > 0).all()):
            high[core] = torch.minimum(high[core], _above(system, columns[:, :NEAR], chosen[:NEAR], core))
        if bar is not None:
            bar.update(len(core))
    return low, high


def _below(system: System, block: Tensor, chosen: Tensor) -> Tensor:
    """`diag (B_JJ)⁻¹`, less its rounding: fewer data never tell more."""
    block = 0.5 * (block + block.T)
    block.diagonal().add_(system.shift[chosen])
    found = inverse_column_squares(torch.linalg.cholesky(block))
    # For so small a factor the a-priori bound ‖E‖ <= γ tr B_JJ will do; the entries carry as much as the system says.
    part = (3 * len(chosen) + 24) * EPS * float(block.diagonal().sum())
    return found * max(0.0, 1.0 - part)


def _above(system: System, columns: Tensor, chosen: Tensor, core: Tensor) -> Tensor:
    """`diag (c + K_J K_JJ⁻¹ K_Jᵀ)⁻¹` at the core: a field that knows only J has less to say, so data determine it better."""
    block = columns[chosen]
    jitter = JITTER * float(block.diagonal().max())  # makes the field smaller still
    lower = torch.linalg.cholesky(0.5 * (block + block.T) + jitter * torch.eye(len(block)).to(block))
    factor = torch.linalg.solve_triangular(lower, columns.T, upper=False) / system.shift.sqrt()
    gram = factor @ factor.T
    gram.diagonal().add_(1.0)
    turned = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), factor[:, core], upper=False)
    return ((1.0 - turned.square().sum(dim=0)).clamp_min(0.0) * (1.0 + MARGIN) + MARGIN**2) / system.shift[core]


def _groups(system: System, pivots: Tensor) -> Iterator[Tensor]:
    """Rows that lie together, at most CORE each: by the pivot that tells most about them."""
    centres = pivots[: max(1, min(len(pivots), 2 * system.n // CORE))]
    if not len(centres):
        yield from torch.arange(system.n, device=system.device).split(CORE)
        return
    columns = system.columns(centres)
    nearest = (columns.abs() / system.diagonal()[centres].sqrt()).argmax(dim=1)
    order = nearest.argsort(stable=True)
    # Groups run on from one centre to the next: too small ones would cost a factor each.
    yield from order.split(CORE)


__all__ = ["Enclosure", "bounds", "enclosed", "factor_error", "factored", "inverse_error"]
