"""Low-rank factors from columns of a matrix: block randomly pivoted Cholesky with rejection."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Pivoted(NamedTuple):
    """`A ≈ FᵀF` from below: `rows` F (r, n), the diagonal `rest` (n,) of `A - FᵀF`, and the `pivots` (r,)."""

    rows: Tensor
    rest: Tensor
    pivots: Tensor


def pivoted_rows(
    columns: Callable[[Tensor], Tensor],
    diagonal: Tensor,
    rank: int,
    *,
    stop: float,
    generator: torch.Generator,
    most: int | None = None,
    heavy: float = float("inf"),
    block: int = 128,
) -> Pivoted:
    """Epperly, Tropp & Webber 2024, "Embrace rejection", algorithm 2.1, of a positive semi-definite matrix A.

    Pivots are drawn with probabilities proportional to the diagonal that is left, a block at a time; a pivot whose
    diagonal the earlier ones of its block have eaten is rejected, so that they are distributed as if drawn one by one.

    Args:
        columns: indices (k,) -> those columns of A, (n, k), the caller's own.
        diagonal: of A, (n,), overwritten nowhere.
        rank: columns, fewer where the diagonal left sums to `stop`.
        generator: of the pivots, on the CPU.
        most: columns where after `rank` of them more than `heavy` is left.
        block: proposals at a time.
    """
    rest, n = diagonal.clone(), len(diagonal)
    rank, most = min(rank, n), min(most or rank, n)
    factor = torch.empty(most, n, dtype=torch.float64, device=rest.device)  # transposed: rows are contiguous
    pivots, have = [], 0
    while float(rest.sum()) > (stop if have < rank else heavy) and have < most:
        proposed = torch.multinomial(rest.cpu(), min(block, int((rest > 0).sum())), generator=generator).to(rest.device)
        rows = columns(proposed).T.addmm_(factor[:have, proposed].T, factor[:have], alpha=-1.0)
        chosen, lower = _accept(rows[:, proposed], rest[proposed], (rank if have < rank else most) - have, generator)
        if not len(chosen):
            break
        new = factor[have : have + len(chosen)]
        torch.linalg.solve_triangular(lower, rows[chosen], upper=False, out=new)
        pivots.append(proposed[chosen])
        have += len(chosen)
        rest = (rest - new.norm(dim=0).square()).clamp_min_(0.0)
        rest[proposed[chosen]] = 0.0
    at = torch.cat(pivots) if pivots else torch.zeros(0, dtype=torch.long, device=rest.device)
    return Pivoted(factor[:have], rest, at)


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


__all__ = ["Pivoted", "pivoted_rows"]
