"""A matrix that autograd recomputes tile by tile: memory for its entries, none for intermediate results."""

from typing import Any

import torch
from torch import Tensor

from gp_response.kernels.casting import call_with, state
from gp_response.kernels.points import Coordinates, batch_shape, each, leaves, length, row_tiles, take

TILE = 2**19  # elements of a tile: 4 MiB in float64, so that it and a formula's temporaries stay in cache


def filled(kernel: Any, cx: Coordinates, cy: Coordinates, *, symmetric: bool) -> Tensor:
    """The matrix between coordinates, written tile by tile, where no gradient is asked for.

    No torch.no_grad() here: it would drop the tangents of forward mode without a word.
    """
    batch, first = batch_shape(kernel, cx, cy), leaves(cx)[0]
    out = first.new_empty(*batch, length(cx), length(cy))
    for rows in row_tiles(kernel, cx, cy, TILE):
        upto = rows.stop if symmetric else length(cy)
        out[..., rows, :upto] = kernel.block(take(cx, rows), take(cy, slice(0, upto)))
        if symmetric:
            _mirror(out, rows)
    return out


def _mirror(out: Tensor, rows: slice) -> None:
    """Copy the strictly lower part of some rows to the columns of the same numbers.

    Computed twice, an entry would differ in its last bit: vectorised and scalar code round differently.
    """
    square = out[..., rows, rows]
    square.copy_(square.tril() + square.tril(-1).mT)
    out[..., : rows.start, rows] = out[..., rows, : rows.start].mT


class _Recomputed(torch.autograd.Function):
    """`filled`, with a backward pass that evaluates the tiles again.

    The kernel's own tensors are inputs, as they were at the forward pass: by the backward pass an enclosing
    `functional_call` (a dtype cast, a caller's jacobian) has put the module's parameters back.
    """

    @staticmethod
    def forward(
        ctx: Any, kernel: Any, names: list[str], nests: Coordinates, symmetric: bool, *tensors: Tensor
    ) -> Tensor:
        ctx.kernel, ctx.names, ctx.symmetric = kernel, names, symmetric
        ctx.nests = each(lambda _: None, nests)  # the shape of the nests without their tensors
        ctx.save_for_backward(*tensors)
        cx, cy, own = _unpack(ctx.nests, names, tensors)
        return call_with(kernel, own, _filled, cx, cy, symmetric)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[4:]
        if torch.is_grad_enabled():  # somebody wants second derivatives: one differentiable piece
            # Aliases: the inputs depend on each other (coordinates on hyperparameters), and x may be y.
            aliases = [t.view_as(t) for t in tensors]
            grads = _gradients(ctx, aliases, wanted, slice(0, grad.shape[-2]), grad, create_graph=True)
        else:
            grads = [torch.zeros_like(t) if w else None for t, w in zip(tensors, wanted, strict=True)]
            cx, cy, _ = _unpack(ctx.nests, ctx.names, tensors)
            for rows in row_tiles(ctx.kernel, cx, cy, TILE):
                tile = [t.detach().requires_grad_(w) for t, w in zip(tensors, wanted, strict=True)]
                for total, part in zip(grads, _gradients(ctx, tile, wanted, rows, grad), strict=True):
                    if part is not None:
                        total += part
        return None, None, None, None, *grads


def _gradients(
    ctx: Any, tensors: Any, wanted: Any, rows: slice, grad: Tensor, *, create_graph: bool = False
) -> list[Any]:
    """The contribution of some rows to the gradient of every tensor."""
    upto = rows.stop if ctx.symmetric else grad.shape[-1]
    g = grad[..., rows, :upto]
    if ctx.symmetric:  # an entry and its mirror image are one number, left of the square on the diagonal
        g = g + grad[..., :upto, rows].mT
        g[..., rows.start :] *= 0.5
    with torch.enable_grad():
        cx, cy, own = _unpack(ctx.nests, ctx.names, tensors)
        k = call_with(ctx.kernel, own, _block, take(cx, rows), take(cy, slice(0, upto)))
        inputs = [t for t, w in zip(tensors, wanted, strict=True) if w]
        found = iter(torch.autograd.grad(k, inputs, g, allow_unused=True, create_graph=create_graph))
    return [next(found) if w else None for w in wanted]


def _unpack(nests: Any, names: list[str], tensors: Any) -> tuple[Coordinates, Coordinates, dict[str, Tensor]]:
    items = iter(tensors)
    cx, cy = each(lambda _: next(items), nests)
    return cx, cy, dict(zip(names, items, strict=True))


def _filled(kernel: Any, cx: Coordinates, cy: Coordinates, symmetric: bool) -> Tensor:
    return filled(kernel, cx, cy, symmetric=symmetric)


def _block(kernel: Any, cx: Coordinates, cy: Coordinates) -> Tensor:
    return kernel.block(cx, cy)


def recomputed(kernel: Any, cx: Coordinates, cy: Coordinates, *, symmetric: bool) -> Tensor:
    """The matrix between coordinates, differentiable to any order, with the memory of `filled` in both passes.

    Second derivatives take the memory of a plain evaluation.
    """
    own = state(kernel)
    return _Recomputed.apply(kernel, list(own), (cx, cy), symmetric, *leaves((cx, cy)), *own.values())


__all__ = ["filled", "recomputed"]
