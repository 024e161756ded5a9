"""The Cauchy kernel."""

from typing import Any

from gp_response.kernels.stationary import StationaryKernel


class Cauchy(StationaryKernel):
    """1 / (1 + r²), a rational quadratic with α = 1 (Rasmussen & Williams 2006, eq. 4.19, rescaled)."""

    def profile(self, r2: Any) -> Any:
        return 1.0 / (1.0 + r2)


__all__ = ["Cauchy"]
