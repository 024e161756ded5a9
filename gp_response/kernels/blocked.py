"""Products by cache-sized blocks: one matrix product for the distances, a profile in place, one for the result."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gp_response.kernels import dense
from gp_response.kernels.blocks import blocks_of, tiles_of
from gp_response.kernels.casting import call_in_dtype_of, call_with, state
from gp_response.kernels.gradients import add_gradients
from gp_response.kernels.points import Coordinates, batch_shape, each, leaves, length
from gp_response.kernels.tiles import RunningProduct, Tile, cut
from gp_response.linalg.transforms import inside_transform


def product(kernel: Any, cx: Coordinates, cy: Coordinates, v: Tensor) -> Tensor:
    """K(x, y) @ v for v (m, t), in memory O((n + m)(d + t)) and that of a block; differentiable.

    Half the blocks serve where x and y are the same object. Entries are right to 32 eps of the largest in float32, to
    1024 eps in float64. The gradient evaluates the blocks again. Batches, and torch.func and forward mode, go by
    `dense.product`; second derivatives take the memory of the matrix.
    """
    if v.dim() != 2 or len(batch_shape(kernel, cx, cy)) or inside_transform() or forward_ad._current_level >= 0:
        return dense.product(kernel, cx, cy, v)
    own, same = state(kernel), cy is cx
    nests = (cx,) if same else (cx, cy)
    tensors = [v, *leaves(nests), *own.values()]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _Product.apply(kernel, list(own), each(lambda _: None, nests), *tensors)
    return _multiply(kernel, cx, cy, v)


def _multiply(kernel: Any, cx: Coordinates, cy: Coordinates, v: Tensor) -> Tensor:
    with torch.no_grad():
        blocks = blocks_of(kernel, cx, cy, v.dtype)
        if blocks.pairs is not None:
            return blocks.pairs.product(v).mul_(blocks.factor)
        tiling = tiles_of(kernel, cx, cy)
        total = RunningProduct(tiling, v)
        for tile in tiling:
            total.add(blocks(tile), tile)
        return total.total(blocks.factor)


@torch.no_grad()
def fast_matrix(kernel: Any, x: Tensor, y: Tensor) -> Tensor:
    """K(x, y) stored, (n, m), with entries as `product` has them and no gradients; for kernels without batches."""
    return call_in_dtype_of(x, kernel, _fast_matrix, x, y)


def _fast_matrix(kernel: Any, x: Tensor, y: Tensor) -> Tensor:
    cx, cy = kernel.coordinates(kernel.select(x)), kernel.coordinates(kernel.select(y))
    return block_matrix(kernel, cx, cy, x.dtype)


@torch.no_grad()
def block_matrix(kernel: Any, cx: Coordinates, cy: Coordinates, dtype: torch.dtype, *, exact: bool = False) -> Tensor:
    """The same between coordinates, where the kernel's tensors are in that dtype; `exact` as in `blocks_of`."""
    blocks = blocks_of(kernel, cx, cy, dtype, exact=exact)
    out = leaves(cx)[0].new_empty(length(cx), length(cy), dtype=dtype)
    if blocks.pairs is not None:
        return blocks.pairs.block(slice(0, len(out)), slice(0, out.shape[1]), out).mul_(blocks.factor)
    for tile in tiles_of(kernel, cx, cy):
        cut(out[tile.rows], Tile(slice(None), tile.columns, tile.depth)).copy_(blocks(tile)).mul_(blocks.factor)
    return out


class _Product(torch.autograd.Function):
    """`_multiply`, with a backward pass that evaluates the blocks again.

    The kernel's own tensors are inputs, as they were at the forward pass; see `recompute`.
    """

    @staticmethod
    def forward(ctx: Any, kernel: Any, names: list[str], nests: Coordinates, *tensors: Tensor) -> Tensor:
        ctx.kernel, ctx.names, ctx.nests = kernel, names, nests
        v, cx, cy, own = _unpack(nests, names, tensors)
        out = call_with(kernel, own, _multiply, cx, cy, v)
        ctx.save_for_backward(*tensors, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        wanted = ctx.needs_input_grad[3:]
        *tensors, out = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, None, *_differentiable_gradients(ctx, tensors, wanted, grad)
        return None, None, None, *_gradients(ctx, tensors, wanted, grad, (grad.double() * out).sum().to(grad.dtype))


def _unpack(
    nests: Coordinates, names: list[str], tensors: Any
) -> tuple[Tensor, Coordinates, Coordinates, dict[str, Tensor]]:
    v, *rest = tensors
    items = iter(rest)
    points = each(lambda _: next(items), nests)
    return v, points[0], points[-1], dict(zip(names, items, strict=True))


def _differentiable_gradients(ctx: Any, tensors: Any, wanted: Any, grad: Tensor) -> list[Tensor | None]:
    """For second derivatives: the matrix in one differentiable piece."""
    # Aliases: the inputs depend on each other (coordinates on hyperparameters), and x may be y.
    aliases = [t.view_as(t) for t in tensors]
    v, cx, cy, own = _unpack(ctx.nests, ctx.names, aliases)
    total = call_with(ctx.kernel, own, _dense_product, cx, cy, v)
    inputs = [t for t, w in zip(aliases, wanted, strict=True) if w]
    return _filled_in(torch.autograd.grad(total, inputs, grad, allow_unused=True, create_graph=True), wanted)


def _dense_product(kernel: Any, cx: Coordinates, cy: Coordinates, v: Tensor) -> Tensor:
    return kernel.block(cx, cy) @ v


def _filled_in(found: Any, wanted: Any) -> list[Tensor | None]:
    items = iter(found)
    return [next(items) if w else None for w in wanted]


def _gradients(ctx: Any, tensors: Any, wanted: Any, grad: Tensor, value: Tensor) -> list[Tensor | None]:
    v, cx, cy, own = _unpack(ctx.nests, ctx.names, [t.detach() for t in tensors])
    to_v = call_with(ctx.kernel, own, _multiply, cy, cx, grad) if wanted[0] else None
    count = len(leaves(ctx.nests))
    to_points = _zeros(tensors[1 : 1 + count], wanted[1 : 1 + count])
    # The terms of a parameter cancel: summed in float64.
    to_own = [None if s is None else s.double() for s in _zeros(own.values(), wanted[1 + count :])]
    if any(wanted[1:]):
        tracked = {name: t.requires_grad_(s is not None) for (name, t), s in zip(own.items(), to_own, strict=True)}
        call_with(ctx.kernel, tracked, add_gradients, cx, cy, v, grad, value, to_points, to_own)
    return [to_v, *to_points, *(s if s is None else s.to(t.dtype) for s, t in zip(to_own, own.values(), strict=True))]


def _zeros(tensors: Iterable[Tensor], wanted: Iterable[bool]) -> list[Tensor | None]:
    return [torch.zeros_like(t) if w else None for t, w in zip(tensors, wanted, strict=True)]


__all__ = ["block_matrix", "fast_matrix", "product"]
