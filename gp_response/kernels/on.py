"""Kernels on features of the points: deep kernels."""

from typing import Any

import gpytorch
from torch import Tensor, nn

from gp_response.errors import InputError
from gp_response.kernels.composite import CompositeKernel
from gp_response.kernels.points import Coordinates


class On(CompositeKernel, operation="on"):
    """k(f(x), f(y)); what `k.on(f)` makes.

    features: any torch module from points (..., n, d) to points (..., n, d'), row by row. Its parameters are parameters
    of the kernel; it is evaluated once per set of points, however many tiles the matrix has.
    Raises InputError when the features are not a module, or give something else than floating (..., n, d').
    """

    def __init__(self, kernel: gpytorch.kernels.Kernel, features: nn.Module, **options: Any) -> None:
        if not isinstance(features, nn.Module):
            raise InputError(f"features are a {type(features).__name__}; give a torch.nn.Module (x -> z)")
        super().__init__(kernel, **options)
        self.features = features

    passes_on = True

    def join(self, values: list[Any]) -> Any:
        return values[0]

    def join_blocks(self, blocks: list[Tensor], factors: list[float]) -> tuple[Tensor, float]:
        return blocks[0], factors[0]

    def coordinates(self, x: Tensor) -> Coordinates:
        z = self.features(x)
        _check_features(self.features, x, z)
        return super().coordinates(z)

    @property
    def is_stationary(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"{self.kernels[0]!r}.on({type(self.features).__name__})"


def _check_features(features: nn.Module, x: Tensor, z: Any) -> None:
    if isinstance(z, Tensor) and z.is_floating_point() and z.dim() >= 2 and z.shape[:-1] == x.shape[:-1]:
        return
    got = f"{tuple(z.shape)} {z.dtype}" if isinstance(z, Tensor) else type(z).__name__
    raise InputError(
        f"{type(features).__name__} maps points {tuple(x.shape)} to {got}; features must be floating, of shape "
        f"{(*x.shape[:-1], 'd')}"
    )


__all__ = ["On"]
