"""A factor in front of a kernel."""

from typing import Any

import gpytorch
from torch import Tensor

from gp_response.kernels.composite import CompositeKernel
from gp_response.kernels.parameters import Value


class Scale(CompositeKernel, operation="scale"):
    """outputscale * k, with the factor a hyperparameter; what `2.0 * k` makes.

    For kernels without a scale of their own, and for one factor in front of a sum.
    """

    def __init__(self, kernel: gpytorch.kernels.Kernel, *, outputscale: Value = 1.0, **options: Any) -> None:
        super().__init__(kernel, outputscale=outputscale, **options)

    passes_on = True

    def join(self, values: list[Any]) -> Any:
        return values[0]

    def join_blocks(self, blocks: list[Tensor], factors: list[float]) -> tuple[Tensor, float]:
        return blocks[0], factors[0]


__all__ = ["Scale"]
