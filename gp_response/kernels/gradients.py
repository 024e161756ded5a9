"""Gradients of linear and quadratic forms of a kernel matrix, block by block."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gp_response.kernels.blocks import blocks_of, tiles_of
from gp_response.kernels.casting import state
from gp_response.kernels.points import Coordinates, each, leaves
from gp_response.kernels.tiles import Tile, cut

# The derivative by the entries of a tile (depth, n, w), which the caller may overwrite, times a factor.
Weight: TypeAlias = Callable[[Tile, float], Tensor]


def add_gradients(
    kernel: Any,
    cx: Coordinates,
    cy: Coordinates,
    v: Tensor,
    u: Tensor,
    value: Tensor,
    to_points: list[Tensor | None],
    to_own: list[Tensor | None],
) -> None:
    """Add the gradient of `value = (u * (K(x, y) @ v)).sum()` to what is not None; the memory is that of some blocks.

    to_points: for every leaf of cx, and of cy when it is another object. to_own: for the kernel's tensors, which
    require gradients where it is not None.
    """

    def weight(tile: Tile, factor: float) -> Tensor:
        return _outer(u, v, tile, factor, mirrored=cy is cx)

    _add_weighted(kernel, cx, cy, weight, v.dtype, value, to_points, to_own)


def add_crossed_gradients(
    kernel: Any,
    cx: Coordinates,
    cy: Coordinates,
    weight: Tensor,
    value: Tensor,
    to_points: list[Tensor | None],
    to_own: list[Tensor | None],
) -> None:
    """The same for `value = (weight * K(x, y)).sum()` with a weight (n, m) of its own for every entry; cx is not cy."""

    def of_tile(tile: Tile, factor: float) -> Tensor:
        return factor * cut(weight[tile.rows], tile)

    _add_weighted(kernel, cx, cy, of_tile, weight.dtype, value, to_points, to_own)


def _add_weighted(
    kernel: Any, cx: Coordinates, cy: Coordinates, weight: Weight, dtype: torch.dtype, value: Tensor,
    to_points: list[Tensor | None], to_own: list[Tensor | None],
) -> None:  # fmt: skip
    with torch.no_grad():
        blocks = blocks_of(kernel, cx, cy, dtype)
    count, own = len(leaves(cx)), list(state(kernel).values())
    scales: list[Tensor] | None = None
    factor = 1.0
    for tile in tiles_of(kernel, cx, cy):
        with torch.no_grad():
            given = blocks.given(tile)
        if scales is None:
            scales = _scales(kernel, given)
            factor = math.prod((float(s) for s in scales), start=1.0)
        x, into_x = _piece(cx, to_points[:count], tile.rows)
        y, into_y = _piece(cy, to_points[-count:], tile.columns)
        with torch.enable_grad():
            k = kernel.block_given(_repeated(x, tile.depth), _stacked(y, tile.depth), given)
        inputs, sums = [*leaves(x), *leaves(y), *own], [*into_x, *into_y, *to_own]
        _add(k, weight(tile, factor), [(t, s) for t, s in zip(inputs, sums, strict=True) if s is not None])
    for scale in scales or []:
        _add(scale, value / scale.detach(), [(t, s) for t, s in zip(own, to_own, strict=True) if s is not None])


def _scales(kernel: Any, given: Any) -> list[Tensor]:
    """The factors in front of the whole matrix; their gradients follow from the value, without a look at the blocks."""
    with torch.enable_grad():
        return [k.outputscale for k in kernel.left_out(given) if k.outputscale is not None]


def _outer(u: Tensor, v: Tensor, tile: Tile, factor: float, *, mirrored: bool) -> Tensor:
    """The derivative by the entries of blocks, and by their mirror images where they stand off the diagonal."""
    rows = factor * u[tile.rows]
    weight = rows.expand(tile.depth, *rows.shape) @ _stacked(v[tile.columns], tile.depth).mT
    first = int(tile.starts_on_diagonal)
    if mirrored and first < tile.depth:
        rows, columns = factor * v[tile.rows], _stacked(u[tile.columns], tile.depth)[first:].mT
        weight[first:].baddbmm_(rows.expand(tile.depth - first, *rows.shape), columns)
    return weight


def _piece(points: Coordinates, sums: list[Tensor | None], part: slice) -> tuple[Coordinates, list[Tensor | None]]:
    """Some points as leaves of a new graph, and the rows of the sums that belong to them."""
    into = iter(sums)
    piece = each(lambda t: t[part].detach().requires_grad_(next(into) is not None), points)
    return piece, [None if s is None else s[part] for s in sums]


def _repeated(points: Coordinates, depth: int) -> Coordinates:
    return each(lambda t: t.expand(depth, *t.shape), points)


def _stacked(points: Coordinates, depth: int) -> Coordinates:
    return each(lambda t: t.unflatten(0, (depth, -1)), points)


def _add(k: Tensor, weight: Tensor, targets: list[tuple[Tensor, Tensor]]) -> None:
    if not (targets and k.requires_grad):
        return
    found = torch.autograd.grad(k, [t for t, _ in targets], weight, allow_unused=True)
    for (_, total), part in zip(targets, found, strict=True):
        if part is not None:
            total += part


__all__ = ["add_crossed_gradients", "add_gradients"]
