"""Squared distances without cancellation and without n x m x d temporaries, differentiable to any order."""

from typing import Any

import torch
from torch import Tensor


class _SquaredDistance(torch.autograd.Function):
    """cdist as a function of both sets, with the rules that reverse mode, forward mode and vmap need."""

    @staticmethod
    def forward(x: Tensor, y: Tensor, value: Tensor | None) -> Tensor:
        if value is not None:
            return value.view_as(value)
        # Differences, not |x|² + |y|² - 2xy: the expansion loses every digit of the distance between near-duplicates.
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square_()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y = _centred(*ctx.saved_tensors)
        to_x, to_y = ctx.needs_input_grad[:2]
        return (
            2.0 * (x * grad.sum(-1, keepdim=True) - grad @ y) if to_x else None,
            2.0 * (y * grad.mT.sum(-1, keepdim=True) - grad.mT @ x) if to_y else None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dy: Tensor | None, _: None) -> Tensor:
        x, y = _centred(*ctx.saved_tensors)
        dx = torch.zeros_like(x) if dx is None else dx
        dy = torch.zeros_like(y) if dy is None else dy
        rows = (x * dx).sum(-1, keepdim=True) - dx @ y.mT
        columns = (y * dy).sum(-1).unsqueeze(-2) - x @ dy.mT
        return 2.0 * (rows + columns)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, y: Tensor, value: None) -> tuple[Tensor, int]:
        ndim = max(t.dim() - (b is not None) for t, b in zip((x, y), in_dims[:2], strict=True))
        return squared_distance(_batch_first(x, in_dims[0], ndim), _batch_first(y, in_dims[1], ndim)), 0


def _centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets shifted by one point among them: distances keep, products of coordinates get small.

    The shift is detached: it drops out of every derivative exactly.
    """
    shift = x.detach().mean(-2, keepdim=True)
    if shift.dim() > 2:  # one shift for all batches, so that sets of different batch shapes are moved alike
        shift = shift.reshape(-1, shift.shape[-1]).mean(0)
    return x - shift, y - shift


def _batch_first(t: Tensor, dim: int | None, ndim: int) -> Tensor:
    """The vmapped dimension first, then as many singletons as it takes for the other dimensions to align."""
    if dim is None:
        return t
    t = t.movedim(dim, 0)
    return t.reshape(t.shape[0], *[1] * (ndim + 1 - t.dim()), *t.shape[1:])


def squared_distance(x: Tensor, y: Tensor, value: Tensor | None = None) -> Tensor:
    """|x_i - y_j|² for x (..., n, d) and y (..., m, d), as (..., n, m).

    The value is right to full relative precision however close the points are. Gradients are matrix products and carry
    an absolute error of about eps·|g|·|x - mean|. Batch dimensions must be equal or broadcast.
    value: the result, where the caller has it; only the derivatives are left to this function.
    """
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    return _SquaredDistance.apply(x.expand(*batch, *x.shape[-2:]), y.expand(*batch, *y.shape[-2:]), value)


__all__ = ["squared_distance"]
