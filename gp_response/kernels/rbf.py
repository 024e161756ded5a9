"""The squared exponential kernel."""

from typing import Any

from gp_response.kernels.blocks import InPlace
from gp_response.kernels.stationary import StationaryKernel


class RBF(StationaryKernel):
    """exp(-r²/2), Rasmussen & Williams (4.9)."""

    def profile(self, r2: Any) -> Any:
        return (-0.5 * r2).exp()

    def in_place(self) -> tuple[float, InPlace]:
        return -0.5, lambda q, work: q.exp_()


__all__ = ["RBF"]
