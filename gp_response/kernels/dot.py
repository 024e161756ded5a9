"""Kernels of the inner product of coordinates."""

from typing import Any

import torch
from torch import Tensor

from gp_response.kernels.base import Kernel
from gp_response.kernels.blocks import Blocks, DotBlocks
from gp_response.kernels.points import Coordinates


class DotKernel(Kernel):
    """k = outputscale * profile(u·v) with u = x / lengthscale."""

    def profile(self, s: Any) -> Any:
        """The covariance at inner product s, a tensor or a KeOps LazyTensor."""
        raise NotImplementedError(f"{type(self).__name__} defines no profile(s)")

    def formula(self, x: Any, y: Any) -> Any:
        return self.profile((x * y).sum(-1))

    def block(self, x: Coordinates, y: Coordinates) -> Tensor:
        return self.scaled(self.profile(x @ y.mT))

    def fast_blocks(self, x: Coordinates, y: Coordinates, dtype: torch.dtype, exact: bool) -> Blocks:
        return DotBlocks(self, x, y, dtype)

    def width(self, x: Coordinates) -> int:
        return 1


__all__ = ["DotKernel"]
