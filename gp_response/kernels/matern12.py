"""The Matérn kernel of smoothness 1/2."""

from typing import Any

from gp_response.kernels.blocks import InPlace, InPlaceSlope
from gp_response.kernels.matern import matern, matern_in_place, matern_slope_in_place
from gp_response.kernels.stationary import StationaryKernel


class Matern12(StationaryKernel):
    """exp(-r), the covariance of an Ornstein-Uhlenbeck process; Rasmussen & Williams (4.18).

    Its samples have no derivative; neither has the kernel where two points coincide: the gradient there is taken as 0.
    """

    def profile(self, r2: Any) -> Any:
        return matern(0, r2)

    def in_place(self) -> tuple[float, InPlace]:
        return 1.0, matern_in_place(0)

    def compiled(self) -> str:
        return "matern12"

    def in_place_slope(self) -> InPlaceSlope:
        return matern_slope_in_place(0)


__all__ = ["Matern12"]
