"""The rational quadratic kernel."""

from typing import Any

from gpytorch.constraints import Interval
from gpytorch.priors import Prior

from gp_response.kernels.blocks import InPlace
from gp_response.kernels.parameters import Value
from gp_response.kernels.stationary import StationaryKernel


class RationalQuadratic(StationaryKernel):
    """(1 + r²/2α)^-α, Rasmussen & Williams (4.19): a mixture of RBFs of all lengthscales; RBF as α → ∞.

    alpha: the exponent, positive. Other arguments as for Kernel.
    """

    def __init__(
        self,
        *,
        alpha: Value = 1.0,
        alpha_prior: Prior | None = None,
        alpha_constraint: Interval | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.register_positive("alpha", alpha, prior=alpha_prior, constraint=alpha_constraint)

    def profile(self, r2: Any) -> Any:
        return (-self.alpha * (1.0 + r2 / (2.0 * self.alpha)).log()).exp()

    def in_place(self) -> tuple[float, InPlace]:
        alpha = float(self.alpha)
        return 0.5 / alpha, lambda q, work: q.clamp_min_(0.0).add_(1.0).log_().mul_(-alpha).exp_()


__all__ = ["RationalQuadratic"]
