"""Products of kernels."""

import math
from functools import reduce
from operator import mul
from typing import Any

from torch import Tensor

from gp_response.kernels.composite import CompositeKernel


class Product(CompositeKernel, operation="*"):
    """k1 * k2 * ...; what `k1 * k2` makes. Each factor's outputscale counts: give all but one `outputscale=None`."""

    def join(self, values: list[Any]) -> Any:
        return reduce(mul, values)

    def join_blocks(self, blocks: list[Tensor], factors: list[float]) -> tuple[Tensor, float]:
        return reduce(lambda total, block: total.mul_(block), blocks), math.prod(factors)


__all__ = ["Product"]
