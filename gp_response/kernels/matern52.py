"""The Matérn kernel of smoothness 5/2."""

import math
from typing import Any

from gp_response.kernels.maths import sqrt
from gp_response.kernels.stationary import StationaryKernel


class Matern52(StationaryKernel):
    """(1 + √5 r + 5r²/3) exp(-√5 r), Rasmussen & Williams (4.17)."""

    def profile(self, r2: Any) -> Any:
        s = math.sqrt(5.0) * sqrt(r2)
        return (1.0 + s + (5.0 / 3.0) * r2) * (-s).exp()


__all__ = ["Matern52"]
