"""Inverses from a Cholesky factor by blocked matrix products, at the flops they need and in little memory.

The j-th block of columns of `L⁻¹` starts at row j, so forward substitution on it alone costs `(n - j)² b` and all of them
`n³/3`; `L⁻ᵀ L⁻¹` from there costs another `n³/3`. Two solves with the identity cost `2 n³`, and LAPACK's own inverse
(`torch.cholesky_inverse`) runs mostly unblocked.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 256  # products of this width run near the machine's peak, and triangular leaves stay a small part of the work


def triangular_inverse_(lower: Tensor) -> Tensor:
    """`L⁻¹` in the memory of L (n, n), which is lower triangular; zeros above the diagonal stay."""
    for start, panel in _inverse_panels(lower):
        # Later panels read only the columns to the right of this one.
        lower[start:, start : start + panel.shape[1]] = panel
    return lower


def symmetric_inverse(lower: Tensor) -> Tensor:
    """`(L Lᵀ)⁻¹ = L⁻ᵀ L⁻¹` of a lower triangular L (n, n), a new symmetric (n, n) matrix; `2 n³/3` flops."""
    inverse = triangular_inverse_(lower.clone())
    n = len(inverse)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        # Row block of the result, left of and on the diagonal: it overwrites rows that no later block reads.
        inverse[start:stop, :stop] = inverse[start:, start:stop].T @ inverse[start:, :stop]
    return _mirrored_(inverse)


def inverse_column_squares(lower: Tensor) -> Tensor:
    """The diagonal of `(L Lᵀ)⁻¹`, (n,): the squared norms of the columns of `L⁻¹`; `n³/3` flops, n x 256 of memory."""
    return torch.cat([panel.square().sum(dim=0) for _, panel in _inverse_panels(lower)])


def _inverse_panels(lower: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Blocks of columns of `L⁻¹` from their first row on: (start, (n - start, b)). Reads L from `start` on only."""
    n = len(lower)
    for start in range(0, n, BLOCK):
        width = min(BLOCK, n - start)
        panel = lower.new_zeros(n - start, width)
        panel[:width].diagonal().fill_(1.0)
        for row in range(start, n, BLOCK):
            stop, here = min(row + BLOCK, n), row - start
            piece = panel[here : stop - start]
            if here:
                piece.addmm_(lower[row:stop, start:row], panel[:here], alpha=-1.0)
            piece.copy_(torch.linalg.solve_triangular(lower[row:stop, row:stop], piece, upper=False))
        yield start, panel


def _mirrored_(matrix: Tensor) -> Tensor:
    """The lower triangle copied onto the upper one, block by block."""
    n = len(matrix)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        matrix[:start, start:stop] = matrix[start:stop, :start].T
        corner = matrix[start:stop, start:stop].tril()
        matrix[start:stop, start:stop] = corner + corner.tril(-1).T
    return matrix


__all__ = ["inverse_column_squares", "symmetric_inverse", "triangular_inverse_"]
