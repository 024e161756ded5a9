"""Products of kernels."""

from functools import reduce
from operator import mul
from typing import Any

from gp_response.kernels.composite import CompositeKernel


class Product(CompositeKernel, operation="*"):
    """k1 * k2 * ...; what `k1 * k2` makes. Each factor's outputscale counts: give all but one `outputscale=None`."""

    def join(self, values: list[Any]) -> Any:
        return reduce(mul, values)


__all__ = ["Product"]
