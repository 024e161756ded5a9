"""Sums of kernels."""

from functools import reduce
from operator import add
from typing import Any

import gpytorch
from torch import Tensor

from gp_response.kernels.base import Kernel
from gp_response.kernels.composite import CompositeKernel


class Sum(CompositeKernel, operation="+"):
    """k1 + k2 + ...; what `k1 + k2` makes."""

    def __init__(self, *kernels: gpytorch.kernels.Kernel, **options: Any) -> None:
        super().__init__(*_terms(kernels), **options)

    def part(self, component: int) -> Kernel:
        return self.with_parts(self.parts[component])

    def component_names(self) -> list[str]:
        given = [getattr(k, "component_name", None) for k in self.parts]
        return [str(c) if name is None else name for c, name in enumerate(given)]

    def join(self, values: list[Any]) -> Any:
        return reduce(add, values)

    def join_blocks(self, blocks: list[Tensor], factors: list[float]) -> tuple[Tensor, float]:
        largest = max(range(len(factors)), key=lambda i: factors[i])
        total = blocks[largest]
        for i, (block, factor) in enumerate(zip(blocks, factors, strict=True)):
            if i != largest:
                total.add_(block, alpha=factor / factors[largest])
        return total, factors[largest]


def _terms(kernels: tuple[gpytorch.kernels.Kernel, ...]) -> list[gpytorch.kernels.Kernel]:
    """The terms with sums among them written out."""
    return [term for k in kernels for term in (k.kernels if _is_plain_sum(k) else [k])]


def _is_plain_sum(k: gpytorch.kernels.Kernel) -> bool:
    return type(k) is Sum and k.active_dims is None and k.outputscale is None


__all__ = ["Sum"]
