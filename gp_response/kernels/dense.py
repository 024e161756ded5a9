"""Dense evaluation in row tiles: memory of one matrix without gradients, and of a few tiles beyond it with them."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .casting import call_with, state
from .points import Coordinates, batch_shape, leaves, length, take

TILE = 2**18  # elements of a tile: 2 MiB in float64, so that it and a formula's temporaries stay in cache
RECOMPUTE = 2**22  # entries above which autograd recomputes a row block instead of keeping its temporaries


def matrix(kernel: Any, x: Tensor, y: Tensor | None) -> Tensor:
    """k(x_i, y_j) as (*batch, n, m); y = None means x and gives an exactly symmetric matrix."""
    cx = kernel.coordinates(x)
    cy = cx if y is None else kernel.coordinates(y)
    if _inside_transform():
        full = kernel.block(cx, cy)
    elif not _needs_grad(kernel, cx, cy):
        return _filled(kernel, cx, cy, symmetric=y is None)
    else:
        full = torch.cat([_block(kernel, take(cx, rows), cy) for rows in _rows(kernel, cx, cy, RECOMPUTE)], dim=-2)
    return 0.5 * (full + full.mT) if y is None else full


def product(kernel: Any, cx: Coordinates, cy: Coordinates, v: Tensor) -> Tensor:
    """K(x, y) @ v for v (..., m, t) without ever holding K; differentiable."""
    recompute = _needs_grad(kernel, cx, cy) and not _inside_transform()
    block = _block if recompute else _plain
    parts = [block(kernel, take(cx, rows), cy, v) for rows in _rows(kernel, cx, cy, TILE)]
    return torch.cat(parts, dim=-2)


def _filled(kernel: Any, cx: Coordinates, cy: Coordinates, *, symmetric: bool) -> Tensor:
    batch, first = batch_shape(kernel, cx, cy), leaves(cx)[0]
    out = first.new_empty(*batch, length(cx), length(cy))
    with torch.no_grad():
        for rows in _rows(kernel, cx, cy, TILE):
            upto = rows.stop if symmetric else length(cy)
            out[..., rows, :upto] = kernel.block(take(cx, rows), take(cy, slice(0, upto)))
            if symmetric:
                _mirror(out, rows)
    return out


def _mirror(out: Tensor, rows: slice) -> None:
    """Copy the strictly lower part of some rows to the columns of the same numbers.

    Both halves would come out equal up to the last bit: vectorised and scalar code paths round differently.
    """
    square = out[..., rows, rows]
    square.copy_(square.tril() + square.tril(-1).mT)
    out[..., : rows.start, rows] = out[..., rows, : rows.start].mT


def _plain(kernel: Any, cx: Coordinates, cy: Coordinates, v: Tensor | None = None) -> Tensor:
    k = kernel.block(cx, cy)
    return k if v is None else k @ v


def _block(kernel: Any, cx: Coordinates, cy: Coordinates, v: Tensor | None = None) -> Tensor:
    """A block that autograd recomputes, if it is one of several or only a means to a product.

    The tensors are handed over by value: by the time of the backward pass an enclosing `functional_call` (a dtype cast, a
    caller's jacobian) has put the module's own parameters back.
    """
    if v is None and length(cx) * length(cy) * kernel.width(cx) <= RECOMPUTE:
        return kernel.block(cx, cy)
    return checkpoint(
        call_with, kernel, state(kernel), _plain, cx, cy, v, use_reentrant=False, preserve_rng_state=False
    )


def _rows(kernel: Any, cx: Coordinates, cy: Coordinates, elements: int) -> list[slice]:
    """Slices of rows whose blocks have about `elements` elements, temporaries of the formula included."""
    n, per_row = length(cx), batch_shape(kernel, cx, cy).numel() * length(cy) * kernel.width(cx)
    step = max(1, elements // max(1, per_row))
    return [slice(i, min(i + step, n)) for i in range(0, n, step)] or [slice(0, 0)]


def _needs_grad(kernel: Any, *points: Coordinates) -> bool:
    tensors = [*kernel.parameters(), *(leaf for p in points for leaf in leaves(p))]
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _inside_transform() -> bool:
    # torch.func refuses checkpointing (saved-tensor hooks) and writes into buffers it does not track; torch is pinned.
    return torch._C._functorch.maybe_current_level() is not None


__all__ = ["matrix", "product"]
