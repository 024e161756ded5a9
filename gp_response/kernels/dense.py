"""Dense evaluation in row tiles."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gp_response.kernels.casting import call_with, state
from gp_response.kernels.points import Coordinates, leaves, row_tiles, take
from gp_response.kernels.recompute import TILE, filled, recomputed
from gp_response.linalg.transforms import inside_transform

RECOMPUTE = 2**22  # numbers autograd may keep before it has to recompute them


def matrix(kernel: Any, x: Tensor, y: Tensor | None, differentiated: bool = False) -> Tensor:
    """k(x_i, y_j) as (*batch, n, m); y = None means x and gives an exactly symmetric matrix.

    differentiated: whether a torch.func transform is with respect to something the matrix depends on.
    """
    cx = kernel.coordinates(x)
    cy = cx if y is None else kernel.coordinates(y)
    grad = _needs_grad(kernel, cx, cy)
    few = len(row_tiles(kernel, cx, cy, RECOMPUTE)) == 1
    if differentiated or (grad and (few or inside_transform())):
        k = kernel.block(cx, cy)
        return 0.5 * (k + k.mT) if y is None else k
    return (recomputed if grad else filled)(kernel, cx, cy, symmetric=y is None)


def differentiated(kernel: Any, *points: Tensor | None) -> bool:
    """Whether a torch.func transform tracks the kernel or the points; ask before the first operation on them.

    Inside a transform everything computed is wrapped, whether it depends on the transform's input or not.
    """
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return any(wrapped(t) for t in (*kernel.parameters(), *kernel.buffers(), *points) if t is not None)


def product(kernel: Any, cx: Coordinates, cy: Coordinates, v: Tensor) -> Tensor:
    """K(x, y) @ v for v (..., m, t) without ever holding K; differentiable."""
    multiply = _recomputed_product if _needs_grad(kernel, cx, cy) and not inside_transform() else _product
    return torch.cat([multiply(kernel, take(cx, rows), cy, v) for rows in row_tiles(kernel, cx, cy, TILE)], dim=-2)


def _product(kernel: Any, cx: Coordinates, cy: Coordinates, v: Tensor) -> Tensor:
    return kernel.block(cx, cy) @ v


def _recomputed_product(kernel: Any, cx: Coordinates, cy: Coordinates, v: Tensor) -> Tensor:
    # The kernel's tensors go by value: an enclosing `functional_call` is over when the backward pass comes.
    args = (kernel, state(kernel), _product, cx, cy, v)
    return checkpoint(call_with, *args, use_reentrant=False, preserve_rng_state=False)


def _needs_grad(kernel: Any, *points: Coordinates) -> bool:
    tensors = [*kernel.parameters(), *(leaf for p in points for leaf in leaves(p))]
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


__all__ = ["differentiated", "matrix", "product"]
