"""The Matérn kernel of smoothness 3/2."""

import math
from typing import Any

from gp_response.kernels.maths import sqrt
from gp_response.kernels.stationary import StationaryKernel


class Matern32(StationaryKernel):
    """(1 + √3 r) exp(-√3 r), Rasmussen & Williams (4.17)."""

    def profile(self, r2: Any) -> Any:
        s = math.sqrt(3.0) * sqrt(r2)
        return (1.0 + s) * (-s).exp()


__all__ = ["Matern32"]
