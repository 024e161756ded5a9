"""Derivatives of kernel matrices, a tile of rows at a time, by reverse mode alone: any torch kernel has them.

Memory is that of the result and of one tile, whatever the number of rows or parameters.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

ENTRIES = 2**19  # of a tile, with about twenty numbers an entry while second derivatives are taken

Cotangent = Callable[[slice], Tensor]


def gradients(value: Tensor, inputs: list[Tensor], *, graph: bool = False, keep: bool = False) -> list[Tensor]:
    """d(value)/d(inputs), zero where it does not depend on one."""
    asked = [one for one in inputs if one.requires_grad]
    if not asked or not value.requires_grad:
        return [torch.zeros_like(one) for one in inputs]
    found = iter(
        torch.autograd.grad(value, asked, create_graph=graph, retain_graph=graph or keep, allow_unused=True)
    )  # fmt: skip
    given = [next(found) if one.requires_grad else None for one in inputs]
    return [torch.zeros_like(one) if g is None else g for g, one in zip(given, inputs, strict=True)]


def inner(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """Sum of products of two lists of tensors, 0-dim."""
    return sum(((a * b).sum() for a, b in zip(left, right, strict=True)), torch.zeros((), dtype=torch.float64))


def along(kernel: Any, parameters: list[Tensor], direction: list[Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    """The derivative of k(x, y) along a direction of the parameters, (n, m); y = None means x."""
    other = x if y is None else y
    out = x.new_zeros(len(x), len(other))
    if not any(bool((part != 0).any()) for part in direction):
        return out
    for rows in _rows(len(x), len(other)):
        out[rows] = pushed(partial(_block, kernel, x, other, rows), parameters, direction)
    return out


def pushed(function: Callable[[], Tensor], parameters: list[Tensor], direction: list[Tensor]) -> Tensor:
    """The derivative of `function()` along a direction: the gradient is linear in its cotangent, whose gradient it is."""
    with torch.enable_grad():
        value = function()
        cotangent = torch.zeros_like(value, requires_grad=True)
        slope = inner(gradients((value * cotangent).sum(), parameters, graph=True), direction)
        return gradients(slope, [cotangent])[0].detach()


def pulled(
    kernel: Any, parameters: list[Tensor], x: Tensor, first: Cotangent | None, *,
    second: Cotangent | None = None, direction: list[Tensor] | None = None, points: bool = False,
) -> tuple[list[Tensor], Tensor | None]:  # fmt: skip
    """Gradients by the parameters, and by x (n, d), of `⟨first, K⟩ + ∂⟨second, K⟩/∂(direction)`.

    Args:
        first, second: rows -> the cotangent's rows (t, n).
        points: whether the gradient by x is asked for.
    """
    totals = [torch.zeros_like(p) for p in parameters]
    to_x = torch.zeros_like(x) if points else None
    for rows in _rows(len(x), len(x)):
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            block = _block(kernel, at, at, rows)
            scalar = block.new_zeros(()) if first is None else (first(rows) * block).sum()
            if second is not None and direction is not None:
                slopes = gradients((second(rows) * block).sum(), parameters, graph=True)
                scalar = scalar + inner(slopes, direction)
            parts = gradients(scalar, [*parameters, at] if points else parameters)
        for total, part in zip(totals, parts, strict=False):
            total += part
        if to_x is not None:
            to_x += parts[-1]
    return totals, to_x


def _block(kernel: Any, x: Tensor, y: Tensor, rows: slice) -> Tensor:
    """Some rows of k(x, y)."""
    # For points without gradient gpytorch's own kernels take shortcuts whose second derivatives are silently wrong.
    x, y = (t if t.requires_grad else t.detach().requires_grad_(True) for t in (x, y))
    return kernel.matrix(x[rows], y)


def _rows(n: int, m: int) -> Iterator[slice]:
    step = max(1, ENTRIES // max(1, m))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


__all__ = ["along", "gradients", "inner", "pulled", "pushed"]
