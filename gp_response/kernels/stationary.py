"""Kernels of the distance between coordinates."""

from typing import Any

from torch import Tensor

from gp_response.kernels.base import Kernel
from gp_response.kernels.distance import squared_distance
from gp_response.kernels.points import Coordinates


class StationaryKernel(Kernel):
    """k = outputscale * profile(|u - v|²) with u = x / lengthscale."""

    def profile(self, r2: Any) -> Any:
        """The covariance at squared distance r2, a tensor or a KeOps LazyTensor.

        Take roots with `gr.kernels.sqrt`, whose gradient is finite at 0. For KeOps write `/ 3.0`, not `/ 3`, and
        `(-a * r2.log()).exp()` rather than `r2 ** (-a)`.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no profile(r2)")

    def formula(self, x: Any, y: Any) -> Any:
        return self.profile(((x - y) ** 2).sum(-1))

    def block(self, x: Coordinates, y: Coordinates) -> Tensor:
        return self.scaled(self.profile(squared_distance(x, y)))

    def width(self, x: Coordinates) -> int:
        return 1

    @property
    def is_stationary(self) -> bool:
        return True


__all__ = ["StationaryKernel"]
