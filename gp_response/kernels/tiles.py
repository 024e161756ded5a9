"""The blocks a kernel matrix is cut into, and products of whole stacks of them.

A stack of equal blocks side by side goes through each step at once, one block a core: split among cores, a single
block would change hands at every step, as matrix products and elementwise functions split it differently.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Tile(NamedTuple):
    """Some rows of a matrix, and the columns of `depth` blocks of equal width."""

    rows: slice
    columns: slice
    depth: int

    @property
    def starts_on_diagonal(self) -> bool:
        """Of a tile of a symmetric matrix, whether its first block stands on the diagonal."""
        return self.rows.start == self.columns.start


def tiles(n: int, m: int, size: int, depth: int, *, symmetric: bool) -> Iterator[Tile]:
    """The tiles of an n x m matrix in blocks of at most size x size; those on and above the diagonal of a symmetric one.

    Few rows make broad blocks.
    """
    high = max(1, min(n, size))
    wide = high if symmetric else max(size, size * size // high)
    for i in range(0, n, high):
        rows, j = slice(i, min(i + high, n)), i if symmetric else 0
        while j < m:
            whole = min(depth, (m - j) // wide)
            stop = j + whole * wide if whole else m
            yield Tile(rows, slice(j, stop), whole or 1)
            j = stop


def cut(t: Tensor, tile: Tile) -> Tensor:
    """The columns of a tile, (k, depth * w), as a stack (depth, k, w); a view."""
    return t[:, tile.columns].unflatten(1, (tile.depth, -1)).transpose(0, 1)


def multiply(left: Tensor, right: Tensor, out: Tensor, *, add: bool = False) -> Tensor:
    """left (n, k) times every one of right (depth, k, w), into out (depth, n, w)."""
    if len(right) == 1:
        out[0].addmm_(left, right[0], beta=float(add))
        return out
    left = left.expand(len(right), *left.shape)
    return out.baddbmm_(left, right) if add else torch.bmm(left, right, out=out)


def add_block(out: Tensor, k: Tensor, v: Tensor, tile: Tile, *, mirrored: bool) -> None:
    """Add what blocks k, and their mirror images where they stand off the diagonal, contribute to out = (K vᵀ)ᵀ.

    v and out are (t, n): matrix libraries are two times slower with few columns than with few rows.
    """
    first, rows = int(tile.starts_on_diagonal), v[:, tile.rows]
    if len(k) == 1:
        out[:, tile.rows].addmm_(v[:, tile.columns], k[0].mT)
        if mirrored and not first:
            out[:, tile.columns].addmm_(rows, k[0])
        return
    out[:, tile.rows] += torch.bmm(cut(v, tile), k.mT).sum(0)
    if mirrored:
        cut(out, tile)[first:] += torch.bmm(rows.expand(len(k) - first, *rows.shape), k[first:])


__all__ = ["Tile", "add_block", "cut", "multiply", "tiles"]
