"""Gradients of quadratic forms of a kernel matrix, block by block."""

import math
from typing import Any

import torch
from torch import Tensor

from gp_response.kernels.blocks import blocks_of, tiles_of
from gp_response.kernels.casting import state
from gp_response.kernels.points import Coordinates, each, leaves
from gp_response.kernels.tiles import Tile


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
    with torch.no_grad():
        blocks = blocks_of(kernel, cx, cy, v.dtype)
    count, own = len(leaves(cx)), list(state(kernel).values())
    scales: list[Tensor] | None = None
    for tile in tiles_of(kernel, cx, cy):
        with torch.no_grad():
            given = blocks.given(tile)
        if scales is None:
            scales = _scales(kernel, given)
            u = u * math.prod(float(s) for s in scales)
        weight = _weight(u, v, tile, mirrored=cy is cx)
        x, into_x = _piece(cx, to_points[:count], tile.rows)
        y, into_y = _piece(cy, to_points[-count:], tile.columns)
        with torch.enable_grad():
            k = kernel.block_given(_repeated(x, tile.depth), _stacked(y, tile.depth), given)
        inputs, sums = [*leaves(x), *leaves(y), *own], [*into_x, *into_y, *to_own]
        _add(k, weight, [(t, s) for t, s in zip(inputs, sums, strict=True) if s is not None])
    for scale in scales or []:
        _add(scale, value / scale.detach(), [(t, s) for t, s in zip(own, to_own, strict=True) if s is not None])


def _scales(kernel: Any, given: Any) -> list[Tensor]:
    """The factors in front of the whole matrix; their gradients follow from the value, without a look at the blocks."""
    with torch.enable_grad():
        return [k.outputscale for k in kernel.left_out(given) if k.outputscale is not None]


def _weight(u: Tensor, v: Tensor, tile: Tile, *, mirrored: bool) -> Tensor:
    """The derivative by the entries of blocks, and by their mirror images where they stand off the diagonal."""
    rows = u[tile.rows]
    weight = rows.expand(tile.depth, *rows.shape) @ _stacked(v[tile.columns], tile.depth).mT
    first = int(tile.starts_on_diagonal)
    if mirrored and first < tile.depth:
        rows, columns = v[tile.rows], _stacked(u[tile.columns], tile.depth)[first:].mT
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


__all__ = ["add_gradients"]
