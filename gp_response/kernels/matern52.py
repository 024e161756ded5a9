"""The Matérn kernel of smoothness 5/2."""

from typing import Any

from gp_response.kernels.blocks import InPlace, InPlaceSlope
from gp_response.kernels.matern import matern, matern_in_place, matern_slope_in_place
from gp_response.kernels.stationary import StationaryKernel


class Matern52(StationaryKernel):
    """(1 + √5 r + 5r²/3) exp(-√5 r), Rasmussen & Williams (4.17)."""

    def profile(self, r2: Any) -> Any:
        return matern(2, 5.0 * r2)

    def in_place(self) -> tuple[float, InPlace]:
        return 5.0, matern_in_place(2)

    def compiled(self) -> str:
        return "matern52"

    def in_place_slope(self) -> InPlaceSlope:
        return matern_slope_in_place(2)


__all__ = ["Matern52"]
