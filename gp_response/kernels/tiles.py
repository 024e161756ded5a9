"""The blocks a kernel matrix is cut into, and products of whole stacks of them.

A stack of equal blocks side by side goes through each step at once, one block a core: split among cores, a single
block would change hands at every step, as matrix products and elementwise functions split it differently.
"""

from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Tiling:
    """An n x m matrix in tiles of up to `depth` blocks, of `high` rows and `wide` columns but for the last ones.

    Of a symmetric matrix, the tiles on and above the diagonal.
    """

    n: int
    m: int
    high: int
    wide: int
    depth: int
    symmetric: bool

    def __iter__(self) -> Iterator[Tile]:
        for i in range(0, self.n, self.high):
            rows, j = slice(i, min(i + self.high, self.n)), i if self.symmetric else 0
            while j < self.m:
                whole = min(self.depth, (self.m - j) // self.wide)
                stop = j + whole * self.wide if whole else self.m
                yield Tile(rows, slice(j, stop), whole or 1)
                j = stop


def tiles(n: int, m: int, size: int, depth: int, *, symmetric: bool) -> Tiling:
    """The tiling of an n x m matrix with blocks of at most size² entries; few rows make broad blocks."""
    high = max(1, min(n, size))
    return Tiling(n, m, high, high if symmetric else max(size, size * size // high), depth, symmetric)


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


class RunningProduct:
    """K @ v for v (m, t), summed up from the tiles of K and, where it is symmetric, their mirror images.

    Vectors are kept as rows, block by block (blocks, t, w): matrix libraries are two times slower with few columns than
    with few rows, and what a stack of blocks contributes is added by one of their calls.
    """

    def __init__(self, tiling: Tiling, v: Tensor) -> None:
        self.tiling = tiling
        self.v = _in_blocks(v, tiling.wide)
        self.result = v.new_zeros(-(-tiling.n // tiling.high), v.shape[1], tiling.high)
        # One a block of a stack: added up once the row is done.
        self._parts = v.new_zeros(tiling.depth, v.shape[1], tiling.high)
        self._row = 0

    def add(self, k: Tensor, tile: Tile) -> None:
        """Take in the blocks k (depth, n, w) of a tile; tiles come row by row."""
        depth, n, w = k.shape
        i, j = tile.rows.start // self.tiling.high, tile.columns.start // self.tiling.wide
        if i != self._row:
            self._finish(i)
        if depth == 1:
            self._parts[0, :, :n].addmm_(self.v[j, :, :w], k[0].mT)
        else:
            self._parts[:depth, :, :n].baddbmm_(self.v[j : j + depth, :, :w], k.mT)
        first = int(tile.starts_on_diagonal)
        if not self.tiling.symmetric or first == depth:
            return
        rows, into = self.v[i, :, :n], self.result[j + first : j + depth, :, :w]
        if len(into) == 1:
            into[0].addmm_(rows, k[first])
        else:
            into.baddbmm_(rows.expand(len(into), *rows.shape), k[first:])

    def _finish(self, row: int) -> None:
        self.result[self._row] += self._parts.sum(0)
        self._parts.zero_()
        self._row = row

    def total(self, factor: float = 1.0) -> Tensor:
        """The product (n, t), times a factor."""
        if self.tiling.n:
            self._finish(self._row)
        return self.result.mul_(factor).transpose(1, 2).flatten(0, 1)[: self.tiling.n].contiguous()


def _in_blocks(v: Tensor, wide: int) -> Tensor:
    """v (m, t) as (blocks, t, wide), the last one filled up with zeros."""
    blocks = -(-len(v) // wide)
    padded = v.new_zeros(blocks * wide, v.shape[1])
    padded[: len(v)] = v
    return padded.unflatten(0, (blocks, wide)).mT.contiguous() if blocks else v.new_zeros(0, v.shape[1], wide)


__all__ = ["RunningProduct", "Tile", "Tiling", "cut", "multiply", "tiles"]
