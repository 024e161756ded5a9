"""The Matérn kernel of smoothness 5/2."""

from typing import Any

from gp_response.kernels.matern import matern
from gp_response.kernels.stationary import StationaryKernel


class Matern52(StationaryKernel):
    """(1 + √5 r + 5r²/3) exp(-√5 r), Rasmussen & Williams (4.17)."""

    def profile(self, r2: Any) -> Any:
        return matern(2, 5.0 * r2)


__all__ = ["Matern52"]
