"""Kernels of the distance between coordinates."""

from typing import Any

import torch
from torch import Tensor

from gp_response.kernels.base import Kernel
from gp_response.kernels.blocks import Blocks, DistanceBlocks, InPlace, InPlaceSlope
from gp_response.kernels.distance import squared_distance
from gp_response.kernels.maths import with_values
from gp_response.kernels.points import Coordinates


class StationaryKernel(Kernel):
    """k = outputscale * profile(|u - v|²) with u = x / lengthscale."""

    def profile(self, r2: Any) -> Any:
        """The covariance at squared distance r2, a tensor or a KeOps LazyTensor.

        Take roots with `gr.kernels.sqrt`, whose gradient is finite at 0. For KeOps write `/ 3.0`, not `/ 3`, and
        `(-a * r2.log()).exp()` rather than `r2 ** (-a)`.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no profile(r2)")

    def in_place(self) -> tuple[float, InPlace | None]:
        """A faster `profile` for blocks without gradients: `(multiple, function)`, optional.

        `function(q, work)` overwrites q = multiple * r2, which rounding may have put on the wrong side of 0, with the
        profile; `work(n, m)` gives memory for intermediate results. Hyperparameters go in as numbers.
        """
        return 1.0, None

    def compiled(self) -> str | None:
        """Name in `compiled.PROFILES` of the profile of q = multiple * r2 with the multiple of `in_place`, optional."""
        return None

    def in_place_slope(self) -> InPlaceSlope | None:
        """The same for gradients, optional, for profiles without hyperparameters.

        `function(q, work, other)` overwrites q = multiple * r2 with the profile and returns its derivative by r2;
        `work` and `other` give memory, also for the result.
        """
        return None

    def formula(self, x: Any, y: Any) -> Any:
        return self.profile(((x - y) ** 2).sum(-1))

    def block(self, x: Coordinates, y: Coordinates) -> Tensor:
        return self.scaled(self.profile(squared_distance(x, y)))

    def block_given(self, x: Coordinates, y: Coordinates, given: tuple[Tensor, ...] | None) -> Tensor:
        if given is None:
            return self.block(x, y)
        r2 = squared_distance(x, y, given[0])  # where value and slope are given, that of r2 is not looked at
        return self.profile(r2) if len(given) == 1 else with_values(r2, *given)

    def left_out(self, given: tuple[Tensor, ...] | None) -> list[Kernel]:
        return [] if given is None else [self]

    def fast_blocks(self, x: Coordinates, y: Coordinates, dtype: torch.dtype, exact: bool) -> Blocks:
        return DistanceBlocks(self, x, y, dtype, exact)

    def width(self, x: Coordinates) -> int:
        return 1

    @property
    def is_stationary(self) -> bool:
        return True


__all__ = ["StationaryKernel"]
