"""Dense evaluation in row tiles."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gp_response.kernels.casting import call_with, state
from gp_response.kernels.points import Coordinates, leaves, row_tiles, take
from gp_response.kernels.recompute import TILE, filled, recomputed

RECOMPUTE = 2**22  # numbers autograd may keep before it has to recompute them


def matrix(kernel: Any, x: Tensor, y: Tensor | None) -> Tensor:
    """k(x_i, y_j) as (*batch, n, m); y = None means x and gives an exactly symmetric matrix."""
    cx = kernel.coordinates(x)
    cy = cx if y is None else kernel.coordinates(y)
    if _plain(kernel, cx, cy):
        k = kernel.block(cx, cy)
        return 0.5 * (k + k.mT) if y is None else k
    evaluate = recomputed if _needs_grad(kernel, cx, cy) else filled
    return evaluate(kernel, cx, cy, symmetric=y is None)


def _plain(kernel: Any, cx: Coordinates, cy: Coordinates) -> bool:
    """Whether autograd or torch.func has to see one ordinary expression rather than tiles."""
    if not _needs_grad(kernel, cx, cy):
        return _transformed(kernel, cx, cy)
    return _inside_transform() or len(row_tiles(kernel, cx, cy, RECOMPUTE)) == 1


def product(kernel: Any, cx: Coordinates, cy: Coordinates, v: Tensor) -> Tensor:
    """K(x, y) @ v for v (..., m, t) without ever holding K; differentiable."""
    multiply = _recomputed_product if _needs_grad(kernel, cx, cy) and not _inside_transform() else _product
    return torch.cat([multiply(kernel, take(cx, rows), cy, v) for rows in row_tiles(kernel, cx, cy, TILE)], dim=-2)


def _product(kernel: Any, cx: Coordinates, cy: Coordinates, v: Tensor) -> Tensor:
    return kernel.block(cx, cy) @ v


def _recomputed_product(kernel: Any, cx: Coordinates, cy: Coordinates, v: Tensor) -> Tensor:
    # The kernel's tensors go by value: an enclosing `functional_call` is over when the backward pass comes.
    args = (kernel, state(kernel), _product, cx, cy, v)
    return checkpoint(call_with, *args, use_reentrant=False, preserve_rng_state=False)


def _tensors(kernel: Any, *points: Coordinates) -> list[Tensor]:
    return [*kernel.parameters(), *(leaf for p in points for leaf in leaves(p))]


def _needs_grad(kernel: Any, *points: Coordinates) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in _tensors(kernel, *points))


# torch.func refuses saved-tensor hooks and writes into buffers it does not track; the version of torch is pinned.


def _inside_transform() -> bool:
    return torch._C._functorch.maybe_current_level() is not None


def _transformed(kernel: Any, *points: Coordinates) -> bool:
    return any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in _tensors(kernel, *points))


__all__ = ["matrix", "product"]
