"""The squared exponential kernel."""

from typing import Any

import torch

from gp_response.kernels.blocks import InPlace, InPlaceSlope
from gp_response.kernels.stationary import StationaryKernel


class RBF(StationaryKernel):
    """exp(-r²/2), Rasmussen & Williams (4.9)."""

    def profile(self, r2: Any) -> Any:
        return (-0.5 * r2).exp()

    def in_place(self) -> tuple[float, InPlace]:
        return -0.5, lambda q, work: q.exp_()

    def compiled(self) -> str:
        return "rbf"

    def in_place_slope(self) -> InPlaceSlope:
        return lambda q, work, other: torch.mul(q.exp_(), -0.5, out=work(*q.shape))


__all__ = ["RBF"]
