"""Derivatives of kernel matrices, a tile of rows at a time, by reverse mode alone: any torch kernel has them.

Memory is that of the result and of one tile, whatever the number of parameters; of few rows all tiles are kept.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

ENTRIES = 2**19  # of a tile, with about twenty numbers an entry while second derivatives are taken
KEPT = 2**20  # entries, 1,024 rows, up to which these stay between directions, in about 300 MiB

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


def along(kernel: Any, parameters: list[Tensor], direction: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The derivative of k(x, y) along a direction of the parameters, (n, m)."""
    out = x.new_zeros(len(x), len(y))
    if not any(bool((part != 0).any()) for part in direction):
        return out
    for rows in _rows(len(x), len(y)):
        out[rows] = pushed(partial(_block, kernel, x, y, rows), parameters, direction)
    return out


def pushed(function: Callable[[], Tensor], parameters: list[Tensor], direction: list[Tensor]) -> Tensor:
    """The derivative of `function()` along a direction: the gradient is linear in its cotangent, whose gradient it is."""
    with torch.enable_grad():
        value = function()
        cotangent = torch.zeros_like(value, requires_grad=True)
        slope = inner(gradients((value * cotangent).sum(), parameters, graph=True), direction)
        return gradients(slope, [cotangent])[0].detach()


def pulled(kernel: Any, parameters: list[Tensor], x: Tensor, first: Cotangent) -> list[Tensor]:
    """Gradients by the parameters of `⟨first, K⟩`, first: rows -> the cotangent's rows (t, n)."""
    totals = [torch.zeros_like(p) for p in parameters]
    for rows in _rows(len(x), len(x)):
        with torch.enable_grad():
            parts = gradients((first(rows) * _block(kernel, x, x, rows)).sum(), parameters)
        for total, part in zip(totals, parts, strict=True):
            total += part
    return totals


class Tile:
    """Some rows of K with the gradient of `⟨Γ, K⟩` by the parameters, differentiable again in these, in x and in Γ."""

    def __init__(self, kernel: Any, parameters: list[Tensor], x: Tensor, rows: slice, second: Cotangent):
        self.rows = rows
        with torch.enable_grad():
            self.at = x.detach().requires_grad_(True)
            self.block = _block(kernel, self.at, self.at, rows)
            self.cotangent = second(rows).detach().requires_grad_(True)
            self.slopes = gradients((self.cotangent * self.block).sum(), parameters, graph=True)


class Tiles:
    """k(x, x) along many directions of its parameters: what all of them share is computed once where it is small.

    Args:
        second: rows -> rows of Γ (t, n).
    """

    def __init__(self, kernel: Any, parameters: list[Tensor], x: Tensor, second: Cotangent):
        self.kernel, self.parameters, self.x, self.second = kernel, parameters, x, second
        self.kept = list(self._fresh()) if len(x) ** 2 <= KEPT else []

    def along(self, direction: list[Tensor]) -> Tensor:
        """The derivative of K along a direction, (n, n)."""
        out = self.x.new_zeros(len(self.x), len(self.x))
        if not any(bool((part != 0).any()) for part in direction):
            return out
        for tile in self.kept or self._fresh():
            with torch.enable_grad():
                slope = inner(tile.slopes, direction)
            out[tile.rows] = gradients(slope, [tile.cotangent], keep=True)[0]
        return out

    def pulled(
        self, first: Cotangent, direction: list[Tensor], *, points: bool = False
    ) -> tuple[list[Tensor], Tensor | None]:
        """Gradients by the parameters, and by x (n, d) where asked, of `⟨first, K⟩ + ∂⟨Γ, K⟩/∂(direction)`."""
        totals = [torch.zeros_like(p) for p in (*self.parameters, *([self.x] if points else []))]
        for tile in self.kept or self._fresh():
            with torch.enable_grad():
                scalar = (first(tile.rows) * tile.block).sum() + inner(tile.slopes, direction)
            parts = gradients(scalar, [*self.parameters, tile.at] if points else self.parameters, keep=True)
            for total, part in zip(totals, parts, strict=True):
                total += part
        count = len(self.parameters)
        return totals[:count], totals[count] if points else None

    def _fresh(self) -> Iterator[Tile]:
        return (
            Tile(self.kernel, self.parameters, self.x, rows, self.second) for rows in _rows(len(self.x), len(self.x))
        )


def _block(kernel: Any, x: Tensor, y: Tensor, rows: slice) -> Tensor:
    """Some rows of k(x, y)."""
    # For points without gradient gpytorch's own kernels take shortcuts whose second derivatives are silently wrong.
    x, y = (t if t.requires_grad else t.detach().requires_grad_(True) for t in (x, y))
    return kernel.matrix(x[rows], y)


def _rows(n: int, m: int) -> Iterator[slice]:
    step = max(1, ENTRIES // max(1, m))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


__all__ = ["Tiles", "along", "gradients", "inner", "pulled", "pushed"]
