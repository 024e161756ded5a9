"""The periodic kernel."""

import math
from typing import Any

import torch
from gpytorch.constraints import Interval
from gpytorch.priors import Prior
from torch import Tensor

from gp_response.kernels.blocks import InPlace, InPlaceSlope
from gp_response.kernels.parameters import Value, checked
from gp_response.kernels.stationary import StationaryKernel


class Periodic(StationaryKernel):
    """exp(-2 Σ_d sin²(π (x_d - y_d) / p_d) / ℓ_d²), MacKay (1998) (47): the RBF of points wound around circles.

    period: p in the units of x, a number or (d,) numbers (then ard = d). Other arguments as for Kernel.
    gpytorch's PeriodicKernel divides by its lengthscale, not by its square: the same kernel where that equals ℓ².
    """

    def __init__(
        self,
        *,
        period: Value = 1.0,
        period_prior: Prior | None = None,
        period_constraint: Interval | None = None,
        **options: Any,
    ) -> None:
        start = checked("period", period)
        if start.dim() == 1 and options.get("ard") is None:
            options["ard"] = len(start)
        super().__init__(**options)
        self.register_positive("period", start, per_dimension=True, prior=period_prior, constraint=period_constraint)

    def coordinates(self, x: Tensor) -> Tensor:
        angle = (2.0 * math.pi) * x / self.period
        scaled = super().coordinates
        return torch.cat([scaled(angle.cos()), scaled(angle.sin())], dim=-1)

    def profile(self, r2: Any) -> Any:
        return (-0.5 * r2).exp()

    def in_place(self) -> tuple[float, InPlace]:
        return -0.5, lambda q, work: q.exp_()

    def in_place_slope(self) -> InPlaceSlope:
        return lambda q, work, other: torch.mul(q.exp_(), -0.5, out=work(*q.shape))


__all__ = ["Periodic"]
