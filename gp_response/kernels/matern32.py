"""The Matérn kernel of smoothness 3/2."""

from typing import Any

from gp_response.kernels.blocks import InPlace, InPlaceSlope
from gp_response.kernels.matern import matern, matern_in_place, matern_slope_in_place
from gp_response.kernels.stationary import StationaryKernel


class Matern32(StationaryKernel):
    """(1 + √3 r) exp(-√3 r), Rasmussen & Williams (4.17)."""

    def profile(self, r2: Any) -> Any:
        return matern(1, 3.0 * r2)

    def in_place(self) -> tuple[float, InPlace]:
        return 3.0, matern_in_place(1)

    def compiled(self) -> str:
        return "matern32"

    def in_place_slope(self) -> InPlaceSlope:
        return matern_slope_in_place(1)


__all__ = ["Matern32"]
