"""The linear kernel."""

from typing import Any

from gp_response.kernels.dot import DotKernel


class Linear(DotKernel):
    """(x / ℓ)·(y / ℓ), Bayesian linear regression through the origin; Rasmussen & Williams (2.1).

    No bias: add Constant() for one. At ℓ = 1 it is gpytorch's LinearKernel with variance = outputscale.
    """

    def profile(self, s: Any) -> Any:
        return s


__all__ = ["Linear"]
